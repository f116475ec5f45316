"""MetaLR against LRs worked out by hand, its bounds, its rollback, and its state."""

import copy
import io
import math
import warnings

import numpy as np
import pytest
import torch
from control.controllers import BrokenController, RuleController
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.optim.lr_scheduler import SequentialLR

from metalr.config import ControlConfig
from metalr.control import MetaLR, Observation, Prediction, ProbeCurve
from metalr.control.decision import predicted_gain

NO_WARMUP = ControlConfig(anchor="linear", warmup_fraction=0.0, max_rise=100.0)


def one_weight(lr: float = 0.1) -> tuple[nn.Linear, torch.optim.SGD]:
    model = nn.Linear(1, 1, bias=False)
    nn.init.constant_(model.weight, 1.0)
    return model, torch.optim.SGD(model.parameters(), lr=lr, momentum=2 / 3)  # whose usual LR is 0.1


def run_epochs(scheduler: MetaLR, optimizer: torch.optim.Optimizer, losses: list[float]) -> list[float]:
    lrs = []
    for loss in losses:
        lrs.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step({"train/loss": loss})
    return lrs


def test_the_lr_of_every_epoch_is_peak_times_anchor_at_its_middle() -> None:
    _, optimizer = one_weight(0.1)
    rule = RuleController(lambda t, _: [2, 2, 3, 1, 1][t])  # multiples 1, 1, 2, 1/2 of the reference 0.1
    scheduler = MetaLR(optimizer, rule, total_epochs=4, config=NO_WARMUP)
    lrs = run_epochs(scheduler, optimizer, [1.0, 0.9, 0.8, 0.7])
    anchors = [7 / 8, 5 / 8, 3 / 8, 1 / 8]
    peaks = [0.1, 0.1, 0.2, 0.05]
    assert lrs == pytest.approx([p * a for p, a in zip(peaks, anchors, strict=True)], rel=1e-12)


def test_a_step_without_an_observation_keeps_the_peak() -> None:
    _, optimizer = one_weight(0.1)
    scheduler = MetaLR(optimizer, RuleController(lambda t, _: 2 + (t > 0)), total_epochs=4, config=NO_WARMUP)
    optimizer.step()
    scheduler.step()
    assert scheduler.last_decision.peak_lr == pytest.approx(0.1)
    scheduler.step(0.5)
    assert scheduler.last_decision.peak_lr == pytest.approx(0.2)


def test_per_step_the_lr_glides_and_only_an_observation_decides() -> None:
    _, optimizer = one_weight(0.1)
    scheduler = MetaLR(
        optimizer, RuleController(lambda t, _: 2 + t), total_epochs=2, steps_per_epoch=3, config=NO_WARMUP
    )
    lrs = []
    for step in range(6):
        lrs.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        if step == 2:
            scheduler.observe({"train/loss": 1.0})
        scheduler.step()
    heights = [1 - (k + 0.5) / 6 for k in range(6)]
    peaks = [0.1] * 3 + [0.2] * 3
    assert lrs == pytest.approx([p * a for p, a in zip(peaks, heights, strict=True)], rel=1e-12)


@pytest.mark.parametrize("saved", [False, True])
def test_a_loss_measured_after_the_last_step_belongs_to_the_epoch_just_ended(saved: bool) -> None:
    """A loop that steps the scheduler every batch validates when its last batch is done."""
    model, optimizer = one_weight(0.1)

    def started() -> MetaLR:
        return MetaLR(optimizer, RuleController(lambda t, _: 2), total_epochs=3, steps_per_epoch=4)

    scheduler = started()
    lrs, norms = [], []
    for step in range(9):
        model.weight.grad = torch.full((1, 1), 0.1 * (step + 1))
        if step < 4:
            lrs.append(optimizer.param_groups[0]["lr"])
            norms.append(0.1 * (step + 1))
        optimizer.step()
        scheduler.step()
        if step == 3:
            scheduler.observe({"val_loss": 1.0})
            if saved:
                state, kept = scheduler.state_dict(), copy.deepcopy(optimizer.state_dict())
                scheduler = started()
                scheduler.load_state_dict(state)
                optimizer.load_state_dict(kept)
    (seen,) = scheduler.state_dict()["trace"][1:]
    assert (seen["epoch"], seen["inner_valid_loss"]) == (1, 1.0)
    assert seen["lr"] == pytest.approx(sum(lrs) / 4)
    assert seen["grad_norm"] == pytest.approx(sum(norms) / 4)
    assert scheduler.state_dict()["carried"] == pytest.approx(
        {key: value for key, value in scheduler.state_dict()["carried"].items() if key != "grad_norm"}
        | {"grad_norm": sum(0.1 * (step + 1) for step in range(5, 8)) / 3}
    )


def test_parameter_groups_keep_their_ratios() -> None:
    first, second = nn.Parameter(torch.ones(1)), nn.Parameter(torch.ones(1))
    optimizer = torch.optim.SGD([{"params": [first], "lr": 0.1}, {"params": [second], "lr": 0.001}], lr=1.0)
    scheduler = MetaLR(optimizer, RuleController(lambda t, _: 4), total_epochs=3)
    for _ in range(3):
        assert optimizer.param_groups[1]["lr"] == pytest.approx(
            optimizer.param_groups[0]["lr"] / 100, rel=1e-12
        )
        optimizer.step()
        scheduler.step(1.0)


def test_a_tensor_lr_is_filled_in_place() -> None:
    parameter = nn.Parameter(torch.ones(1))
    lr = torch.tensor(0.1)
    optimizer = torch.optim.SGD([parameter], lr=lr, momentum=2 / 3, foreach=False)
    held = optimizer.param_groups[0]["lr"]
    scheduler = MetaLR(optimizer, RuleController(lambda t, _: 2), total_epochs=2, config=NO_WARMUP)
    optimizer.step()
    scheduler.step(1.0)
    assert optimizer.param_groups[0]["lr"] is held
    assert held.item() == pytest.approx(0.1 * 0.25)


def test_a_controller_that_breaks_is_held_at_its_last_peak() -> None:
    _, optimizer = one_weight(0.1)
    scheduler = MetaLR(optimizer, BrokenController(lambda t, _: 2), total_epochs=4, config=NO_WARMUP)
    run_epochs(scheduler, optimizer, [1.0, 0.9])
    assert scheduler.last_decision.peak_lr == pytest.approx(0.1)
    assert "held" in scheduler.explain()


def test_an_exploded_epoch_is_rolled_back_and_the_lr_halved() -> None:
    model, optimizer = one_weight(0.1)
    scheduler = MetaLR(
        optimizer, RuleController(lambda t, _: 2), total_epochs=4, model=model, config=NO_WARMUP
    )
    model.weight.data.fill_(0.5)
    optimizer.step()
    scheduler.step({"train/loss": 1.0})  # a good epoch: remembered
    model.weight.data.fill_(math.nan)
    optimizer.step()
    scheduler.step({"train/loss": math.nan})
    assert model.weight.item() == 0.5
    assert scheduler.num_rollbacks == 1
    assert scheduler.last_decision.peak_lr == pytest.approx(0.05)
    optimizer.step()
    scheduler.step({"train/loss": 0.9})  # the controller still wants 0.1; the halving stays
    assert scheduler.last_decision.peak_lr == pytest.approx(0.05)


def test_an_epoch_that_learned_nothing_is_rolled_back_and_the_lr_quartered_three_times_at_most() -> None:
    model, optimizer = one_weight(0.1)
    probe = ProbeCurve((0.0001, 0.8), (1.0, 1.0), initial_loss=2.0, exploded=False, num_steps=2)
    start = probe.reference_lr
    rule = RuleController(lambda t, _: 2)
    scheduler = MetaLR(
        optimizer, rule, total_epochs=8, model=model, probe=probe, config=NO_WARMUP, steps_per_epoch=1
    )
    peaks = []
    for _ in range(4):
        optimizer.step()
        model.weight.data.fill_(0.0)  # the step killed it
        optimizer.step()
        scheduler.step({"train/loss": 2.0, "train_loss_sd": 0.2})
        peaks.append(scheduler.last_decision.peak_lr)
        assert model.weight.item() == (1.0 if len(peaks) <= 3 else 0.0)
    # where smaller LRs teach it nothing either, it was not the LR
    assert peaks == pytest.approx([start / 4, start / 16, start / 64, start])
    assert scheduler.num_rollbacks == 3
    assert "nothing was learned" not in scheduler.explain()


def test_an_epoch_on_a_plateau_is_kept() -> None:
    """The loss of the CNN on digits that lost an epoch and three quarters of its LR for being slow."""
    _, optimizer = one_weight(0.1)
    probe = ProbeCurve((0.0001, 0.8), (1.0, 1.0), initial_loss=2.3, exploded=False, num_steps=2)
    scheduler = MetaLR(
        optimizer, RuleController(lambda t, _: 2), total_epochs=8, probe=probe, steps_per_epoch=1
    )
    optimizer.step()
    scheduler.step({"train/loss": 2.3027, "train_loss_sd": 0.022, "val_loss": 2.3025})
    assert scheduler.num_rollbacks == 0
    assert scheduler.last_decision.peak_lr == pytest.approx(probe.reference_lr)


def test_a_loss_that_stays_high_is_the_new_level_after_three_backoffs() -> None:
    _, optimizer = one_weight(0.1)
    scheduler = MetaLR(optimizer, RuleController(lambda t, _: 2), total_epochs=20, config=NO_WARMUP)
    run_epochs(scheduler, optimizer, [1.0])
    before = scheduler.last_decision.peak_lr
    run_epochs(scheduler, optimizer, [9.0] * 8)
    assert scheduler.num_rollbacks == 3
    assert scheduler.last_decision.peak_lr == pytest.approx(before / 8)


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_without_the_model_lost_weights_come_back_from_the_epochs_start(momentum: float) -> None:
    """Three lines, and a user's LR at which every step overflows: it comes down until it trains.

    Every epoch begins with 16 steps on which the LR has no bearing, so that nothing is seen at the start.
    """
    torch.manual_seed(0)
    model = nn.Linear(3, 1)
    start = {name: value.clone() for name, value in model.state_dict().items()}
    inputs = torch.randn(64, 3)
    targets = inputs.sum(1, keepdim=True)
    optimizer = torch.optim.SGD(model.parameters(), lr=10.0, momentum=momentum)
    scheduler = MetaLR(optimizer, RuleController(lambda t, _: 2), total_epochs=40)

    def epoch() -> float:
        loss = torch.tensor(0.0)
        for step in range(36):
            loss = (model(inputs) - targets).pow(2).mean() ** 4 * (step >= 16)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        return loss.item()

    first = epoch()
    assert not math.isfinite(first)
    scheduler.step({"train_loss": first})
    for name, value in model.state_dict().items():
        assert torch.equal(value, start[name])
    assert not optimizer.state
    assert "rolled back" in scheduler.explain()
    losses = [first]
    while len(losses) < 40:
        losses.append(epoch())
        scheduler.step({"train_loss": losses[-1]})
    assert math.isfinite(losses[-1])
    assert all(bool(value.isfinite().all()) for value in model.state_dict().values())


@pytest.mark.parametrize(("lr", "is_lost"), [(10.0, True), (0.05, False)])
def test_weights_that_moved_a_hundred_times_their_norm_in_the_first_epoch_come_back(
    lr: float, is_lost: bool
) -> None:
    """The loss is huge and a number, and without a probe nothing tells that it was small before.

    Every epoch begins with 16 steps on which the LR has no bearing, so that nothing is seen at the start.
    """
    torch.manual_seed(0)
    model = nn.Linear(3, 1)
    start = {name: value.clone() for name, value in model.state_dict().items()}
    inputs = torch.randn(64, 3)
    optimizer = torch.optim.SGD(model.parameters(), lr=lr)
    scheduler = MetaLR(optimizer, RuleController(lambda t, _: 2), total_epochs=9)
    losses = []
    for _ in range(9):
        for step in range(24):
            loss = (model(inputs) - inputs.sum(1, keepdim=True)).pow(2).mean() * (step >= 16)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        losses.append(loss.item())
        scheduler.step({"train_loss": losses[-1]})
        if len(losses) == 1:
            kept = [torch.equal(value, start[name]) for name, value in model.state_dict().items()]
            assert kept == [is_lost] * 2
    assert math.isfinite(losses[0]) and (losses[0] > 1e6) == is_lost
    assert losses[-1] < 1.0
    assert (scheduler.num_rollbacks > 0) == is_lost


def test_the_users_lr_that_exploded_is_no_fault_of_the_controllers() -> None:
    """Halving the LR that it never chose must not shrink what it wishes later."""
    _, optimizer = one_weight(100.0)
    scheduler = MetaLR(optimizer, RuleController(lambda t, _: 2), total_epochs=20, config=NO_WARMUP)
    run_epochs(scheduler, optimizer, [math.nan, math.nan])
    assert scheduler.last_decision.peak_lr == pytest.approx(10.0 * 0.5 * 0.25)  # its bound is 10
    run_epochs(scheduler, optimizer, [1.0])
    assert scheduler.last_decision.peak_lr == pytest.approx(0.1)  # the reference, as if nothing had been


def test_weights_that_are_lost_are_held_at_their_lr_and_told_of_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    _, optimizer = one_weight(0.1)
    scheduler = MetaLR(
        optimizer, RuleController(lambda t, _: 2), total_epochs=20, config=NO_WARMUP, gather=False
    )
    run_epochs(scheduler, optimizer, [1.0])
    before = scheduler.last_decision.peak_lr
    run_epochs(scheduler, optimizer, [math.nan] * 8)
    assert scheduler.num_rollbacks == 3
    assert scheduler.last_decision.peak_lr == pytest.approx(before / 8)
    assert "held: loss not finite" in scheduler.explain()
    assert len([row for row in caplog.records if "MetaLR(model=...)" in row.message]) == 1


def test_what_learns_is_left_alone() -> None:
    model, optimizer = one_weight(0.1)
    probe = ProbeCurve((0.1, 0.8), (1.0, 1.0), initial_loss=2.0, exploded=False, num_steps=2)
    scheduler = MetaLR(
        optimizer, RuleController(lambda t, _: 2), total_epochs=8, model=model, probe=probe, config=NO_WARMUP
    )
    run_epochs(scheduler, optimizer, [1.97, 1.9, 1.5])
    assert scheduler.num_rollbacks == 0


def test_without_a_model_an_explosion_still_halves_the_lr() -> None:
    model, optimizer = one_weight(0.1)
    scheduler = MetaLR(optimizer, RuleController(lambda t, _: 2), total_epochs=4, config=NO_WARMUP)
    run_epochs(scheduler, optimizer, [1.0, math.inf])
    assert scheduler.last_decision.peak_lr == pytest.approx(0.05)
    assert model.weight.item() == 1.0


def make(
    rule_name: str = "rule", lr: float = 0.1, momentum: float = 2 / 3
) -> tuple[nn.Linear, torch.optim.SGD, MetaLR]:
    model, optimizer = one_weight(lr)
    optimizer.param_groups[0]["momentum"] = momentum
    rule = RuleController(lambda t, features: (t * 2 + 1) % 5, rule_name)
    return model, optimizer, MetaLR(optimizer, rule, total_epochs=8, model=model)


LOSSES = [1.0, 0.9, 9.0, 0.8, 9.0, 0.6, 0.5, 0.4]


def saved_after(epochs: int) -> tuple[dict, dict]:
    _, optimizer, scheduler = make()
    run_epochs(scheduler, optimizer, LOSSES[:epochs])
    buffer = io.BytesIO()
    torch.save({"scheduler": scheduler.state_dict(), "optimizer": optimizer.state_dict()}, buffer)
    buffer.seek(0)
    state = torch.load(buffer, weights_only=True)
    return state["optimizer"], state["scheduler"]


def resumed_lrs(optimizer_state: dict, scheduler_state: dict, done: int) -> list[float]:
    _, optimizer, scheduler = make()
    optimizer.load_state_dict(optimizer_state)
    scheduler.load_state_dict(scheduler_state)
    return run_epochs(scheduler, optimizer, LOSSES[done:])


@pytest.mark.parametrize("done", [1, 2, 3, 6])
def test_a_resumed_scheduler_goes_on_bit_for_bit(done: int) -> None:
    _, optimizer, scheduler = make()
    straight = run_epochs(scheduler, optimizer, LOSSES)
    assert resumed_lrs(*saved_after(done), done) == straight[done:]


@pytest.mark.parametrize(
    "field", ["last_epoch", "trace", "memory", "peak", "first_peak", "scale", "reference_lr", "num_rollbacks"]
)
def test_no_field_of_the_state_can_be_spared(field: str) -> None:
    """Resetting any one field to a fresh scheduler's must show."""
    optimizer_state, state = saved_after(4)
    _, _, fresh = make(lr=0.123, momentum=0.5)
    spoiled = state | {field: fresh.state_dict()[field]}
    assert spoiled[field] != state[field]
    if field == "num_rollbacks":
        return
    if field == "trace":  # features look at it: the rule above does not, so look directly
        _, _, scheduler = make()
        scheduler.load_state_dict(spoiled)
        assert scheduler.state_dict()["trace"] != state["trace"]
        return
    assert resumed_lrs(optimizer_state, spoiled, 4) != resumed_lrs(optimizer_state, state, 4)


def test_another_controllers_state_and_another_version_are_refused() -> None:
    _, state = saved_after(1)
    _, _, other = make("another")
    with pytest.raises(ValueError, match="load the same controller"):
        other.load_state_dict(state)
    _, _, same = make()
    with pytest.raises(ValueError, match="version 99"):
        same.load_state_dict(state | {"version": 99})


def test_wrong_uses_say_what_is_wrong() -> None:
    _, optimizer = one_weight()
    rule = RuleController(lambda t, _: 2)
    with pytest.raises(ValueError, match="total_epochs=0"):
        MetaLR(optimizer, rule, total_epochs=0)
    _, zero = one_weight(0.0)
    with pytest.raises(ValueError, match="initial LR above 0"):
        MetaLR(zero, rule, total_epochs=3)
    scheduler = MetaLR(optimizer, rule, total_epochs=3)
    with pytest.raises(TypeError, match="'train/loss' must be a number, got 'low'"):
        scheduler.observe({"train/loss": "low"})


def test_stepping_past_the_budget_warns_and_keeps_the_last_lr() -> None:
    _, optimizer = one_weight()
    scheduler = MetaLR(optimizer, RuleController(lambda t, _: 2), total_epochs=2, config=NO_WARMUP)
    run_epochs(scheduler, optimizer, [1.0, 0.9])
    last = optimizer.param_groups[0]["lr"]
    with pytest.warns(UserWarning, match="past its budget"):
        scheduler.step(0.8)
    assert optimizer.param_groups[0]["lr"] == last


def test_warm_up_by_another_schedule_leads_into_metalr() -> None:
    _, optimizer = one_weight(0.1)
    warmup = torch.optim.lr_scheduler.LinearLR(optimizer, 0.1, 1.0, total_iters=2)
    learned = MetaLR(optimizer, RuleController(lambda t, _: 2), total_epochs=3, config=NO_WARMUP)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's own, about the milestone's deprecated epoch argument
        sequence = SequentialLR(optimizer, [warmup, learned], milestones=[2])
        lrs = []
        for _ in range(4):
            lrs.append(optimizer.param_groups[0]["lr"])
            optimizer.step()
            sequence.step()
    assert lrs[0] == pytest.approx(0.01)
    assert lrs[2] == pytest.approx(0.1 * 5 / 6)


def test_without_a_probe_it_starts_from_the_users_lr_and_travels_to_what_the_controller_wishes() -> None:
    """Up by the rise limit an epoch, at first by its square, and not held near the user's LR by the bound."""
    _, optimizer = one_weight(1e-4)
    config = ControlConfig(anchor="constant", warmup_fraction=0.0, correction_bound=3.7)
    wishes = [4, 2, 2, 2, 2, 2, 2, 2, 4, 4, 0, 0, 0]  # 4, 1 and 1/4 of the usual 0.1; the first is not heard
    scheduler = MetaLR(optimizer, RuleController(lambda t, _: wishes[t]), total_epochs=20, config=config)
    lrs = run_epochs(scheduler, optimizer, [1.0] * 12)
    assert lrs[:6] == pytest.approx([1e-4, *(1e-4 * 3**k for k in range(2, 7))])
    assert lrs[6:] == pytest.approx([0.1, 0.1, 0.3, 0.37, 0.1 / 3.7, 0.1 / 3.7])
    assert "usual for this optimizer" in scheduler.explain()


def test_after_a_users_lr_that_exploded_the_first_decision_rises_no_farther_than_others() -> None:
    lrs = {}
    for loss in (1.0, math.nan):
        model, optimizer = one_weight(1e-4)
        config = ControlConfig(anchor="constant", warmup_fraction=0.0)
        rule = RuleController(lambda t, _: 4)
        scheduler = MetaLR(optimizer, rule, total_epochs=20, config=config, model=model)
        lrs[str(loss)] = run_epochs(scheduler, optimizer, [loss, 1.0, 1.0])
    assert lrs["1.0"] == pytest.approx([1e-4, 9e-4, 27e-4])
    assert lrs["nan"] == pytest.approx([1e-4, 0.5e-4, 1.5e-4])


class Sequence:
    """A warm-up of two epochs by torch, then `MetaLR` for four, three steps each."""

    def __init__(self) -> None:
        self.model, self.optimizer = one_weight(0.1)
        warmup = torch.optim.lr_scheduler.LinearLR(self.optimizer, 0.1, 1.0, total_iters=2)
        rule = RuleController(lambda t, _: [2, 3, 1, 4][t % 4])
        self.learned = MetaLR(self.optimizer, rule, total_epochs=4, config=NO_WARMUP, model=self.model)
        self.schedule = SequentialLR(self.optimizer, [warmup, self.learned], milestones=[2])

    def train(self, epochs: range) -> list[float]:
        lrs = []
        for epoch in epochs:
            for step in range(3):
                self.model.weight.grad = torch.full((1, 1), 0.1 * (1 + step + epoch))
                lrs.append(self.optimizer.param_groups[0]["lr"])
                self.optimizer.step()
            self.learned.observe({"loss": 1.0 / (1 + epoch)})
            self.schedule.step()
        return lrs


@pytest.mark.parametrize("done", [1, 2, 3, 5])
def test_a_sequence_resumes_before_and_after_its_milestone(done: int) -> None:
    straight = Sequence()
    expected = straight.train(range(6))
    first, second = Sequence(), Sequence()
    first.train(range(done))
    second.model.load_state_dict(first.model.state_dict())
    second.optimizer.load_state_dict(first.optimizer.state_dict())
    second.schedule.load_state_dict(first.schedule.state_dict())
    assert second.train(range(done, 6)) == expected[3 * done :]
    assert second.learned.state_dict() == straight.learned.state_dict()


def test_what_was_seen_during_another_warm_up_does_not_count() -> None:
    sequence = Sequence()
    sequence.train(range(3))
    state = sequence.learned.state_dict()
    assert state["statistics"]["steps_of_last_epoch"] == 3
    assert [row["epoch"] for row in state["trace"]] == [0, 1]
    assert state["trace"][1]["train_loss"] == pytest.approx(1 / 3)
    assert state["trace"][1]["grad_norm"] == pytest.approx((0.3 + 0.4 + 0.5) / 3)


def test_last_in_a_chain_it_is_the_one_that_sets_the_lr() -> None:
    _, optimizer = one_weight(0.1)
    other = torch.optim.lr_scheduler.LinearLR(optimizer, 0.1, 1.0, total_iters=2)
    learned = MetaLR(optimizer, RuleController(lambda t, _: 2 + t % 2), total_epochs=4, config=NO_WARMUP)
    chain = torch.optim.lr_scheduler.ChainedScheduler([other, learned])
    lrs = []
    for _ in range(4):
        lrs.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        learned.observe(1.0)
        chain.step()
    expected = [0.1 * 7 / 8, 0.2 * 5 / 8, 0.1 * 3 / 8, 0.2 * 1 / 8]
    assert lrs == pytest.approx(expected)


@settings(max_examples=150, deadline=None)
@given(
    st.lists(
        st.dictionaries(
            st.sampled_from(["train/loss", "inner_valid/loss", "grad_norm", "step"]),
            st.floats(allow_nan=True, allow_infinity=True),
        ),
        min_size=1,
        max_size=12,
    )
)
@pytest.mark.filterwarnings("ignore:MetaLR has seen no metric")
def test_whatever_is_observed_the_lr_is_finite_and_bounded(sequence: list[dict[str, float]]) -> None:
    model, optimizer = one_weight(0.1)
    config = ControlConfig(max_lr=0.3)
    rule = RuleController(lambda t, _: (3 * t) % 5)
    scheduler = MetaLR(optimizer, rule, total_epochs=12, model=model, config=config)
    for metrics in sequence:
        optimizer.step()
        scheduler.step(metrics)
        assert 0.0 < optimizer.param_groups[0]["lr"] <= 0.3


def test_an_observation_object_is_taken_whole() -> None:
    _, optimizer = one_weight()
    scheduler = MetaLR(optimizer, RuleController(lambda t, _: 2), total_epochs=3)
    optimizer.step()
    scheduler.step(Observation(epoch=1, train_loss=1.0, grad_norm=2.0))
    assert scheduler.state_dict()["trace"][-1] == {
        "epoch": 1,
        "train_loss": 1.0,
        "grad_norm": 2.0,
        "is_finite": True,
    }


@pytest.mark.parametrize(("layer", "height"), [(nn.BatchNorm1d(4), 1.0), (nn.ReLU(), 0.1)])
def test_a_network_that_normalises_starts_at_the_peak_under_sgd(layer: nn.Module, height: float) -> None:
    model = nn.Sequential(nn.Linear(4, 4), layer)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    rule = RuleController(lambda t, _: 2)
    config = ControlConfig(anchor="constant", rise=1.0)
    scheduler = MetaLR(
        optimizer, rule, total_epochs=10, steps_per_epoch=10, model=model, probe=None, config=config
    )
    assert scheduler.get_last_lr()[0] == pytest.approx(0.1 * height)  # unit 0 of 100, a warm-up of five


PROBE = ProbeCurve((0.01, 0.1), (1.0, 0.9), 1.1, False, 2)


@pytest.mark.parametrize("probe", [PROBE, None])
def test_what_is_decided_before_training_is_the_lr_to_start_with_and_its_peak_twice_that(
    probe: ProbeCurve | None,
) -> None:
    """Later decisions are for the peak; without a probe the user's own LR is what training starts with."""
    _, optimizer = one_weight(0.07)
    start = 0.07 if probe is None else probe.reference_lr
    config = ControlConfig(
        anchor="constant", warmup_fraction=0.0, rise=2.0, rise_fraction=0.5, least_gain=0.0
    )
    rule = RuleController(lambda t, _: 2)  # the reference
    scheduler = MetaLR(optimizer, rule, total_epochs=100, probe=probe, config=config)
    assert scheduler.last_decision.peak_lr == pytest.approx(2 * start)
    lrs = run_epochs(scheduler, optimizer, [1.0])
    assert lrs[0] == pytest.approx(start * (1 + 0.005 / 0.5))
    assert scheduler.last_decision.peak_lr == pytest.approx(0.1 if probe is None else start)


def test_a_start_at_an_lr_out_of_bounds_is_bounded_with_its_rise() -> None:
    _, optimizer = one_weight()
    config = ControlConfig(anchor="constant", warmup_fraction=0.0, rise=2.0, max_lr=0.15)
    scheduler = MetaLR(optimizer, RuleController(lambda t, _: 2), total_epochs=10, config=config)
    assert scheduler.last_decision.peak_lr == pytest.approx(0.15)


class NearlyFlat(RuleController):
    """Predicts the middle candidate, and every other one `slope` in log regret a candidate above it."""

    def __init__(self, slope: float) -> None:
        super().__init__(lambda t, _: 2)
        self._slope = slope

    def step(self, state: list[float], features_F: np.ndarray) -> tuple[list[float], Prediction]:
        state, found = super().step(state, features_F)
        return state, Prediction(tuple(-3.0 + self._slope * regret for regret in found.log_regrets), 0.0)


@pytest.mark.parametrize(
    ("slope", "least_gain", "is_kept"), [(0.1, 0.02, True), (0.5, 0.02, False), (0.1, 0.0, False)]
)
def test_a_peak_is_kept_where_another_gains_little(slope: float, least_gain: float, is_kept: bool) -> None:
    """The user's LR lies a candidate above the best: moving gains 0.005 or 0.032 nats."""
    _, optimizer = one_weight(0.2)
    config = NO_WARMUP.model_copy(update={"least_gain": least_gain})
    scheduler = MetaLR(optimizer, NearlyFlat(slope), total_epochs=4, config=config)
    run_epochs(scheduler, optimizer, [1.0])
    decision = scheduler.last_decision
    assert decision.peak_lr == pytest.approx(0.2 if is_kept else 0.1)
    assert decision.proposed_peak_lr == pytest.approx(0.1)
    assert ("kept" in decision.reason) == is_kept


@given(
    st.lists(st.floats(allow_nan=True, allow_infinity=True), min_size=3, max_size=3),
    st.floats(allow_nan=True, allow_infinity=True),
)
def test_no_prediction_breaks_the_gain(regrets: list[float], present: float) -> None:
    gain = predicted_gain([-1.0, 0.0, 1.0], regrets, present)
    assert math.isnan(gain) or gain >= 0.0


def test_under_a_probe_not_a_bit_of_the_lr_depends_on_the_initial_one() -> None:
    probe = ProbeCurve((0.01, 0.1), (1.0, 0.9), 1.1, False, 2)
    found = set()
    for lr in (0.001, 0.0123, 0.1, 0.7, 1.0):
        _, optimizer = one_weight(lr)
        scheduler = MetaLR(optimizer, RuleController(lambda t, _: t % 5), total_epochs=9, probe=probe)
        found.add(tuple(run_epochs(scheduler, optimizer, [1.0 - epoch / 20 for epoch in range(9)])))
    assert len(found) == 1
