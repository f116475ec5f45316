"""How much is measured: everything the groups of rows take from the command line."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any, Literal

__all__ = ["GPU", "QUICK", "HarvestSize", "Settings"]


@dataclass(frozen=True)
class HarvestSize:
    """How large a harvest is."""

    num_runs: int
    fork_fractions: tuple[float, ...]
    num_candidates: int


@dataclass(frozen=True)
class Settings:
    """The sizes of all benchmarks; `QUICK` has small ones."""

    widths: tuple[int, ...] = (8, 16)
    """Channels of the first stage of the ResNet-18."""
    image_sizes: tuple[int, ...] = (16, 32)
    """Sides in pixels."""
    threads: tuple[int, ...] = (1, 2)
    """CPU threads of the training process."""
    batch_size: int = 128
    num_images: int = 4_000
    """Images of an epoch."""
    num_inner_valid: int = 500
    """Images of the evaluation after each epoch."""
    people_images: int = 1_536
    """Images of an epoch of the loop people write, at most `num_images`; speeds are compared an image."""
    rounds: int = 3
    """Rounds that count; one more is run before them."""
    floor_steps: int = 3
    """Optimizer steps of a round, in the search for the fastest floor."""
    compile: bool = True
    """Whether `torch.compile` is tried; it takes minutes a network."""
    device: Literal["cpu", "cuda"] = "cpu"
    """Where all groups train that can on a GPU; `control`, `start`, ... are measured on the CPU."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    run_images: int = 1_024
    """Images of an epoch of the small runs of `workers`, `start`, `harvest` and `packing`."""
    run_epochs: int = 4
    run_width: int = 8
    num_jobs: int = 8
    """Runs of a round of `workers` and `packing`."""
    packed_workers: tuple[int, ...] = (1, 2, 4)
    """Workers at once on one device, the first of them the standard."""
    fork_width: int = 16
    fork_images: int = 1_024
    """Images of an epoch of the run that is forked."""
    num_candidates: int = 9
    """Branches of a fork."""
    matrix_sizes: tuple[int, ...] = (256, 512)
    """Rows of the square matrices whose products show the device's peak."""
    decisions: int = 200
    memory_runs: int = 200
    harvest_sizes: tuple[HarvestSize, ...] = (
        HarvestSize(8, (0.0, 0.5), 4),
        HarvestSize(12, (0.0, 0.5), 4),
        HarvestSize(10, (0.0, 0.25, 0.5), 5),
    )
    """224, 336 and 490 epochs: beside them the start of the workers, which no estimate counts, is short."""

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            numbers = value if isinstance(value, tuple) else (value,)
            least = LEAST.get(field.name, 1)
            if not numbers or any(type(number) is int and number < least for number in numbers):
                shown = " ".join(map(str, numbers)) or "nothing"
                raise ValueError(f"{field.name}={shown}: give whole numbers of at least {least}")
        if self.num_images < 2 * self.batch_size:
            # The probe of a controlled run is paid for by steps of its epochs: of one, none would be left.
            raise ValueError(
                f"num_images={self.num_images} must be at least two batches of {self.batch_size}; "
                "take more images or a smaller batch"
            )
        for name in ("people_images", "fork_images"):
            if getattr(self, name) < self.batch_size:
                raise ValueError(
                    f"{name}={getattr(self, name)} must be at least one batch of {self.batch_size}; "
                    "take more images or a smaller batch"
                )


LEAST = {"widths": 8, "run_width": 8, "fork_width": 8, "image_sizes": 8, "memory_runs": 10, "num_jobs": 2}
"""Smallest values other than 1: networks refuse less, a slope and a second worker need as much."""


GPU: dict[str, Any] = {
    "widths": (64,),
    "image_sizes": (32,),
    "threads": (1,),
    "num_images": 50_000,
    "num_inner_valid": 5_000,
    "people_images": 10_240,
    "rounds": 5,
    "floor_steps": 50,
    "run_epochs": 12,
    "fork_images": 5_120,
    "matrix_sizes": (4_096, 8_192, 16_384),
}
"""Changes to the defaults on a GPU: the study's network on as many images as CIFAR-10 has."""


QUICK: dict[str, Any] = {
    "widths": (8,),
    "image_sizes": (16,),
    "threads": (1,),
    "num_images": 512,
    "num_inner_valid": 128,
    "people_images": 512,
    "rounds": 3,
    "floor_steps": 2,
    "compile": False,
    "run_images": 512,
    "run_epochs": 4,
    "num_jobs": 4,
    "packed_workers": (1, 2),
    "fork_width": 8,
    "fork_images": 256,
    "num_candidates": 3,
    "matrix_sizes": (256, 512),
    "decisions": 50,
    "memory_runs": 20,
    "harvest_sizes": (
        HarvestSize(2, (0.5,), 3),
        HarvestSize(2, (0.0, 0.5), 3),
        HarvestSize(4, (0.0, 0.5), 4),
    ),
}
"""Changes to the defaults that show in two minutes whether everything works; their figures prove nothing."""
