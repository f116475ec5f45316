"""Parquet files in the Hub's layout, written by the tests, and how a refusal reads."""

from __future__ import annotations

import io
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pytest
from PIL import Image
from pyarrow import parquet

from metalr.config import DataConfig
from metalr.tasks import DataError
from metalr.tasks.hub import load_cifar10
from metalr.tasks.images import RawDataset

REAL = Path(
    os.environ.get("METALR_CIFAR10_DIR") or Path(__file__).resolve().parents[3] / "shared" / "cifar10"
)
needs_real = pytest.mark.skipif(
    not list(REAL.glob("plain_text/test-*.parquet")), reason=f"no CIFAR-10 in {REAL}; set METALR_CIFAR10_DIR"
)


def png(pixels: Any) -> bytes:
    """An array (H, W, 3) as a lossless file."""
    buffer = io.BytesIO()
    Image.fromarray(np.asarray(pixels, dtype=np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


def write_shard(
    path: Path,
    encoded: Sequence[bytes | None],
    labels: Sequence[Any],
    columns: tuple[str, str] = ("img", "label"),
) -> Path:
    """Encoded images and labels as one parquet file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    cells = [{"bytes": content, "path": None} for content in encoded]
    kind = pyarrow.struct([("bytes", pyarrow.binary()), ("path", pyarrow.string())])
    table = pyarrow.table({columns[0]: pyarrow.array(cells, kind), columns[1]: labels})
    parquet.write_table(table, path)
    return path


def load_folder(folder: Path) -> RawDataset:
    return load_cifar10(DataConfig(dir=str(folder)))


def refusal(folder: Path) -> str:
    """The one line that says why `folder` is refused."""
    with pytest.raises(DataError) as caught:
        load_folder(folder)
    message = str(caught.value)
    assert "\n" not in message
    assert caught.value.__suppress_context__ or caught.value.__context__ is None
    return message
