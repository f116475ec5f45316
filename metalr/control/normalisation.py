"""Whether a network normalises: its weights' scale then hardly matters, and it bears larger LRs under SGD."""

from __future__ import annotations

from torch import nn

__all__ = ["has_plain_head", "normalises"]

OF_CHANNELS = ("batchnorm", "groupnorm", "instancenorm")
"""In the lower-case names of normalisations that stand behind convolutions."""


def normalises(model: nn.Module) -> bool:
    """Whether `model` has normalisations (batch, layer, group, instance or RMS norm), and no plain head.

    Known by the class's name, as the transformers library's own layers are. A plain head is a hidden linear
    layer behind the last of the batch, group or instance norms, as a VGG has it: nothing holds its scale, and
    it bears no larger LR than a network without normalisation (see `experiments/results/NOTES.md`).

    Source: weights before a normalisation are scale-invariant and tune their effective LR by growing (Arora,
    Li and Lyu, arXiv 1812.03981), so the edge that an untrained network shows is soon behind it.
    """
    return any(_is_norm(module) for module in model.modules()) and not has_plain_head(model)


def _is_norm(module: nn.Module) -> bool:
    return "norm" in type(module).__name__.lower()


def has_plain_head(model: nn.Module) -> bool:
    """Whether of the linear layers registered after the last norm, one of channels, one feeds another.

    Layers that end in a sigmoid with more behind it only gate channels (squeeze and excitation).
    """
    is_plain, is_gate, is_of_channels = False, False, False
    num_outputs: int | None = None
    for module in model.modules():
        if _is_norm(module):
            is_plain, is_gate, num_outputs = False, False, None
            is_of_channels = any(name in type(module).__name__.lower() for name in OF_CHANNELS)
        elif isinstance(module, nn.Sigmoid | nn.Hardsigmoid):
            is_gate = True
        elif isinstance(module, nn.Linear):
            if is_gate:
                is_plain, is_gate, num_outputs = False, False, None
            is_plain = is_plain or num_outputs == module.in_features
            num_outputs = module.out_features
    return is_plain and is_of_channels
