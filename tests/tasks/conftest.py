"""A private cache, and parquet files in the Hub's layout."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hub_files import png, write_shard

from metalr.tasks import splits as splits_module
from metalr.tasks import task as task_module


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of its own for each test, on disk and in the process."""
    folder = tmp_path / "cache"
    monkeypatch.setenv("METALR_CACHE", str(folder))
    task_module._make_task.cache_clear()
    splits_module._carve.cache_clear()
    return folder


@pytest.fixture
def pixels() -> Any:
    """Twelve random images (N, H, W, 3) of 8 pixels."""
    return np.random.default_rng(0).integers(0, 256, (12, 8, 8, 3), dtype=np.uint8)


@pytest.fixture
def hub_folder(tmp_path: Path, pixels: Any) -> Path:
    """A small directory in the Hub's layout: two train shards of four images, four test images."""
    folder, encoded = tmp_path / "cifar10", [png(image) for image in pixels]
    write_shard(folder / "plain_text/train-00000-of-00002.parquet", encoded[:4], [0, 1, 2, 9])
    write_shard(folder / "plain_text/train-00001-of-00002.parquet", encoded[4:8], [3, 4, 5, 6])
    write_shard(folder / "plain_text/test-00000-of-00001.parquet", encoded[8:], [7, 8, 9, 0])
    return folder
