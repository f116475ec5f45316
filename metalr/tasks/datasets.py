"""Every source of images by name: embedded, made from a seed, parquet files, or torchvision's.

Shape letters: N images, C channels, H rows, W columns.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock

from metalr.config import DataConfig
from metalr.tasks.hub import is_reachable, load_cifar10
from metalr.tasks.images import DataError, RawDataset, RawPart, UInt8, cache_dir, check_part, one_line

__all__ = ["DATASETS", "MIRRORED", "load_dataset"]

DIGITS_NUM_TEST = 360
"""scikit-learn's digits come in one piece; this many (a fifth) are their test part, always the same ones."""

BREAST_CANCER_NUM_TEST = 114
"""The same for scikit-learn's table of breast cancers."""

MIRRORED = frozenset({"cifar10", "cifar100", "fashion_mnist", "synthetic"})
"""Datasets whose classes survive a mirror; a mirrored digit is another sign, or none."""


def load_dataset(name: str, data: DataConfig) -> RawDataset:
    """The raw images of the dataset `name` with their own train and test parts.

    Raises DataError where they are missing, damaged or cannot be fetched.
    """
    return DATASETS[name](data)


def _load_digits(_data: DataConfig) -> RawDataset:
    """scikit-learn's 1,797 digits of 8x8 pixels, values 0..16 spread over 0..255."""
    from sklearn.datasets import load_digits

    bunch = load_digits()
    images = np.rint(bunch.images * (255 / 16)).astype(np.uint8)[:, None]
    labels = bunch.target.astype(np.int64)
    order = np.random.default_rng(0).permutation(len(labels))
    train, test = order[DIGITS_NUM_TEST:], order[:DIGITS_NUM_TEST]
    return RawDataset(RawPart(images[train], labels[train]), RawPart(images[test], labels[test]), 10)


def _load_breast_cancer(_data: DataConfig) -> RawDataset:
    """scikit-learn's 569 rows of 30 measurements in 2 classes, as images of one pixel with 30 channels.

    Each measurement is spread over 0..255 between its smallest and largest value.
    """
    from sklearn.datasets import load_breast_cancer

    bunch = load_breast_cancer()
    low, high = bunch.data.min(axis=0), bunch.data.max(axis=0)
    images = np.rint((bunch.data - low) / (high - low) * 255).astype(np.uint8)[:, :, None, None]
    labels = bunch.target.astype(np.int64)
    order = np.random.default_rng(0).permutation(len(labels))
    train, test = order[BREAST_CANCER_NUM_TEST:], order[:BREAST_CANCER_NUM_TEST]
    return RawDataset(RawPart(images[train], labels[train]), RawPart(images[test], labels[test]), 2)


def _load_synthetic(_data: DataConfig) -> RawDataset:
    """2,000 + 500 noisy images of 3x16x16 in 4 classes: gratings along rows or columns, of two periods."""
    return RawDataset(_gratings(2_000, seed=0), _gratings(500, seed=1), 4)


def _gratings(num_images: int, seed: int, side: int = 16) -> RawPart:
    generator = np.random.default_rng(seed)
    labels = generator.integers(0, 4, num_images)
    period_N1 = np.where(labels % 2 == 0, 4.0, 8.0)[:, None]
    phase_N1 = generator.uniform(0.0, 0.25, (num_images, 1))  # in periods: an MLP cannot learn a free phase
    wave_NS = np.sin(2 * np.pi * (np.arange(side) / period_N1 + phase_N1))
    along_rows = (labels < 2)[:, None, None]
    pattern_NHW = np.where(along_rows, wave_NS[:, :, None], wave_NS[:, None, :])
    colour_NC11 = generator.uniform(-60.0, 60.0, (num_images, 3, 1, 1))
    noise_NCHW = generator.normal(0.0, 70.0, (num_images, 3, side, side))
    images = 128.0 + colour_NC11 + 40.0 * pattern_NHW[:, None] + noise_NCHW
    return RawPart(np.clip(np.rint(images), 0, 255).astype(np.uint8), labels.astype(np.int64))


def _load_mnist(data: DataConfig) -> RawDataset:
    from torchvision.datasets import MNIST

    return _load_torchvision("mnist", data, MNIST, MNIST.mirrors[0], by_flag=True)


def _load_fashion_mnist(data: DataConfig) -> RawDataset:
    from torchvision.datasets import FashionMNIST

    return _load_torchvision("fashion_mnist", data, FashionMNIST, FashionMNIST.mirrors[0], by_flag=True)


def _load_cifar100(data: DataConfig) -> RawDataset:
    from torchvision.datasets import CIFAR100

    return _load_torchvision("cifar100", data, CIFAR100, CIFAR100.url, by_flag=True, num_classes=100)


def _load_svhn(data: DataConfig) -> RawDataset:
    from torchvision.datasets import SVHN

    return _load_torchvision("svhn", data, SVHN, SVHN.split_list["train"][0], by_flag=False)


def _load_torchvision(
    name: str, data: DataConfig, source: Callable[..., Any], url: str, *, by_flag: bool, num_classes: int = 10
) -> RawDataset:
    """Both parts of a torchvision dataset; `by_flag` tells `train=True` from `split="train"`."""
    root = Path(data.dir).expanduser() if data.dir else cache_dir() / "torchvision"

    def part(which: str) -> RawPart:
        chosen = {"train": which == "train"} if by_flag else {"split": which}
        loaded = _open_or_download(name, root, url, data.download, lambda **kw: source(root, **chosen, **kw))
        targets = loaded.labels if hasattr(loaded, "labels") else loaded.targets
        raw = RawPart(_as_NCHW(name, loaded.data), np.asarray(targets, dtype=np.int64))
        return check_part(raw, num_classes, f"{name} in {root}")

    return RawDataset(part("train"), part("test"), num_classes)


def _open_or_download(name: str, root: Path, url: str, download: bool, open_set: Callable[..., Any]) -> Any:
    """The torchvision dataset, fetched first where that is allowed, possible and needed."""
    try:
        return open_set(download=False)
    except Exception as error:  # a damaged file of a foreign format raises anything
        if not str(error).startswith("Dataset not found"):
            raise DataError(
                f"{name}: the files in {root} are damaged ({one_line(error)}); delete them, or set data.dir"
            ) from None
    if not download:
        raise _missing(name, root, "data.download=false forbids to fetch it")
    if not is_reachable(url):
        raise _missing(name, root, f"{url} cannot be reached")
    try:
        root.mkdir(parents=True, exist_ok=True)
        with FileLock(root / f".{name}.lock"):  # two processes would write the same files
            return open_set(download=True)
    except Exception as error:
        raise _missing(name, root, f"fetching failed ({one_line(error)})") from None


def _missing(name: str, root: Path, reason: str) -> DataError:
    return DataError(
        f"{name}: torchvision finds no complete copy in {root}, and {reason}; provide it by (1) data.dir=DIR "
        "with torchvision's files, (2) one run with data.download=true where the network can be reached, or "
        f"(3) a copy of another machine's {root}"
    )


def _as_NCHW(name: str, data: Any) -> UInt8:
    """torchvision's arrays in one layout: MNIST has N,H,W, CIFAR N,H,W,C, SVHN N,C,H,W."""
    images = np.asarray(data)
    if images.ndim == 3:
        images = images[:, None]
    elif name == "cifar100":
        images = images.transpose(0, 3, 1, 2)
    return np.ascontiguousarray(images, dtype=np.uint8)


DATASETS: dict[str, Callable[[DataConfig], RawDataset]] = {
    "digits": _load_digits,
    "breast_cancer": _load_breast_cancer,
    "synthetic": _load_synthetic,
    "cifar10": load_cifar10,
    "cifar100": _load_cifar100,
    "mnist": _load_mnist,
    "fashion_mnist": _load_fashion_mnist,
    "svhn": _load_svhn,
}
"""Name in `task.dataset` -> loader."""
