"""Which images a task has: four splits, carved from a dataset, pooled, with label noise.

Shape letters: N images of a split, B images of a batch, C channels, H rows, W columns.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from metalr.config import DataConfig, TaskConfig
from metalr.tasks.datasets import load_dataset
from metalr.tasks.images import DataError, Int64, RawDataset, RawPart, UInt8

__all__ = ["SPLITS", "Carved", "Split", "carve"]

SPLITS = ("train", "inner_valid", "outer_valid", "test")
"""The four names: to fit, for the controller to see, for labels and tuning, read once by `compare`."""


@dataclass(frozen=True)
class Split:
    """Images with pixels 0..255 and their classes, on the training device."""

    images_BCHW: Tensor
    labels_B: Tensor


_IMAGE_FIELDS = frozenset(
    {"dataset", "num_train", "num_inner_valid", "num_outer_valid", "num_test", "image_size", "label_noise"}
    | {"split_seed", "classes"}
)
"""The settings that decide which images a task has; the others decide what is done with them."""


@dataclass(frozen=True)
class Carved:
    """Everything of a task that depends on its images alone; see `Task`."""

    num_classes: int
    image_shape: tuple[int, int, int]
    splits: dict[str, Split]
    identity: tuple[str, Tensor, Tensor]
    """Digest, mean, standard deviation."""


def carve(config: TaskConfig, data: DataConfig, device: torch.device) -> Carved:
    """The splits of a task on `device`: one object per process for the same images.

    Raises DataError where the images are missing, damaged or too few, or where `image_size` does not divide
    their side.
    """
    names = set(TaskConfig.model_fields) - _IMAGE_FIELDS
    return _carve(TaskConfig.model_validate(config.model_dump(exclude=names)), data, device)


@lru_cache(maxsize=8)
def _carve(config: TaskConfig, data: DataConfig, device: torch.device) -> Carved:
    raw = _of_classes(config, load_dataset(config.dataset, data))
    parts = _split(config, raw)
    digest = _digest(parts)
    mean_C, std_C = _moments(parts["train"].images_NCHW)
    channels, height, width = parts["train"].images_NCHW.shape[1:]
    splits = {
        name: Split(torch.from_numpy(part.images_NCHW).to(device), torch.from_numpy(part.labels_N).to(device))
        for name, part in parts.items()
    }
    identity = (digest, mean_C.to(device), std_C.to(device))
    return Carved(raw.num_classes, (channels, height, width), splits, identity)


def _of_classes(config: TaskConfig, raw: RawDataset) -> RawDataset:
    """The images of `config.classes`, relabelled by their place in it."""
    if config.classes is None:
        return raw
    unknown = [label for label in config.classes if label >= raw.num_classes]
    if unknown:
        raise DataError(
            f"{config.dataset}: classes={list(config.classes)}, but it has classes 0 to {raw.num_classes - 1}"
        )
    places_C = np.full(raw.num_classes, -1, dtype=np.int64)
    places_C[list(config.classes)] = np.arange(len(config.classes))

    def chosen(part: RawPart) -> RawPart:
        new_N = places_C[part.labels_N]
        return RawPart(part.images_NCHW[new_N >= 0], new_N[new_N >= 0])

    return RawDataset(chosen(raw.train), chosen(raw.test), len(config.classes))


def _split(config: TaskConfig, raw: RawDataset) -> dict[str, RawPart]:
    """The four splits, pooled, with label noise on `train`.

    `test` is the beginning of a permutation that never changes; the others come from the dataset's train
    part by `split_seed`, the validation splits first, so that another `num_train` leaves them alone.
    """
    available, available_test = len(raw.train.labels_N), len(raw.test.labels_N)
    num_inner, num_outer = config.num_inner_valid, config.num_outer_valid
    num_train = config.num_train or max(available - num_inner - num_outer, 1)
    if num_train + num_inner + num_outer > available:
        asked = f"num_train={config.num_train or '1 or more'} + num_inner_valid={num_inner}"
        raise DataError(
            f"{config.dataset}: {asked} + num_outer_valid={num_outer} need more than the {available} images "
            "of its train part; lower one of them"
        )
    if config.num_test is not None and config.num_test > available_test:
        raise DataError(
            f"{config.dataset}: num_test={config.num_test}, but its test part has {available_test}"
        )
    order = np.random.default_rng([config.split_seed, 0]).permutation(available)
    test_order = np.random.default_rng(0).permutation(available_test)
    ends = num_inner, num_inner + num_outer, num_inner + num_outer + num_train
    parts = {
        "train": _pick(config, raw.train, order[ends[1] : ends[2]]),
        "inner_valid": _pick(config, raw.train, order[: ends[0]]),
        "outer_valid": _pick(config, raw.train, order[ends[0] : ends[1]]),
        "test": _pick(config, raw.test, test_order[: config.num_test]),
    }
    noisy = _with_label_noise(parts["train"].labels_N, config, raw.num_classes)
    return parts | {"train": RawPart(parts["train"].images_NCHW, noisy)}


def _pick(config: TaskConfig, part: RawPart, indices: Int64) -> RawPart:
    side = part.images_NCHW.shape[-1]
    wanted = config.image_size or side
    if wanted > side or side % wanted:
        fitting = ", ".join(str(size) for size in range(4, side + 1) if side % size == 0)
        raise DataError(
            f"{config.dataset}: image_size={wanted} does not divide its {side} pixels; use one of {fitting}"
        )
    return RawPart(_pool(part.images_NCHW[indices], side // wanted), part.labels_N[indices])


def _pool(images_NCHW: UInt8, factor: int) -> UInt8:
    """Means over blocks of `factor` x `factor` pixels, rounded to the nearest integer, halves up."""
    if factor == 1:
        return images_NCHW
    # One strided sum per place in the block: three times as fast as numpy's sum over a reshaped array.
    sums = np.zeros_like(images_NCHW[:, :, ::factor, ::factor], dtype=np.uint32)
    for row, column in np.ndindex(factor, factor):
        sums += images_NCHW[:, :, row::factor, column::factor]
    pooled: UInt8 = ((sums + factor**2 // 2) // factor**2).astype(np.uint8)
    return pooled


def _with_label_noise(labels_N: Int64, config: TaskConfig, num_classes: int) -> Int64:
    """The labels with exactly round(label_noise * N) of them moved to another class, drawn uniformly."""
    generator = np.random.default_rng([config.split_seed, 1])
    chosen = generator.permutation(len(labels_N))[: round(config.label_noise * len(labels_N))]
    noisy = labels_N.copy()
    noisy[chosen] = (labels_N[chosen] + generator.integers(1, num_classes, len(chosen))) % num_classes
    return noisy


def _digest(parts: dict[str, RawPart]) -> str:
    digest = hashlib.sha256()
    for name in SPLITS:
        images, labels = parts[name].images_NCHW, parts[name].labels_N.astype("<i8")
        digest.update(f"{name}{images.shape}".encode())  # so that no image can change sides unnoticed
        digest.update(np.ascontiguousarray(images).data)
        digest.update(labels.tobytes())
    return digest.hexdigest()


def _moments(images_NCHW: UInt8) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of each channel in 0..1, exact through the counts of the 256 values.

    A channel without spread gets the deviation of one grey level, so that dividing by it is harmless.
    """
    values = np.arange(256) / 255
    means, deviations = [], []
    for channel in range(images_NCHW.shape[1]):
        chunks = np.array_split(images_NCHW[:, channel], max(1, len(images_NCHW) // 1_000))
        counts = np.sum([np.bincount(chunk.ravel(), minlength=256) for chunk in chunks], axis=0)
        mean = np.average(values, weights=counts)
        means.append(mean)
        deviations.append(max(np.average((values - mean) ** 2, weights=counts) ** 0.5, 1 / 255))
    return torch.tensor(means, dtype=torch.float32), torch.tensor(deviations, dtype=torch.float32)
