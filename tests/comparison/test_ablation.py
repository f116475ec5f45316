"""What two recipes differ in, what is trained for it, and what is concluded: planted cases judged rightly."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from metalr.comparison.ablation import (
    ablation_summary,
    ablation_table,
    ablation_verdict,
    changes_between,
    rows_of,
)
from metalr.comparison.measures import Outcome
from metalr.comparison.protocol import Cell
from metalr.config import ConfigError, ExperimentConfig, apply_overrides, load_config

RECIPES = Path(__file__).parents[2] / "experiments"


def recipe(name: str, **changes: Any) -> ExperimentConfig:
    return apply_overrides(ExperimentConfig(name=name), changes)


PLAIN = recipe("plain", **{"strategy": "plateau", "schedules.plateau.patience": 1})
IMPROVED = recipe(
    "improved",
    **{
        "strategy": "restarts",
        "schedules.restarts.first_cycle": 2,
        "schedules.rex.interval": "epoch",  # of no schedule that is used
        "train.optimizer": "adamw",
        "train.early_stopping": {"patience": 3},
    },
)


def test_a_strategy_comes_with_the_settings_it_uses_and_all_else_by_itself() -> None:
    changes = {change.name: dict(change.settings) for change in changes_between(PLAIN, IMPROVED)}
    assert changes == {
        "train.optimizer=adamw": {"train.optimizer": "adamw"},
        "train.early_stopping={'patience': 3, 'restore_best': True}": {
            "train.early_stopping": {"patience": 3, "restore_best": True}
        },
        "strategy=restarts": {"strategy": "restarts", "schedules.restarts.first_cycle": 2},
    }


def test_rows_change_one_thing_each() -> None:
    rows = rows_of(PLAIN, IMPROVED, leave_one_out=True)
    assert next(iter(rows)) == "plain" and list(rows)[4] == "improved" and len(rows) == 8
    assert rows["+ train.optimizer=adamw"] == apply_overrides(PLAIN, {"train.optimizer": "adamw"})
    without = rows["- strategy=restarts"]
    assert (without.strategy, without.schedules.plateau.patience) == ("plateau", 1)
    assert without.train == IMPROVED.train
    assert rows["- train.optimizer=adamw"].train.optimizer == "sgd"
    assert [name for name in rows_of(PLAIN, IMPROVED) if name.startswith("- ")] == []


def test_recipes_that_do_not_differ_are_refused() -> None:
    with pytest.raises(ConfigError, match="plain and other do not differ"):
        rows_of(PLAIN, PLAIN.model_copy(update={"name": "other"}))


def test_a_change_that_cannot_stand_alone_is_named() -> None:
    adam = recipe("a", **{"train.optimizer": "adam"})
    sgd = recipe("b", **{"train.optimizer": "sgd", "train.nesterov": True})
    with pytest.raises(
        ConfigError, match=r"a, train.nesterov=True: train: nesterov=true is for optimizer=sgd"
    ):
        rows_of(adam, sgd)


def test_the_two_shipped_recipes_differ_in_what_they_say() -> None:
    plain, improved = (load_config(str(RECIPES / f"{name}.yaml")) for name in ("plain", "improved"))
    assert [change.name for change in changes_between(plain, improved)] == [
        "task.augmentation=strong", "task.dropout=0.5", "train.epochs=40", "train.batch_size=128",
        "train.optimizer=adamw", "train.early_stopping.patience=6", "train.label_smoothing=0.1",
        "train.grad_clip=1.0", "strategy=restarts",
    ]  # fmt: skip


def outcomes(accuracies: Sequence[float]) -> Mapping[int, Outcome]:
    cell = Cell("task", 5, 0.1)
    return {
        seed: Outcome(
            f"{seed}", cell, "cosine", seed, False, value, 1.0, value, 1.0, None, {"wall_s": 7.0}, 1
        )
        for seed, value in enumerate(accuracies)
    }


BASE = [60.0, 61.5, 59.2, 60.7, 61.1, 59.9]


def planted() -> list[dict[str, Any]]:
    better = [value + 4.0 + 0.1 * seed for seed, value in enumerate(BASE)]
    same = [value + noise for value, noise in zip(BASE, (0.3, -0.4, 0.2, -0.2, 0.4, -0.3), strict=True)]
    worse = [value - 3.0 + 0.05 * seed for seed, value in enumerate(BASE)]
    rows = {"plain": BASE, "+ good=1": better, "+ nothing=1": same, "+ bad=1": worse, "improved": better,
            "- good=1": BASE}  # fmt: skip
    return ablation_summary({name: outcomes(values) for name, values in rows.items()}, 0.95, 999)


def test_planted_changes_are_judged_rightly() -> None:
    entries = {entry["row"]: entry for entry in planted()}
    assert entries["+ good=1"]["paired"]["judgement"] == "above"
    assert entries["+ good=1"]["paired"]["difference_pp"]["mean"] == pytest.approx(4.25)
    assert entries["+ nothing=1"]["paired"]["judgement"] == "not told apart"
    assert entries["+ bad=1"]["paired"]["judgement"] == "below"
    assert entries["- good=1"]["paired"]["difference_pp"]["mean"] == pytest.approx(-4.25)  # from improved
    assert "paired" not in entries["plain"]


def test_the_verdict_names_the_change_that_did_most_and_least() -> None:
    assert ablation_verdict(planted()) == (
        "improved ends 4.2 points above plain (above, n = 6); "
        "by itself, good=1 does most (+4.2 points, above) and bad=1 least (-2.9, below)."
    )


def test_few_seeds_are_not_judged_and_nothing_is_printed_as_nan() -> None:
    entries = ablation_summary({"plain": outcomes([60.0]), "improved": outcomes([70.0])}, 0.95, 999)
    assert entries[1]["paired"]["judgement"] == "not judged"
    columns, cells = ablation_table(entries)
    assert len(columns) == len(cells[0]) == len(cells[1])
    assert cells[1][:3] == ["improved", "70.0", "+10.0"]
    assert not any("nan" in cell.lower() for row in cells for cell in row)
    assert ablation_verdict(entries) == "improved ends 10.0 points above plain (not judged, n = 1)."
