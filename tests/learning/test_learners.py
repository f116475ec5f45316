import pytest
import torch

from metalr.learning.learners import CLIP, Learner, make_learner

FEATURES, CANDIDATES = 5, 4


def learner_of(name: str, window: int = 3) -> Learner:
    torch.manual_seed(0)
    learner = make_learner(name, FEATURES, CANDIDATES, hidden=7, window=window)
    learner.mean_F.copy_(torch.tensor([0.0, 1.0, -1.0, 0.5, 2.0]))
    learner.sd_F.copy_(torch.tensor([1.0, 2.0, 0.5, 1.0, 3.0]))
    return learner


def traces() -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    values = torch.randn(2, 6, FEATURES, generator=generator)
    values[torch.rand(values.shape, generator=generator) < 0.3] = float("nan")
    return values


@pytest.mark.parametrize(("name", "window"), [("mlp", 1), ("mlp", 3), ("lstm", 1)])
def test_the_whole_trace_at_once_equals_one_observation_at_a_time(name: str, window: int) -> None:
    learner = learner_of(name, window)
    whole = learner(traces())
    for trace, expected in zip(traces(), whole, strict=True):
        state = learner.initial_state()
        for features, heads in zip(trace, expected, strict=True):
            state, found = learner.step(state, features)
            torch.testing.assert_close(found, heads, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", ["mlp", "lstm"])
def test_causality_later_observations_change_nothing_earlier(name: str) -> None:
    learner, values = learner_of(name), traces()
    changed = values.clone()
    changed[:, 4:] = 9.0
    torch.testing.assert_close(learner(changed)[:, :4], learner(values)[:, :4], rtol=0, atol=0)
    assert not torch.equal(learner(changed)[:, 4], learner(values)[:, 4])  # negative control


def test_encoding_by_hand() -> None:
    encoded = learner_of("mlp").encode(torch.tensor([1.0, 3.0, float("nan"), 100.0, -1.0]))
    assert encoded.tolist() == [1.0, 1.0, 0.0, CLIP, -1.0, 1.0, 1.0, 0.0, 1.0, 1.0]


def test_the_mlp_sees_its_window_and_no_more() -> None:
    learner, values = learner_of("mlp", window=2), traces()
    changed = values.clone()
    changed[:, 0] = 9.0
    torch.testing.assert_close(learner(changed)[:, 2:], learner(values)[:, 2:], rtol=0, atol=0)
    assert not torch.equal(learner(changed)[:, 1], learner(values)[:, 1])


def test_an_unknown_learner_is_named() -> None:
    with pytest.raises(ValueError, match="'gru'; known: mlp, lstm"):
        make_learner("gru", 1, 1, 4, 1)
