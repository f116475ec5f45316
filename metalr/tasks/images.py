"""What every source of images yields, and the cache of decoded images.

Shape letters: N images, C channels, H rows, W columns.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from filelock import FileLock

__all__ = ["DataError", "RawDataset", "RawPart", "cache_dir", "cached_part", "check_part", "one_line"]

UInt8 = npt.NDArray[np.uint8]
Int64 = npt.NDArray[np.int64]


class DataError(ValueError):
    """A dataset is missing, damaged or too small; the message says what, where, and what to do."""


@dataclass(frozen=True)
class RawPart:
    """Images as they come from the source, pixels 0..255, with their classes."""

    images_NCHW: UInt8
    labels_N: Int64


@dataclass(frozen=True)
class RawDataset:
    """A dataset with its own train and test parts, before any split is carved."""

    train: RawPart
    test: RawPart
    num_classes: int


def one_line(error: BaseException) -> str:
    """The message of `error` without line breaks, cut at 300 characters; its type where it says nothing."""
    return " ".join(str(error).split())[:300] or type(error).__name__


def check_part(part: RawPart, num_classes: int, source: str) -> RawPart:
    """`part` itself, once it is known to be usable.

    Raises DataError naming `source` where it is empty, images and labels differ in number, images are not
    square, or a label lies outside 0..num_classes - 1.
    """
    num_images, num_labels = len(part.images_NCHW), len(part.labels_N)
    if num_images != num_labels or num_images == 0:
        raise DataError(f"{source}: {num_images} images and {num_labels} labels; the files are damaged")
    height, width = part.images_NCHW.shape[2:]
    if height != width:
        raise DataError(f"{source}: images are {height} x {width} pixels, but must be square")
    wrong = part.labels_N[(part.labels_N < 0) | (part.labels_N >= num_classes)]
    if len(wrong) > 0:
        raise DataError(f"{source}: label {wrong[0]} lies outside 0..{num_classes - 1}")
    return part


def cache_dir() -> Path:
    """The directory of decoded and downloaded images: $METALR_CACHE, else ~/.cache/metalr."""
    return Path(os.environ.get("METALR_CACHE") or "~/.cache/metalr").expanduser()


def cached_part(name: str, make: Callable[[], RawPart] | None) -> RawPart | None:
    """The images cached under `name`; where missing or damaged, those of `make`, which are then cached.

    Without `make`, None stands for missing or damaged. Processes that ask at the same time wait for the
    first.
    A cache that cannot be written costs a warning and the decoding, never the run.
    """
    path = cache_dir() / f"{name}.npy"
    part = _read(path)
    if part is not None or make is None:
        return part
    lock = FileLock(path.with_suffix(".lock"))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except OSError as error:
        _warn_uncached(path, error)
        return make()
    try:
        return _read(path) or _make_and_write(path, make)
    finally:
        lock.release()


def _make_and_write(path: Path, make: Callable[[], RawPart]) -> RawPart:
    part = make()
    try:
        _write(path, part)
    except OSError as error:
        _warn_uncached(path, error)
    return part


def _warn_uncached(path: Path, error: OSError) -> None:
    warnings.warn(
        f"{path}: cannot cache decoded images ({one_line(error)}), so each process decodes them again; "
        "set METALR_CACHE to a directory that can be written",
        stacklevel=2,
    )


def _checksum_path(path: Path) -> Path:
    return path.with_name(path.name + ".sha256")


def _sha256(path: Path) -> str:
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def _read(path: Path) -> RawPart | None:
    """The cached images, or None where a file is missing, damaged or of another layout."""
    try:
        # A flipped byte changes pixels without any error from numpy, hence the checksum.
        if _checksum_path(path).read_text() != _sha256(path):
            return None
        rows = np.load(path, allow_pickle=False)
        images, labels = rows["image"], np.ascontiguousarray(rows["label"])
    except (OSError, ValueError, IndexError):
        return None
    return RawPart(images, labels)


def _write(path: Path, part: RawPart) -> None:
    """Put `part` at `path` by a rename: no reader, and no crash, sees half a file. The lock is held."""
    for leftover in path.parent.glob(f".{path.name}.*.tmp"):
        leftover.unlink(missing_ok=True)
    rows = np.empty(
        len(part.labels_N), dtype=[("image", np.uint8, part.images_NCHW.shape[1:]), ("label", np.int64)]
    )
    rows["image"], rows["label"] = part.images_NCHW, part.labels_N
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
    try:
        with os.fdopen(descriptor, "wb") as handle:
            np.save(handle, rows, allow_pickle=False)
            handle.flush()
            os.fsync(handle.fileno())
        digest = _sha256(Path(temporary))
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    # Written after the images: a crash in between leaves a wrong checksum, which only costs the decoding.
    _checksum_path(path).write_text(digest)
