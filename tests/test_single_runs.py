"""One network: trained under a strategy, its LR found, the schedules drawn; two recipes taken apart."""

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args
from xml.etree import ElementTree

import pytest

from metalr import ExperimentConfig, ablations, runs, single_runs
from metalr.config import ConfigError, apply_overrides, load_config
from metalr.config.schedules import ScheduleName
from metalr.display import SilentDisplay
from metalr.harvest.execution import JobFailed
from metalr.training import RunStore

RECIPES = Path(__file__).parents[1] / "experiments"


class Heard(SilentDisplay):
    """A display that remembers what it was told."""

    def __init__(self) -> None:
        super().__init__()
        self.said: list[str] = []
        self.rows: list[Sequence[object]] = []

    def announce(self, text: str) -> None:
        self.said.append(text)

    def table(self, title: str, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
        self.rows += [columns, *rows]


def smoke(**changes: Any) -> ExperimentConfig:
    settings = {"workers": 0, "wandb.mode": "disabled", "train.device": "cpu", "compare.seeds": [0]}
    return apply_overrides(load_config(str(RECIPES / "smoke.yaml")), settings | changes)


@pytest.fixture(autouse=True)
def inside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


STRATEGIES = [*get_args(ScheduleName), "find"]


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_every_strategy_trains_one_network_and_draws_it(strategy: str) -> None:
    folder, figure = single_runs.train(smoke(strategy=strategy), SilentDisplay())
    record = RunStore("runs").load(folder.name)
    assert (record.spec.method, len(record.epochs)) == (strategy, 3)
    lrs = RunStore("runs").load_lrs(folder.name)
    assert [row["epoch"] for row in lrs] == [1, 2, 3]
    for row, epoch in zip(lrs, record.epochs, strict=True):
        assert sum(row["lrs"]) / len(row["lrs"]) == pytest.approx(epoch["lr"], rel=1e-6)
    ElementTree.parse(figure)


def test_a_budget_of_one_epoch_is_trained_or_refused_for_its_probe() -> None:
    folder, _ = single_runs.train(smoke(strategy="wsd", **{"train.epochs": 1}), SilentDisplay())
    assert len(RunStore("runs").load(folder.name).epochs) == 1
    with pytest.raises(ConfigError, match="leave none to train in 1 epochs"):
        single_runs.train(smoke(strategy="metalr", **{"train.epochs": 1}), SilentDisplay())


def test_of_a_recipe_that_tunes_one_run_is_trained() -> None:
    tuned = {"compare.tuning_lrs": [0.03, 0.3], "compare.budgets": [3, 5], "compare.initial_lrs": [0.1, 1.0]}
    config = smoke(strategy="wsd", **tuned, **{"train.lr": 0.2, "train.epochs": 2})
    folder, _ = single_runs.train(config, SilentDisplay())
    assert [path.name for path in Path("runs").iterdir() if path.is_dir()] == [folder.name]
    spec = RunStore("runs").load(folder.name).spec
    assert (spec.train.lr, spec.train.epochs) == (0.2, 2)


def test_an_epoch_wise_and_a_step_wise_schedule_leave_different_lrs() -> None:
    lrs = {}
    for interval in ("epoch", "step"):
        config = smoke(strategy="exponential", **{"schedules.exponential.interval": interval})
        folder = single_runs.train(config, SilentDisplay())[0]
        lrs[interval] = RunStore("runs").load_lrs(folder.name)
    assert all(len(set(row["lrs"])) == 1 for row in lrs["epoch"])
    assert all(len(set(row["lrs"])) == len(row["lrs"]) for row in lrs["step"])


def test_the_finder_strategy_starts_where_the_probe_says_and_pays_for_it() -> None:
    folder = single_runs.train(smoke(strategy="find", **{"train.lr": 1e-9}), SilentDisplay())[0]
    record = RunStore("runs").load(folder.name)
    steps = RunStore("runs").load_lrs(folder.name)
    assert record.rows[0]["probe"]["num_steps"] <= 12
    assert steps[0]["lrs"][0] > 1e-4  # not the recipe's
    plain = single_runs.train(smoke(strategy="cosine"), SilentDisplay())[0]
    unpaid = RunStore("runs").load_lrs(plain.name)
    assert len(steps[0]["lrs"]) == (3 * len(unpaid[0]["lrs"]) - 12 * 4 // 3) // 3


def test_what_does_not_fit_the_budget_is_said_and_what_cannot_work_is_refused() -> None:
    heard = Heard()
    single_runs.train(smoke(strategy="restarts"), heard)
    assert any(text.startswith("Note on restarts, 3 epochs: ") for text in heard.said)
    fitting = smoke(strategy="restarts", **{"schedules.restarts.first_cycle": 3})
    heard = Heard()
    single_runs.train(fitting, heard)
    assert not any("Note on" in text for text in heard.said)
    with pytest.raises(ConfigError, match=r"schedules\.warmup\.epochs"):
        single_runs.train(smoke(strategy="cosine", **{"schedules.warmup.epochs": 3.0}), SilentDisplay())


def test_the_finder_leaves_a_result_and_a_figure() -> None:
    heard = Heard()
    result, figure = single_runs.lr_find(smoke(**{"finder.num_steps": 30}), heard)
    found = json.loads(result.read_text())
    assert set(found["suggestions"]) == {"steepest", "valley", "minimum"}
    assert found["lr"] == found["suggestions"]["valley"]["lr"]
    assert any(f"Suggested LR: {found['lr']:.3g}" in text for text in heard.said)
    ElementTree.parse(figure)
    again, _ = single_runs.lr_find(smoke(**{"finder.num_steps": 30}), SilentDisplay())
    assert json.loads(again.read_text()) == found  # the same seed, the same curve


def test_a_batch_larger_than_the_set_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"train\.batch_size: 512 is larger than the 256"):
        single_runs.lr_find(smoke(**{"train.batch_size": 512}), SilentDisplay())


def test_the_gallery_draws_and_tabulates_every_schedule() -> None:
    heard = Heard()
    config = smoke(**{"train.epochs": 70, "train.lr": 0.1})
    path = single_runs.schedules(config, [], [1, 36, 70], 4, Path("here/gallery.svg"), heard)
    assert path == Path("here/gallery.svg")
    columns, *rows = heard.rows
    assert columns == ["schedule", "epoch 1", "epoch 36", "epoch 70", "last step"]
    table = {str(row[0]): [float(str(cell)) for cell in row[1:]] for row in rows}
    assert list(table) == list(get_args(ScheduleName))
    assert table["constant"] == [0.1] * 4
    assert table["cosine"][:2] == [0.1, 0.05]
    assert table["linear"][1:] == [
        0.05,
        pytest.approx(0.1 / 70, rel=1e-2),
        pytest.approx(0.1 / 280, rel=1e-2),
    ]
    titles = re.findall(r">([a-z_]+)(?:, one draw)?(?: \(log axis\))?</text>", path.read_text())
    assert [title for title in titles if title in table] == list(table)


def test_the_gallery_draws_only_what_is_asked_for() -> None:
    heard = Heard()
    config = smoke(**{"train.epochs": 8})
    path = single_runs.schedules(config, ["rex", "wsd"], [], 2, None, heard)
    assert path == Path("runs/schedules.svg")
    assert [row[0] for row in heard.rows[1:]] == ["rex", "wsd"]


@pytest.mark.parametrize(
    ("names", "at", "line"),
    [
        (["rexx"], [], "unknown schedule 'rexx'"),
        ([], [9], "--at 9: the budget has epochs 1 to 8"),
        ([], [0], "--at 0: the budget has epochs 1 to 8"),
    ],
)
def test_a_gallery_of_what_is_not_there_is_refused(names: list[str], at: list[int], line: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(line)):
        single_runs.schedules(smoke(**{"train.epochs": 8}), names, at, 2, None, SilentDisplay())


def test_two_recipes_are_taken_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = smoke(name="before", strategy="plateau", **{"train.epochs": 2})
    improved = smoke(
        name="after",
        strategy="one_cycle",
        **{
            "train.epochs": 2,
            "train.label_smoothing": 0.1,
            "compare.seeds": [0, 1],
            "compare.tuning_lrs": [0.3],
        },
    )
    path = ablations.ablate(plain, improved, SilentDisplay())
    assert path == Path("experiments/results/after-against-before/report.md")
    summary = json.loads(path.with_name("summary.json").read_text())
    names = [row["row"] for row in summary["rows"]]
    assert names == ["before", "+ train.label_smoothing=0.1", "+ strategy=one_cycle", "after"]
    assert all(row["test_accuracy_pct"]["n"] == 2 for row in summary["rows"])
    manifest = json.loads((path.parent / "manifest.json").read_text())
    assert len(manifest["run_ids"]) == 8
    text = path.read_text()
    assert summary["verdict"] in text and "nan" not in text.lower()

    def broken(*_: Any) -> None:
        raise RuntimeError("trained again")

    monkeypatch.setattr(runs, "execute", broken)
    assert ablations.ablate(plain, improved, SilentDisplay()) == path  # nothing is trained twice
    with pytest.raises(JobFailed, match="trained again"):  # negative control
        ablations.ablate(plain, apply_overrides(improved, {"train.lr": 0.5}), SilentDisplay())


def test_two_recipes_of_one_name_are_refused() -> None:
    with pytest.raises(ConfigError, match="both recipes are called smoke"):
        ablations.ablate(smoke(), smoke(strategy="cosine"), SilentDisplay())
