"""What is trained: a ResNet-18 on synthetic images of CIFAR-10's kind, under a controller of the usual size.

Legend: B images, C channels, H rows, W columns, F features, K candidates.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.settings import Settings
from metalr.config import ControlConfig, DataConfig, MetaTrainConfig, TaskConfig, TrainConfig
from metalr.control import FEATURE_NAMES
from metalr.learning.controller import LearnedController
from metalr.learning.learners import Learner, make_learner
from metalr.tasks import Split, Task, make_task
from metalr.training import Job, LiveRun, RunSpec
from metalr.training.live_run import start_or_resume

__all__ = [
    "ARCHITECTURE",
    "Case",
    "StepName",
    "cases_of",
    "live_run",
    "make_controller",
    "make_members",
    "ready_batch",
    "small_job",
    "small_task",
    "synthetic_task",
]

StepName = Literal["auto", "eager", "cuda_graph", "compile"]
NUM_CLASSES = 10
MANY_EPOCHS = 1_000
"""A budget that no benchmark spends, so that no schedule runs past its end."""
ARCHITECTURE: dict[str, Any] = {
    "hidden": MetaTrainConfig().hidden,
    "window": MetaTrainConfig().window,
    "log_offsets": np.linspace(np.log(1 / 16), np.log(16), 9).tolist(),
}


@dataclass(frozen=True)
class Case:
    """One network on one size of images, trained on so many threads."""

    width: int
    image_size: int
    threads: int
    batch_size: int
    num_images: int
    num_inner_valid: int
    device: Literal["cpu", "cuda"]
    dtype: Literal["float32", "bfloat16"]

    def train_config(
        self, epochs: int, step: Literal["auto", "eager", "compile", "cuda_graph"], *, channels_last: bool
    ) -> TrainConfig:
        """The recipe of this case over so many epochs, its batches trained by `step`."""
        return TrainConfig(
            epochs=epochs,
            batch_size=self.batch_size,
            dtype=self.dtype,
            channels_last=channels_last,
            device=self.device,
            step=step,
            threads=self.threads,
        )

    def __str__(self) -> str:
        where = f"{self.threads} thread{'s' if self.threads > 1 else ''}" if self.device == "cpu" else "cuda"
        dtype = ", bf16" if self.dtype == "bfloat16" else ""
        return f"width {self.width}, {self.image_size} px, {where}{dtype}"


def cases_of(settings: Settings) -> list[Case]:
    """The cases of `floor` and `epoch`: widths x image sizes x threads."""
    threads = settings.threads if settings.device == "cpu" else settings.threads[:1]
    return [
        Case(
            width,
            side,
            count,
            settings.batch_size,
            settings.num_images,
            settings.num_inner_valid,
            settings.device,
            settings.dtype,
        )
        for width in settings.widths
        for side in settings.image_sizes
        for count in threads
    ]


def synthetic_task(case: Case) -> Task:
    """A task of noise: pixels, labels and moments drawn from a seed, `standard` augmentation."""
    generator = np.random.default_rng(0)
    device = torch.device(case.device)

    def split(num_images: int) -> Split:
        shape = (num_images, 3, case.image_size, case.image_size)
        images = torch.from_numpy(generator.integers(0, 256, shape, dtype=np.uint8))
        labels = torch.from_numpy(generator.integers(0, NUM_CLASSES, num_images))
        return Split(images.to(device), labels.to(device))

    config = TaskConfig(
        dataset="cifar10",  # whose images may be mirrored; none are read
        image_size=case.image_size,
        augmentation="standard",
        network="resnet18",
        width=case.width,
    )
    sizes = {"train": case.num_images, "inner_valid": case.num_inner_valid, "outer_valid": 16, "test": 16}
    splits = {name: split(size) for name, size in sizes.items()}
    mean_C, std_C = torch.full((3,), 0.5, device=device), torch.full((3,), 0.29, device=device)
    side = case.image_size
    return Task(config, NUM_CLASSES, (3, side, side), splits, "0" * 64, mean_C, std_C)


def ready_batch(task: Task, case: Case, *, channels_last: bool) -> tuple[Tensor, Tensor]:
    """One batch as the network takes it: float32 images (B, C, H, W) in the asked layout, and labels (B,)."""
    generator = torch.Generator(task.mean_C.device).manual_seed(0)
    images_BCHW, labels_B = task.train_batch(torch.arange(case.batch_size), generator)
    layout = torch.channels_last if channels_last else torch.contiguous_format
    return images_BCHW.contiguous(memory_format=layout), labels_B


def make_members(learner: str) -> list[Learner]:
    """An ensemble of the default size, at a trained one's cost, that always chooses the reference LR."""
    offsets = ARCHITECTURE["log_offsets"]
    members = []
    for _ in range(MetaTrainConfig().ensemble):
        member = make_learner(
            learner, len(FEATURE_NAMES), len(offsets), ARCHITECTURE["hidden"], ARCHITECTURE["window"]
        )
        *_, head = (module for module in member.modules() if isinstance(module, nn.Linear))
        nn.init.zeros_(head.weight)
        with torch.no_grad():
            head.bias.copy_(torch.tensor([offset**2 for offset in offsets] + [0.0]))
        members.append(member)
    return members


def make_controller(learner: str = "lstm") -> LearnedController:
    """A controller of `make_members`, of the name `mlp` or `lstm`."""
    return LearnedController(make_members(learner), ARCHITECTURE["log_offsets"])


def live_run(
    case: Case, task: Task, folder: Path, *, channels_last: bool, step: StepName = "auto"
) -> LiveRun:
    """A real run under MetaLR before its first epoch, the probe already paid.

    Args:
        case: Gives batch size, threads, device and dtype.
        task: Of `synthetic_task`.
        folder: An empty directory.
        channels_last: Layout of images and weights.
        step: How a batch is trained.
    """
    controller = make_controller()
    train = case.train_config(MANY_EPOCHS, step, channels_last=channels_last)
    spec = RunSpec(
        task=task.config,
        train=train,
        method="metalr-lstm",
        control=ControlConfig(),
        controller_sha256=controller.sha256,
        seed=0,
        data_digest=task.digest,
    )
    torch.set_num_threads(case.threads)
    live, _ = start_or_resume(spec, task, controller, folder)
    return live


def small_job(settings: Settings, store: Path, seed: int, **changes: Any) -> Job:
    """A job any worker can do: a small ResNet-18 on metalr's own synthetic images, one thread, cosine.

    Args:
        settings: Gives images, epochs and width.
        store: Where its records go.
        seed: Another one is another run.
        changes: Fields of the `RunSpec` to replace.
    """
    task = TaskConfig(
        dataset="synthetic",
        num_train=settings.run_images,
        num_inner_valid=64,
        num_outer_valid=64,
        num_test=64,
        augmentation="standard",
        network="resnet18",
        width=settings.run_width,
    )
    batch_size = min(128, settings.run_images // 2)
    train = TrainConfig(epochs=settings.run_epochs, batch_size=batch_size, channels_last=True, device="cpu")
    digest = small_task(task).digest
    fields = {"task": task, "train": train, "method": "cosine", "seed": seed, "data_digest": digest}
    return Job(spec=RunSpec.model_validate(fields | changes), store=str(store))


def small_task(config: TaskConfig) -> Task:
    """The task of a small job, made as a worker makes it."""
    return make_task(config, DataConfig(), torch.device("cpu"))
