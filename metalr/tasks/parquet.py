"""Encoded images in parquet files, in the layout of the Hugging Face Hub: a struct with `bytes`, and a class.

Shape letters: N images, C channels, H rows, W columns.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from metalr.tasks.images import DataError, RawPart, UInt8, check_part, one_line

if TYPE_CHECKING:
    import pyarrow

__all__ = ["decode_shards", "decode_table", "read_parquet"]

IMAGE_COLUMNS, LABEL_COLUMNS = ("img", "image"), ("label", "labels", "fine_label")
MAX_SIDE = 256
"""Larger images are refused before they are decoded: no set of such size is meant here."""


def decode_shards(paths: Sequence[Path], num_classes: int) -> RawPart:
    """All images and labels of one part's parquet files, in order. Raises DataError as `decode_table`."""
    parts = [decode_table(read_parquet(path), num_classes, str(path)) for path in paths]
    if len({part.images_NCHW.shape[1:] for part in parts}) != 1:
        raise DataError(f"{paths[0].parent}: the shards hold images of different sizes")
    images = np.concatenate([part.images_NCHW for part in parts])
    return RawPart(images, np.concatenate([part.labels_N for part in parts]))


def _one_of(names: Sequence[str], wanted: tuple[str, ...], source: str) -> str:
    for name in wanted:
        if name in names:
            return name
    raise DataError(f"{source}: no column {' or '.join(wanted)}; it has {', '.join(names) or 'none'}")


def read_parquet(path: Path) -> pyarrow.Table:
    """The image and the label column of a parquet file. Raises DataError where damaged or without one."""
    import pyarrow
    from pyarrow import parquet

    try:
        with parquet.ParquetFile(path, page_checksum_verification=True) as file:
            names = file.schema_arrow.names
            chosen = [_one_of(names, wanted, str(path)) for wanted in (IMAGE_COLUMNS, LABEL_COLUMNS)]
            return file.read(columns=chosen)
    except (pyarrow.ArrowException, OSError) as error:
        raise DataError(f"{path}: not a readable parquet file ({one_line(error)}); fetch it again") from None


def decode_table(table: pyarrow.Table, num_classes: int, source: str) -> RawPart:
    """The images and labels of a table in the Hub's layout (a struct with encoded `bytes`; an integer class).

    Raises DataError naming `source` and the row where something cannot be decoded.
    """
    import pyarrow
    from pyarrow import compute

    images = table[_one_of(table.column_names, IMAGE_COLUMNS, source)]
    labels = table[_one_of(table.column_names, LABEL_COLUMNS, source)]
    if not pyarrow.types.is_struct(images.type) or images.type.get_field_index("bytes") < 0:
        raise DataError(
            f"{source}: the image column holds {images.type}, not encoded images (struct with bytes)"
        )
    if not pyarrow.types.is_integer(labels.type) or labels.null_count:
        raise DataError(f"{source}: the label column holds {labels.type} or empty cells, not classes")
    encoded = (cell.as_py() for chunk in compute.struct_field(images, "bytes").chunks for cell in chunk)
    decoded = _decode_images(encoded, len(images), source)
    return check_part(RawPart(decoded, labels.to_numpy().astype(np.int64)), num_classes, source)


def _decode_images(encoded: Iterable[bytes | None], num_images: int, source: str) -> UInt8:
    images_NCHW = np.empty((0, 3, 0, 0), np.uint8)
    for row, content in enumerate(encoded):
        try:
            pixels = _decode(content)
        except (OSError, ValueError, SyntaxError) as error:
            raise DataError(f"{source}: row {row} is not a readable image ({one_line(error)})") from None
        if row == 0:
            images_NCHW = np.empty((num_images, *pixels.shape), np.uint8)
        elif pixels.shape != images_NCHW.shape[1:]:
            raise DataError(f"{source}: row {row} has another image size than row 0")
        images_NCHW[row] = pixels
    return images_NCHW


def _decode(content: bytes | None) -> UInt8:
    """The pixels (3, H, W) of a PNG or JPEG."""
    from PIL import Image

    if content is None:
        raise ValueError("no bytes")
    with Image.open(io.BytesIO(content), formats=("PNG", "JPEG")) as image:
        if max(image.size) > MAX_SIDE:
            raise ValueError(f"{image.size[0]} x {image.size[1]} pixels, more than {MAX_SIDE}")
        return np.asarray(image.convert("RGB")).transpose(2, 0, 1)
