"""The benchmarks are no part of the package: they are found beside it."""

from __future__ import annotations

import gc
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

sys.path.append(str(Path(__file__).parents[2]))


@pytest.fixture(autouse=True)
def threads_put_back() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture(autouse=True)
def little_garbage() -> Iterator[None]:
    """Every measurement collects garbage first: do not search all of torch for it, each time."""
    gc.freeze()
    yield
    gc.unfreeze()
