"""The cache of decoded images: whole or re-made, made once, and never worth a run."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from metalr.tasks import DataError
from metalr.tasks import images as images_module
from metalr.tasks.images import RawPart, cache_dir, cached_part, check_part


def _part(seed: int = 0, count: int = 20) -> RawPart:
    generator = np.random.default_rng(seed)
    images = generator.integers(0, 256, (count, 3, 8, 8), dtype=np.uint8)
    return RawPart(images, generator.integers(0, 10, count))


def _never() -> RawPart:
    raise AssertionError("the cache was not used")


def _same(left: RawPart | None, right: RawPart) -> bool:
    return (
        left is not None
        and np.array_equal(left.images_NCHW, right.images_NCHW)
        and np.array_equal(left.labels_N, right.labels_N)
    )


def test_the_second_reading_comes_from_the_disk() -> None:
    assert cached_part("set", None) is None
    assert _same(cached_part("set", _part), _part())
    assert _same(cached_part("set", _never), _part())
    assert _same(cached_part("set", None), _part())
    with pytest.raises(AssertionError, match="not used"):  # negative control: another name is another set
        cached_part("other", _never)


@pytest.mark.parametrize("position", [5, 300, -1])
def test_a_flipped_byte_is_noticed_and_the_cache_made_again(cache: Path, position: int) -> None:
    cached_part("set", _part)
    content = bytearray((cache / "set.npy").read_bytes())
    content[position] ^= 1
    (cache / "set.npy").write_bytes(content)
    assert cached_part("set", None) is None
    assert _same(cached_part("set", lambda: _part(1)), _part(1))
    assert _same(cached_part("set", _never), _part(1))


@pytest.mark.parametrize("name", ["set.npy", "set.npy.sha256"])
@pytest.mark.parametrize("kept", [0, 1, 50])
def test_a_truncated_or_missing_file_is_made_again(cache: Path, name: str, kept: int) -> None:
    cached_part("set", _part)
    (cache / name).write_bytes((cache / name).read_bytes()[:kept])
    assert _same(cached_part("set", lambda: _part(1)), _part(1))
    (cache / name).unlink()
    assert _same(cached_part("set", lambda: _part(2)), _part(2))


def test_another_layout_and_a_pickle_are_made_again(cache: Path) -> None:
    for foreign in (np.zeros(3), np.array([{"a": 1}], dtype=object)):
        cached_part("set", _part)
        np.save(cache / "set.npy", foreign, allow_pickle=True)
        (cache / "set.npy.sha256").write_text(images_module._sha256(cache / "set.npy"))
        assert _same(cached_part("set", lambda: _part(1)), _part(1))


def test_at_the_same_time_only_one_decodes() -> None:
    calls, gate = [], threading.Barrier(4)

    def make() -> RawPart:
        calls.append(1)
        return _part()

    def ask(_: int) -> RawPart | None:
        gate.wait()
        return cached_part("set", make)

    with ThreadPoolExecutor(4) as pool:
        assert all(_same(part, _part()) for part in pool.map(ask, range(4)))
    assert len(calls) == 1


def test_leftovers_of_a_killed_process_are_removed(cache: Path) -> None:
    cache.mkdir()
    (cache / ".set.npy.abc.tmp").write_bytes(b"half")
    (cache / ".other.npy.abc.tmp").write_bytes(b"somebody else's")
    cached_part("set", _part)
    assert [path.name for path in cache.glob("*.tmp")] == [".other.npy.abc.tmp"]


def test_a_cache_that_cannot_be_made_costs_a_warning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("METALR_CACHE", str(tmp_path / "file" / "below"))
    with pytest.warns(UserWarning, match=r"below.*cannot cache decoded images.*METALR_CACHE"):
        assert _same(cached_part("set", _part), _part())


def test_a_full_disk_costs_a_warning_and_leaves_nothing(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(handle: object, *_args: object, **_kwargs: object) -> None:
        handle.write(b"some bytes")  # type: ignore[attr-defined]
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "save", full)
    with pytest.warns(UserWarning, match="No space left"):
        assert _same(cached_part("set", _part), _part())
    assert [path.name for path in cache.iterdir() if path.suffix != ".lock"] == []


def test_where_the_cache_lies(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("METALR_CACHE", "~/mine")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_dir() == tmp_path / "mine"
    monkeypatch.delenv("METALR_CACHE")
    assert cache_dir() == tmp_path / ".cache" / "metalr"


def test_unusable_parts_are_named() -> None:
    part = _part()
    images, labels = part.images_NCHW, part.labels_N
    assert check_part(part, 10, "x") is part
    with pytest.raises(DataError, match="x: 20 images and 19 labels"):
        check_part(RawPart(images, labels[1:]), 10, "x")
    with pytest.raises(DataError, match="x: 0 images"):
        check_part(RawPart(images[:0], labels[:0]), 10, "x")
    with pytest.raises(DataError, match="x: images are 8 x 4 pixels"):
        check_part(RawPart(images[:, :, :, :4], labels), 10, "x")
    for wrong in (-1, 10):
        with pytest.raises(DataError, match=rf"x: label {wrong} lies outside 0\.\.9"):
            check_part(RawPart(images, np.full(20, wrong)), 10, "x")
