"""Whether a network normalises: its weights' scale then hardly matters, and it bears larger LRs under SGD."""

from __future__ import annotations

from torch import nn

__all__ = ["normalises"]


def normalises(model: nn.Module) -> bool:
    """Whether any module of `model` is a normalisation: batch, layer, group, instance or RMS norm.

    Known by the class's name, as the transformers library's own layers are.

    Source: weights before a normalisation are scale-invariant and tune their effective LR by growing (Arora,
    Li and Lyu, arXiv 1812.03981), so the edge that an untrained network shows is soon behind it.
    """
    return any("norm" in type(module).__name__.lower() for module in model.modules())
