"""How deep a transformer is: of many layers of attention each must move less, under Adam and its kind."""

from __future__ import annotations

from torch import nn

__all__ = ["num_attention_layers"]


def num_attention_layers(model: nn.Module) -> int:
    """Modules of `model` that are attention, by their class's name, and hold no further one.

    So torch's, timm's and the transformers library's own layers are counted once each, attention across to
    an encoder too. Attention written into another module's `forward` is not seen.

    Source: the best LR of Adam falls with the root of a residual network's depth (Yang, Yu, Zhu and Hayou,
    arXiv 2310.02244).
    """
    attending = [module for module in model.modules() if _attends(module)]
    return sum(not any(_attends(inner) for inner in _below(module)) for module in attending)


def _attends(module: nn.Module) -> bool:
    return "attention" in type(module).__name__.lower()


def _below(module: nn.Module) -> list[nn.Module]:
    return list(module.modules())[1:]
