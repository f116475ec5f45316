"""One inner problem: four splits on the training device, their normalisation, batches, and fresh networks.

Shape letters: N images of a split, B images of a batch, C channels, H rows, W columns.
"""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass
from functools import cached_property, lru_cache

import torch
from torch import Tensor, nn
from torch.nn import functional

from metalr.config import DataConfig, TaskConfig
from metalr.tasks.augmentation import crop_and_flip, cut_out
from metalr.tasks.datasets import MIRRORED
from metalr.tasks.networks import make_network
from metalr.tasks.splits import Split, carve
from metalr.tasks.transforms import STRENGTHS, transform_images

__all__ = ["Task", "make_task"]


@dataclass(frozen=True)
class Task:
    """An inner problem, ready to train on.

    `image_shape` is (C, H, W). `digest` is the SHA-256, in 64 hexadecimal digits, over the images and labels
    of the four splits as they are used: after subsetting, pooling and label noise. `mean_C` and `std_C` are
    those of the `train` split's pixels in 0..1; they normalise every split. Targets are what the objective
    makes of labels and images: classes (B,) in int64, or float32 of shape (B, num_outputs).
    """

    config: TaskConfig
    num_classes: int
    image_shape: tuple[int, int, int]
    splits: dict[str, Split]
    digest: str
    mean_C: Tensor
    std_C: Tensor

    @property
    def num_outputs(self) -> int:
        """Outputs of the network: one a class, or one a pixel and channel."""
        return math.prod(self.image_shape) if self.config.objective == "reconstruct" else self.num_classes

    @cached_property
    def loss_of_guessing(self) -> float:
        """The loss of the best answer that ignores the image: log C nats, or the targets' variance."""
        if self.config.classifies:
            return math.log(self.num_classes)
        train = self.splits["train"]
        targets_NO = self._targets(self._normalise(train.images_BCHW), train.labels_B)
        return float(targets_NO.var(dim=0, correction=0).mean())

    def in_nats(self, loss: float) -> float:
        """A loss as labels compare it over tasks, nats: the squared error of guessing counts log 10."""
        return loss if self.config.classifies else loss / self.loss_of_guessing * math.log(10)

    def make_model(self, seed: int) -> nn.Module:
        """A fresh network on the task's device, the same for the same seed on any device.

        The global random state is left as it was.
        """
        channels, side, _ = self.image_shape
        config = self.config
        with torch.random.fork_rng(devices=[]):
            # The CPU's generator alone: torch.manual_seed would also reseed the GPUs, which nothing restores.
            torch.default_generator.manual_seed(seed)
            model = make_network(
                config.network, channels, self.num_outputs, side, config.width, config.dropout
            )
        return model.to(self.mean_C.device)

    def train_batch(self, indices_B: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """The `train` images at `indices_B`, augmented and normalised in float32, and their targets.

        `indices_B` (int64) and `generator` live on the task's device; nothing waits for it, but where `light`
        or `strong` augmentation works on the CPU. Random numbers are drawn only where the configuration
        augments.
        """
        train, config = self.splits["train"], self.config
        images_BCHW, flip = train.images_BCHW[indices_B], config.dataset in MIRRORED
        if config.augmentation in STRENGTHS:
            moved_BCHW, erased_B1HW = transform_images(images_BCHW, generator, config.augmentation, flip=flip)
            moved_BCHW = self._normalise(moved_BCHW).masked_fill(erased_B1HW, 0.0)
            return moved_BCHW, self._targets(moved_BCHW, train.labels_B[indices_B])
        if config.augmentation == "standard":
            padding = self.image_shape[1] // 8
            images_BCHW = crop_and_flip(images_BCHW, generator, padding=padding, flip=flip)
        normalised_BCHW = self._normalise(images_BCHW)
        if config.augmentation == "standard" and config.cutout > 0:
            normalised_BCHW = cut_out(normalised_BCHW, generator, size=config.cutout)
        return normalised_BCHW, self._targets(normalised_BCHW, train.labels_B[indices_B])

    def eval_batch(self, split: str, start: int, stop: int) -> tuple[Tensor, Tensor]:
        """Images `start` to `stop` (exclusive) of a split, normalised in float32, and their targets."""
        chosen = self.splits[split]
        images_BCHW = self._normalise(chosen.images_BCHW[start:stop])
        return images_BCHW, self._targets(images_BCHW, chosen.labels_B[start:stop])

    def _targets(self, images_BCHW: Tensor, labels_B: Tensor) -> Tensor:
        if self.config.objective == "reconstruct":
            return images_BCHW.flatten(1)
        if self.config.objective == "regress":
            return functional.one_hot(labels_B, self.num_classes).float()
        return labels_B

    def _normalise(self, images_BCHW: Tensor) -> Tensor:
        mean_C11, std_C11 = self.mean_C[:, None, None], self.std_C[:, None, None]
        return (images_BCHW.float() / 255 - mean_C11) / std_C11


def make_task(config: TaskConfig, data: DataConfig, device: torch.device) -> Task:
    """The task of `config` on `device`; one object per process for the same arguments.

    Tasks that differ only in network or augmentation share their splits. Raises DataError where the images
    are missing, damaged or too few, or where `image_size` does not divide their side.
    """
    return _make_task(config, data, device)


@lru_cache(maxsize=64)
def _make_task(config: TaskConfig, data: DataConfig, device: torch.device) -> Task:
    if config.cutout > 0 and config.augmentation != "standard":
        reason = f"task.augmentation={config.augmentation}; it belongs to `standard`"
        warnings.warn(f"task.cutout is ignored, since {reason}", stacklevel=3)
    carved = carve(config, data, device)
    return Task(config, carved.num_classes, carved.image_shape, carved.splits, *carved.identity)
