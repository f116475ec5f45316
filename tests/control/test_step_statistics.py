"""The hooks against the training loop's own measurements and against norms worked out step by step."""

import copy
import gc
import math
import pickle

import pytest
import torch
from torch import nn
from training.tiny import TRAIN, tiny_task

from metalr.control import make_schedule
from metalr.control.step_statistics import StepStatistics
from metalr.training.loop import Training, make_optimizer, train_epoch


def small(momentum: float = 0.9, **kwargs: object) -> tuple[nn.Module, torch.optim.Optimizer]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 1))
    return model, torch.optim.SGD(model.parameters(), lr=0.05, momentum=momentum, **kwargs)


def train(model: nn.Module, optimizer: torch.optim.Optimizer, steps: int) -> list[float]:
    """The norm of the gradient of every step."""
    norms = []
    for step in range(steps):
        inputs = torch.sin(torch.arange(32.0).reshape(8, 4) * (step + 1))
        optimizer.zero_grad()
        (model(inputs) - inputs.sum(1, keepdim=True)).square().mean().backward()
        norms.append(math.sqrt(sum(float(p.grad.square().sum()) for p in model.parameters())))
        optimizer.step()
    return norms


def distance(model: nn.Module, before: list[torch.Tensor]) -> float:
    pairs = zip(model.parameters(), before, strict=True)
    return math.sqrt(sum(float((p.detach() - b).square().sum()) for p, b in pairs))


def mean_and_sd(values: list[float]) -> tuple[float, float]:
    mean = sum(values) / len(values)
    return mean, math.sqrt(sum((value - mean) ** 2 for value in values) / len(values))


def test_an_epoch_of_the_training_loop_is_seen_as_the_loop_sees_it() -> None:
    task = tiny_task(dropout=0.0)
    model = task.make_model(3)
    train = TRAIN.model_copy(update={"batch_size": 4})
    optimizer = make_optimizer(model, train)
    training = Training(task, train, model, optimizer, make_schedule("cosine", optimizer, 4, 32), 3, 32)
    statistics = StepStatistics(optimizer, model)
    for _ in range(2):
        seen = train_epoch(training).observation
        for name, value in statistics.read().items():
            assert value == pytest.approx(getattr(seen, name), rel=1e-6), name
        assert len(statistics.read()) == 4
        statistics.reset(is_whole_epoch=True)


def test_without_the_number_of_steps_the_samples_thin_out_and_stay_spread_over_the_epoch() -> None:
    model, optimizer = small()
    statistics = StepStatistics(optimizer)
    before = [p.detach().clone() for p in model.parameters()]
    norms = train(model, optimizer, 100)
    # every step up to the 16th sample, then every 2nd, 4th and 8th; each time every other sample is dropped
    sampled = norms[:100:8]
    mean, sd = mean_and_sd(sampled)
    found = statistics.read()
    assert found["grad_norm"] == pytest.approx(mean, rel=1e-5)
    assert found["grad_norm_sd"] == pytest.approx(sd, rel=1e-4)
    assert found["update_norm"] == pytest.approx(distance(model, before), rel=1e-5)
    assert found["weight_norm"] == pytest.approx(
        distance(model, [torch.zeros_like(p) for p in model.parameters()]), rel=1e-5
    )


def test_after_a_whole_epoch_the_samples_are_spread_evenly() -> None:
    model, optimizer = small()
    statistics = StepStatistics(optimizer)
    train(model, optimizer, 17)
    statistics.reset(is_whole_epoch=True)
    assert statistics.steps_per_epoch == 17
    before = [p.detach().clone() for p in model.parameters()]
    norms = train(model, optimizer, 17)
    found = statistics.read()
    assert found["grad_norm"] == pytest.approx(mean_and_sd(norms[::4])[0], rel=1e-5)
    assert found["update_norm"] == pytest.approx(distance(model, before), rel=1e-5)


@pytest.mark.parametrize(("num_steps", "num_samples"), [(1, 1), (3, 3), (8, 4), (16, 4), (32, 8), (100, 8)])
def test_a_known_epoch_is_sampled_four_to_eight_times_and_rarely_more_than_every_fourth_step(
    num_steps: int, num_samples: int
) -> None:
    model, optimizer = small()
    statistics = StepStatistics(optimizer)
    for _ in range(2):
        train(model, optimizer, num_steps)
        state, found = statistics.state_dict(), statistics.read()
        statistics.reset(is_whole_epoch=True)
    assert len(state["norms"]) == num_samples
    assert ("grad_norm_sd" in found) == (num_samples > 1)  # a spread of one is not known, not zero


def test_gradients_of_a_closure_are_those_of_its_own_step() -> None:
    model, optimizer = small()
    statistics = StepStatistics(optimizer)
    norms = []
    for step in range(3):

        def closure(step: int = step) -> torch.Tensor:
            optimizer.zero_grad()
            loss = (model(torch.full((2, 4), float(step))) - 1.0).square().mean()
            loss.backward()
            norms.append(math.sqrt(sum(float(p.grad.square().sum()) for p in model.parameters())))
            return loss

        optimizer.step(closure) if step % 2 else optimizer.step(closure=closure)
    assert statistics.read()["grad_norm"] == pytest.approx(sum(norms) / 3, rel=1e-5)


def test_frozen_and_unused_parameters_count_as_weights_only() -> None:
    model, optimizer = small()
    model[0].requires_grad_(False)
    statistics = StepStatistics(optimizer)
    before = [p.detach().clone() for p in model.parameters()]
    optimizer.zero_grad()
    model(torch.ones(2, 4)).sum().backward()
    norm = math.sqrt(sum(float(p.grad.square().sum()) for p in model[2].parameters()))
    optimizer.step()
    found = statistics.read()
    assert found["grad_norm"] == pytest.approx(norm, rel=1e-6)
    assert found["update_norm"] == pytest.approx(distance(model, before), rel=1e-5)
    assert found["weight_norm"] == pytest.approx(
        distance(model, [torch.zeros_like(p) for p in model.parameters()]), rel=1e-6
    )


def test_sparse_gradients_are_measured() -> None:
    table = nn.Embedding(10, 3, sparse=True)
    optimizer = torch.optim.SGD(table.parameters(), lr=0.1)
    statistics = StepStatistics(optimizer)
    table(torch.tensor([1, 1, 4])).sum().backward()
    optimizer.step()
    assert statistics.read()["grad_norm"] == pytest.approx(math.sqrt(3 * 2.0**2 + 3 * 1.0))
    assert statistics.read()["update_norm"] == pytest.approx(0.1 * math.sqrt(15))


def test_a_step_that_a_grad_scaler_skips_is_not_there() -> None:
    model, optimizer = small()
    statistics = StepStatistics(optimizer)
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
    norms = []
    for step in range(4):
        optimizer.zero_grad()
        loss = model(torch.ones(2, 4)).square().mean() * (math.inf if step == 1 else 1.0)
        scaler.scale(loss).backward()
        scaler.unscale_(optimizer)
        if step != 1:
            norms.append(math.sqrt(sum(float(p.grad.square().sum()) for p in model.parameters())))
        scaler.step(optimizer)
        scaler.update()
    assert statistics.read()["grad_norm"] == pytest.approx(sum(norms) / 3, rel=1e-5)
    statistics.reset(is_whole_epoch=True)
    assert statistics.steps_per_epoch == 3


def test_a_fused_optimizer_that_unscales_by_itself_is_seen_unscaled() -> None:
    norms = []
    for scale in (None, 1024.0):
        torch.manual_seed(0)
        model = nn.Linear(4, 1)
        optimizer = torch.optim.AdamW(model.parameters(), lr=0.01, fused=True)
        statistics = StepStatistics(optimizer)
        scaler = torch.amp.GradScaler("cpu", init_scale=scale or 1.0, enabled=scale is not None)
        for step in range(3):
            optimizer.zero_grad()
            loss = model(torch.ones(2, 4)).square().mean()
            bad = scale is not None and step == 1
            scaler.scale(loss * (math.inf if bad else 1.0)).backward()
            if scale is None and step == 1:
                continue
            scaler.step(optimizer)
            scaler.update(new_scale=scale)
        norms.append(statistics.read()["grad_norm"])
    assert math.isfinite(norms[0])
    assert norms[1] == pytest.approx(norms[0], rel=1e-4)


def test_hooks_are_no_part_of_the_optimizer_and_go_with_their_owner() -> None:
    model, optimizer = small()
    statistics = StepStatistics(optimizer)
    assert set(optimizer.state_dict()) == {"state", "param_groups"}
    copied = copy.deepcopy(optimizer)
    pickle.loads(pickle.dumps(optimizer))
    assert not copied._optimizer_step_pre_hooks
    train(model, optimizer, 2)
    num_seen = statistics.state_dict()["num_steps"]
    statistics.close()
    assert not optimizer._optimizer_step_pre_hooks and not optimizer._optimizer_step_post_hooks
    train(model, optimizer, 2)
    assert statistics.state_dict()["num_steps"] == num_seen == 2
    statistics.close()
    other = StepStatistics(optimizer)
    del other
    gc.collect()
    train(model, optimizer, 1)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # torch's own, while it compiles
def test_compiled_steps_are_passed_over() -> None:
    model, optimizer = small()
    statistics = StepStatistics(optimizer)
    compiled = torch.compile(optimizer.step, backend="eager")
    model(torch.ones(2, 4)).sum().backward()
    before = model[0].weight.detach().clone()
    compiled()
    assert not torch.equal(model[0].weight, before)
    assert statistics.read() == {}


@pytest.mark.parametrize("done", [0, 1, 5, 40])
def test_its_state_goes_on_but_for_the_weights_at_the_start(done: int) -> None:
    model, optimizer = small()
    straight = StepStatistics(optimizer)
    train(model, optimizer, 20)
    straight.reset(is_whole_epoch=True)
    train(model, optimizer, done)
    state = straight.state_dict()
    assert all(isinstance(norm, float) for norm in state["norms"])
    resumed = StepStatistics(optimizer)
    resumed.load_state_dict(state)
    train(model, optimizer, 45)
    expected = straight.read()
    if done:
        del expected["update_norm"]
    assert resumed.read() == expected
    straight.reset(is_whole_epoch=True), resumed.reset(is_whole_epoch=True)
    train(model, optimizer, 3)
    assert resumed.read() == straight.read()


def test_the_call_before_the_next_step_comes_once() -> None:
    model, optimizer = small()
    statistics = StepStatistics(optimizer)
    calls = []
    statistics.before_next_step = lambda: calls.append(model[0].weight[0, 0].item())
    first = model[0].weight[0, 0].item()
    train(model, optimizer, 3)
    assert calls == [first]
