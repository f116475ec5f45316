"""Norms of many tensors at once, with few launches; only `norms_of_samples` waits for the device."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

__all__ = ["Sample", "norm_of_all", "norms_of", "norms_of_samples"]

Sample = tuple[list[Tensor], Tensor | None]
"""The norm of every gradient, and the scale that a GradScaler had given them."""


@torch.no_grad()
def norms_of(tensors: Iterable[Tensor]) -> list[Tensor]:
    """The norm of each tensor that has elements, on its own device."""
    dense = [t.detach().coalesce().values() if t.is_sparse else t.detach() for t in tensors if t.numel()]
    if len({(t.device, t.dtype) for t in dense}) != 1:
        return [torch.linalg.vector_norm(t) for t in dense]
    return list(torch._foreach_norm(dense))  # less to launch


@torch.no_grad()
def _total(norms: Sequence[Tensor]) -> Tensor:
    """The norm of all tensors together, from theirs; 0 of none."""
    if not norms:
        return torch.zeros(())
    device = norms[0].device
    same = all(norm.device == device and norm.dtype == norms[0].dtype for norm in norms)
    alike = list(norms) if same else [norm.to(device, torch.float32) for norm in norms]
    total: Tensor = torch.linalg.vector_norm(torch.stack(alike))
    return total


def norms_of_samples(samples: Sequence[Sample]) -> list[float]:
    """The norm of each sample's gradients, by one transfer from the device."""
    lengths = {len(norms) for norms, _ in samples}
    kinds = {(norm.device, norm.dtype) for norms, _ in samples for norm in norms}
    if len(lengths) == len(kinds) == 1 and lengths != {0} and all(scale is None for _, scale in samples):
        together = torch.stack([norm for norms, _ in samples for norm in norms]).view(len(samples), -1)
        alike: list[float] = torch.linalg.vector_norm(together, dim=1).tolist()
        return alike
    totals = [_total(norms) for norms, _ in samples]
    totals = [
        total if scale is None else total / scale.to(total.device)
        for total, (_, scale) in zip(totals, samples, strict=True)
    ]
    device = totals[-1].device
    each: list[float] = torch.stack([total.to(device, torch.float64) for total in totals]).tolist()
    return each


def norm_of_all(tensors: Iterable[Tensor]) -> Tensor:
    """The norm of all tensors together, a scalar."""
    return _total(norms_of(tensors))
