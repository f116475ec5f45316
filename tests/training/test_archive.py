"""A packed run is the run, bit for bit; what is damaged or hostile leaves no file behind."""

from __future__ import annotations

import copy
import json
import lzma
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock
from training.tiny import TRAIN, job_of, tiny_spec, tiny_task
from typer.testing import CliRunner

from metalr.cli import app
from metalr.training import ArtifactError, RunStore, archive, train_run
from metalr.training.archive import finished_runs, pack_runs, run_ids_of_manifest, unpack_runs

PACKED = ("forks.jsonl", "lrs.jsonl", "metrics.jsonl", "result.json", "spec.json")


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> RunStore:
    """Two finished runs, one of them with forks and a figure, and one that was never finished."""
    root = tmp_path_factory.mktemp("runs")
    short = TRAIN.model_copy(update={"epochs": 1})
    for seed in (3, 4):
        train_run(job_of(tiny_spec(train=short, seed=seed), root), tiny_task())
    found = RunStore(root)
    folder = found.run_dir(finished_runs(found)[0])
    (folder / "forks.jsonl").write_text('{"epoch": 0, "note": "naïve"}\n', encoding="utf-8")
    (folder / "curves.svg").write_text("<svg/>")
    (root / "0123456789abcdef").mkdir()
    (root / "0123456789abcdef" / "spec.json").write_text("{}")
    return found


@pytest.fixture
def packed(store: RunStore, tmp_path: Path) -> Path:
    path = tmp_path / "runs.jsonl.xz"
    assert pack_runs(store, finished_runs(store), path) == 2
    return path


def files_of(store: RunStore) -> dict[str, bytes]:
    return {
        f"{identity}/{name}": (store.run_dir(identity) / name).read_bytes()
        for identity in finished_runs(store)
        for name in PACKED
        if (store.run_dir(identity) / name).is_file()
    }


def lines_of(path: Path) -> list[Any]:
    return [json.loads(line) for line in lzma.open(path)]


def rewrite(path: Path, lines: list[Any]) -> None:
    path.write_bytes(lzma.compress("".join(json.dumps(line) + "\n" for line in lines).encode()))


def everything_in(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def test_a_run_comes_back_as_it_was(store: RunStore, packed: Path, tmp_path: Path) -> None:
    other = RunStore(tmp_path / "other")
    unpacked = unpack_runs(packed, other)
    assert (unpacked.written, unpacked.kept) == (finished_runs(store), [])
    assert files_of(other) == files_of(store)
    assert len(files_of(other)) == 9  # two runs of four files, and one forks.jsonl
    for identity in finished_runs(store):
        assert other.load(identity) == store.load(identity)


def test_the_same_runs_give_the_same_bytes(store: RunStore, packed: Path, tmp_path: Path) -> None:
    first, second = finished_runs(store)
    os.utime(store.run_dir(first) / "spec.json", (1, 1))
    again = tmp_path / "again.jsonl.xz"
    assert pack_runs(store, [second, first, second], again) == 2
    assert again.read_bytes() == packed.read_bytes()
    pack_runs(store, [second], again)
    assert again.read_bytes() != packed.read_bytes()


def test_unpacking_leaves_a_finished_run_and_replaces_an_unfinished_one(
    store: RunStore, packed: Path, tmp_path: Path
) -> None:
    other = RunStore(tmp_path / "other")
    first, second = finished_runs(store)
    other.commit(first, {"status": "mine"})
    half = other.run_dir(second)
    half.mkdir()
    for name in ("metrics.jsonl", "forks.jsonl", "ckpt-1.pt"):
        (half / name).write_text("half")
    unpacked = unpack_runs(packed, other)
    assert (unpacked.written, unpacked.kept) == ([second], [first])
    assert json.loads((other.run_dir(first) / "result.json").read_text()) == {"status": "mine"}
    assert everything_in(half) == ["lock", "lrs.jsonl", "metrics.jsonl", "result.json", "spec.json"]
    assert other.load(second) == store.load(second)


def test_a_run_in_training_is_left_to_its_trainer(store: RunStore, packed: Path, tmp_path: Path) -> None:
    other = RunStore(tmp_path / "other")
    first, second = finished_runs(store)
    other.run_dir(first).mkdir(parents=True)
    with FileLock(other.run_dir(first) / "lock"):
        unpacked = unpack_runs(packed, other)
    assert (unpacked.written, unpacked.kept) == ([second], [first])
    assert everything_in(other.run_dir(first)) == ["lock"]


@pytest.mark.parametrize("num_files", range(4))
def test_a_killed_unpacking_commits_nothing_half(
    store: RunStore, packed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, num_files: int
) -> None:
    other, written = RunStore(tmp_path / "other"), []

    def write(path: Path, content: bytes) -> None:
        if len(written) == num_files:
            raise KeyboardInterrupt
        written.append(path)
        path.write_bytes(content)

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(archive, "write_atomically", write)
        unpack_runs(packed, other)
    assert finished_runs(other) == []
    train_run(job_of(store.load(finished_runs(store)[0]).spec, other.root), tiny_task())  # goes on from it
    assert unpack_runs(packed, other).written == finished_runs(store)[1:]
    assert other.load(finished_runs(store)[1]) == store.load(finished_runs(store)[1])


def test_only_whole_finished_runs_are_packed(store: RunStore, tmp_path: Path) -> None:
    path = tmp_path / "runs.jsonl.xz"
    for wanted in ("0123456789abcdef", "f" * 16, "../secret"):
        with pytest.raises(ArtifactError, match=r"1 of 3 runs are not finished there \(first: "):
            pack_runs(store, [*finished_runs(store), wanted], path)
    other = RunStore(tmp_path / "other")
    stranger = other.run_dir("f" * 16)
    stranger.mkdir(parents=True)
    for name in ("spec.json", "metrics.jsonl", "result.json"):
        source = store.run_dir(finished_runs(store)[0]) / name
        (stranger / name).write_bytes(source.read_bytes())
    with pytest.raises(ArtifactError, match=r"not packed, its spec.json is that of run [0-9a-f]{16}$"):
        pack_runs(other, ["f" * 16], path)
    assert not path.exists()


def test_every_flipped_byte_is_noticed(packed: Path, tmp_path: Path) -> None:
    whole = packed.read_bytes()
    for position in [*range(0, len(whole), 97), len(whole) - 1]:
        packed.write_bytes(
            whole[:position] + bytes([whole[position] ^ 1 << position % 8]) + whole[position + 1 :]
        )
        with pytest.raises(ArtifactError, match=r"damaged") as caught:
            unpack_runs(packed, RunStore(tmp_path / "other"))
        assert len(str(caught.value).splitlines()) == 1
    for length in (0, 10, len(whole) // 2, len(whole) - 1):
        packed.write_bytes(whole[:length])
        with pytest.raises(ArtifactError, match=r"damaged"):
            unpack_runs(packed, RunStore(tmp_path / "other"))
    assert not (tmp_path / "other").exists()
    packed.write_bytes(whole)
    assert len(unpack_runs(packed, RunStore(tmp_path / "other")).written) == 2


def change(path: tuple[Any, ...], value: Any) -> Callable[[list[Any]], None]:
    """Replaces what lies at `path` in the lines; a function as value is applied to it."""

    def apply(lines: list[Any]) -> None:
        *sections, last = path
        place: Any = lines
        for key in sections:
            place = place[key]
        place[last] = value(place[last]) if callable(value) else value

    return apply


def rename(old: str, new: str) -> Callable[[list[Any]], None]:
    def apply(lines: list[Any]) -> None:
        lines[-1]["files"][new] = lines[-1]["files"].pop(old)

    return apply


def flip_in_text(text: str) -> str:
    return text.replace("1", "2", 1)


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (change((2, "run_id"), "../../escaped"), "'../../escaped' is no run id"),
        (change((2, "run_id"), "/tmp/escaped"), "'/tmp/escaped' is no run id"),
        (change((2, "run_id"), "f" * 16 + "\n"), "is no run id"),
        (change((2, "run_id"), "F" * 16), "is no run id"),
        (change((2, "run_id"), 7), "7 is no run id"),
        (change((2, "run_id"), "f" * 16), "its spec.json is that of run"),
        (rename("lrs.jsonl", "../lrs.jsonl"), "its files are not those of a run"),
        (rename("lrs.jsonl", "/etc/cron.d/x"), "its files are not those of a run"),
        (rename("lrs.jsonl", "ckpt-1.pt"), "its files are not those of a run"),
        (rename("result.json", "forks.jsonl"), "its files are not those of a run"),
        (change((2, "files", "metrics.jsonl", "text"), flip_in_text), "does not have its SHA-256"),
        (change((2, "files", "metrics.jsonl", "text"), None), "metrics.jsonl has no text"),
        (change((2, "files", "metrics.jsonl", "text"), "\ud800"), "surrogates not allowed"),
        (change((2, "files"), []), "its files are not those of a run"),
        (change((2,), [1, 2]), "a line that is no run"),
        (lambda lines: lines.pop(), "1 runs in it, not 2"),
        (lambda lines: lines.append(lines[1]), "is in it twice"),
        (change((0, "version"), 2), "no archive of runs of this version"),
        (change((0,), "hello"), "no archive of runs of this version"),
    ],
)
def test_a_hostile_archive_writes_nothing(
    packed: Path, tmp_path: Path, spoil: Callable[[list[Any]], None], said: str
) -> None:
    lines = lines_of(packed)
    rewrite(packed, copy.deepcopy(lines))
    other = RunStore(tmp_path / "deep" / "down" / "other")
    spoiled = copy.deepcopy(lines)
    spoil(spoiled)
    rewrite(packed, spoiled)
    before = everything_in(tmp_path)
    with pytest.raises(ArtifactError) as caught:
        unpack_runs(packed, other)
    assert said in str(caught.value)
    assert str(caught.value).startswith(f"{packed}: damaged") and len(str(caught.value).splitlines()) == 1
    assert everything_in(tmp_path) == before
    rewrite(packed, lines)  # the negative control: unspoiled, the same way of writing is taken
    assert len(unpack_runs(packed, other).written) == 2


def test_lines_without_end_and_without_bottom_are_refused(packed: Path, tmp_path: Path) -> None:
    header = json.dumps(lines_of(packed)[0]).encode() + b"\n"
    for content in (header + b"x" * (archive._MAX_LINE_BYTES + 1), header + b"[" * 10**6 + b"\n"):
        packed.write_bytes(lzma.compress(content, preset=0))
        with pytest.raises(ArtifactError, match="damaged"):
            unpack_runs(packed, RunStore(tmp_path / "other"))


def test_a_manifest_names_runs(tmp_path: Path) -> None:
    path = tmp_path / "manifest.json"
    path.write_text('{"run_ids": ["a", "b"]}')
    assert run_ids_of_manifest(path) == ["a", "b"]
    for text in ("[]", "{}", '{"run_ids": "ab"}', '{"run_ids": [1]}'):
        path.write_text(text)
        with pytest.raises(ArtifactError, match="no list run_ids in it"):
            run_ids_of_manifest(path)


def test_the_command_packs_and_unpacks(store: RunStore, tmp_path: Path) -> None:
    def invoke(*words: object) -> tuple[int, str, str]:
        result = CliRunner().invoke(app, ["runs", *map(str, words)])
        return result.exit_code, result.stdout, result.stderr

    first, second = finished_runs(store)
    manifest, whole, part = (tmp_path / name for name in ("manifest.json", "all.jsonl.xz", "one.jsonl.xz"))
    manifest.write_text(json.dumps({"run_ids": [second]}))
    code, said, _ = invoke("pack", whole, f"store={store.root}")
    assert (code, said) == (0, f"Pack: 2 runs, {whole.stat().st_size:,} bytes\n{whole}\n")
    assert invoke("pack", part, "--run-ids-from", manifest, f"store={store.root}")[0] == 0
    other = tmp_path / "other"
    assert invoke("unpack", part, f"store={other}") == (
        0,
        f"Unpack: 1 runs, 0 were there already\n{other}\n",
        "",
    )
    assert finished_runs(RunStore(other)) == [second]
    assert invoke("unpack", whole, f"store={other}")[1].startswith("Unpack: 1 runs, 1 were there already")
    assert finished_runs(RunStore(other)) == [first, second]
    whole.write_bytes(whole.read_bytes()[:100])
    code, _, said = invoke("unpack", whole, f"store={other}")
    assert (code, len(said.splitlines())) == (2, 1)
    manifest.write_text(json.dumps({"run_ids": ["f" * 16]}))
    code, _, said = invoke("pack", part, "--run-ids-from", manifest, f"store={store.root}")
    assert (code, said) == (2, f"{store.root}: 1 of 1 runs are not finished there (first: {'f' * 16})\n")
