"""A file is the old one or the new one, whatever fails between; what is damaged is never read as whole."""

from __future__ import annotations

import errno
import hashlib
import io
import json
import os
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from metalr.training import artifacts
from metalr.training.artifacts import (
    ArtifactError,
    append_json_line,
    read_json,
    read_json_lines,
    sha256_of_file,
    write_atomically,
    write_json,
    write_json_lines,
)


class FullDisk:
    """A file that takes the first half of what it is given."""

    def __init__(self, descriptor: int) -> None:
        self.file = io.FileIO(descriptor, "wb")

    def __enter__(self) -> FullDisk:
        return self

    def __exit__(self, *_: object) -> None:
        self.file.close()

    def write(self, content: bytes) -> None:
        self.file.write(content[: len(content) // 2])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def fail_at(point: str, monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error

    if point == "write":
        monkeypatch.setattr(os, "fdopen", lambda descriptor, _mode: FullDisk(descriptor))
    else:
        monkeypatch.setattr(os, point, fail)


@pytest.mark.parametrize("error", [OSError(errno.EIO, "Input/output error"), KeyboardInterrupt()], ids=repr)
@pytest.mark.parametrize("point", ["write", "fsync", "chmod", "replace"])
@pytest.mark.parametrize("old", [b"old version", None], ids=["overwrite", "first"])
def test_failure_leaves_the_old_version_and_nothing_else(
    old: bytes | None, point: str, error: BaseException, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "result.json"
    if old is not None:
        path.write_bytes(old)
    with monkeypatch.context() as patch:
        fail_at(point, patch, error)
        with pytest.raises((OSError, KeyboardInterrupt)):
            write_atomically(path, b"new version" * 1000)
    assert list(tmp_path.iterdir()) == ([] if old is None else [path])
    assert old is None or path.read_bytes() == old
    write_atomically(path, b"new version")
    assert path.read_bytes() == b"new version", "control: without the failure the same call succeeds"


def in_a_process(script: str, *arguments: object) -> subprocess.Popen[bytes]:
    """A process that runs `script` with the names of the module, without the package and its imports."""
    code = "import runpy, sys; names = runpy.run_path(sys.argv[1]); " + script
    return subprocess.Popen([sys.executable, "-c", code, artifacts.__file__, *map(str, arguments)])


@pytest.mark.parametrize("point", ["fsync", "replace"])
def test_killed_writer_leaves_the_old_version(point: str, tmp_path: Path) -> None:
    path = tmp_path / "result.json"
    path.write_bytes(b"old")
    die = f"import os; os.{point} = lambda *_: os._exit(9); "
    process = in_a_process(
        die + "import pathlib; names['write_atomically'](pathlib.Path(sys.argv[2]), b'new')", path
    )
    assert process.wait(timeout=60) == 9
    assert path.read_bytes() == b"old"
    leftovers = [file.name for file in tmp_path.iterdir() if file != path]
    assert [name.startswith(".result.json.") and name.endswith(".tmp") for name in leftovers] == [True]


def test_data_is_on_the_disk_before_the_name_moves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    steps: list[str] = []

    def recording(name: str) -> Any:
        original = getattr(os, name)
        return lambda *arguments: (steps.append(name), original(*arguments))[1]

    for name in ("fsync", "replace"):
        monkeypatch.setattr(os, name, recording(name))
    write_atomically(tmp_path / "file", b"x")
    assert steps[:2] == ["fsync", "replace"]


def test_written_file_is_readable_by_others_and_folders_are_made(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b ö" / "file"
    write_atomically(path, b"\x00\xff")
    assert path.read_bytes() == b"\x00\xff"
    assert stat.S_IMODE(path.stat().st_mode) == 0o644


def test_refusing_disk_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The message must lead to the file that could not be written."""
    fail_at("write", monkeypatch, OSError())
    with pytest.raises(OSError) as caught:
        write_atomically(tmp_path / "result.json", b"content")
    assert caught.value.errno == errno.ENOSPC
    assert "result.json" in str(caught.value)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), {"a": [1.0, float("-inf")]}])
def test_no_json_number_that_is_none(value: Any, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("[1]\n")
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(path, value)
    with pytest.raises(ValueError, match="not JSON compliant"):
        append_json_line(path, value)
    assert path.read_text() == "[1]\n"


def test_json_comes_back_bit_for_bit(tmp_path: Path) -> None:
    value = {"third": 1 / 3, "tiny": 5e-324, "text": "größe\n", "none": None, "list": [True, 2**70]}
    write_json(tmp_path / "file.json", value)
    assert read_json(tmp_path / "file.json") == value


@pytest.mark.parametrize("content", [b"", b'{"a": 1', b"\xff\xfe{}", b"{} {}"])
def test_damaged_json_is_refused_by_name(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "spec.json"
    with pytest.raises(ArtifactError, match=r"spec\.json: no such file"):
        read_json(path)
    path.write_bytes(content)
    with pytest.raises(ArtifactError, match=r"spec\.json: not valid JSON .*; delete it") as caught:
        read_json(path)
    assert "\n" not in str(caught.value)


LINES = [{"epoch": 1, "loss": 1 / 3}, {"epoch": 2, "note": "zwei\nZeilen"}, {"epoch": 3}]


def jsonl(folder: Path) -> Path:
    path = folder / "metrics.jsonl"
    for value in LINES:
        append_json_line(path, value)
    return path


def test_lines_come_back_and_every_torn_tail_is_dropped(tmp_path: Path) -> None:
    path = jsonl(tmp_path)
    whole = path.read_bytes()
    assert read_json_lines(path) == LINES
    assert read_json_lines(tmp_path / "absent.jsonl") == []
    for length in range(len(whole) + 1):
        path.write_bytes(whole[:length])
        assert read_json_lines(path) == LINES[: whole[:length].count(b"\n")]


@pytest.mark.parametrize("line", [1, 2, 3])
@pytest.mark.parametrize("damage", [b"{", b'{"epoch": 1', b"\xff", b""])
def test_damaged_line_in_the_middle_is_refused(line: int, damage: bytes, tmp_path: Path) -> None:
    path = jsonl(tmp_path)
    lines = path.read_bytes().split(b"\n")
    lines[line - 1] = damage
    path.write_bytes(b"\n".join(lines))
    with pytest.raises(ArtifactError, match=rf"metrics\.jsonl: line {line} is damaged; delete the directory"):
        read_json_lines(path)


def test_torn_tail_must_be_repaired_before_a_line_is_appended(tmp_path: Path) -> None:
    """What a run that goes on after a kill has to do, and what the file says where it did not."""
    path = jsonl(tmp_path)
    path.write_bytes(path.read_bytes() + b'{"epoch": 4, "lo')
    torn = path.read_bytes()
    write_json_lines(path, read_json_lines(path))
    append_json_line(path, {"epoch": 4})
    assert read_json_lines(path) == [*LINES, {"epoch": 4}]
    path.write_bytes(torn)
    append_json_line(path, {"epoch": 4})
    with pytest.raises(ArtifactError, match="line 4 is damaged"):
        read_json_lines(path)


APPEND = """
import pathlib
for number in range(200):
    value = {"writer": int(sys.argv[3]), "number": number, "padding": "x" * 500}
    names["append_json_line"](pathlib.Path(sys.argv[2]), value)
"""


def test_concurrent_writers_lose_no_line(tmp_path: Path) -> None:
    path = tmp_path / "attempts.jsonl"
    processes = [in_a_process(APPEND, path, writer) for writer in range(10)]
    assert [process.wait(timeout=60) for process in processes] == [0] * 10
    values = read_json_lines(path)
    assert sorted((value["writer"], value["number"]) for value in values) == [
        (writer, number) for writer in range(10) for number in range(200)
    ]


class ShortWriter:
    """A raw file that takes 5 bytes at a time, as a nearly full disk or a signal can make it."""

    def __init__(self, file: Any) -> None:
        self.file = file

    def __enter__(self) -> ShortWriter:
        return self

    def __exit__(self, *_: object) -> None:
        self.file.close()

    def write(self, content: bytes) -> int:
        return int(self.file.write(bytes(content[:5])))

    def __getattr__(self, name: str) -> Any:
        return getattr(self.file, name)


def test_short_write_does_not_lose_the_rest_of_a_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "metrics.jsonl"
    original = Path.open
    monkeypatch.setattr(Path, "open", lambda self, *a, **k: ShortWriter(original(self, *a, **k)))
    append_json_line(path, {"epoch": 1, "loss": 0.5})
    assert json.loads(path.read_bytes()) == {"epoch": 1, "loss": 0.5}


@pytest.mark.parametrize("size", [0, 1, 3_000_000])
def test_sha256_of_a_file_is_that_of_its_bytes(size: int, tmp_path: Path) -> None:
    content = bytes(range(256)) * (size // 256) + b"\x01" * (size % 256)
    path = tmp_path / "file"
    path.write_bytes(content)
    assert sha256_of_file(path) == hashlib.sha256(content).hexdigest()
    path.write_bytes(content + b"\x00")
    assert sha256_of_file(path) != hashlib.sha256(content).hexdigest()
