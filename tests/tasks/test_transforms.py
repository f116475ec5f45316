"""`light` and `strong` against torchvision applied by hand, their ranges, and the source of their draws."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from metalr.config import DataConfig, TaskConfig
from metalr.tasks import Task, make_task
from metalr.tasks import task as task_module
from metalr.tasks.transforms import STRENGTHS, erasing, image_transform, transform_images

INDICES = torch.arange(20)


def _task(augmentation: str, dataset: str = "synthetic") -> Task:
    config = TaskConfig(dataset=dataset, augmentation=augmentation)
    return make_task(config, DataConfig(), torch.device("cpu"))


def _generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def by_hand(task: Task, seed: int, flip: bool = True, **changes: Any) -> Tensor:
    """The batch of `INDICES`, one image after the other, from the numbers of the design."""
    from torchvision.transforms import v2

    light = {"degrees": 15.0, "jitter": (0.3, 0.3, 0.2, 0.1), "shift": 0.1, "scale": (0.9, 1.1)}
    strong = {"degrees": 20.0, "jitter": (0.4, 0.4, 0.3, 0.15), "shift": 0.15, "scale": (0.85, 1.15)}
    strong |= {"perspective": (0.2, 0.3), "grey": 0.1, "erase": (0.02, 0.15)}
    of: dict[str, Any] = (light if task.config.augmentation == "light" else strong) | changes
    steps: list[Any] = [v2.RandomHorizontalFlip(0.5)] if flip else []
    steps.append(v2.RandomRotation((-of["degrees"], of["degrees"])))
    steps.append(v2.ColorJitter(*of["jitter"]))
    steps.append(v2.RandomAffine(0, translate=(of["shift"], of["shift"]), scale=of["scale"]))
    if "perspective" in of:
        steps.append(v2.RandomPerspective(*of["perspective"]))
        steps.append(v2.RandomGrayscale(of["grey"]))
    before = torch.get_rng_state()
    torch.manual_seed(int(torch.randint(2**62, (), generator=_generator(seed))))
    results = []
    for image in task.splits["train"].images_BCHW[INDICES]:
        for step in steps:
            image = step(image)
        image = (image.float() / 255 - task.mean_C.view(-1, 1, 1)) / task.std_C.view(-1, 1, 1)
        results.append(v2.RandomErasing(0.3, scale=of["erase"])(image) if "erase" in of else image)
    torch.set_rng_state(before)
    return torch.stack(results)


@pytest.mark.parametrize("strength", STRENGTHS)
def test_a_batch_equals_torchvision_applied_by_hand(strength: str) -> None:
    task = _task(strength)
    images, labels = task.train_batch(INDICES, _generator(5))
    assert torch.equal(images, by_hand(task, 5))
    assert torch.equal(labels, task.splits["train"].labels_B[INDICES])
    assert images.dtype == torch.float32


@pytest.mark.parametrize(
    "changes",
    [
        {"degrees": 18.0}, {"jitter": (0.3, 0.4, 0.3, 0.15)}, {"jitter": (0.4, 0.3, 0.3, 0.15)},
        {"jitter": (0.4, 0.4, 0.2, 0.15)}, {"jitter": (0.4, 0.4, 0.3, 0.1)}, {"shift": 0.2},
        {"scale": (0.9, 1.15)}, {"scale": (0.85, 1.1)}, {"perspective": (0.5, 0.3)},
        {"perspective": (0.2, 0.5)}, {"grey": 0.3}, {"erase": (0.05, 0.15)}, {"erase": (0.02, 0.3)},
    ],
)  # fmt: skip
def test_any_other_number_would_be_noticed(changes: dict[str, Any]) -> None:
    """Negative control of the equality above."""
    task = _task("strong")
    assert not torch.equal(task.train_batch(INDICES, _generator(5))[0], by_hand(task, 5, **changes))


@pytest.mark.parametrize("strength", STRENGTHS)
def test_digits_of_one_channel_are_moved_and_never_mirrored(strength: str) -> None:
    task = _task(strength, "digits")
    images, _ = task.train_batch(INDICES, _generator(5))
    assert images.shape == (20, 1, 8, 8)
    assert torch.equal(images, by_hand(task, 5, flip=False))
    assert not torch.equal(images, by_hand(task, 5, flip=True))


@pytest.mark.parametrize("strength", STRENGTHS)
def test_the_images_of_a_batch_get_their_own_draws(strength: str) -> None:
    images = torch.randint(256, (1, 3, 16, 16), generator=_generator(1)).to(torch.uint8)
    moved, _ = transform_images(images.expand(30, 3, 16, 16), _generator(), strength, flip=True)
    assert len({image.numpy().tobytes() for image in moved}) == 30


@pytest.mark.parametrize("strength", STRENGTHS)
def test_randomness_comes_from_the_generator_alone_and_torch_is_left_as_it_was(strength: str) -> None:
    task = _task(strength)
    torch.manual_seed(1)
    before, generator = torch.get_rng_state(), _generator(3)
    first = [task.train_batch(INDICES, generator)[0] for _ in range(2)]
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    generator = _generator(3)
    second = [task.train_batch(INDICES, generator)[0] for _ in range(2)]
    assert all(torch.equal(one, other) for one, other in zip(first, second, strict=True))
    assert not torch.equal(first[0], first[1])
    assert not torch.equal(first[0], task.train_batch(INDICES, _generator(4))[0])


def test_images_and_evaluation_are_left_alone() -> None:
    task, plain = _task("strong"), _task("none")
    before = task.splits["train"].images_BCHW.clone()
    task.train_batch(INDICES, _generator())
    assert torch.equal(task.splits["train"].images_BCHW, before)
    assert torch.equal(task.eval_batch("test", 0, 9)[0], plain.eval_batch("test", 0, 9)[0])


@pytest.mark.parametrize(("strength", "degrees", "shift", "scale"), [
    ("light", 15.0, 2, 0.1), ("strong", 20.0, 2, 0.15),
])  # fmt: skip
def test_draws_fill_their_ranges(strength: str, degrees: float, shift: int, scale: float) -> None:
    image = torch.zeros(3, 16, 16, dtype=torch.uint8)
    rotation, jitter, affine = image_transform(strength, False).transforms[:3]  # type: ignore[attr-defined]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        angles = torch.tensor([rotation.make_params([image])["angle"] for _ in range(2_000)])
        moves = [affine.make_params([image]) for _ in range(2_000)]
        jitters = [jitter.make_params([image]) for _ in range(500)]
    assert degrees * 0.99 < angles.abs().max() <= degrees
    assert abs(angles.mean()) < 4 * degrees / (3 * 2_000) ** 0.5
    assert {move["angle"] for move in moves} == {0.0}
    assert {value for move in moves for value in move["translate"]} == set(range(-shift, shift + 1))
    scales = torch.tensor([move["scale"] for move in moves])
    assert 1 - scale <= scales.min() < 1 - 0.99 * scale
    assert 1 + 0.99 * scale < scales.max() <= 1 + scale + 1e-6
    for name, size in zip(("brightness", "contrast", "saturation"), (0.4, 0.4, 0.3), strict=True):
        size = size - 0.1 if strength == "light" else size
        factors = torch.tensor([draw[f"{name}_factor"] for draw in jitters])
        assert 0.95 * size < (factors - 1).abs().max() <= size + 1e-6
    hues = torch.tensor([draw["hue_factor"] for draw in jitters])
    assert 0.95 < hues.abs().max() / (0.1 if strength == "light" else 0.15) <= 1 + 1e-6


def test_erasing_takes_2_to_15_percent_of_three_images_in_ten() -> None:
    whole = torch.ones(1, 32, 32)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        areas = torch.stack([(erasing()(whole) == 0).float().mean() for _ in range(2_000)])
    erased = areas[areas > 0]
    assert abs(len(erased) - 600) < 4 * (2_000 * 0.3 * 0.7) ** 0.5
    assert 0.015 < erased.min() < 0.03  # sides are whole pixels
    assert 0.14 < erased.max() < 0.16


def test_erased_pixels_have_the_mean_colour_and_light_erases_nothing() -> None:
    task = _task("strong")
    images = task.splits["train"].images_BCHW[:100]
    _, erased = transform_images(images, _generator(), "strong", flip=True)
    batch, _ = task.train_batch(torch.arange(100), _generator())
    assert 15 < int(erased.flatten(1).any(1).sum()) < 45
    assert (batch.masked_select(erased) == 0.0).all()
    assert not transform_images(images, _generator(), "light", flip=True)[1].any()


@pytest.mark.parametrize("strength", ["none", "light", "strong"])
def test_a_cutout_that_is_ignored_is_warned_of(strength: str) -> None:
    with pytest.warns(UserWarning, match=rf"task\.cutout is ignored, since task\.augmentation={strength}"):
        make_task(
            TaskConfig(dataset="synthetic", augmentation=strength, cutout=3, split_seed=77),
            DataConfig(),
            torch.device("cpu"),
        )
    task_module._make_task.cache_clear()
