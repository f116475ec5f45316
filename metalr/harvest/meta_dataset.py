"""The meta-dataset: run records in, two checksummed tables and a card out, and back again.

    <folder>/card.json                   facts, checksums, schema version; written last: it names the tables
             transitions-<hash>.parquet  one row per trunk and epoch
             forks-<hash>.parquet        one row per fork and candidate
             README.md                   the card, for people

The same records give the same bytes, in whatever order they come. Tables are named after their
content, so a crash while saving leaves the old meta-dataset or the new one.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from metalr.config import canonical_json
from metalr.harvest.data_card import SCHEMA_VERSION, count, digest_of, make_card, render_card
from metalr.harvest.rows import fork_rows, group_of, transition_rows
from metalr.harvest.rules import check_tables, regret_of
from metalr.harvest.tables import (
    FORK_COLUMNS,
    Column,
    frame_of,
    from_parquet,
    to_parquet,
    transition_columns,
)
from metalr.training.artifacts import ArtifactError, read_json, write_atomically, write_json
from metalr.training.records import RunRecord

__all__ = [
    "MetaDataset",
    "build_meta_dataset",
    "group_of",
    "join_meta_datasets",
    "load_meta_dataset",
    "save_meta_dataset",
]

_AGAIN = "make the meta-dataset again with `metalr metadataset` (finished runs are not repeated)"


@dataclass(frozen=True)
class MetaDataset:
    """Training states, what each candidate LR made of them, and where all that comes from."""

    transitions: pd.DataFrame
    """One row per (trunk, epoch 0..T), sorted; columns as `tables.transition_columns` says."""
    forks: pd.DataFrame
    """One row per (trunk, fork epoch, candidate), sorted; columns as `tables.FORK_COLUMNS` says."""
    card: dict[str, Any]
    """What `card.json` holds; `card["digest"]` identifies the whole."""

    @property
    def feature_names(self) -> list[str]:
        """The features, in the order of their columns `feature/<name>`."""
        return list(self.card["feature_names"])


def build_meta_dataset(
    records: Sequence[RunRecord], feature_names: Sequence[str], settings: Mapping[str, Any]
) -> MetaDataset:
    """The meta-dataset of finished trunks.

    Args:
        records: Trunks with their forks, in any order, each once.
        feature_names: What the lists under `features` in the records hold.
        settings: Of the harvest, JSON values; kept in the card. `name` names the meta-dataset.

    Raises:
        ArtifactError: records that lack something, contradict themselves, or hold impossible values.
    """
    ordered = sorted(records, key=lambda record: record.run_id)
    if len({record.run_id for record in ordered}) < len(ordered):
        raise ArtifactError("a run is listed twice among the records of the meta-dataset; pass each once")
    columns = transition_columns(feature_names)
    transitions: list[dict[str, Any]] = []
    forks: list[dict[str, Any]] = []
    for record in ordered:
        transitions += transition_rows(record, feature_names)
        forks += fork_rows(record)
    frames = {"transitions": frame_of(transitions, columns), "forks": frame_of(forks, FORK_COLUMNS)}
    frames["forks"]["next_regret"] = regret_of(frames["forks"], "next_loss")
    frames["forks"]["regret"] = regret_of(frames["forks"], "final_loss")
    check_tables(**frames, columns=columns, source="meta-dataset")
    plain_settings = json.loads(canonical_json(dict(settings)))
    versions = [record.result.get("versions", {}) for record in ordered]
    objectives: Counter[str] = Counter(record.spec.task.objective for record in ordered)
    files = {
        name: _file_facts(name, content) for name, content in _contents(**frames, columns=columns).items()
    }
    return MetaDataset(
        **frames,
        card=make_card(
            **frames,
            columns=columns,
            files=files,
            run_versions=versions,
            objectives=objectives,
            settings=plain_settings,
        ),
    )


def save_meta_dataset(dataset: MetaDataset, folder: Path) -> Path:
    """Write the meta-dataset into `folder`, in place of the one that is there; returns the path of its card.

    Raises ArtifactError where the tables are no longer those that the card was made for.
    """
    columns = transition_columns(dataset.feature_names)
    contents = _contents(dataset.transitions, dataset.forks, columns)
    files = {name: _file_facts(name, content) for name, content in contents.items()}
    if files != dataset.card["tables"] or digest_of(dataset.card) != dataset.card["digest"]:
        raise ArtifactError(f"{folder}: the meta-dataset was changed after it was built; build it again")
    for name, content in contents.items():
        write_atomically(folder / files[name]["file"], content)
    write_json(folder / "card.json", dataset.card)  # from here on the new tables are the meta-dataset
    write_atomically(folder / "README.md", render_card(dataset.card).encode())
    for name in contents:
        for path in folder.glob(f"{name}-*.parquet"):
            if path.name != files[name]["file"]:
                path.unlink()
    return folder / "card.json"


def load_meta_dataset(folder: Path) -> MetaDataset:
    """The meta-dataset in `folder`, every checksum and every rule verified.

    Raises ArtifactError naming the file and what to do, where one is missing, damaged, of another
    version, or has a column too many or too few.
    """
    card = _read_card(folder / "card.json")
    try:
        columns = {"transitions": transition_columns(card["feature_names"]), "forks": FORK_COLUMNS}
        facts = {name: card["tables"][name] for name in columns}
        frames = {name: _read_table(folder, name, facts[name], columns[name]) for name in columns}
        counts = card["counts"]
    except (KeyError, TypeError, AttributeError) as error:
        raise ArtifactError(f"{folder / 'card.json'}: incomplete ({error!r}); {_AGAIN}") from None
    check_tables(**frames, columns=columns["transitions"], source=str(folder))
    if count(**frames) != counts:
        raise ArtifactError(f"{folder / 'card.json'}: its counts are not those of the tables; {_AGAIN}")
    return MetaDataset(**frames, card=card)


def join_meta_datasets(datasets: Sequence[MetaDataset]) -> MetaDataset:
    """All of them as one to learn from; a run that several hold counts once.

    Its card has `settings`, `feature_names`, `counts`, a `digest` of the parts' and, in `parts`, each part's
    digest by its name; it is not for saving.

    Raises:
        ArtifactError: parts with other features than the first.
    """
    first, *others = datasets
    for other in others:
        if other.feature_names != first.feature_names:
            raise ArtifactError(
                f"the meta-datasets {_name(first)} and {_name(other)} hold different features; {_AGAIN}"
            )
    frames = {name: _first_of_each_run(datasets, name) for name in ("transitions", "forks")}
    parts = {_name(dataset): dataset.card["digest"] for dataset in datasets}
    digest = hashlib.sha256(canonical_json(list(parts.items())).encode()).hexdigest()
    card = {
        "settings": {"name": " + ".join(parts)},
        "feature_names": first.feature_names,
        "counts": count(**frames),
        "parts": parts,
        "digest": digest if others else first.card["digest"],
    }
    return MetaDataset(**frames, card=card)


def _name(dataset: MetaDataset) -> str:
    return str(dataset.card["settings"]["name"])


def _first_of_each_run(datasets: Sequence[MetaDataset], table: str) -> pd.DataFrame:
    seen: set[str] = set()
    kept = []
    for dataset in datasets:
        frame: pd.DataFrame = getattr(dataset, table)
        kept.append(frame[~frame["run_id"].isin(seen)])
        seen |= set(dataset.transitions["run_id"])
    return pd.concat(kept, ignore_index=True)


def _contents(transitions: pd.DataFrame, forks: pd.DataFrame, columns: Sequence[Column]) -> dict[str, bytes]:
    """The bytes of each table's file."""
    return {
        "transitions": to_parquet(transitions, columns),
        "forks": to_parquet(forks, FORK_COLUMNS),
    }


def _file_facts(name: str, content: bytes) -> dict[str, Any]:
    sha256 = hashlib.sha256(content).hexdigest()
    return {"file": f"{name}-{sha256[:12]}.parquet", "sha256": sha256, "bytes": len(content)}


def _read_card(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise ArtifactError(f"{path}: no such file; {_AGAIN}")
    card = read_json(path)
    version = card.get("schema_version") if isinstance(card, dict) else None
    if type(version) is int and version > SCHEMA_VERSION:
        raise ArtifactError(
            f"{path}: schema version {version} is newer than {SCHEMA_VERSION}, the newest this metalr reads; "
            "upgrade metalr"
        )
    if version != SCHEMA_VERSION:
        raise ArtifactError(f"{path}: schema version {version!r} is not known; {_AGAIN}")
    try:
        intact = digest_of(card) == card.get("digest")
    except ValueError:
        intact = False
    if not intact:
        raise ArtifactError(f"{path}: does not match its own digest, it was damaged or edited; {_AGAIN}")
    return dict(card)


def _read_table(folder: Path, name: str, facts: Mapping[str, Any], columns: Sequence[Column]) -> pd.DataFrame:
    """One table, from the very bytes whose checksum is verified."""
    path = folder / f"{name}-{facts['sha256'][:12]}.parquet"
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise ArtifactError(f"{path}: no such file; {_AGAIN}") from None
    if hashlib.sha256(content).hexdigest() != facts["sha256"]:
        raise ArtifactError(f"{path}: damaged, its SHA-256 is not the one in card.json; {_AGAIN}")
    try:
        return from_parquet(content, columns)
    except ArtifactError as error:
        raise ArtifactError(f"{path}: {error}; {_AGAIN}") from None
