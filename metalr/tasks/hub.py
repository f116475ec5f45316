"""CIFAR-10 from a directory of parquet files or from the Hugging Face Hub; decoded once, then cached."""

from __future__ import annotations

import hashlib
import json
import os
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from http.client import HTTPException
from pathlib import Path
from typing import Any

from metalr.config import DataConfig
from metalr.tasks.images import DataError, RawDataset, RawPart, cache_dir, cached_part, one_line
from metalr.tasks.parquet import decode_shards, decode_table

__all__ = ["is_reachable", "load_cifar10"]

REPOSITORY, CONFIGURATION, NUM_CLASSES = "uoft-cs/cifar10", "plain_text", 10
PARTS = ("train", "test")


def load_cifar10(data: DataConfig) -> RawDataset:
    """CIFAR-10 from `data.dir` (the Hub's parquet layout), or else from the Hub or its caches.

    Raises DataError where it is missing, damaged, or has other columns or classes.
    """
    if data.dir:
        train, test = (_from_directory(Path(data.dir).expanduser(), part) for part in PARTS)
    else:
        train, test = _from_hub_cache() or _from_hub(data)
    return RawDataset(train, test, NUM_CLASSES)


def _from_directory(folder: Path, part: str) -> RawPart:
    """One part from `folder`/plain_text/ or `folder` itself, in however many shards."""
    patterns = (f"{CONFIGURATION}/{part}-*.parquet", f"{part}-*.parquet")
    paths = next((found for pattern in patterns if (found := sorted(folder.glob(pattern)))), None)
    if paths is None:
        problem = f"no {' or '.join(patterns)} in it" if folder.is_dir() else "no such directory"
        raise DataError(f"cifar10: data.dir={folder}: {problem}; {_ways()}")

    name = f"cifar10-{part}-{_sha256_of_files(paths)[:16]}"
    return _cached(name, lambda: decode_shards(paths, NUM_CLASSES))


def _cached(name: str, decode: Callable[[], RawPart]) -> RawPart:
    part = cached_part(name, decode)
    assert part is not None, "cached_part makes what is missing"
    return part


def _sha256_of_files(paths: Sequence[Path]) -> str:
    """The SHA-256 over the SHA-256 of each file, in order."""
    digest = hashlib.sha256()
    try:
        for path in paths:
            with path.open("rb") as handle:
                digest.update(hashlib.file_digest(handle, "sha256").digest())
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({one_line(error)})") from None
    return digest.hexdigest()


def _pointer_path() -> Path:
    """Says which cached images came from the Hub, so that later processes do without it and its library."""
    return cache_dir() / "cifar10-hub.json"


def _from_hub_cache() -> list[RawPart] | None:
    try:
        names = json.loads(_pointer_path().read_text())
        parts = [cached_part(str(names[part]), None) for part in PARTS]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    found = [part for part in parts if part is not None]
    return found if len(found) == len(PARTS) else None


def _from_hub(data: DataConfig) -> list[RawPart]:
    """Both parts through `datasets.load_dataset`, from the network or from its cache."""
    loaded = _open_hub_dataset(data)
    names = {part: f"cifar10-{part}-{_sha256_of_files(_arrow_files(loaded[part]))[:16]}" for part in PARTS}
    parts = [_cached(names[part], partial(_decode_hub_part, loaded, part)) for part in PARTS]
    _write_pointer(names)
    return parts


def _arrow_files(part: Any) -> list[Path]:
    return [Path(entry["filename"]) for entry in part.cache_files]


def _decode_hub_part(loaded: Any, part: str) -> RawPart:
    return decode_table(loaded[part].data.table, NUM_CLASSES, f"{REPOSITORY} ({part})")


def _write_pointer(names: dict[str, str]) -> None:
    temporary = _pointer_path().with_suffix(f".{os.getpid()}.tmp")
    try:
        temporary.write_text(json.dumps(names))
        os.replace(temporary, _pointer_path())
    except OSError:  # a cache that cannot be written has been warned about already
        temporary.unlink(missing_ok=True)


def _hub_library_cache() -> Path:
    """Where `datasets` keeps its copies; its own rule, without the second its import takes."""
    from huggingface_hub import constants

    return Path(os.environ.get("HF_DATASETS_CACHE") or Path(constants.HF_HOME) / "datasets").expanduser()


def _open_hub_dataset(data: DataConfig) -> Any:
    """The Hub's dataset by part. Without a network: its cached copy, or a DataError at once.

    Left alone, the library retries for 25 s before it gives up (datasets 5.2, measured).
    """
    from huggingface_hub import constants

    cache = _hub_library_cache()
    allowed = data.download and not constants.is_offline_mode()
    online = allowed and is_reachable(constants.ENDPOINT)
    reason = (
        f"{constants.ENDPOINT} cannot be reached"
        if allowed
        else "data.download=false or HF_HUB_OFFLINE is set"
    )
    if not online and not (cache / REPOSITORY.replace("/", "___")).is_dir():
        raise _missing_on_hub(cache, reason)
    import datasets

    try:
        with _hub_library_offline(not online):
            return datasets.load_dataset(REPOSITORY, CONFIGURATION, cache_dir=str(cache))
    except Exception as error:  # network, disk and format errors of three libraries
        raise _missing_on_hub(cache, one_line(error)) from None


@contextmanager
def _hub_library_offline(offline: bool) -> Iterator[None]:
    """Keeps the library off the network. It reads HF_HUB_OFFLINE only on import, hence its constants."""
    import datasets
    from huggingface_hub import constants

    before = datasets.config.HF_HUB_OFFLINE, constants.HF_HUB_OFFLINE
    if offline:
        datasets.config.HF_HUB_OFFLINE = constants.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        datasets.config.HF_HUB_OFFLINE, constants.HF_HUB_OFFLINE = before


def _missing_on_hub(cache: Path, reason: str) -> DataError:
    return DataError(
        f"cifar10: {REPOSITORY} is neither cached in {cache_dir()} or {cache} nor to be fetched: "
        f"{reason}; {_ways()}"
    )


def _ways() -> str:
    return (
        f"provide it by (1) data.dir=DIR with the Hub's files DIR/{CONFIGURATION}/train-*.parquet and "
        "test-*.parquet, (2) one run with data.download=true where the Hub can be reached, or (3) a copy of "
        f"another machine's {cache_dir()}; task.dataset=digits needs none"
    )


def is_reachable(url: str, timeout_s: float = 1.5) -> bool:
    """Whether the server of `url` answers within `timeout_s` seconds, through the environment's proxies."""
    answers: list[bool] = []

    def ask() -> None:
        try:
            urllib.request.urlopen(urllib.request.Request(url, method="HEAD"), timeout=timeout_s).close()
            answers.append(True)
        except urllib.error.HTTPError as error:
            answers.append(error.code < 500)  # it refuses HEAD or wants a login, but it is there
            error.close()
        except (OSError, ValueError, HTTPException):
            pass

    # In a thread, since looking up the name of a host has no timeout of its own.
    asking = threading.Thread(target=ask, daemon=True)
    asking.start()
    asking.join(timeout_s)
    return bool(answers) and answers[0]
