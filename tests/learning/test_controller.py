import json
from pathlib import Path

import numpy as np
import pytest
import torch
from learning.planted import OFFSETS

from metalr import load_controller
from metalr.control import FEATURE_NAMES
from metalr.learning.controller import LearnedController, save_controller
from metalr.learning.learners import Learner, make_learner
from metalr.training import ArtifactError

ARCHITECTURE = {"hidden": 8, "window": 2, "log_offsets": OFFSETS.tolist()}


def members_of(name: str) -> list[Learner]:
    torch.manual_seed(0)
    return [make_learner(name, len(FEATURE_NAMES), len(OFFSETS), 8, 2) for _ in range(3)]


def saved(folder: Path, name: str = "mlp") -> Path:
    return save_controller(folder, name, members_of(name), ARCHITECTURE | {"learner": name}, {"note": "test"})


@pytest.mark.parametrize("name", ["mlp", "lstm"])
def test_a_loaded_controller_predicts_what_the_saved_members_do(name: str, tmp_path: Path) -> None:
    controller = load_controller(saved(tmp_path, name))
    members = members_of(name)
    trace = np.random.default_rng(0).normal(size=(4, len(FEATURE_NAMES)))
    trace[1, 3] = np.nan
    whole = torch.stack([member(torch.as_tensor(trace, dtype=torch.float32)[None])[0] for member in members])
    state = controller.initial_state()
    for features, expected in zip(trace, whole.mean(dim=0), strict=True):
        state, prediction = controller.step(state, features)
        found = [*prediction.log_regrets, prediction.log_final_loss]
        assert found == pytest.approx(expected.tolist(), rel=1e-4, abs=1e-6)
    assert all(isinstance(value, float) for value in state)
    assert controller.log_offsets == pytest.approx(tuple(OFFSETS))


@pytest.mark.parametrize("name", ["mlp", "lstm"])
def test_a_feature_beyond_what_was_learned_from_counts_as_the_nearest_that_was(
    name: str, tmp_path: Path
) -> None:
    lowest: list[float | None] = [-1.0] * len(FEATURE_NAMES)
    highest: list[float | None] = [1.0] * len(FEATURE_NAMES)
    lowest[5] = highest[5] = None  # never seen: nothing to compare with
    architecture = ARCHITECTURE | {"learner": name, "seen": [lowest, highest]}
    bounded = load_controller(save_controller(tmp_path / "seen", name, members_of(name), architecture, {}))
    free = load_controller(saved(tmp_path, name))
    inside = np.random.default_rng(0).uniform(-1.0, 1.0, size=len(FEATURE_NAMES))
    inside[3], inside[5] = np.nan, 7.0
    edge, far = inside.copy(), inside.copy()
    edge[0], far[0] = 1.0, 3.0
    state = free.initial_state()
    assert bounded.step(state, inside) == free.step(state, inside)
    assert bounded.step(state, far) == free.step(state, edge)
    assert free.step(state, far) != free.step(state, edge)


def test_every_bit_flip_and_truncation_of_the_weights_is_found(tmp_path: Path) -> None:
    path = saved(tmp_path)
    content = path.read_bytes()
    for position in range(0, len(content), max(1, len(content) // 25)):
        flipped = bytearray(content)
        flipped[position] ^= 1 << position % 8
        path.write_bytes(flipped)
        with pytest.raises(ArtifactError, match="damaged"):
            load_controller(path)
    for length in (0, 7, len(content) // 2, len(content) - 1):
        path.write_bytes(content[:length])
        with pytest.raises(ArtifactError, match="damaged"):
            load_controller(path)
    path.write_bytes(content)
    assert isinstance(load_controller(path), LearnedController)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"card_version": 99}, "card version 99"),
        ({"feature_names": ["another"]}, "made for other features"),
    ],
)
def test_a_card_of_another_kind_is_refused(change: dict, message: str, tmp_path: Path) -> None:
    path = saved(tmp_path)
    card = json.loads(path.with_suffix(".json").read_text())
    path.with_suffix(".json").write_text(json.dumps(card | change))
    with pytest.raises(ArtifactError, match=message):
        load_controller(path)


def test_a_missing_controller_or_card_is_named(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"no controller at 'default.*give the path"):
        load_controller("defaultest")
    path = saved(tmp_path)
    path.with_suffix(".json").unlink()
    with pytest.raises(ArtifactError, match=r"mlp\.json: no such file"):
        load_controller(path)


def test_no_pickle_is_ever_opened(tmp_path: Path) -> None:
    canary = tmp_path / "canary"

    class Payload:
        def __reduce__(self) -> tuple:
            return (canary.touch, ())

    path = saved(tmp_path)
    torch.save(Payload(), path)
    with pytest.raises(ArtifactError):
        load_controller(path)
    assert not canary.exists()


def test_predictions_count_by_their_trust_where_a_probe_told_the_scale_and_whole_elsewhere(
    tmp_path: Path,
) -> None:
    prior = list(np.linspace(-2.0, 1.0, len(OFFSETS)))
    leaning = ARCHITECTURE | {"learner": "mlp", "prior": prior, "trust": 0.25}
    controller = load_controller(save_controller(tmp_path, "leaning", members_of("mlp"), leaning, {}))
    whole = load_controller(saved(tmp_path))
    features = np.random.default_rng(0).normal(size=len(FEATURE_NAMES))

    def regrets(of: LearnedController) -> np.ndarray:
        return np.array(of.step(of.initial_state(), features)[1].log_regrets)

    expected = np.array(prior) + 0.25 * (regrets(whole) - np.array(prior))
    np.testing.assert_allclose(regrets(controller), expected, rtol=1e-5)
    features[FEATURE_NAMES.index("log_reference_lr")] = np.nan
    np.testing.assert_allclose(regrets(controller), regrets(whole), rtol=1e-5)
