"""A recorder for machines without a GPU: its replay does the work again and fills the first results."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

REHEARSALS = 3


def repeat(work: Callable[[], list[Tensor]]) -> tuple[list[Tensor], Callable[[], None]]:
    for _ in range(REHEARSALS):
        work()
    results = work()

    def replay() -> None:
        found = work()
        with torch.no_grad():
            for result, value in zip(results, found, strict=True):
                result.copy_(value)

    return results, replay
