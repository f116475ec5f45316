"""The figure of a training, and the rows it is drawn from."""

import math
import sys
from pathlib import Path

import pytest
import torch
from control.controllers import RuleController
from torch import nn

from metalr.config import ControlConfig
from metalr.control import MetaLR

FLAT = ControlConfig(anchor="constant", warmup_fraction=0.0, max_rise=100.0, least_gain=0.0)


def trained(losses: list[float | None]) -> MetaLR:
    optimizer = torch.optim.SGD([nn.Parameter(torch.ones(1))], lr=0.1, momentum=2 / 3)
    scheduler = MetaLR(optimizer, RuleController(lambda t, _: 2), total_epochs=9, config=FLAT)
    for loss in losses:
        optimizer.step()
        scheduler.step(None if loss is None else {"loss": loss, "val_loss": loss + 0.5})
    return scheduler


def test_the_history_has_a_row_an_epoch() -> None:
    history = trained([1.0, math.inf, None, 0.9]).history
    assert [row["epoch"] for row in history] == [1, 2, 3, 4]
    assert [row["lr"] for row in history] == pytest.approx([0.1, 0.1, 0.05, 0.05])
    assert [row["train_loss"] for row in history] == [1.0, None, None, 0.9]
    assert [row["inner_valid_loss"] for row in history] == [1.5, None, None, 1.4]
    assert [row["decision"] for row in history] == [
        "controller", "loss exploded: LR x 0.5, rolled back to the last good epoch",
        "held: nothing was observed", "controller",
    ]  # fmt: skip


def test_what_history_returns_is_a_copy() -> None:
    scheduler = trained([1.0])
    scheduler.history[0]["lr"] = 7.0
    scheduler.history.clear()
    assert scheduler.history[0]["lr"] == pytest.approx(0.1)


def test_the_figure_shows_lrs_and_losses_and_marks_the_undone_epoch(tmp_path: Path) -> None:
    scheduler = trained([1.0, math.inf, None, 0.9])
    figure = scheduler.plot(tmp_path / "run.svg")
    upper, lower = figure.axes
    assert upper.lines[0].get_ydata().tolist() == pytest.approx([0.1, 0.1, 0.05, 0.05])
    assert upper.get_yscale() == "log"
    assert [line.get_xdata()[0] for line in upper.lines[1:]] == [2]
    assert [text.get_text() for text in lower.get_legend().get_texts()] == ["training", "validation"]
    assert lower.lines[1].get_ydata()[0] == 1.5 and math.isnan(lower.lines[1].get_ydata()[1])
    first = (tmp_path / "run.svg").read_bytes()
    scheduler.plot(tmp_path / "run.svg")
    assert (tmp_path / "run.svg").read_bytes() == first


def test_it_draws_before_the_first_epoch_and_leaves_pyplot_alone(tmp_path: Path) -> None:
    scheduler = trained([])
    known = sys.modules.get("matplotlib.pyplot")
    scheduler.plot(tmp_path / "run.png")
    assert (tmp_path / "run.png").stat().st_size > 1000
    assert sys.modules.get("matplotlib.pyplot") is known
    with pytest.raises(ValueError, match="svg or"):
        scheduler.plot(tmp_path / "run.txt")
