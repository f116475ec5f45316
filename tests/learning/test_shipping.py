from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from learning.planted import planted_examples

import metalr
from metalr.config import MetaTrainConfig
from metalr.control import FEATURE_NAMES
from metalr.learning import shipping
from metalr.learning.controller import PRETRAINED, shipped_controllers
from metalr.learning.examples import REGRET_FLOOR
from metalr.training import ArtifactError
from metalr.training.artifacts import read_json, sha256_of_file

QUICK = MetaTrainConfig(
    epochs=30, hidden=16, ensemble=1, num_folds=2, mask_rate=0.0, lr=0.004, unprobed=False
)
DATASET = SimpleNamespace(card={"settings": {"name": "planted"}, "digest": "d", "counts": {"forks": 1}})
SHIPPED = [name for name in shipped_controllers() if name != "default"]


def built(folder: Path, monkeypatch: pytest.MonkeyPatch, *, blind: bool = False) -> list[Path]:
    monkeypatch.setattr(shipping, "make_examples", lambda dataset: planted_examples(40, blind=blind))
    dataset: Any = DATASET
    return shipping.build_shipped(dataset, QUICK, folder)


def test_what_is_built_twice_is_equal_byte_by_byte(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("first", "second"):
        built(tmp_path / name, monkeypatch)
    files = sorted(path.name for path in (tmp_path / "first").iterdir())
    assert files == ["lstm.json", "lstm.safetensors", "mlp.json", "mlp.safetensors", "registry.json"]
    for name in files:
        assert (tmp_path / "first" / name).read_bytes() == (tmp_path / "second" / name).read_bytes()
    cards = {name: read_json(tmp_path / "first" / f"{name}.json") for name in ("mlp", "lstm")}
    best = min(cards, key=lambda name: cards[name]["held_out"]["learned"])
    assert read_json(tmp_path / "first" / "registry.json")["default"] == best
    assert set(cards["mlp"]) >= {"sha256", "meta_dataset_digest", "task_groups", "held_out", "limits", "meta"}


def test_what_gains_nothing_over_the_anchor_does_not_ship(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The negative control of the gate: nothing in the state tells the best LR."""
    with pytest.raises(
        ArtifactError, match=r"must not ship: its gain over the anchor alone on held-out tasks is"
    ):
        built(tmp_path, monkeypatch, blind=True)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", SHIPPED)
def test_a_shipped_controller_is_whole_small_and_made_from_the_shipped_meta_dataset(name: str) -> None:
    path = shipped_controllers()[name]
    card = read_json(path.with_suffix(".json"))
    meta_data = Path(metalr.__file__).parents[1] / "meta_data"
    assert card["sha256"] == sha256_of_file(path)
    assert card["held_out"]["gain_over_anchor"] > 0.0
    assert card["held_out"]["gain_over_anchor_low"] > -REGRET_FLOOR
    assert card["feature_names"] == list(FEATURE_NAMES)
    assert card["meta_datasets"] == {
        part: read_json(meta_data / part / "card.json")["digest"] for part in card["meta_datasets"]
    }
    controller = metalr.load_controller(name)
    _, prediction = controller.step(controller.initial_state(), np.full(len(FEATURE_NAMES), np.nan))
    assert np.isfinite(prediction.log_regrets).all()


def test_the_package_ships_a_default_and_less_than_a_mebibyte() -> None:
    paths = shipped_controllers()
    assert set(paths) >= {"default", "mlp", "lstm"}
    assert metalr.load_controller("default").sha256 in {
        metalr.load_controller(name).sha256 for name in SHIPPED
    }
    assert sum(file.stat().st_size for file in PRETRAINED.iterdir()) < 2**20
