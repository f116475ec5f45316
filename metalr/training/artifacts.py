"""Files that are whole or absent: atomic writes, checksums, append-only JSON lines."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

__all__ = [
    "ArtifactError",
    "append_json_line",
    "read_json",
    "read_json_lines",
    "remove_leftovers",
    "sha256_of_file",
    "write_atomically",
    "write_json",
    "write_json_lines",
]


class ArtifactError(ValueError):
    """A file of ours is missing, damaged, or of another version; the message names it and what to do."""


def write_atomically(path: Path, content: bytes) -> None:
    """Put `content` at `path` so that a reader, or a crash, sees the old file or the new one, never a part.

    Temporary name in the same directory, flush, fsync, rename. Raises OSError naming `path`
    where the disk refuses; the previous version and nothing else is then left behind.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _replace(path, content)
    except OSError as error:
        raise type(error)(error.errno, error.strerror or str(error), str(path)) from error


def _replace(path: Path, content: bytes) -> None:
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
    try:
        with os.fdopen(descriptor, "wb") as handle:
            handle.write(content)
            handle.flush()
            os.fsync(handle.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)  # the rename itself
    finally:
        os.close(folder)


def remove_leftovers(folder: Path) -> None:
    """Delete the temporary files that a kill in the middle of `write_atomically` left in `folder`."""
    for leftover in folder.glob(".*.tmp"):
        leftover.unlink(missing_ok=True)


def write_json(path: Path, value: Any) -> None:
    """Put `value` at `path` as indented JSON, atomically. Raises ValueError on NaN or infinity."""
    write_atomically(path, (json.dumps(value, indent=2, allow_nan=False) + "\n").encode())


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is no JSON")


def read_json(path: Path) -> Any:
    """The value in the JSON file `path`. Raises ArtifactError where it is missing or damaged."""
    try:
        return json.loads(path.read_bytes(), parse_constant=_refuse)
    except FileNotFoundError:
        raise ArtifactError(f"{path}: no such file") from None
    except ValueError as error:
        raise ArtifactError(f"{path}: not valid JSON ({error}); delete it to make it again") from None


def write_json_lines(path: Path, values: Iterable[Any]) -> None:
    """Put `values` at `path`, one line of JSON each, atomically."""
    write_atomically(path, b"".join(_json_line(value) for value in values))


def _json_line(value: Any) -> bytes:
    return (json.dumps(value, allow_nan=False) + "\n").encode()


def append_json_line(path: Path, value: Any) -> None:
    """Add `value` as one line of JSON at the end of `path`, in one write.

    Raises OSError naming `path` where the disk refuses; a torn line may then be its last.
    """
    line = _json_line(value)
    with path.open("ab", buffering=0) as handle:
        rest = memoryview(line)
        while rest:  # a disk that fills up takes a part first, and refuses the rest
            rest = rest[handle.write(rest) :]


def read_json_lines(path: Path) -> list[Any]:
    """The values in an append-only JSON-lines file; a torn last line, the trace of a crash, is dropped.

    Raises ArtifactError where any line before the last is damaged.
    """
    if not path.exists():
        return []
    *complete, _torn = path.read_bytes().split(b"\n")
    values = []
    for number, line in enumerate(complete, start=1):
        try:
            values.append(json.loads(line, parse_constant=_refuse))
        except ValueError:
            raise ArtifactError(
                f"{path}: line {number} is damaged; delete the directory {path.parent} to run again"
            ) from None
    return values


def sha256_of_file(path: Path) -> str:
    """The SHA-256 of a file's bytes, as 64 hexadecimal digits."""
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()
