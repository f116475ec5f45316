"""Finished runs as one small file, and back: so that results can be computed again without training again.

A `.jsonl.xz`: a header line, then one line a run, sorted by id, with the text of its files and their SHA-256.
Checkpoints are left out, and so are names, times and owners: the same runs give the same bytes.
"""

from __future__ import annotations

import hashlib
import json
import lzma
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from filelock import FileLock, Timeout

from metalr.config import canonical_json
from metalr.training.artifacts import ArtifactError, read_json, remove_leftovers, write_atomically
from metalr.training.checkpoint import remove_checkpoints
from metalr.training.records import RunStore
from metalr.training.specs import RunSpec

__all__ = ["UnpackedRuns", "finished_runs", "pack_runs", "run_ids_of_manifest", "unpack_runs"]

_FORMAT = {"format": "metalr runs", "version": 1}
_RUN_ID = re.compile("[0-9a-f]{16}")
_REQUIRED = ("spec.json", "metrics.jsonl", "result.json")
_FILES = ("spec.json", "metrics.jsonl", "lrs.jsonl", "forks.jsonl", "result.json")
"""What is packed of a run; `result.json`, its commit mark, is unpacked last."""
_MAX_LINE_BYTES = 64 * 2**20
"""Of one run; a longer line is no run of ours, and is not read to its end."""


@dataclass
class UnpackedRuns:
    """The ids of an archive's runs: those written to the store, and those left as they were there."""

    written: list[str] = field(default_factory=list)
    kept: list[str] = field(default_factory=list)
    """Finished there already, or in training at this moment."""


def finished_runs(store: RunStore) -> list[str]:
    """The ids of all finished runs of a store, sorted."""
    found = (path.parent.name for path in store.root.glob("*/result.json"))
    return sorted(identity for identity in found if _RUN_ID.fullmatch(identity))


def run_ids_of_manifest(path: Path) -> list[str]:
    """The `run_ids` that a result's `manifest.json` names. Raises ArtifactError where it names none."""
    manifest = read_json(path)
    found = manifest.get("run_ids") if isinstance(manifest, dict) else None
    if not isinstance(found, list) or not all(isinstance(identity, str) for identity in found):
        raise ArtifactError(f"{path}: no list run_ids in it; give the manifest.json of a comparison")
    return found


def pack_runs(store: RunStore, run_ids: Iterable[str], path: Path) -> int:
    """Put finished runs into the archive `path`, atomically; returns how many.

    Args:
        store: Where the runs lie.
        run_ids: Which, in any order; one that is named twice is packed once.
        path: A `.jsonl.xz` file; replaced where it is there.

    Raises:
        ArtifactError: a run is not finished, or not what its id says; nothing is then written.
    """
    wanted = sorted(set(run_ids))
    missing = [identity for identity in wanted if not _is_whole(store, identity)]
    if missing:
        raise ArtifactError(
            f"{store.root}: {len(missing)} of {len(wanted)} runs are not finished there (first: {missing[0]})"
        )
    compressor = lzma.LZMACompressor(check=lzma.CHECK_SHA256, preset=6)
    content = compressor.compress(_line(_FORMAT | {"num_runs": len(wanted)}))
    parts = [content, *(compressor.compress(_line(_packed(store, identity))) for identity in wanted)]
    write_atomically(path, b"".join([*parts, compressor.flush()]))
    return len(wanted)


def unpack_runs(path: Path, store: RunStore) -> UnpackedRuns:
    """Put the runs of the archive `path` into a store; a run that is finished there stays as it is.

    The whole archive is checked before anything is written: nothing comes out of a damaged one. A kill leaves
    whole runs and at most one unfinished, which the next call, or training, brings to its end.

    Raises:
        ArtifactError: `path` is missing, damaged, or holds what is no run of its id.
    """
    for _ in _checked_runs(path):
        pass
    unpacked = UnpackedRuns()
    for identity, files in _checked_runs(path):
        (unpacked.written if _restore(store, identity, files) else unpacked.kept).append(identity)
    return unpacked


def _is_whole(store: RunStore, identity: str) -> bool:
    folder = store.run_dir(identity)
    return bool(_RUN_ID.fullmatch(identity)) and all((folder / name).is_file() for name in _REQUIRED)


def _line(value: Any) -> bytes:
    return canonical_json(value).encode() + b"\n"


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _packed(store: RunStore, identity: str) -> dict[str, Any]:
    folder = store.run_dir(identity)
    try:
        texts = {name: (folder / name).read_bytes().decode() for name in _FILES if (folder / name).is_file()}
        _check_identity(identity, texts["spec.json"])
        json.loads(texts["result.json"])
    except ValueError as error:
        raise ArtifactError(f"{folder}: not packed, {_first_line(error)}") from None
    files = {name: {"sha256": _digest(text), "text": text} for name, text in texts.items()}
    return {"run_id": identity, "files": files}


def _check_identity(identity: str, spec: str) -> None:
    if (found := RunSpec.model_validate_json(spec).run_id) != identity:
        raise ValueError(f"its spec.json is that of run {found}")


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def _checked_runs(path: Path) -> Iterator[tuple[str, dict[str, str]]]:
    """Id and file texts of every run in the archive, each checked. Raises ArtifactError."""
    try:
        with lzma.open(path) as lines:
            header = json.loads(_read_line(lines))
            if not isinstance(header, dict) or {key: header.get(key) for key in _FORMAT} != _FORMAT:
                raise ValueError("no archive of runs of this version")
            seen: set[str] = set()
            while line := _read_line(lines):
                identity, files = _checked(json.loads(line))
                if identity in seen:
                    raise ValueError(f"run {identity} is in it twice")
                seen.add(identity)
                yield identity, files
            if len(seen) != header.get("num_runs"):
                raise ValueError(f"{len(seen)} runs in it, not {header.get('num_runs')}")
    except FileNotFoundError:
        raise ArtifactError(f"{path}: no such file") from None
    except (lzma.LZMAError, EOFError, RecursionError, ValueError) as error:
        raise ArtifactError(f"{path}: damaged, nothing more unpacked ({_first_line(error)})") from None


def _read_line(lines: IO[bytes]) -> bytes:
    line = lines.readline(_MAX_LINE_BYTES)
    if line and not line.endswith(b"\n"):
        raise ValueError("a line without its end")
    return line


def _checked(packed: Any) -> tuple[str, dict[str, str]]:
    """Id and file texts of one line. Raises ValueError where anything is not as `pack_runs` writes it."""
    if not isinstance(packed, dict) or packed.keys() != {"run_id", "files"}:
        raise ValueError("a line that is no run")
    identity, files = packed["run_id"], packed["files"]
    if not isinstance(identity, str) or not _RUN_ID.fullmatch(identity):
        raise ValueError(f"{identity!r:.80} is no run id")
    if not isinstance(files, dict) or not set(_REQUIRED) <= files.keys() <= set(_FILES):
        raise ValueError(f"run {identity}: its files are not those of a run")
    for name, entry in files.items():
        if not isinstance(entry, dict) or not isinstance(entry.get("text"), str):
            raise ValueError(f"run {identity}: {name} has no text")
        if _digest(entry["text"]) != entry.get("sha256"):
            raise ValueError(f"run {identity}: {name} does not have its SHA-256")
    _check_identity(identity, files["spec.json"]["text"])
    return identity, {name: entry["text"] for name, entry in files.items()}


def _restore(store: RunStore, identity: str, files: dict[str, str]) -> bool:
    """Write a run, its commit mark last; False where it is finished already or being trained."""
    if store.is_finished(identity):
        return False
    folder = store.run_dir(identity)
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(folder / "lock", timeout=0):
            if store.is_finished(identity):
                return False
            remove_leftovers(folder)
            remove_checkpoints(folder)
            for name in _FILES:
                if name in files:
                    write_atomically(folder / name, files[name].encode())
                else:
                    (folder / name).unlink(missing_ok=True)
    except Timeout:
        return False
    return True
