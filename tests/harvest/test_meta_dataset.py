"""The meta-dataset on made-up records: figures by hand, damage, versions, and what it refuses."""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from pyarrow import parquet

from metalr.config import TaskConfig, TrainConfig
from metalr.harvest import meta_dataset as module
from metalr.harvest.data_card import digest_of
from metalr.harvest.meta_dataset import (
    MetaDataset,
    build_meta_dataset,
    group_of,
    join_meta_datasets,
    load_meta_dataset,
    save_meta_dataset,
)
from metalr.harvest.rules import regret_of
from metalr.training.artifacts import ArtifactError, sha256_of_file
from metalr.training.records import RunRecord
from metalr.training.specs import ForkPlan, RunSpec

NAMES = ("progress", "log_loss", "gap")
FACTORS = [0.25, 1.0, 4.0]
REFERENCE = 0.125
SETTINGS = {"name": "synthetic", "harvest": {"candidate_span": (0.25, 4.0)}}


def _record(seed: int = 0, lr: float = 0.01, method: str = "cosine", **task: Any) -> RunRecord:
    """A trunk of 4 epochs, forked at 0 and 2 into 3 candidates."""
    spec = RunSpec(
        task=TaskConfig(**task),
        train=TrainConfig(epochs=4, lr=lr),
        method=method,
        forks=ForkPlan(epochs=[0, 2], peak_factors=FACTORS),
        seed=seed,
        data_digest="0" * 64,
    )
    rng = random.Random(spec.run_id)
    rows: list[dict[str, Any]] = [
        {
            "epoch": 0,
            "probe": {"reference_lr": REFERENCE},
            "observation": {"epoch": 0},
            "features": [0.0, None, None],
        }
    ]
    for epoch in range(1, 5):
        rows.append(
            {
                "epoch": epoch,
                "lr": lr / epoch,
                "observation": {"epoch": epoch, "peak_lr": lr * epoch},
                "features": [epoch / 4, rng.random(), -rng.random()],
                "inner_valid/loss": rng.random(),
                "outer_valid/loss": rng.random(),
            }
        )
    forks = [
        {
            "epoch": epoch,
            "candidate": candidate,
            "factor": factor,
            "peak_lr": factor * REFERENCE,
            "next_loss": 1.0 + rng.random(),
            "final_loss": rng.random(),
        }
        for epoch in (0, 2)
        for candidate, factor in enumerate(FACTORS)
    ]
    result = {
        "status": "done",
        "diverged_epoch": None,
        "final": {"outer_valid/loss": rows[-1]["outer_valid/loss"]},
        "versions": {"torch": "2.12.1"},
    }
    return RunRecord(spec.run_id, spec, rows, forks, result)


def _diverged(record: RunRecord, epoch: int) -> RunRecord:
    """The same trunk, had it diverged in `epoch`."""
    rows = record.rows[: epoch + 1]
    rows[-1] |= {"inner_valid/loss": None, "outer_valid/loss": None}
    return dataclasses.replace(
        record,
        rows=rows,
        forks=[fork for fork in record.forks if fork["epoch"] < epoch],
        result=record.result | {"status": "diverged", "diverged_epoch": epoch, "final": {}},
    )


def _records() -> list[RunRecord]:
    records = [
        _record(seed, lr, method)
        for seed, lr, method in itertools.product((0, 1), (0.01, 1.0), ("cosine", "constant"))
    ]
    records[3] = _diverged(records[3], 1)
    records[5].forks[4]["final_loss"] = None
    return [*records, _record(network="cnn", width=16, image_size=4)]


@pytest.fixture
def dataset() -> MetaDataset:
    """Nine trunks in three groups, one of them diverged, and one diverged candidate."""
    return build_meta_dataset(_records(), NAMES, SETTINGS)


@pytest.fixture
def folder(tmp_path: Path, dataset: MetaDataset) -> Path:
    """Where that meta-dataset lies."""
    return save_meta_dataset(dataset, tmp_path / "synthetic").parent


def _forge(folder: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Change the card as its own writer would, digest included."""
    card = json.loads((folder / "card.json").read_text())
    change(card)
    card["digest"] = digest_of(card)
    (folder / "card.json").write_text(json.dumps(card))


def _forge_table(folder: Path, name: str, content: bytes) -> None:
    """Replace a table and make the card vouch for it."""
    facts = module._file_facts(name, content)
    (folder / facts["file"]).write_bytes(content)
    _forge(folder, lambda card: card["tables"].update({name: facts}))


def test_a_trunk_becomes_these_rows() -> None:
    record = _record()
    record.forks[1] |= {"next_loss": 1.25, "final_loss": 0.5}
    built = build_meta_dataset([record], NAMES, SETTINGS)
    assert len(built.transitions) == 5 and len(built.forks) == 6
    row = built.transitions.iloc[2]
    expected = {
        "run_id": record.run_id,
        "group": group_of(record.spec),
        "dataset": "digits",
        "network": "mlp",
        "width": 32,
        "label_noise": 0.0,
        "optimizer": "sgd",
        "batch_size": 32,
        "momentum": 0.9,
        "nesterov": False,
        "weight_decay": 5e-4,
        "label_smoothing": 0.0,
        "budget_epochs": 4,
        "seed": 0,
        "schedule": "cosine",
        "initial_lr": 0.01,
        "reference_lr": REFERENCE,
        "final_outer_valid_loss": record.rows[4]["outer_valid/loss"],
        "diverged": False,
        "epoch": 2,
        "lr": 0.005,
        "peak_lr": 0.02,
        "inner_valid_loss": record.rows[2]["inner_valid/loss"],
        "outer_valid_loss": record.rows[2]["outer_valid/loss"],
        "feature/progress": 0.5,
        "feature/log_loss": record.rows[2]["features"][1],
        "feature/gap": record.rows[2]["features"][2],
    }
    assert {name: row[name] for name in expected} == expected
    assert set(built.transitions.columns) == {*expected, "image_size"} and math.isnan(row["image_size"])
    start = built.transitions.iloc[0]
    nulls = ["lr", "peak_lr", "inner_valid_loss", "outer_valid_loss", "feature/log_loss", "feature/gap"]
    assert start[nulls].isna().all() and start["feature/progress"] == 0.0
    fork = built.forks.iloc[1]
    values = {"epoch": 0, "candidate": 1, "factor": 1.0, "peak_lr": REFERENCE, "current_peak_lr": 0.01}
    values |= {"next_loss": 1.25, "final_loss": 0.5, "diverged": False}
    assert {name: fork[name] for name in values} == values
    assert built.forks["current_peak_lr"].tolist() == [0.01] * 3 + [0.02] * 3


def test_regret_by_hand() -> None:
    losses = {
        0: [0.75, 0.5, 1.5],
        1: [None, 0.5, 0.25],
        2: [None, None, None],
        3: [None, 2.0, None],
        4: [1e20, 0.5, None],
        5: [10.0, 0.5, 10.5],
        6: [11.0, 12.0, None],
    }
    rows = [
        {"run_id": "a", "epoch": epoch, "final_loss": loss} for epoch, row in losses.items() for loss in row
    ]
    penalty = math.log(10)
    expected = [
        [0.25, 0.0, 1.0],
        [0.25 + penalty, 0.25, 0.0],
        [penalty, penalty, penalty],
        [penalty, 0.0, penalty],
        [penalty, 0.0, penalty],
        [9.5, 0.0, 9.5 + penalty],
        [penalty, penalty, penalty],
    ]
    found = regret_of(pd.DataFrame(rows).astype({"final_loss": float}), "final_loss")
    assert found.to_numpy().reshape(-1, 3) == pytest.approx(np.array(expected), abs=1e-15)


def test_regret_is_finite_and_follows_a_slow_reference(dataset) -> None:
    for (_, _), fork in dataset.forks.groupby(["run_id", "epoch"]):
        for loss, regret in (("next_loss", "next_regret"), ("final_loss", "regret")):
            finite = [value for value in fork[loss] if not math.isnan(value)]
            worst = max(finite) - min(finite)
            for value, found in zip(fork[loss], fork[regret], strict=True):
                expected = worst + math.log(10) if math.isnan(value) else value - min(finite)
                assert found == pytest.approx(expected, abs=1e-15)
    assert dataset.forks["diverged"].sum() == 1
    assert dataset.forks["regret"].idxmax() == dataset.forks["diverged"].idxmax()


def test_groups_are_what_starts_alike() -> None:
    base = _record()
    assert group_of(base.spec) == group_of(_record(lr=1.0, method="constant").spec)
    others = [_record(seed=1), _record(width=16), _record(network="cnn"), _record(label_noise=0.1)]
    longer = base.spec.model_copy(update={"train": TrainConfig(epochs=5, lr=0.01)})
    batch = base.spec.model_copy(update={"train": TrainConfig(epochs=4, lr=0.01, batch_size=16)})
    groups = [group_of(spec) for spec in (base.spec, longer, batch, *(record.spec for record in others))]
    assert len(set(groups)) == 7 and all(len(group) == 16 for group in groups)


def test_counts_and_card(dataset, folder) -> None:
    counts = dataset.card["counts"]
    edge = sum(fork["regret"].argmin() in (0, 2) for _, fork in dataset.forks.groupby(["run_id", "epoch"]))
    assert counts == {
        "runs": 9,
        "diverged_runs": 1,
        "groups": 3,
        "transitions": 8 * 5 + 2,
        "forks": 8 * 2 + 1,
        "forks_best_at_edge": edge,
        "candidates": 51,
        "diverged_candidates": 1,
    }
    assert dataset.card["breakdown"]["network"] == {
        "cnn": {"runs": 1, "diverged_runs": 0, "groups": 1, "forks": 2},
        "mlp": {"runs": 8, "diverged_runs": 1, "groups": 2, "forks": 15},
    }
    assert dataset.card["settings"]["harvest"] == {"candidate_span": [0.25, 4.0]}
    assert dataset.card["versions"]["runs"] == {"torch": ["2.12.1"]}
    text = (folder / "README.md").read_text()
    for facts in dataset.card["tables"].values():
        assert sha256_of_file(folder / facts["file"]) == facts["sha256"]
        assert facts["file"] in text and facts["sha256"] in text
    assert {dataset.card["digest"], *dataset.transitions.columns, *dataset.forks.columns} <= set(
        text.replace("`", " ").split()
    )
    assert "{" not in text and "| mlp | 8 | 1 | 2 | 15 |" in text


def test_a_card_tells_squared_errors_from_losses_of_classifiers(dataset, folder) -> None:
    assert "objectives" not in dataset.card and "squared" not in (folder / "README.md").read_text()
    records = [_record(0), _record(1, objective="regress"), _record(2, objective="regress")]
    mixed = build_meta_dataset(records, NAMES, SETTINGS)
    assert mixed.card["objectives"] == {"classify": 1, "regress": 2}
    save_meta_dataset(mixed, folder)
    assert load_meta_dataset(folder).card == mixed.card
    text = (folder / "README.md").read_text().replace("\n", " ")
    assert "by `task.objective`, 1 `classify`, 2 `regress`: where numbers or images are learned" in text


def test_joined_meta_datasets_hold_each_run_once_and_say_what_they_are_made_of() -> None:
    records = [_record(seed=seed) for seed in range(4)]
    first = build_meta_dataset(records[:3], NAMES, {"name": "first"})
    second = build_meta_dataset(records[2:], NAMES, {"name": "second"})
    whole = build_meta_dataset(records, NAMES, {"name": "whole"})
    both = join_meta_datasets([first, second])
    for table in ("transitions", "forks"):
        joined, expected = getattr(both, table), getattr(whole, table)
        keys = [name for name in ("run_id", "epoch", "candidate") if name in expected.columns]
        pd.testing.assert_frame_equal(
            joined.sort_values(keys, ignore_index=True), expected.sort_values(keys, ignore_index=True)
        )
    assert both.card["counts"] == whole.card["counts"]
    assert both.card["parts"] == {"first": first.card["digest"], "second": second.card["digest"]}
    assert both.card["settings"] == {"name": "first + second"}
    assert both.card["digest"] not in {first.card["digest"], second.card["digest"]}
    assert both.card["digest"] != join_meta_datasets([second, first]).card["digest"]
    alone = join_meta_datasets([first])
    assert alone.card["digest"] == first.card["digest"] and len(alone.forks) == len(first.forks)


def test_meta_datasets_of_other_features_are_not_joined() -> None:
    first = build_meta_dataset([_record()], NAMES, {"name": "first"})
    other = build_meta_dataset([_record(seed=1)], ("progress", "log_loss", "new"), {"name": "other"})
    with pytest.raises(ArtifactError, match="first and other hold different features; make the meta-dataset"):
        join_meta_datasets([first, other])


def test_saved_and_loaded_are_the_same(dataset, folder) -> None:
    loaded = load_meta_dataset(folder)
    pd.testing.assert_frame_equal(loaded.transitions, dataset.transitions, check_exact=True)
    pd.testing.assert_frame_equal(loaded.forks, dataset.forks, check_exact=True)
    assert loaded.card == dataset.card and loaded.feature_names == list(NAMES)
    assert not {"object"} & {str(kind) for kind in loaded.forks.dtypes} or pd.__version__ < "3"
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    save_meta_dataset(loaded, folder)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_the_same_records_in_any_order_give_the_same_bytes(folder, tmp_path) -> None:
    shuffled = _records()
    random.Random(1).shuffle(shuffled)
    for record in shuffled:
        random.Random(2).shuffle(record.forks)
    other = save_meta_dataset(build_meta_dataset(shuffled, NAMES, SETTINGS), tmp_path / "other").parent
    assert {p.name: p.read_bytes() for p in other.iterdir()} == {
        p.name: p.read_bytes() for p in folder.iterdir()
    }
    changed = _records()
    changed[0].forks[0]["final_loss"] += 1e-15  # negative control
    assert (
        build_meta_dataset(changed, NAMES, SETTINGS).card["digest"]
        != load_meta_dataset(folder).card["digest"]
    )


def _files(folder: Path) -> list[Path]:
    return [path for path in sorted(folder.iterdir()) if path.suffix != ".md"]


def test_every_bit_flip_is_detected(folder) -> None:
    rng = random.Random(0)
    for path in _files(folder):
        intact = path.read_bytes()
        for _ in range(40):
            damaged = bytearray(intact)
            damaged[rng.randrange(len(damaged))] ^= 1 << rng.randrange(8)
            path.write_bytes(damaged)
            with pytest.raises(ArtifactError, match=r"card\.json|" + path.name):
                load_meta_dataset(folder)
        path.write_bytes(intact)
    load_meta_dataset(folder)


def test_every_truncation_is_detected(folder) -> None:
    for path in _files(folder):
        intact = path.read_bytes()
        for length in (0, 1, 7, len(intact) // 2, len(intact) - 2):
            path.write_bytes(intact[:length])
            with pytest.raises(ArtifactError, match=path.name):
                load_meta_dataset(folder)
        path.unlink()
        with pytest.raises(ArtifactError, match=rf"{path.name}: no such file; .*metalr metadataset"):
            load_meta_dataset(folder)
        path.write_bytes(intact)


def test_page_checksums_catch_what_a_matching_hash_vouches_for(folder) -> None:
    (path,) = folder.glob("forks-*.parquet")
    content = path.read_bytes()
    chunks = [parquet.ParquetFile(path).metadata.row_group(0).column(i) for i in range(12)]
    starts = [chunk.dictionary_page_offset or chunk.data_page_offset for chunk in chunks]
    ends = [start + chunk.total_compressed_size - 1 for start, chunk in zip(starts, chunks, strict=True)]
    detected = 0
    for position in ends:
        damaged = bytearray(content)
        damaged[position] ^= 1
        _forge_table(folder, "forks", bytes(damaged))
        try:
            load_meta_dataset(folder)
        except ArtifactError as error:
            detected += "damaged or no parquet file" in str(error)
    assert detected == len(ends) == 12
    _forge_table(folder, "forks", content)
    load_meta_dataset(folder)


def test_versions_and_columns_are_refused_by_name(folder) -> None:
    original = (folder / "card.json").read_text()
    _forge(folder, lambda card: card.update(schema_version=2))
    with pytest.raises(ArtifactError, match=r"card\.json: schema version 2 is newer than 1.*upgrade metalr"):
        load_meta_dataset(folder)
    _forge(folder, lambda card: card.update(schema_version="one"))
    with pytest.raises(ArtifactError, match="schema version 'one' is not known"):
        load_meta_dataset(folder)
    (folder / "card.json").write_text("[]")
    with pytest.raises(ArtifactError, match="schema version None"):
        load_meta_dataset(folder)

    for change, problem in (
        (
            lambda table: table.append_column("surprise", pa.array([1] * len(table))),
            "unknown columns surprise",
        ),
        (lambda table: table.drop(["regret", "factor"]), "missing columns factor, regret"),
        (lambda table: table.select(table.column_names[::-1]), "another order or type"),
        (
            lambda table: table.set_column(3, "candidate", pa.array([0.0] * len(table))),
            "another order or type",
        ),
    ):
        (folder / "card.json").write_text(original)
        (path,) = folder.glob(json.loads(original)["tables"]["forks"]["file"])
        sink = pa.BufferOutputStream()
        parquet.write_table(change(parquet.read_table(path)), sink)
        _forge_table(folder, "forks", sink.getvalue().to_pybytes())
        with pytest.raises(ArtifactError, match=rf"forks-\w+\.parquet: .*{problem}"):
            load_meta_dataset(folder)

    for key in ("tables", "feature_names", "counts"):
        (folder / "card.json").write_text(original)
        _forge(folder, lambda card, key=key: card.pop(key))
        with pytest.raises(ArtifactError, match=rf"card\.json: incomplete .*{key}"):
            load_meta_dataset(folder)
    (folder / "card.json").write_text(original)
    _forge(folder, lambda card: card["counts"].update(forks=99))
    with pytest.raises(ArtifactError, match="counts"):
        load_meta_dataset(folder)
    (folder / "card.json").write_text(original)
    load_meta_dataset(folder)


def _set(table: str, column: str, row: Any, value: Any) -> Callable[[MetaDataset], MetaDataset]:
    def change(dataset: MetaDataset) -> MetaDataset:
        getattr(dataset, table).loc[row, column] = value
        return dataset

    return change


def _only_forks(keep: Callable[[pd.DataFrame], Any]) -> Callable[[MetaDataset], MetaDataset]:
    return lambda dataset: dataclasses.replace(dataset, forks=dataset.forks[keep(dataset.forks)])


IMPOSSIBLE = [
    (_set("transitions", "lr", 1, 0.0), "lr must be above 0"),
    (_set("transitions", "lr", 1, np.nan), "lr must be null at epoch 0 and nowhere else"),
    (_set("transitions", "peak_lr", 0, 0.1), "peak_lr must be null at epoch 0 and nowhere else"),
    (_set("transitions", "lr", 2, np.inf), "lr is not finite"),
    (_set("transitions", "feature/gap", 2, -np.inf), "feature/gap is not finite"),
    (_set("transitions", "outer_valid_loss", 0, 0.5), "outer_valid_loss must be null at epoch 0"),
    (_set("transitions", "inner_valid_loss", 1, -0.1), "inner_valid_loss must be 0 or more"),
    (_set("transitions", "epoch", 3, 2), "epochs must run from 0 without a gap"),
    (_set("transitions", "reference_lr", 1, 0.5), "a setting of the run changes"),
    (_set("transitions", "budget_epochs", slice(0, 4), 5), "did not diverge must reach its budget"),
    (_set("transitions", "budget_epochs", slice(0, 4), 3), "epoch lies beyond budget_epochs"),
    (_set("transitions", "diverged", slice(0, 4), True), "diverged must say whether the final loss is null"),
    (_set("transitions", "run_id", 0, None), "run_id is missing"),
    (_set("forks", "factor", 0, 0.0), "factor must be above 0"),
    (_set("forks", "factor", 0, 1.0), "two candidates of a fork are the same"),
    (_set("forks", "final_loss", 0, -1.0), "final_loss must be 0 or more"),
    (_set("forks", "final_loss", 0, np.nan), "diverged must say whether final_loss is null"),
    (_set("forks", "regret", 0, 9.0), "regret does not follow from final_loss"),
    (_set("forks", "next_regret", 0, 9.0), "next_regret does not follow from next_loss"),
    (_set("forks", "candidate", 1, 2), "candidates must be numbered from 0 without a gap"),
    (_set("forks", "current_peak_lr", 3, 0.5), "current_peak_lr is not what the trunk used"),
    (_set("forks", "group", 3, "0" * 16), "group is not that of its trunk"),
    (_set("forks", "epoch", slice(3, 5), 4), "the fork must come before the end of the budget"),
    (_set("forks", "epoch", slice(3, 5), 5), "the fork has no row in transitions"),
    (_only_forks(lambda forks: forks.index != 5), "fewer candidates than another one"),
    (_only_forks(lambda forks: forks.index < 0), "no forks to learn from"),
]


@pytest.mark.parametrize(("change", "problem"), IMPOSSIBLE, ids=[problem for _, problem in IMPOSSIBLE])
def test_impossible_values_are_refused(dataset, change, problem) -> None:
    columns = module.transition_columns(NAMES)
    module.check_tables(dataset.transitions, dataset.forks, columns, "here")
    changed = change(dataset)
    with pytest.raises(ArtifactError, match=f"^here: .*{problem}"):
        module.check_tables(changed.transitions, changed.forks, columns, "here")


def test_loading_checks_the_values_too(folder) -> None:
    loaded = load_meta_dataset(folder)
    loaded.forks.loc[0, "regret"] = 5.0
    _forge_table(folder, "forks", module.to_parquet(loaded.forks, module.FORK_COLUMNS))
    with pytest.raises(ArtifactError, match="regret does not follow from final_loss"):
        load_meta_dataset(folder)


def _drop_fork(record: RunRecord) -> None:
    record.forks.pop()


def _repeat_fork(record: RunRecord) -> None:
    record.forks.append(record.forks[0])


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (_drop_fork, "forks are not those of its plan .5 of 6 candidates"),
        (_repeat_fork, "forks are not those of its plan .7 of 6 candidates"),
        (lambda r: r.forks[0].update(factor=0.3), "factor 0.3 of candidate 0 is not its peak over"),
        (lambda r: r.forks[0].pop("factor"), "not that of a trunk .KeyError.'factor'"),
        (lambda r: r.rows[0].pop("probe"), "KeyError.'probe'"),
        (lambda r: r.rows[0].update(probe=None), "TypeError"),
        (lambda r: r.rows.clear(), "IndexError"),
        (lambda r: r.rows.pop(2), "KeyError.2.|epochs must run"),
        (lambda r: r.rows[1]["features"].pop(), "2 features instead of 3"),
        (lambda r: r.rows[1].update(lr="fast"), "wrong type.*fast"),
        (lambda r: r.result["final"].clear(), "diverged"),
    ],
)
def test_records_that_lack_something_are_refused(change, problem) -> None:
    record = _record()
    build_meta_dataset([record], NAMES, SETTINGS)
    change(record)
    if "diverged" in problem:  # a run without a final loss counts as diverged, as a branch does
        assert build_meta_dataset([record], NAMES, SETTINGS).transitions["diverged"].all()
        return
    with pytest.raises(ArtifactError, match=problem):
        build_meta_dataset([record], NAMES, SETTINGS)


def test_nonsense_as_a_whole_is_refused() -> None:
    with pytest.raises(ArtifactError, match="listed twice"):
        build_meta_dataset([_record(), _record()], NAMES, SETTINGS)
    with pytest.raises(ArtifactError, match="no forks"):
        build_meta_dataset([], NAMES, SETTINGS)
    with pytest.raises(ArtifactError, match="a feature name occurs twice: a, a, b"):
        build_meta_dataset([_record()], ("a", "a", "b"), SETTINGS)
    with pytest.raises(ValueError, match="JSON"):
        build_meta_dataset([_record()], NAMES, {"span": math.nan})


def test_a_crash_while_saving_leaves_the_old_one_or_the_new_one(dataset, folder, monkeypatch) -> None:
    new = build_meta_dataset(_records()[:4], NAMES, SETTINGS)
    seen = []
    for crash_at in range(5):
        calls = itertools.count()

        def crashing(path: Path, value: Any, *, calls=calls, crash_at=crash_at, write: Any) -> None:
            if next(calls) == crash_at:
                raise OSError(28, "No space left on device", str(path))
            write(path, value)

        with monkeypatch.context() as patch:
            for name in ("write_atomically", "write_json"):
                write = getattr(module, name)
                patch.setattr(
                    module, name, lambda path, value, write=write: crashing(path, value, write=write)
                )
            if crash_at < 4:
                with pytest.raises(OSError, match="No space left"):
                    save_meta_dataset(new, folder)
            else:
                save_meta_dataset(new, folder)
        seen.append(load_meta_dataset(folder).card["digest"])
    old_digest, new_digest = dataset.card["digest"], new.card["digest"]
    assert seen == [old_digest] * 3 + [new_digest] * 2
    assert len(_files(folder)) == 3, "tables of the old one are gone"


def test_a_table_changed_after_building_is_not_saved(dataset, tmp_path) -> None:
    dataset.forks.loc[0, "factor"] = 3.0
    with pytest.raises(ArtifactError, match="changed after it was built"):
        save_meta_dataset(dataset, tmp_path / "changed")
    assert not (tmp_path / "changed").exists()
