"""Every source by name: digits, synthetic, and torchvision's through files in their real formats."""

from __future__ import annotations

import gzip
import pickle
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from metalr.config import DataConfig, TaskConfig
from metalr.tasks import DATASETS, DataError, load_dataset
from metalr.tasks import datasets as datasets_module
from metalr.tasks.datasets import MIRRORED

GENERATOR = np.random.default_rng(0)
GREY = GENERATOR.integers(0, 256, (30, 28, 28), dtype=np.uint8)
COLOUR = GENERATOR.integers(0, 256, (30, 32, 32, 3), dtype=np.uint8)
LABELS = np.arange(30) % 10


def test_the_registry_has_every_name_of_the_configuration() -> None:
    names = TaskConfig.model_fields["dataset"].annotation.__args__  # type: ignore[union-attr]
    assert set(DATASETS) == set(names)
    assert set(names) - MIRRORED == {"digits", "breast_cancer", "mnist", "svhn"}


def test_digits_are_all_there_once_and_scaled_to_bytes() -> None:
    from sklearn.datasets import load_digits

    raw, bunch = load_dataset("digits", DataConfig()), load_digits()
    assert (len(raw.train.labels_N), len(raw.test.labels_N), raw.num_classes) == (1_437, 360, 10)
    images = np.concatenate([raw.train.images_NCHW, raw.test.images_NCHW])[:, 0]
    labels = np.concatenate([raw.train.labels_N, raw.test.labels_N])
    expected = sorted(tuple(image.ravel().tolist()) for image in images)
    source = [np.floor(image * 255 / 16 + 0.5).astype(int) for image in bunch.images]
    assert expected == sorted(tuple(image.ravel().tolist()) for image in source)
    assert np.bincount(labels).tolist() == np.bincount(bunch.target).tolist()
    assert (images.min(), images.max()) == (0, 255)
    # Labels still belong to their images.
    by_image = {image.tobytes(): int(label) for image, label in zip(images, labels, strict=True)}
    for image, label in zip(source, bunch.target, strict=True):
        assert by_image[image.astype(np.uint8).tobytes()] == label


def test_synthetic_images_are_seeded_and_can_be_told_apart() -> None:
    first, again = (load_dataset("synthetic", DataConfig()) for _ in range(2))
    assert first.train.images_NCHW.shape == (2_000, 3, 16, 16)
    assert first.test.images_NCHW.shape == (500, 3, 16, 16)
    assert np.array_equal(first.train.images_NCHW, again.train.images_NCHW)
    assert np.bincount(first.test.labels_N).min() > 90

    def centred(part: Any) -> Any:
        grey = part.images_NCHW.mean(axis=1)
        return grey - grey.mean(axis=(1, 2), keepdims=True)

    means = np.stack([centred(first.train)[first.train.labels_N == k].mean(axis=0) for k in range(4)])
    scores = np.einsum("nhw,khw->nk", centred(first.test), means)
    assert 0.9 < (scores.argmax(axis=1) == first.test.labels_N).mean() <= 1.0
    # A mirror swaps no classes: neither rows for columns nor periods.
    mirrored = np.einsum("nhw,khw->nk", centred(first.test)[:, :, ::-1], means[:, :, ::-1])
    assert np.allclose(mirrored, scores)


def _idx(array: Any) -> bytes:
    """The format of yann.lecun's files: magic, sizes, bytes."""
    return (
        struct.pack(f">I{array.ndim}I", 0x0800 + array.ndim, *array.shape) + array.astype(np.uint8).tobytes()
    )


def _write_mnist(root: Path, folder: str = "MNIST") -> Path:
    raw = root / folder / "raw"
    raw.mkdir(parents=True)
    for part, chosen in (("train", slice(0, 20)), ("t10k", slice(20, 30))):
        (raw / f"{part}-images-idx3-ubyte").write_bytes(_idx(GREY[chosen]))
        (raw / f"{part}-labels-idx1-ubyte").write_bytes(_idx(LABELS[chosen]))
    return raw


@pytest.mark.parametrize(("name", "folder"), [("mnist", "MNIST"), ("fashion_mnist", "FashionMNIST")])
def test_mnist_files_are_read(tmp_path: Path, name: str, folder: str) -> None:
    _write_mnist(tmp_path, folder)
    raw = load_dataset(name, DataConfig(dir=str(tmp_path), download=False))
    assert np.array_equal(raw.train.images_NCHW, GREY[:20, None])
    assert np.array_equal(raw.test.images_NCHW, GREY[20:, None])
    assert raw.train.labels_N.tolist() == LABELS[:20].tolist()
    assert raw.test.labels_N.dtype == np.int64


def test_mnist_is_looked_for_in_the_cache(cache: Path) -> None:
    _write_mnist(cache / "torchvision")
    assert len(load_dataset("mnist", DataConfig(download=False)).train.labels_N) == 20


@pytest.mark.parametrize("kept", [0, 10, 500])
def test_damaged_mnist_files_are_named(tmp_path: Path, kept: int) -> None:
    path = _write_mnist(tmp_path) / "train-images-idx3-ubyte"
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(
        DataError, match=r"^mnist: the files in .* are damaged \(.*delete them, or set data.dir$"
    ):
        load_dataset("mnist", DataConfig(dir=str(tmp_path)))


def test_labels_that_do_not_fit_are_named(tmp_path: Path) -> None:
    raw = _write_mnist(tmp_path)
    (raw / "train-labels-idx1-ubyte").write_bytes(_idx(np.full(20, 11)))
    with pytest.raises(DataError, match=r"label 11 lies outside 0\.\.9"):
        load_dataset("mnist", DataConfig(dir=str(tmp_path)))
    (raw / "train-labels-idx1-ubyte").write_bytes(_idx(LABELS[:19]))
    with pytest.raises(DataError, match="20 images and 19 labels"):
        load_dataset("mnist", DataConfig(dir=str(tmp_path)))


def _write_cifar100(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from torchvision.datasets import CIFAR100

    folder = root / "cifar-100-python"
    folder.mkdir(parents=True)
    fine = LABELS + 90
    for part, chosen in (("train", slice(0, 20)), ("test", slice(20, 30))):
        flat = COLOUR[chosen].transpose(0, 3, 1, 2).reshape(-1, 3 * 32 * 32)
        (folder / part).write_bytes(pickle.dumps({"data": flat, "fine_labels": fine[chosen].tolist()}))
    (folder / "meta").write_bytes(pickle.dumps({"fine_label_names": [str(k) for k in range(100)]}))
    monkeypatch.setattr(CIFAR100, "train_list", [["train", None]])
    monkeypatch.setattr(CIFAR100, "test_list", [["test", None]])
    monkeypatch.setattr(CIFAR100, "meta", {**CIFAR100.meta, "md5": None})


def test_cifar100_files_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _write_cifar100(tmp_path, monkeypatch)
    raw = load_dataset("cifar100", DataConfig(dir=str(tmp_path), download=False))
    assert np.array_equal(raw.train.images_NCHW, COLOUR[:20].transpose(0, 3, 1, 2))
    assert raw.test.labels_N.tolist() == (LABELS[20:] + 90).tolist()
    assert raw.num_classes == 100


def test_svhn_files_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from scipy.io import savemat
    from torchvision.datasets import SVHN

    for part, chosen in (("train", slice(0, 20)), ("test", slice(20, 30))):
        labels = np.where(LABELS[chosen] == 0, 10, LABELS[chosen])[:, None]  # the file calls the digit 0 "10"
        savemat(tmp_path / f"{part}_32x32.mat", {"X": COLOUR[chosen].transpose(1, 2, 3, 0), "y": labels})
    without_md5 = {part: [*entry[:2], None] for part, entry in SVHN.split_list.items()}
    monkeypatch.setattr(SVHN, "split_list", without_md5)
    raw = load_dataset("svhn", DataConfig(dir=str(tmp_path), download=False))
    assert np.array_equal(raw.train.images_NCHW, COLOUR[:20].transpose(0, 3, 1, 2))
    assert raw.test.labels_N.tolist() == LABELS[20:].tolist()


TORCHVISION = ["cifar100", "mnist", "fashion_mnist", "svhn"]


@pytest.mark.parametrize("name", TORCHVISION)
def test_without_files_one_line_says_what_where_and_how(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(datasets_module, "is_reachable", lambda _url: False)
    with pytest.raises(DataError) as caught:
        load_dataset(name, DataConfig(dir=str(tmp_path / "nowhere")))
    message = str(caught.value)
    assert message.startswith(f"{name}: torchvision finds no complete copy in {tmp_path / 'nowhere'}")
    assert "cannot be reached" in message
    assert all(f"({number})" in message for number in (1, 2, 3))
    assert "\n" not in message
    assert not (tmp_path / "nowhere").exists()


@pytest.mark.parametrize("name", TORCHVISION)
def test_a_forbidden_download_asks_nobody(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets_module, "is_reachable", lambda _url: pytest.fail("asked the network"))
    with pytest.raises(DataError, match=r"data\.download=false forbids"):
        load_dataset(name, DataConfig(dir=str(tmp_path), download=False))


def test_a_failing_download_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from torchvision.datasets import MNIST

    def fail(_self: object) -> None:
        raise RuntimeError("Error downloading:\nTried this\nTried that")

    monkeypatch.setattr(datasets_module, "is_reachable", lambda _url: True)
    monkeypatch.setattr(MNIST, "download", fail)
    with pytest.raises(DataError, match=r"fetching failed \(Error downloading: Tried this Tried that\)"):
        load_dataset("mnist", DataConfig(dir=str(tmp_path)))


def test_a_missing_set_is_fetched_where_that_is_possible(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from torchvision.datasets import MNIST
    from torchvision.datasets import mnist as mnist_module

    def fetch(url: str, download_root: str, filename: str, **_md5: object) -> None:
        assert url.startswith(MNIST.mirrors[0])
        content = gzip.decompress(served[filename])
        Path(download_root, filename.removesuffix(".gz")).write_bytes(content)

    raw = _write_mnist(tmp_path / "server")
    served = {f"{path.name}.gz": gzip.compress(path.read_bytes()) for path in raw.iterdir()}
    monkeypatch.setattr(datasets_module, "is_reachable", lambda _url: True)
    monkeypatch.setattr(mnist_module, "download_and_extract_archive", fetch)
    fetched = load_dataset("mnist", DataConfig(dir=str(tmp_path / "new")))
    assert np.array_equal(fetched.train.images_NCHW, GREY[:20, None])


def test_a_table_comes_as_images_of_one_pixel_with_a_channel_for_every_column() -> None:
    from sklearn.datasets import load_breast_cancer

    raw, bunch = load_dataset("breast_cancer", DataConfig()), load_breast_cancer()
    images = np.concatenate([raw.train.images_NCHW, raw.test.images_NCHW])
    labels = np.concatenate([raw.train.labels_N, raw.test.labels_N])
    assert images.shape == (569, 30, 1, 1)
    assert len(raw.test.labels_N) == 114
    assert sorted(labels) == sorted(bunch.target)
    span = np.ptp(bunch.data, axis=0)
    scaled = np.sort(((bunch.data - bunch.data.min(axis=0)) / span * 255)[:, 7])
    np.testing.assert_allclose(np.sort(images[:, 7, 0, 0]), scaled, atol=0.5)
