"""The verbs about one network: train it under a strategy, find its LR, look at the schedules beforehand."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import get_args

import torch
from torch import Tensor, nn

from metalr.config import CompareConfig, ConfigError, ExperimentConfig, short_hash
from metalr.config.models import DEFAULT_METHOD, MethodName
from metalr.config.schedules import ScheduleName
from metalr.control import schedule_notes, schedule_preview, schedule_problems
from metalr.control.finder import find_lr
from metalr.display import Display
from metalr.figures import draw_schedules, draw_training
from metalr.harvest.plan import check_device, resolved_device
from metalr.runs import finish_runs
from metalr.stages import comparison_specs, controllers_of, start_stage_tracking
from metalr.tasks import Task, make_task
from metalr.training import RunStore, apply_freezing, make_optimizer, training_loss
from metalr.training.artifacts import write_atomically, write_json
from metalr.training.layout import resolved_layout
from metalr.training.loop import epoch_generator, seeded
from metalr.training.tracking import log_run_record

__all__ = ["compared_alone", "lr_find", "schedules", "train"]

_TABLE_FRACTIONS = (0.0, 0.1, 0.25, 0.5, 0.75, 0.9, 1.0)
"""Where the table of schedules looks, as fractions of the budget, unless epochs are given."""


def method_of(config: ExperimentConfig) -> MethodName:
    """The method the recipe's strategy stands for."""
    return DEFAULT_METHOD if config.strategy == "metalr" else config.strategy


def compared_alone(compare: CompareConfig, method: MethodName, seeds: Sequence[int]) -> CompareConfig:
    """`compare` as a comparison of one method at the recipe's own LR and budget: a run a seed."""
    elsewhere = dict.fromkeys(("budgets", "initial_lrs", "tuning_lrs", "tuned_methods"))
    return compare.model_copy(update={"methods": [method], "seeds": [*seeds], **elsewhere})


def train(config: ExperimentConfig, display: Display) -> list[Path]:
    """Train one network under the recipe's strategy, with its first comparison seed.

    Returns the run's directory and the figure of its curves.
    """
    method = method_of(config)
    compared = compared_alone(config.compare, method, config.compare.seeds[:1])
    single = config.model_copy(update={"compare": compared, "workers": 0})
    controllers = controllers_of(single, display)
    (spec,) = comparison_specs(single, controllers)
    tracker = start_stage_tracking(config, "train", spec)
    finish_runs(single, [spec], controllers, display, f"Train {method}", lambda job: None)
    store = RunStore(config.store)
    record = store.load(spec.run_id)
    log_run_record(tracker, record, "")
    tracker.finish()
    rows = [[key, f"{value:.4f}"] for key, value in record.result["final"].items() if value is not None]
    title = f"{method}, {config.train.epochs} epochs from LR {config.train.lr:g}"
    display.table(title, ["metric", "final"], rows)
    if record.result.get("stopped_epoch"):
        display.announce(
            f"Stopped early, after epoch {record.result['stopped_epoch']}; "
            f"best inner_valid accuracy in epoch {record.result['best_epoch']}."
        )
    if record.diverged:
        display.announce(f"The run diverged in epoch {record.result['diverged_epoch']}.")
    figure = store.run_dir(spec.run_id) / "curves.svg"
    write_atomically(figure, draw_training(record, store.load_lrs(spec.run_id)).encode())
    return [store.run_dir(spec.run_id), figure]


class _Batches:
    """Fresh training batches of a task, epoch after epoch; every iteration gives the same ones."""

    def __init__(self, task: Task, batch_size: int, seed: int) -> None:
        self._task, self._batch_size, self._seed = task, batch_size, seed

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        device = self._task.mean_C.device
        size = len(self._task.splits["train"].labels_B)
        epoch = 0
        while True:
            generator = epoch_generator(self._seed, epoch, device, "finder")
            order = torch.randperm(size, generator=generator, device=device)
            for start in range(0, size - self._batch_size + 1, self._batch_size):
                indices_B = order[start : start + self._batch_size]
                yield self._task.train_batch(indices_B, generator)
            epoch += 1


def lr_find(config: ExperimentConfig, display: Display) -> list[Path]:
    """Run the LR finder on the recipe's network; returns the paths of its result and its figure.

    Raises ConfigError where a batch is larger than the training set.
    """
    check_device(config.train.device)
    device = torch.device(resolved_device(config.train.device))
    task = make_task(config.task, config.data, device)
    size, seed = len(task.splits["train"].labels_B), config.compare.seeds[0]
    if size < config.train.batch_size:
        problem = f"{config.train.batch_size} is larger than the {size} training images"
        raise ConfigError([f"train.batch_size: {problem}"])
    torch.set_num_threads(config.train.threads)
    model = task.make_model(seed)
    if resolved_layout(config.train.channels_last, config.task, device.type, config.train.threads):
        model = model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizer = make_optimizer(model, config.train)
    apply_freezing(model, config.train, epoch=0)

    def forward(network: nn.Module, batch: tuple[Tensor, Tensor]) -> tuple[Tensor, None]:
        return training_loss(network, *batch, config.train), None

    batches = _Batches(task, config.train.batch_size, seed)
    with seeded(seed, 0, device, "finder model"):
        result = find_lr(
            model, optimizer, lambda loss, _: loss, batches, config=config.finder, forward=forward
        )
    settings = config.model_dump(mode="json", include={"task", "train", "finder"})
    folder = Path(config.store) / "lr-find" / f"{config.name}-{short_hash([settings, seed])[:8]}"
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "result.json", result.to_dict() | {"settings": settings, "seed": seed})
    result.plot(folder / "curve.svg")
    rows = [
        [rule, f"{found.lr:.3g}" if found.lr is not None else "none", found.reason]
        for rule, found in result.suggestions.items()
    ]
    title = f"LR finder: {result.curve.num_steps} steps of {config.train.batch_size} images"
    display.table(title, ["rule", "LR", "reason"], rows)
    answer = f"Suggested LR: {result.lr:.3g}" if result.lr is not None else "No suggestion"
    display.announce(f"{answer} ({result.reason})")
    return [folder / "result.json", folder / "curve.svg"]


def schedules(
    config: ExperimentConfig,
    names: Sequence[str],
    at: Sequence[int],
    steps_per_epoch: int,
    output: Path | None,
    display: Display,
) -> Path:
    """Draw and tabulate the schedules of the recipe's budget and LR, untrained; returns the figure's path.

    Args:
        config: Gives `train.epochs`, `train.lr` and `schedules`.
        names: Which; all where empty.
        at: Epochs of the table, from 1; spread over the budget where empty.
        steps_per_epoch: Optimizer steps an epoch.
        output: Where the SVG goes; `schedules.svg` in the store where None.
        display: Shows the table, and what does not fit.

    Raises:
        ConfigError: an unknown name, an epoch outside the budget, settings that cannot work.
    """
    total = config.train.epochs
    chosen = list(names) or list(get_args(ScheduleName))
    wrong = [epoch for epoch in at if not 1 <= epoch <= total]
    if wrong:
        raise ConfigError([f"--at {wrong[0]}: the budget has epochs 1 to {total} (train.epochs)"])
    problems = [
        line for name in chosen for line in schedule_problems(name, config.schedules, total, steps_per_epoch)
    ]
    if problems:
        raise ConfigError(list(dict.fromkeys(problems)))
    lrs = {
        name: schedule_preview(
            name, config.schedules, config.train.lr, total, steps_per_epoch, seed=config.compare.seeds[0]
        )[0]
        for name in chosen
    }
    epochs = sorted(set(at)) or sorted({max(1, round(fraction * total)) for fraction in _TABLE_FRACTIONS})
    rows = [
        [name, *(f"{values[(epoch - 1) * steps_per_epoch]:.3g}" for epoch in epochs), f"{values[-1]:.3g}"]
        for name, values in lrs.items()
    ]
    display.table(
        f"LR of each epoch's first step, {total} epochs from LR {config.train.lr:g}",
        ["schedule", *(f"epoch {epoch}" for epoch in epochs), "last step"],
        rows,
    )
    for name in chosen:
        for note in schedule_notes(name, config.schedules, total, steps_per_epoch):
            display.announce(f"{name}: {note}")
    path = output or Path(config.store) / "schedules.svg"
    path.parent.mkdir(parents=True, exist_ok=True)
    title = f"Learning-rate schedules over {total} epochs"
    write_atomically(path, draw_schedules(lrs, total, title).encode())
    return path
