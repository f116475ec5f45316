"""The two tables of a meta-dataset, column by column, and their files.

`transitions` holds one row per (trunk, epoch), `forks` one per (trunk, fork epoch, candidate).
A flipped byte in a parquet file of default settings loads silently; these carry page checksums.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import pandas as pd
import pyarrow as pa
from pyarrow import parquet

from metalr.training.artifacts import ArtifactError

__all__ = [
    "FORK_COLUMNS",
    "RUN_COLUMNS",
    "Column",
    "frame_of",
    "from_parquet",
    "to_parquet",
    "transition_columns",
]


@dataclass(frozen=True)
class Column:
    """A column: what it holds, in which unit, how it was made, and the values it may take."""

    name: str
    kind: Literal["string", "bool", "int64", "float64"]
    unit: str
    how: str
    nullable: bool = False
    above: float | None = None
    """Every value is larger."""
    at_least: float | None = None
    """No value is smaller."""


def _loss(name: str, how: str) -> Column:
    return Column(name, "float64", "nats", f"cross-entropy on outer_valid {how}", nullable=True, at_least=0)


def _lr(name: str, how: str, nullable: bool = False) -> Column:
    return Column(name, "float64", "LR", how, nullable, above=0)


_RUN_ID = Column("run_id", "string", "", "hash of every setting that can change the trunk's result")
_GROUP = Column("group", "string", "", "hash of task, train but its LR (so the budget too), and seed")

RUN_COLUMNS: tuple[Column, ...] = (
    _RUN_ID,
    _GROUP,
    Column("dataset", "string", "", "task.dataset"),
    Column("network", "string", "", "task.network"),
    Column("width", "int64", "channels or units", "task.width", at_least=1),
    Column("image_size", "int64", "pixels", "task.image_size; null: as in the dataset", True, at_least=1),
    Column("label_noise", "float64", "fraction", "task.label_noise", at_least=0),
    Column("optimizer", "string", "", "train.optimizer"),
    Column("batch_size", "int64", "images", "train.batch_size", at_least=1),
    Column("momentum", "float64", "", "train.momentum", at_least=0),
    Column("nesterov", "bool", "", "train.nesterov"),
    Column("weight_decay", "float64", "", "train.weight_decay", at_least=0),
    Column("label_smoothing", "float64", "fraction", "train.label_smoothing", at_least=0),
    Column("budget_epochs", "int64", "epochs", "train.epochs: length of trunk and branches", at_least=1),
    Column("seed", "int64", "", "of initialisation, data order and augmentation", at_least=0),
    Column("schedule", "string", "", "the trunk's schedule"),
    _lr("initial_lr", "train.lr: the trunk's initial LR"),
    _lr("reference_lr", "reference of the LR range test before training"),
    _loss("final_outer_valid_loss", "at the end of the budget; null: diverged"),
    Column("diverged", "bool", "", "whether the trunk has no finite final loss"),
)
"""The same in every row of a trunk."""

_EPOCH_COLUMNS = (
    Column("epoch", "int64", "epochs", "completed epochs; 0 is before training", at_least=0),
    _lr("lr", "mean over the epoch's steps; null at epoch 0", nullable=True),
    _lr("peak_lr", "equivalent peak: its anchor has that mean LR; null at epoch 0", nullable=True),
    Column(
        "inner_valid_loss",
        "float64",
        "nats",
        "cross-entropy on inner_valid after the epoch; null: not measured, or not finite",
        nullable=True,
        at_least=0,
    ),
    _loss("outer_valid_loss", "after the epoch; null: not measured, or not finite"),
)

FORK_COLUMNS: tuple[Column, ...] = (
    _RUN_ID,
    _GROUP,
    Column("epoch", "int64", "epochs", "completed epochs of the forked state", at_least=0),
    Column("candidate", "int64", "", "number of the candidate, from 0", at_least=0),
    Column("factor", "float64", "", "the candidate as a multiple of the trunk's reference_lr", above=0),
    _lr("peak_lr", "equivalent peak that the branch followed to the end of the budget"),
    _lr("current_peak_lr", "equivalent peak the trunk had just used; at epoch 0 its initial_lr"),
    _loss("next_loss", "one epoch later; null: diverged by then"),
    _loss("final_loss", "at the end of the budget; null: diverged"),
    Column("diverged", "bool", "", "whether the branch has no finite final_loss"),
    Column(
        "next_regret",
        "float64",
        "nats",
        "next_loss minus the fork's smallest, but for lost candidates (regret_rule)",
        at_least=0,
    ),
    Column(
        "regret",
        "float64",
        "nats",
        "final_loss minus the fork's smallest, but for lost candidates (regret_rule)",
        at_least=0,
    ),
)


def transition_columns(feature_names: Sequence[str]) -> tuple[Column, ...]:
    """The columns of `transitions`, features last. Raises ArtifactError where a name occurs twice."""
    if len(set(feature_names)) < len(feature_names):
        raise ArtifactError(f"a feature name occurs twice: {', '.join(feature_names)}")
    how = "metalr.control.features, after the epoch; null: missing"
    features = (Column(f"feature/{name}", "float64", "none", how, nullable=True) for name in feature_names)
    return (*RUN_COLUMNS, *_EPOCH_COLUMNS, *features)


def frame_of(rows: Sequence[Mapping[str, Any]], columns: Sequence[Column]) -> pd.DataFrame:
    """The table of `rows`, nulls as NaN; what a row lacks is null. Raises ArtifactError on a wrong type."""
    try:
        frame: pd.DataFrame = pa.Table.from_pylist(rows, schema=_schema(columns)).to_pandas()
    except (pa.ArrowException, TypeError, ValueError) as error:
        raise ArtifactError(f"a record holds a value of the wrong type: {error}") from None
    return frame


def to_parquet(frame: pd.DataFrame, columns: Sequence[Column]) -> bytes:
    """The parquet file of a table: the same values give the same bytes, with a checksum in each page."""
    table = pa.Table.from_pandas(frame, schema=_schema(columns), preserve_index=False)
    sink = io.BytesIO()
    parquet.write_table(
        table.replace_schema_metadata(None),
        sink,
        compression="zstd",
        compression_level=3,
        write_page_checksum=True,
        store_schema=False,
    )
    return sink.getvalue()


def from_parquet(content: bytes, columns: Sequence[Column]) -> pd.DataFrame:
    """The table in a parquet file. Raises ArtifactError where it is damaged or has other columns."""
    try:
        source = parquet.ParquetFile(pa.BufferReader(content), page_checksum_verification=True)
        table = source.read()
        _check_schema(table.schema, _schema(columns))
        frame: pd.DataFrame = table.to_pandas()
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise ArtifactError(f"damaged or no parquet file: {error}") from None
    return frame


def _schema(columns: Sequence[Column]) -> pa.Schema:
    return pa.schema([pa.field(c.name, pa.type_for_alias(c.kind), c.nullable) for c in columns])


def _check_schema(found: pa.Schema, expected: pa.Schema) -> None:
    unknown = [name for name in found.names if name not in expected.names]
    missing = [name for name in expected.names if name not in found.names]
    for problem, names in (("unknown", unknown), ("missing", missing)):
        if names:
            raise ArtifactError(f"{problem} columns {', '.join(names)}")
    if not found.equals(expected):
        raise ArtifactError(
            f"columns of another order or type: {found.to_string(show_schema_metadata=False)}"
        )
