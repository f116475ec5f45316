import math
from dataclasses import replace

import pytest
import torch
from torch import nn

from metalr.config import ProbeConfig
from metalr.control import probe_curve
from metalr.control.probe import lr_range_test
from metalr.control.probe_curve import ProbeCurve, usual_lr


def quadratic(curvature: float) -> tuple[nn.Module, torch.optim.Optimizer]:
    """loss = curvature / 2 * w^2 from w = 1: plain gradient descent diverges above lr = 2 / curvature."""
    model = nn.Linear(1, 1, bias=False)
    nn.init.constant_(model.weight, 1.0)
    return model, torch.optim.SGD(model.parameters(), lr=0.5)


def probe_of(curvature: float, config: ProbeConfig | None = None) -> ProbeCurve:
    model, optimizer = quadratic(curvature)
    return lr_range_test(
        model, optimizer, lambda step: curvature / 2 * model.weight.square().sum(), config or ProbeConfig()
    )


def test_the_curve_against_the_closed_form() -> None:
    config = ProbeConfig(num_steps=9, min_lr=1e-4, max_lr=1.0)
    curve = probe_of(1.0, config)
    lrs = [10 ** (-4 + step / 2) for step in range(9)]
    weight, losses = 1.0, []
    for lr in lrs:
        weight *= 1 - lr
        losses.append(weight**2 / 2)
    assert curve.lrs == pytest.approx(lrs, rel=1e-9)
    assert curve.losses == pytest.approx(losses, rel=1e-5, abs=1e-12)
    assert curve.initial_loss == 0.5
    assert not curve.exploded
    assert curve.num_steps == 9


def test_the_ramp_stops_at_the_explosion_and_leaves_it_out() -> None:
    curve = probe_of(100.0, ProbeConfig(num_steps=60, max_lr=1000.0))
    assert curve.exploded
    assert curve.lrs[-1] > 2 / 100
    assert max(curve.losses) <= 4.0 * curve.initial_loss
    assert curve.num_steps < 60


@pytest.mark.parametrize("curvature", [1.0, 10.0, 100.0])
def test_the_edge_scales_with_the_inverse_curvature_and_the_reference_with_its_root(curvature: float) -> None:
    curve = probe_of(curvature, ProbeConfig(num_steps=60, max_lr=100.0))
    assert 0.8 < curve.edge_lr * curvature < 16.0
    assert curve.reference_lr == pytest.approx(math.sqrt(curve.edge_lr / 8 * usual_lr(momentum=0.0)))


def test_a_little_noise_above_the_start_is_no_edge(monkeypatch: pytest.MonkeyPatch) -> None:
    lrs = tuple(10 ** (-3 + step / 5) for step in range(20))
    losses = (*(2.3 + 0.004 * step for step in range(16)), 3.0, 4.0, 6.0, 8.0)
    slow = ProbeCurve(lrs, losses, 2.29, exploded=False, num_steps=20)
    assert slow.edge_lr > 0.5
    monkeypatch.setattr(probe_curve, "EDGE_TOLERANCE", 0.0)
    assert ProbeCurve(lrs, losses, 2.29, exploded=False, num_steps=20).edge_lr < 0.01


def test_sgd_whose_loss_still_falls_at_the_ramps_end_has_no_usual_lr() -> None:
    falling = ProbeCurve((0.1, 1.0, 10.0), (0.09, 0.08, 0.06), 0.09, exploded=False, num_steps=3)
    assert falling.reference_lr == pytest.approx(10.0 / 8)


def test_everything_is_put_back_bit_for_bit() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.Linear(8, 3))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    images, labels = torch.randn(16, 4), torch.randint(3, (16,))

    def loss_of_step(step: int) -> torch.Tensor:
        return nn.functional.cross_entropy(model(images), labels)

    for _ in range(3):  # momentum and batch-norm statistics are not at their start
        optimizer.zero_grad()
        loss_of_step(0).backward()
        optimizer.step()
    optimizer.zero_grad()
    weights = {name: value.clone() for name, value in model.state_dict().items()}
    momenta = [optimizer.state[p]["momentum_buffer"].clone() for p in model.parameters()]
    random_state = torch.get_rng_state()
    lr_range_test(model, optimizer, loss_of_step, ProbeConfig())
    assert all(torch.equal(value, weights[name]) for name, value in model.state_dict().items())
    assert all(
        torch.equal(optimizer.state[p]["momentum_buffer"], momentum)
        for p, momentum in zip(model.parameters(), momenta, strict=True)
    )
    assert torch.equal(torch.get_rng_state(), random_state)
    assert optimizer.param_groups[0]["lr"] == 0.1
    loss_of_step(0)
    assert not torch.equal(torch.get_rng_state(), random_state)  # negative control: dropout does draw


def test_a_loss_that_is_not_finite_before_any_update_is_refused() -> None:
    model, optimizer = quadratic(1.0)
    with pytest.raises(ValueError, match="first batch is nan"):
        lr_range_test(model, optimizer, lambda step: model.weight.sum() * math.nan, ProbeConfig())
    assert model.weight.item() == 1.0


def test_reading_the_curve_between_below_and_above_its_points() -> None:
    curve = ProbeCurve((0.01, 0.1), (2.0, 2.0), 3.0, exploded=True, num_steps=3)
    assert curve.loss_change_at(0.05) == pytest.approx(-1.0)
    assert curve.loss_change_at(0.001) == 0.0
    assert curve.loss_change_at(1.0) == math.inf
    assert ProbeCurve((0.01,), (2.0,), 3.0, exploded=False, num_steps=1).loss_change_at(1.0) is None


def test_plain_values_and_back() -> None:
    curve = replace(probe_of(10.0), first_losses=(1.0, 2.0))
    assert ProbeCurve.from_dict(curve.to_dict()) == curve
    older = {name: value for name, value in curve.to_dict().items() if name != "first_losses"}
    assert ProbeCurve.from_dict(older).loss_before_training == curve.initial_loss


def test_the_loss_before_training_is_that_of_several_batches() -> None:
    """By hand: w = 1 hardly moves at the first eighth of the LRs; batches of loss w, 3 w, 1 w, 3 w, ..."""
    model, optimizer = quadratic(1.0)

    def loss_of_step(step: int) -> torch.Tensor:
        return model.weight.sum() * (3.0 if step % 2 == 0 else 1.0)

    config = ProbeConfig(num_steps=16, min_lr=1e-9, max_lr=1e-8)
    curve = lr_range_test(
        model, optimizer, loss_of_step, config, measured_loss=lambda: 0.5 * model.weight.sum()
    )
    assert curve.first_losses == pytest.approx((3.0, 1.0, 3.0, 1.0))
    assert curve.loss_before_training == pytest.approx((0.5 + 8.0) / 5)
    alone = lr_range_test(model, optimizer, loss_of_step, config)
    assert (alone.first_losses, alone.loss_before_training) == ((), alone.initial_loss)


@pytest.mark.parametrize(("scales", "ramp"), [(False, (1e-3, 10.0)), (True, (3e-5, 0.3))])
def test_the_ramp_and_the_reference_of_each_kind_of_optimizer(
    scales: bool, ramp: tuple[float, float]
) -> None:
    model, sgd = quadratic(100.0)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.5) if scales else sgd
    curve = lr_range_test(model, optimizer, lambda step: 50.0 * model.weight.square().sum())
    assert curve.lrs[0] == pytest.approx(ramp[0])
    assert curve.scales_gradients == scales
    expected = math.sqrt(0.003 * curve.edge_lr) if scales else math.sqrt(curve.edge_lr / 8 * 0.3)
    assert curve.reference_lr == pytest.approx(expected, rel=1e-12)
    assert ProbeCurve.from_dict(curve.to_dict()) == curve


def test_a_squared_error_lifts_the_reference_of_plain_sgd_alone() -> None:
    losses = (2.0, 1.9, 1.8, 1.5, 2.5)

    def lifted(exploded: bool = False, losses: tuple[float, ...] = losses, **kind: bool) -> float:
        lrs = tuple(10.0**exponent for exponent in range(-3, len(losses) - 3))
        plain, squared = (
            ProbeCurve(lrs, losses, 2.0, exploded, 5, is_distance=told, **kind) for told in (False, True)
        )
        assert plain.edge_lr == squared.edge_lr
        assert ProbeCurve.from_dict(squared.to_dict()) == squared
        return squared.reference_lr / plain.reference_lr

    assert lifted() == pytest.approx(4.0)
    assert lifted(losses=(2.0, 1.9, 1.8, 1.5, 0.9)) == pytest.approx(4.0)  # still falling at the ramp's end
    for kind in ("scales_gradients", "averages_iterates", "normalises"):
        assert lifted(**{kind: True}) == 1.0
    values = probe_of(1.0).to_dict()
    del values["is_distance"]
    assert not ProbeCurve.from_dict(values).is_distance


def test_a_curve_from_before_optimizers_were_told_apart_is_one_of_sgd() -> None:
    values = probe_of(1.0).to_dict()
    del values["scales_gradients"]
    assert not ProbeCurve.from_dict(values).scales_gradients


DYING = ([2.37, 2.30, 2.25, 2.2, 2.15, 2.1, 2.12, 2.3, 2.7, 2.69, 2.4, 2.35] + [2.3] * 8, 2.37)
"""Of a CNN with batch norm and a hidden layer under AdamW, about: it falls, flies up, and dies at log 10."""


@pytest.mark.parametrize("scales", [False, True])
def test_where_a_network_dies_at_the_edge_a_climb_by_half_of_its_fall_is_the_edge(scales: bool) -> None:
    losses, start = DYING
    lrs = tuple(3e-5 * 10 ** (step * 4 / 19) for step in range(20))

    def edge_of(losses: list[float]) -> float:
        return ProbeCurve(
            lrs, tuple(losses), start, exploded=False, num_steps=20, scales_gradients=scales
        ).edge_lr

    assert edge_of(losses) == (lrs[8] if scales else lrs[-1])
    never_fell = [max(loss, start - 0.02) for loss in losses[:8]] + [start + 0.05] * 12
    assert edge_of(never_fell) == lrs[-1]
    higher = [loss + (0.5 if loss > 2.6 else 0.0) for loss in losses]  # well above a tenth: by the usual rule
    assert edge_of(higher) <= lrs[8]


def test_a_plain_head_that_dies_is_an_edge_though_the_loss_climbs_but_little() -> None:
    lrs = tuple(10 ** (-3 + step / 5) for step in range(20))
    losses = (*[2.3] * 9, 2.35, 2.4, 2.5, 2.52, 2.45, *[2.3] * 6)
    usual = ProbeCurve(lrs, losses, 2.3, exploded=False, num_steps=20)
    headed = replace(usual, has_plain_head=True)
    assert usual.edge_lr == lrs[-1]
    assert lrs[8] < headed.edge_lr < lrs[12]
    assert ProbeCurve.from_dict(headed.to_dict()) == headed
    old = {key: value for key, value in headed.to_dict().items() if key != "has_plain_head"}
    assert ProbeCurve.from_dict(old) == usual  # as it was read then
    scaled = replace(headed, scales_gradients=True)
    assert scaled.reference_lr == pytest.approx(0.5 * math.sqrt(scaled.edge_lr * 0.003))
    assert headed.reference_lr == pytest.approx(math.sqrt(headed.edge_lr / 8 * 0.03))


def test_a_batch_that_is_soon_fitted_hides_the_edge_from_itself_alone() -> None:
    """A wide network fits one batch of eight within the ramp; on fresh batches it cannot."""
    torch.manual_seed(0)
    inputs, labels = torch.randn(400, 8), torch.randint(2, (400,))
    references = []
    for fresh in (False, True):
        torch.manual_seed(1)
        model = nn.Sequential(nn.Linear(8, 256), nn.ReLU(), nn.Linear(256, 2))
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)

        def loss_of(rows: slice, model: nn.Module = model) -> torch.Tensor:
            return nn.functional.cross_entropy(model(inputs[rows]), labels[rows])

        def loss_of_step(step: int, fresh: bool = fresh) -> torch.Tensor:
            return loss_of(slice(8 * step + 8, 8 * step + 16) if fresh else slice(8))

        measured = (lambda loss_of=loss_of: loss_of(slice(8))) if fresh else None
        references.append(lr_range_test(model, optimizer, loss_of_step, measured_loss=measured).edge_lr)
    fixed, fresh_edge = references
    assert fresh_edge < fixed / 2


@pytest.mark.parametrize(
    ("known", "lr"),
    [
        ({}, 0.03),
        ({"momentum": 0.0}, 0.3),
        ({"averages_iterates": True}, 0.3),
        ({"scales_gradients": True, "momentum": 0.9}, 0.003),
        ({"scales_gradients": True, "averages_iterates": True}, 0.01),
    ],
)
def test_the_lr_that_is_usual(known: dict[str, float], lr: float) -> None:
    assert usual_lr(**known) == pytest.approx(lr)
