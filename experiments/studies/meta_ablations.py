"""What each part of the meta-learner is worth: mean regret of single decisions on held-out tasks.

    python experiments/studies/meta_ablations.py [meta_data/cifar10-small ...] [--arms NAME ...]
        [--workers N] [--quick]

Every arm changes one thing, is trained on the tasks of four folds and judged on the fifth, and its decisions
are read off the branches' own regret curves. Writes experiments/results/meta-ablations/.
"""

from __future__ import annotations

import argparse
import json
import platform
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, field, replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch

from metalr.config import MetaTrainConfig, load_config
from metalr.control import FEATURE_GROUPS, Prediction
from metalr.harvest.meta_dataset import MetaDataset, join_meta_datasets, load_meta_dataset
from metalr.learning.controller import LearnedController
from metalr.learning.ensemble import train_ensemble
from metalr.learning.examples import Examples, make_examples, regret_at
from metalr.learning.fitting import controller_of
from metalr.learning.rules import decided_log_peaks, regrets_by_rule
from metalr.learning.task_groups import fold_of_groups
from metalr.learning.views import log_usual_lrs, rereferenced, unprobed
from metalr.provenance import git_commit
from metalr.training import package_versions

FOLDER = Path(__file__).parents[1] / "results" / "meta-ablations"
NUM_RESAMPLES = 9999


@dataclass(frozen=True)
class Arm:
    """One change of the meta-learner."""

    name: str
    learner: str = "mlp"
    changes: dict[str, Any] = field(default_factory=dict)
    """Settings of `meta` that differ."""
    view: Callable[[Examples], Examples] | None = None
    """What is learned from, and decided on; None: the examples, and their twins without a probe."""
    max_tasks: int | None = None
    """Number of source tasks."""
    num_parts: int | None = None
    """Number of meta-datasets learned from, the first ones; all are decided on."""
    distrust: float = 0.0
    """On-line adaptation: how much the auxiliary head's surprise weakens the predictions of the moment."""

    @property
    def sources(self) -> tuple[Any, ...]:
        """What its ensembles are trained on: arms that differ only in how they decide share them."""
        return self.view, self.max_tasks, self.num_parts


def only(*groups: str) -> Callable[[Examples], Examples]:
    """A view with the features of `groups` alone, the others missing."""
    hidden = [position for name, at in FEATURE_GROUPS.items() if name not in groups for position in at]

    def view(examples: Examples) -> Examples:
        traces_ETF = examples.traces_ETF.copy()
        traces_ETF[:, :, hidden] = np.nan
        return replace(examples, traces_ETF=traces_ETF)

    return view


def absolute(examples: Examples) -> Examples:
    """Candidates relative to the optimizer's usual LR instead of the probe's reference."""
    return rereferenced(examples, log_usual_lrs(examples))


def recursive(examples: Examples) -> Examples:
    """Candidates relative to the LR that the run has now."""
    return rereferenced(examples, examples.log_current_E)


ARMS = (
    Arm("full, MLP"),
    Arm("full, LSTM", learner="lstm"),
    Arm("label: greedy (one epoch)", changes={"label": "greedy"}),
    Arm("output: absolute", view=absolute),
    Arm("output: recursive", view=recursive),
    Arm("state: time alone", view=only("time")),
    Arm("state: time, task and probe", view=only("time", "task", "model", "probe")),
    Arm("state: losses and time alone", view=only("time", "lr", "train_loss", "inner_valid")),
    Arm("probe off", view=unprobed),
    Arm("without unprobed twins", changes={"unprobed": False}),
    Arm("trust 0 (the probe alone)", changes={"trust": 0.0}),
    Arm("trust 1 (predictions whole)", changes={"trust": 1.0}),
    Arm("untrained", changes={"lr": 1e-12, "epochs": 1}),
    Arm("meta_loss_weight 0", changes={"meta_loss_weight": 0.0}),
    Arm("meta_loss_weight 1", changes={"meta_loss_weight": 1.0}),
    Arm("one network instead of an ensemble", changes={"ensemble": 1}),
    Arm("5 source tasks", max_tasks=5),
    Arm("10 source tasks", max_tasks=10),
    Arm("20 source tasks", max_tasks=20),
    Arm("40 source tasks", max_tasks=40),
    Arm("80 source tasks", max_tasks=80),
    Arm("first meta-dataset alone", num_parts=1),
    Arm("first two, no DAgger round", num_parts=2),
    Arm("no DAgger round, LSTM", learner="lstm", num_parts=2),
    Arm("first three, one DAgger round", num_parts=3),
    Arm("first four, two DAgger rounds", num_parts=4),
    Arm("first five, three DAgger rounds", num_parts=5),
    Arm("first five, three DAgger rounds, LSTM", learner="lstm", num_parts=5),
    Arm("on-line adaptation 1", distrust=1.0),
    Arm("on-line adaptation 3", distrust=3.0),
)


@dataclass(frozen=True)
class Study:
    """What every arm is measured on."""

    config: MetaTrainConfig
    parts: list[MetaDataset]
    joined: MetaDataset
    examples: Examples
    """All forks of all parts, read at the candidates they have in common."""

    @property
    def fold_E(self) -> np.ndarray:
        """The fold of each fork, by task."""
        return fold_of_groups(self.examples.groups_E, self.config.num_folds, self.config.seed)


def study_of(folders: Sequence[Path], config: MetaTrainConfig) -> Study:
    """The study on the meta-datasets in `folders`."""
    parts = [load_meta_dataset(folder) for folder in folders]
    joined = join_meta_datasets(parts)
    return Study(config, parts, joined, make_examples(joined))


def settings_of(arm: Arm, config: MetaTrainConfig) -> MetaTrainConfig:
    """Those of the recipe with the arm's changes; a view has no twins without a probe."""
    return config.model_copy(update={"unprobed": arm.view is None} | arm.changes)


def ways_of_training(arms: Sequence[Arm], config: MetaTrainConfig) -> list[list[Arm]]:
    """The arms, those together that differ only in how they decide; the slow LSTMs first."""
    ways: dict[tuple[Any, ...], list[Arm]] = {}
    for arm in sorted(arms, key=lambda arm: arm.learner != "lstm"):
        settings = settings_of(arm, config).model_copy(update={"trust": 1.0})
        ways.setdefault((arm.learner, settings.model_dump_json(), *arm.sources), []).append(arm)
    return list(ways.values())


def regrets_in_fold(arms: Sequence[Arm], fold: int, study: Study) -> list[np.ndarray]:
    """For each of `arms`, trained in one way, the regrets of the decisions on a fold's forks, nats.

    The ensemble saw no fork of their tasks.
    """
    outside = study.examples.subset(study.fold_E == fold)
    view = arms[0].view or (lambda examples: examples)
    sources = study.examples
    if arms[0].num_parts is not None:
        sources = of_first(arms[0].num_parts, study.parts, study.examples)
    inside = sources.subset(~np.isin(sources.groups_E, outside.groups_E))
    inside = view(_of_some_tasks(inside, arms[0].max_tasks, seed=fold))
    members, _ = train_ensemble(
        inside, None, arms[0].learner, settings_of(arms[0], study.config), lambda: None
    )
    found = []
    for arm in arms:
        settings = settings_of(arm, study.config)
        decided: Any = controller_of(members, inside, settings)
        if arm.distrust:
            decided = _Adapting(decided, inside.prior_K(settings.label), arm.distrust)
        found.append(regret_at(outside, decided_log_peaks(decided, view(outside))))
    return found


_study: Study | None = None
"""A worker's own."""


def _start_worker(folders: Sequence[Path], config: MetaTrainConfig) -> None:
    global _study
    torch.set_num_threads(1)
    _study = study_of(folders, config)


def _work(names: Sequence[str], fold: int) -> list[np.ndarray]:
    assert _study is not None
    return regrets_in_fold([arm for name in names for arm in ARMS if arm.name == name], fold, _study)


def measure(
    arms: Sequence[Arm], study: Study, folders: Sequence[Path], num_workers: int
) -> dict[str, np.ndarray]:
    """The regret (E,) of every fork's decision under each arm, nats; in processes of one thread each."""
    num_folds = int(study.fold_E.max()) + 1
    regrets = {arm.name: np.full(len(study.examples), np.nan) for arm in arms}
    with ProcessPoolExecutor(
        num_workers, get_context("spawn"), _start_worker, (folders, study.config)
    ) as pool:
        jobs = {
            pool.submit(_work, [arm.name for arm in way], fold): (way, fold)
            for way in ways_of_training(arms, study.config)
            for fold in range(num_folds)
        }
        for num_done, job in enumerate(as_completed(jobs), 1):
            way, fold = jobs[job]
            for arm, regret in zip(way, job.result(), strict=True):
                regrets[arm.name][study.fold_E == fold] = regret
            print(f"{num_done} of {len(jobs)}: {way[0].name}, fold {fold + 1}", flush=True)
    return regrets


def of_first(num_parts: int, parts: Sequence[MetaDataset], examples: Examples) -> Examples:
    """The examples, all read at the candidates they have in common, of the first meta-datasets alone."""
    run_ids = set().union(*(part.forks["run_id"] for part in parts[:num_parts]))
    return examples.subset(np.isin(examples.run_ids_E, list(run_ids)))


class _Adapting:
    """Trusts its predictions the less, the more the auxiliary head has just changed its mind.

    What the final loss will be is not known before the end; but a head that knew would not change its
    prediction from one epoch to the next.
    """

    def __init__(self, controller: LearnedController, prior_K: np.ndarray, distrust: float) -> None:
        self.sha256, self.log_offsets = "adapting", controller.log_offsets
        self._controller, self._prior_K, self._distrust = controller, prior_K, distrust

    def step(self, state: list[float], features_F: np.ndarray) -> tuple[list[float], Prediction]:
        """As the controller's, with the last prediction of the final loss kept in front of the memory."""
        before, memory = state[0], state[1:]
        memory, found = self._controller.step(memory, features_F)
        surprise = 0.0 if np.isnan(before) else abs(found.log_final_loss - before)
        apart_K = np.array(found.log_regrets) - self._prior_K
        regrets_K = self._prior_K + np.exp(-self._distrust * surprise) * apart_K
        return [found.log_final_loss, *memory], replace(found, log_regrets=tuple(regrets_K.tolist()))

    def initial_state(self) -> list[float]:
        """No prediction yet, and the members' memories."""
        return [float("nan"), *self._controller.initial_state()]


def trivial_regrets(examples: Examples, config: MetaTrainConfig) -> dict[str, np.ndarray]:
    """The regret (E,) of each rule that learns nothing but a constant, on the same folds."""
    fold_E = fold_of_groups(examples.groups_E, config.num_folds, config.seed)
    found: dict[str, np.ndarray] = {}
    members, _ = train_ensemble(
        examples, None, "mlp", config.model_copy(update={"epochs": 1, "ensemble": 1}), lambda: None
    )
    idle = LearnedController(members, examples.log_offsets_K.tolist())
    for fold in range(int(fold_E.max()) + 1):
        rules = regrets_by_rule(idle, examples.subset(fold_E != fold), examples.subset(fold_E == fold))
        for rule, regret_E in rules.items():
            if not rule.startswith("learned"):
                found.setdefault(rule, np.full(len(examples), np.nan))[fold_E == fold] = regret_E
    return {f"rule: {rule.replace('_', ' ')}": regret_E for rule, regret_E in found.items()}


def _of_some_tasks(examples: Examples, max_tasks: int | None, seed: int) -> Examples:
    if max_tasks is None:
        return examples
    tasks = np.unique(examples.groups_E)
    kept = np.random.default_rng(seed).permutation(tasks)[:max_tasks]
    return examples.subset(np.isin(examples.groups_E, kept))


def summary_of(regrets: dict[str, np.ndarray], examples: Examples) -> list[dict[str, Any]]:
    """A row per arm: mean over forks, and over tasks the difference to the full MLP with its interval."""
    tasks = np.unique(examples.groups_E)

    def per_task(regret_E: np.ndarray) -> np.ndarray:
        return np.array([regret_E[examples.groups_E == task].mean() for task in tasks])

    full = per_task(regrets["full, MLP"])
    rows = []
    for name, regret_E in regrets.items():
        difference = per_task(regret_E) - full
        drawn = np.random.default_rng(0).choice(difference, (NUM_RESAMPLES, len(tasks))).mean(axis=1)
        rows.append(
            {
                "arm": name,
                "mean_regret_nats": float(regret_E.mean()),
                "worst_task_regret_nats": float(per_task(regret_E).max()),
                "difference_nats": float(difference.mean()),
                "ci95": [float(value) for value in np.quantile(drawn, [0.025, 0.975])],
            }
        )
    return rows


def report_of(summary: dict[str, Any]) -> str:
    """The table as a page."""
    lines = [
        "# What each part of the meta-learner is worth",
        "",
        f"Single decisions on {summary['num_forks']} forks of {summary['num_tasks']} tasks of the "
        f"meta-dataset `{summary['meta_dataset']}`, each judged by an ensemble that saw no fork of its task "
        f"({summary['num_folds']} folds). Regret: final `outer_valid` loss of the decision's branch, read "
        "between the candidates, minus that of the best candidate, nats. Difference: to the full MLP, mean "
        "over tasks, with the 95 % bootstrap interval over tasks.",
        "",
        "| arm | mean regret | worst task | difference | 95 % |",
        "|---|---|---|---|---|",
    ]
    for row in summary["arms"]:
        low, high = row["ci95"]
        lines.append(
            f"| {row['arm']} | {row['mean_regret_nats']:.4f} | {row['worst_task_regret_nats']:.3f} "
            f"| {row['difference_nats']:+.4f} | [{low:+.4f}, {high:+.4f}] |"
        )
    lines += [
        "",
        "`rule: ...` learn nothing but a constant: keep the run's LR; the best LR for all; the best multiple "
        "of the probe's reference for all (the anchor alone); the LR with the best next epoch, followed "
        "exactly.",
        "",
        f"{summary['hardware']}; commit {summary['commit']}; torch {summary['versions']['torch']}.",
    ]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Measure every arm and write the report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("folders", nargs="*", type=Path, help="meta-datasets; default: those of the recipe")
    parser.add_argument("--recipe", default="cifar10-small", help="gives the settings of meta-training")
    parser.add_argument(
        "--quick", action="store_true", help="three passes, to see that it works; writes nothing"
    )
    parser.add_argument(
        "--arms", nargs="+", help="names of arms to measure; default: all, and the trivial rules"
    )
    parser.add_argument("--workers", type=int, default=2, help="processes of one thread each")
    parser.add_argument("--out", type=Path, default=FOLDER, help="where the report goes")
    arguments = parser.parse_args()
    if arguments.workers < 1:
        parser.error(f"--workers must be at least 1, not {arguments.workers}")
    torch.set_num_threads(1)
    config = load_config(arguments.recipe, []).meta
    if arguments.quick:
        config = config.model_copy(update={"epochs": 3, "ensemble": 1})
    folders = arguments.folders or [Path("meta_data") / name for name in (arguments.recipe, *config.also)]
    study = study_of(folders, config)
    examples = study.examples
    arms = [
        arm
        for arm in ARMS
        if (arguments.arms is None or arm.name in ("full, MLP", *arguments.arms))
        and (arm.num_parts is None or arm.num_parts < len(folders))  # else it is the full one
    ]
    regrets = measure(arms, study, folders, arguments.workers)
    if arguments.arms is None:
        regrets |= trivial_regrets(examples, config)
    summary = {
        "meta_dataset": study.joined.card["settings"]["name"],
        "meta_dataset_digest": study.joined.card["digest"],
        "num_forks": len(examples),
        "num_tasks": len(np.unique(examples.groups_E)),
        "num_folds": config.num_folds,
        "meta": config.model_dump(mode="json"),
        "arms": summary_of(regrets, examples),
        "commit": git_commit(),
        "versions": package_versions(),
        "hardware": f"{platform.machine()} CPU, one thread",
    }
    text = report_of(summary)
    print(text)
    if not arguments.quick:
        arguments.out.mkdir(parents=True, exist_ok=True)
        (arguments.out / "summary.json").write_text(json.dumps(summary, indent=1) + "\n")
        (arguments.out / "report.md").write_text(text)


if __name__ == "__main__":
    main()
