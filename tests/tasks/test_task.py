"""Splits, pooling, label noise, normalisation, batches, models: each against plain arithmetic."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from metalr.config import DataConfig, TaskConfig
from metalr.tasks import SPLITS, DataError, Task, crop_and_flip, cut_out, load_dataset, make_task
from metalr.tasks import splits as splits_module
from metalr.tasks import task as task_module
from metalr.tasks.images import RawDataset, RawPart
from metalr.tasks.splits import _pool

CPU = torch.device("cpu")


def _task(**settings: Any) -> Task:
    return make_task(TaskConfig(**{"dataset": "synthetic", **settings}), DataConfig(), CPU)


def _rows(task: Task, split: str) -> list[bytes]:
    return [image.numpy().tobytes() for image in task.splits[split].images_BCHW]


def _generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_the_default_task_is_digits() -> None:
    task = make_task(TaskConfig(), DataConfig(), CPU)
    assert {name: len(split.labels_B) for name, split in task.splits.items()} == {
        "train": 987, "inner_valid": 150, "outer_valid": 300, "test": 360,
    }  # fmt: skip
    assert list(task.splits) == list(SPLITS)
    assert (task.num_classes, task.image_shape) == (10, (1, 8, 8))
    split = task.splits["train"]
    assert (split.images_BCHW.dtype, split.labels_B.dtype) == (torch.uint8, torch.int64)
    assert len(task.digest) == 64
    int(task.digest, 16)


def test_splits_are_disjoint_and_together_everything() -> None:
    task = _task()
    rows = {name: set(_rows(task, name)) for name in SPLITS}
    assert [len(rows[name]) for name in SPLITS] == [1_550, 150, 300, 500]  # noise makes every image unique
    assert len(set.union(*rows.values())) == 2_500


def test_test_is_always_the_same_and_the_others_follow_the_seed() -> None:
    first, second = _task(num_test=200, split_seed=0), _task(num_test=200, split_seed=1)
    assert _rows(first, "test") == _rows(second, "test")
    assert _rows(first, "test") == _rows(_task(), "test")[:200]
    for name in ("train", "inner_valid", "outer_valid"):
        assert _rows(first, name) != _rows(second, name)
    digits = [make_task(TaskConfig(split_seed=seed), DataConfig(), CPU) for seed in (0, 1)]
    assert _rows(digits[0], "test") == _rows(digits[1], "test")
    assert not set(_rows(digits[0], "test")) & set(_rows(digits[0], "train"))


def test_fewer_training_images_are_the_first_ones_and_leave_the_rest_alone() -> None:
    full, part = _task(), _task(num_train=100)
    assert _rows(part, "train") == _rows(full, "train")[:100]
    for name in ("inner_valid", "outer_valid", "test"):
        assert _rows(part, name) == _rows(full, name)


def test_labels_still_belong_to_their_images() -> None:
    raw = load_dataset("synthetic", DataConfig())
    known = dict(zip((image.tobytes() for image in raw.train.images_NCHW), raw.train.labels_N, strict=True))
    task = _task()
    for name in ("train", "inner_valid", "outer_valid"):
        labels = [known[row] for row in _rows(task, name)]
        assert labels == task.splits[name].labels_B.tolist()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"num_train": 1_551},
            r"num_train=1551 \+ num_inner_valid=150 \+ num_outer_valid=300 need more than the 2000",
        ),
        (
            {"num_outer_valid": 1_850},
            r"num_train=1 or more \+ num_inner_valid=150 \+ num_outer_valid=1850 need",
        ),
        ({"num_test": 501}, r"num_test=501, but its test part has 500"),
        ({"image_size": 5}, r"image_size=5 does not divide its 16 pixels; use one of 4, 8, 16"),
        ({"image_size": 32}, r"image_size=32 does not divide its 16 pixels"),
        ({"classes": (0, 4)}, r"classes=\[0, 4\], but it has classes 0 to 3"),
    ],
)
def test_impossible_splits_and_sizes_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=f"^synthetic: {message}"):
        _task(**settings)


def test_the_largest_possible_splits_are_accepted() -> None:
    task = _task(num_train=1_550, num_test=500)
    assert len(task.splits["train"].labels_B) == 1_550
    assert len(_task(num_outer_valid=1_849).splits["train"].labels_B) == 1


def slow_pool(image: Any, factor: int) -> list[list[int]]:
    """One channel, block by block, halves up."""
    side = len(image) // factor
    return [
        [
            int(np.floor(np.mean(image[row * factor :, column * factor :][:factor, :factor]) + 0.5))
            for column in range(side)
        ]
        for row in range(side)
    ]


@pytest.mark.parametrize("factor", [1, 2, 3, 4, 12])
def test_pooling_equals_the_slow_one(factor: int) -> None:
    images = np.random.default_rng(0).integers(0, 256, (6, 3, 12, 12), dtype=np.uint8)
    images[0], images[1] = 255, 0
    pooled = _pool(images, factor)
    assert pooled.dtype == np.uint8
    for image, small in zip(images, pooled, strict=True):
        assert small.tolist() == [slow_pool(channel, factor) for channel in image]


def test_halves_are_rounded_up() -> None:
    block = np.array([[[[0, 1], [1, 0]]], [[[1, 1], [1, 0]]], [[[0, 0], [1, 0]]]], dtype=np.uint8)
    assert _pool(block, 2).ravel().tolist() == [1, 1, 0]


def test_image_size_pools_every_split() -> None:
    full, small = _task(), _task(image_size=8)
    assert small.image_shape == (3, 8, 8)
    for name in SPLITS:
        expected = _pool(full.splits[name].images_BCHW.numpy(), 2)
        assert np.array_equal(small.splits[name].images_BCHW.numpy(), expected)


@pytest.mark.parametrize("noise", [0.1, 0.4])
def test_label_noise_moves_the_right_number_of_labels_to_other_classes(noise: float) -> None:
    clean, noisy = _task(), _task(label_noise=noise)
    shift = (noisy.splits["train"].labels_B - clean.splits["train"].labels_B) % 4
    counts = shift.bincount(minlength=4)
    moved = round(noise * 1_550)
    assert int(counts[0]) == 1_550 - moved
    assert abs(counts[1:] - moved / 3).max() < 4 * (moved / 3) ** 0.5  # uniform over the three others
    assert torch.equal(noisy.splits["train"].images_BCHW, clean.splits["train"].images_BCHW)
    for name in ("inner_valid", "outer_valid", "test"):
        assert torch.equal(noisy.splits[name].labels_B, clean.splits[name].labels_B)


def test_a_subset_of_the_classes_holds_their_images_relabelled() -> None:
    settings = {"num_train": 400, "num_inner_valid": 50, "num_outer_valid": 100}
    every, two = _task(), _task(classes=(3, 1), **settings)
    assert two.num_classes == 2 and every.num_classes == 4
    known = {
        image.numpy().tobytes(): int(label)
        for part in every.splits.values()
        for image, label in zip(part.images_BCHW, part.labels_B, strict=True)
    }
    for name, part in two.splits.items():
        assert len(part.labels_B) == settings.get(f"num_{name}", len(part.labels_B))
        for image, label in zip(part.images_BCHW, part.labels_B, strict=True):
            assert known[image.numpy().tobytes()] == (3, 1)[int(label)]
    test_labels = every.splits["test"].labels_B
    assert len(two.splits["test"].labels_B) == int(((test_labels == 1) | (test_labels == 3)).sum())
    assert two.make_model(0)(two.eval_batch("test", 0, 5)[0]).shape == (5, 2)
    assert _task(classes=(1, 3), **settings).digest != two.digest
    assert set(_task(classes=(3, 1), label_noise=0.5, **settings).splits["train"].labels_B.tolist()) == {0, 1}


@pytest.mark.parametrize("classes", [(1,), (1, 1), (-1, 2)])
def test_subsets_that_are_none_are_refused(classes: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="classes"):
        TaskConfig(dataset="synthetic", classes=classes)


def test_label_noise_follows_the_split_seed() -> None:
    first = _task(label_noise=0.3).splits["train"].labels_B
    splits_module._carve.cache_clear()
    task_module._make_task.cache_clear()
    assert torch.equal(_task(label_noise=0.3).splits["train"].labels_B, first)

    def moved(seed: int) -> set[int]:
        labels = [_task(label_noise=noise, split_seed=seed).splits["train"].labels_B for noise in (0.0, 0.3)]
        return set((labels[0] != labels[1]).nonzero().flatten().tolist())

    assert moved(0) != moved(1)


def test_the_digest_follows_the_images_and_nothing_else() -> None:
    reference = _task().digest
    same = [{"network": "cnn"}, {"width": 64}, {"dropout": 0.5}, {"augmentation": "standard"}]
    assert {_task(**settings).digest for settings in same} == {reference}
    others: list[dict[str, Any]] = [
        {"split_seed": 1}, {"num_train": 1_549}, {"num_inner_valid": 149}, {"num_outer_valid": 299},
        {"num_test": 499}, {"image_size": 8}, {"label_noise": 0.01}, {"dataset": "digits"},
    ]  # fmt: skip
    digests = {_task(**settings).digest for settings in others}
    assert len(digests | {reference}) == 1 + len(others)


@pytest.mark.parametrize("part", ["train", "test"])
@pytest.mark.parametrize("what", ["pixel", "label", "nothing"])
def test_one_changed_pixel_or_label_changes_the_digest(
    part: str, what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    reference = _task().digest
    raw = splits_module.load_dataset("synthetic", DataConfig())
    images, labels = getattr(raw, part).images_NCHW.copy(), getattr(raw, part).labels_N.copy()
    images[3, 1, 4, 4] ^= what == "pixel"
    labels[3] = (labels[3] + (what == "label")) % 4
    changed = RawDataset(**{**vars(raw), part: RawPart(images, labels)})
    monkeypatch.setattr(splits_module, "load_dataset", lambda *_: changed)
    splits_module._carve.cache_clear()
    task_module._make_task.cache_clear()
    assert (_task().digest == reference) == (what == "nothing")


def test_the_digest_of_the_default_task_is_known() -> None:
    """A change here changes every run's identity: raise SCHEMA_VERSION and say so in the change log."""
    assert make_task(TaskConfig(), DataConfig(), CPU).digest[:16] == "4ce8815f85299e7d"


def test_mean_and_deviation_are_those_of_the_training_pixels() -> None:
    task = _task(num_train=70)
    pixels = task.splits["train"].images_BCHW.double() / 255
    assert torch.allclose(task.mean_C.double(), pixels.mean((0, 2, 3)), rtol=1e-6)
    assert torch.allclose(task.std_C.double(), pixels.std((0, 2, 3), unbiased=False), rtol=1e-6)
    images, labels = task.eval_batch("train", 0, 70)
    assert images.dtype == torch.float32
    assert torch.allclose(images.mean((0, 2, 3)), torch.zeros(3), atol=1e-5)
    assert torch.allclose(images.std((0, 2, 3), unbiased=False), torch.ones(3), atol=1e-5)
    assert torch.equal(labels, task.splits["train"].labels_B)


def test_every_split_is_normalised_by_the_training_split() -> None:
    task = _task()
    images, labels = task.eval_batch("outer_valid", 100, 250)
    raw = task.splits["outer_valid"].images_BCHW[100:250].numpy().astype(np.float64) / 255
    mean, std = (value.numpy()[:, None, None] for value in (task.mean_C, task.std_C))
    assert np.abs(images.numpy() - (raw - mean) / std).max() < 1e-5
    assert torch.equal(labels, task.splits["outer_valid"].labels_B[100:250])
    assert len(task.eval_batch("outer_valid", 250, 999)[1]) == 50


def test_images_without_contrast_stay_finite(monkeypatch: pytest.MonkeyPatch) -> None:
    part = RawPart(np.full((600, 1, 8, 8), 9, dtype=np.uint8), np.zeros(600, dtype=np.int64))
    monkeypatch.setattr(splits_module, "load_dataset", lambda *_: RawDataset(part, part, 2))
    task = _task()
    assert float(task.std_C) == pytest.approx(1 / 255)
    assert task.eval_batch("train", 0, 10)[0].abs().max() < 1e-4


def test_a_plain_batch_is_the_images_themselves_and_draws_nothing() -> None:
    task, generator = _task(), _generator()
    before = generator.get_state()
    indices = torch.tensor([5, 3, 3, 1_549])
    images, labels = task.train_batch(indices, generator)
    expected, _ = task.eval_batch("train", 0, 1_550)
    assert torch.equal(images, expected[indices])
    assert torch.equal(labels, task.splits["train"].labels_B[indices])
    assert torch.equal(generator.get_state(), before)


def test_an_augmented_batch_is_crop_flip_normalise_cutout() -> None:
    task, indices = _task(augmentation="standard", cutout=4), torch.arange(50, 90)
    images, labels = task.train_batch(indices, _generator(7))
    generator = _generator(7)
    moved = crop_and_flip(task.splits["train"].images_BCHW[50:90], generator, padding=2, flip=True)
    normalised = (moved.float() / 255 - task.mean_C.view(3, 1, 1)) / task.std_C.view(3, 1, 1)
    assert torch.equal(images, cut_out(normalised, generator, size=4))
    assert torch.equal(labels, task.splits["train"].labels_B[50:90])
    again, other = (task.train_batch(indices, _generator(seed))[0] for seed in (7, 8))
    assert torch.equal(images, again)
    assert not torch.equal(images, other)


def test_digits_are_never_mirrored(monkeypatch: pytest.MonkeyPatch) -> None:
    flips: list[bool] = []

    def spy(images: Any, _generator: Any, *, padding: int, flip: bool) -> Any:
        assert padding == images.shape[-1] // 8
        flips.append(flip)
        return images

    monkeypatch.setattr(task_module, "crop_and_flip", spy)
    for dataset in ("digits", "synthetic"):
        _task(dataset=dataset, augmentation="standard").train_batch(torch.arange(2), _generator())
    assert flips == [False, True]


def test_cutout_without_augmentation_is_ignored_with_one_warning() -> None:
    with pytest.warns(UserWarning, match=r"task\.cutout is ignored"):
        task = _task(cutout=4)
    assert torch.equal(task.train_batch(torch.arange(9), _generator())[0], task.eval_batch("train", 0, 9)[0])
    assert _task(cutout=4) is task  # no second warning, which would be an error here


@pytest.mark.parametrize("network", ["mlp", "cnn", "resnet18"])
def test_models_follow_their_seed_and_leave_the_global_state_alone(network: str) -> None:
    task = _task(network=network, width=8)
    before = torch.get_rng_state()
    states = [task.make_model(seed).state_dict() for seed in (0, 0, 1)]
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    assert not all(torch.equal(states[0][name], states[2][name]) for name in states[0])
    torch.manual_seed(123)  # nor does the global state leak in
    assert all(torch.equal(states[0][name], value) for name, value in task.make_model(0).state_dict().items())
    logits = task.make_model(0)(task.eval_batch("test", 0, 5)[0])
    assert logits.shape == (5, 4)


def test_the_configuration_reaches_the_network() -> None:
    model = _task(network="mlp", width=24, dropout=0.3, image_size=8).make_model(0)
    first = next(module for module in model.modules() if isinstance(module, torch.nn.Linear))
    dropout = next(module for module in model.modules() if isinstance(module, torch.nn.Dropout))
    assert (first.in_features, first.out_features, dropout.p) == (3 * 8 * 8, 24, 0.3)


def test_the_same_arguments_give_the_same_object_and_networks_share_splits() -> None:
    first = _task()
    assert _task() is first
    other = _task(network="cnn", width=16, augmentation="standard")
    assert other is not first
    assert other.splits["train"] is first.splits["train"]
    assert _task(split_seed=1).splits["train"] is not first.splits["train"]


def test_a_few_epochs_learn_the_synthetic_task() -> None:
    task = _task(num_train=512)
    model, generator = task.make_model(0), _generator()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    for _ in range(3):
        for indices in torch.randperm(512, generator=generator).split(32):
            images, labels = task.train_batch(indices, generator)
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(model(images), labels).backward()
            optimizer.step()
    images, labels = task.eval_batch("test", 0, 500)
    assert float((model(images).argmax(1) == labels).float().mean()) > 0.9


class _Operations(TorchDispatchMode):
    """The names of all operations that run inside."""

    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names.add(func.overloadpacket.__name__)
        return func(*args, **(kwargs or {}))


def test_no_operation_of_a_batch_reads_a_value_back() -> None:
    waiting = {"_local_scalar_dense", "nonzero", "equal", "masked_select", "unique2", "_to_copy"}
    task, indices, generator = _task(augmentation="standard"), torch.arange(64), _generator()
    with _Operations() as operations:
        images, _ = task.train_batch(indices, generator)
        task.eval_batch("test", 0, 100)
        cut_out(images, generator, size=4)
    # `float()` converts on the device itself, hence the one allowed copy.
    assert operations.names & waiting == {"_to_copy"}
    assert {"gather", "randint"} & operations.names
    with _Operations() as operations:  # negative control
        images.sum().item()
    assert "_local_scalar_dense" in operations.names


@pytest.mark.gpu
@pytest.mark.filterwarnings("ignore:Synchronization debug mode")
def test_a_batch_never_waits_for_the_gpu() -> None:
    device = torch.device("cuda")
    config = TaskConfig(dataset="synthetic", augmentation="standard", cutout=4)
    task = make_task(config, DataConfig(), device)
    indices, generator = torch.arange(64, device=device), torch.Generator(device).manual_seed(0)
    torch.cuda.set_sync_debug_mode("error")
    try:
        images, labels = task.train_batch(indices, generator)
        task.eval_batch("test", 0, 100)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert images.device.type == labels.device.type == "cuda"
    model = task.make_model(3)
    on_cpu = make_task(config, DataConfig(), CPU).make_model(3)
    for value, expected in zip(model.parameters(), on_cpu.parameters(), strict=True):
        assert torch.equal(value.cpu(), expected)


def test_the_targets_of_each_objective_by_hand() -> None:
    classes = make_task(TaskConfig(), DataConfig(), CPU)
    numbers, pixels = (
        make_task(TaskConfig(objective=name), DataConfig(), CPU) for name in ("regress", "reconstruct")
    )
    assert {task.digest for task in (classes, numbers, pixels)} == {classes.digest}
    assert [task.num_outputs for task in (classes, numbers, pixels)] == [10, 10, 64]
    assert [task.make_model(0)[-1].out_features for task in (classes, numbers, pixels)] == [10, 10, 64]
    chosen = torch.tensor([5, 0, 7])
    labels = classes.splits["train"].labels_B[chosen]
    assert torch.equal(classes.train_batch(chosen, _generator())[1], labels)
    assert numbers.train_batch(chosen, _generator())[1].tolist() == [
        [float(place == label) for place in range(10)] for label in labels
    ]
    images, targets = pixels.train_batch(chosen, _generator())
    assert torch.equal(targets, images.reshape(3, 64))
    images, targets = pixels.eval_batch("inner_valid", 2, 5)
    assert torch.equal(targets, images.reshape(3, 64))


def test_an_augmented_image_is_its_own_target() -> None:
    for augmentation in ("standard", "strong"):
        task = _task(objective="reconstruct", augmentation=augmentation)
        images, targets = task.train_batch(torch.arange(8), _generator())
        assert torch.equal(targets, images.flatten(1))


def test_what_guessing_costs_by_hand() -> None:
    classes, numbers, pixels = (
        make_task(TaskConfig(objective=name), DataConfig(), CPU)
        for name in ("classify", "regress", "reconstruct")
    )
    assert classes.loss_of_guessing == pytest.approx(np.log(10))
    assert classes.in_nats(0.25) == 0.25
    shares = np.bincount(numbers.splits["train"].labels_B.numpy(), minlength=10) / 987
    assert numbers.loss_of_guessing == pytest.approx(np.mean(shares * (1 - shares)), rel=1e-5)
    seen = pixels.splits["train"].images_BCHW.numpy().astype(float) / 255
    assert pixels.loss_of_guessing == pytest.approx(np.mean((seen / seen.std()).var(axis=0)), rel=1e-5)
    for task in (numbers, pixels):
        assert task.in_nats(task.loss_of_guessing) == pytest.approx(np.log(10))
        assert task.in_nats(0.0) == 0.0
