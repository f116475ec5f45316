"""What an offline run left in its `.wandb` file, read without wandb's own reader (it keeps changing).

The file is a LevelDB log behind a header of 7 bytes (`:W&B`, a magic number, a version): blocks of
32 KiB, chunks of crc32 (4 bytes), length (2), type (1: whole, 2: first, 3: middle, 4: last) and data,
little-endian; the last 6 bytes of a block or fewer are padding. Each record is a protobuf message.
"""

from __future__ import annotations

import contextlib
import json
import os
import struct
import time
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from metalr.config import WandbConfig
from metalr.training.tracking import Tracker, start_tracking

BLOCK = 32 * 1024
HEADER = 7
WHOLE, FIRST, MIDDLE, LAST = 1, 2, 3, 4


def read_records(path: Path) -> Iterator[Any]:
    """The `Record` messages of a file in order; a torn tail, the trace of a kill, ends them without an error.

    Raises ValueError where the header is not W&B's, or a chunk before the tail fails its checksum.
    """
    from wandb.proto.wandb_internal_pb2 import Record

    content = path.read_bytes()
    if content[:4] != b":W&B":
        raise ValueError(f"{path}: not a .wandb file")
    pending = b""
    for kind, data in _chunks(content, path):
        pending = data if kind in (WHOLE, FIRST) else pending + data
        if kind in (WHOLE, LAST):
            yield Record.FromString(pending)


def _chunks(content: bytes, path: Path) -> Iterator[tuple[int, bytes]]:
    """Type and data of every complete chunk."""
    position = HEADER
    while position + HEADER <= len(content):
        left_in_block = BLOCK - position % BLOCK
        if left_in_block < HEADER:
            position += left_in_block
            continue
        checksum, length, kind = struct.unpack_from("<IHB", content, position)
        data = content[position + HEADER : position + HEADER + length]
        if len(data) < length:
            return
        if zlib.crc32(data, zlib.crc32(bytes([kind]))) != checksum:
            raise ValueError(f"{path}: damaged at byte {position}")
        yield kind, data
        position += HEADER + length


def items(message: Any) -> dict[str, Any]:
    """The key-value items of a history, summary or config message; a nested key is joined with dots."""
    return {".".join(item.nested_key) or item.key: json.loads(item.value_json) for item in message}


@contextlib.contextmanager
def clean_environment(folder: Path) -> Iterator[None]:
    """No variable of W&B's (but its running helper) and no netrc file; what is set inside is undone."""
    before = dict(os.environ)
    for name in before:
        if name.startswith("WANDB_") and name != "WANDB_SERVICE":
            del os.environ[name]
    os.environ["NETRC"] = str(folder / "no-netrc")
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def start(folder: Path, **changes: Any) -> Tracker:
    arguments: dict[str, Any] = {
        "name": "cosine/seed0",
        "job_type": "compare",
        "group": "digits-0123",
        "tags": ["digits", "mlp"],
        "run_config": {"commit": "abc", "train": {"lr": 0.1, "clip": float("inf")}, "store": Path("runs")},
        "folder": folder,
        "run_id": "0123456789abcdef",
    }
    config = WandbConfig(mode="offline", project="demo", entity="lab", tags=["paper", "mlp"])
    return start_tracking(**{"config": config, **arguments, **changes})


def records_of(folder: Path) -> list[Any]:
    """The records of the one run, once wandb's helper has written the last: it does so after finish()."""
    (file,) = folder.glob("wandb/offline-run-*/run-*.wandb")
    return complete_records(file)


def complete_records(file: Path) -> list[Any]:
    """The records of a file, waited for until the last is there."""
    for _ in range(400):
        records = list(read_records(file))
        if records and records[-1].WhichOneof("record_type") == "exit":
            return records
        time.sleep(0.05)
    raise AssertionError(f"{file} never got its exit record")


def of_kind(records: list[Any], kind: str) -> list[Any]:
    return [getattr(record, kind) for record in records if record.WhichOneof("record_type") == kind]


def rows_of(records: list[Any]) -> list[dict[str, Any]]:
    """The history rows without what wandb adds of its own (keys that begin with an underscore)."""
    rows = [items(message.item) for message in of_kind(records, "history")]
    return [{key: value for key, value in row.items() if not key.startswith("_")} for row in rows]
