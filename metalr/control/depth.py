"""How deep a network is where nothing normalises and no shortcut passes: the deeper, the less it bears."""

from __future__ import annotations

from collections import deque
from typing import Any

from torch import Tensor

__all__ = ["num_plain_layers"]

_INPUT_OF = {
    "ConvolutionBackward0": 0,
    "MkldnnConvolutionBackward0": 0,
    "AddmmBackward0": 1,
    "MmBackward0": 0,
    "LinearBackward0": 0,
    "MkldnnLinearBackward0": 0,
}
"""Nodes of autograd's graph that multiply by weights -> which of their inputs is the layer's."""
_ENDS = ("BatchNorm", "LayerNorm", "GroupNorm", "RmsNorm", "RMSNorm", "Embedding")
"""In the names of nodes behind which the count ends."""


def num_plain_layers(loss: Tensor) -> int:
    """Linear and convolutional layers on the shortest way from `loss` back to a normalisation or the input.

    Read off autograd's graph, before it is used up. A shortcut is a short way, so of a residual network few
    are counted. 0 where none are seen: in a compiled network, or without gradients.

    >>> import torch
    >>> model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.ReLU(), torch.nn.Linear(4, 1))
    >>> num_plain_layers(model(torch.zeros(2, 3)).mean())
    2
    """
    queue = deque([(loss.grad_fn, 0)])
    seen = set()
    while queue:
        node, count = queue.popleft()  # of those that wait the one with the fewest layers before it
        if node is None or node in seen:
            continue
        seen.add(node)
        name = node.name()
        if any(end in name for end in _ENDS):
            return count
        if name not in _INPUT_OF:
            queue.extendleft((before, count) for before in _before(node))
            continue
        before = _before(node)[_INPUT_OF[name]]
        if before is None:
            return count + 1  # the data
        queue.append((before, count + 1))
    return 0


def _before(node: Any) -> list[Any]:
    """The nodes that made the inputs of `node`, None for what has no gradient."""
    return [before for before, _ in node.next_functions]
