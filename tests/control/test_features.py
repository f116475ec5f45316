import dataclasses
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from metalr.control import FEATURE_GROUPS, FEATURE_NAMES, Observation, ProbeCurve, Setting
from metalr.control.features import feature_row, feature_rows

SETTING = Setting(10, 5, num_classes=10, batch_size=32, momentum=0.9, weight_decay=5e-4)
PROBE = ProbeCurve((0.01, 0.1, 1.0), (2.2, 1.5, 2.0), 2.3, exploded=True, num_steps=4)


def observation(epoch: int, loss: float) -> Observation:
    return Observation(
        epoch=epoch,
        lr=0.1,
        peak_lr=0.12,
        train_loss=loss,
        train_loss_first=loss * 1.1,
        train_loss_last=loss * 0.9,
        train_loss_sd=0.2 * loss,
        inner_valid_loss=loss * 1.2,
        inner_valid_accuracy=0.4,
        grad_norm=2.0,
        grad_norm_sd=0.5,
        update_norm=0.3,
        weight_norm=6.0,
    )


TRACE = [observation(epoch, 2.3 / (1 + epoch)) for epoch in range(6)]


def value(name: str, trace: list[Observation]) -> float:
    return float(feature_row(trace, SETTING, PROBE)[FEATURE_NAMES.index(name)])


def test_values_worked_out_by_hand() -> None:
    assert value("progress", TRACE[:4]) == pytest.approx(0.3)
    assert value("log_remaining_epochs", TRACE[:4]) == pytest.approx(math.log(8))
    assert value("log_total_steps", TRACE) == pytest.approx(math.log(50))
    assert value("log_train_loss", TRACE[:1]) == pytest.approx(math.log(2.3 / math.log(10)))
    assert value("train_loss_slope_1", TRACE[:2]) == pytest.approx(-math.log(2))
    assert value("train_loss_slope_3", TRACE[:4]) == pytest.approx(-math.log(4) / 3)
    assert value("gap", TRACE[:1]) == pytest.approx(0.2 * 2.3 / math.log(10))
    assert value("within_epoch_trend", TRACE) == pytest.approx(math.log(0.9 / 1.1))
    assert value("log_update_over_weights", TRACE) == pytest.approx(math.log(0.05))
    assert value("grad_noise", TRACE) == pytest.approx(0.25)
    assert value("log_peak_over_reference", TRACE) == pytest.approx(math.log(0.12 / PROBE.reference_lr))
    assert value("log_one_minus_momentum", TRACE) == pytest.approx(math.log(0.1))


def test_what_was_not_observed_is_missing_and_nothing_else() -> None:
    blind = dataclasses.replace(TRACE[2], inner_valid_loss=None, inner_valid_accuracy=None)
    row = feature_row([*TRACE[:2], blind], SETTING, PROBE)
    missing = {name for name, x in zip(FEATURE_NAMES, row, strict=True) if math.isnan(x)}
    full = feature_row(TRACE[:3], SETTING, PROBE)
    already = {name for name, x in zip(FEATURE_NAMES, full, strict=True) if math.isnan(x)}
    assert missing - already == {
        "log_inner_valid_loss", "inner_valid_loss_slope_1", "inner_valid_accuracy", "gap",
    }  # fmt: skip
    assert {FEATURE_NAMES[i] for i in FEATURE_GROUPS["probe"]} <= {
        name
        for name, x in zip(FEATURE_NAMES, feature_row(TRACE, SETTING, None), strict=True)
        if math.isnan(x)
    }


def test_causality_changing_the_future_changes_nothing_up_to_now() -> None:
    rows = feature_rows(TRACE, SETTING, PROBE)
    for t in range(len(TRACE)):
        changed = TRACE[: t + 1] + [observation(o.epoch, 99.0) for o in TRACE[t + 1 :]]
        np.testing.assert_array_equal(feature_rows(changed, SETTING, PROBE)[: t + 1], rows[: t + 1])
    altered_now = [*TRACE[:-1], observation(5, 99.0)]  # negative control
    assert not np.array_equal(feature_rows(altered_now, SETTING, PROBE)[-1], rows[-1], equal_nan=True)


def test_losses_in_other_units_of_log_classes_give_the_same_features() -> None:
    """Dimensionless: 100 classes with losses scaled by log 100 / log 10 look alike."""
    factor = math.log(100) / math.log(10)
    scaled = [
        dataclasses.replace(
            o,
            **{
                name: getattr(o, name) * factor
                for name in (
                    "train_loss",
                    "train_loss_first",
                    "train_loss_last",
                    "train_loss_sd",
                    "inner_valid_loss",
                )
            },
        )
        for o in TRACE
    ]
    other = dataclasses.replace(SETTING, num_classes=100)
    names = ["log_train_loss", "train_loss_slope_1", "gap", "within_epoch_trend", "log_inner_valid_loss"]
    columns = [FEATURE_NAMES.index(name) for name in names]
    np.testing.assert_allclose(
        feature_rows(scaled, other, None)[:, columns],
        feature_rows(TRACE, SETTING, None)[:, columns],
        rtol=1e-9,
    )


@settings(max_examples=200)
@given(st.lists(st.one_of(st.none(), st.floats(allow_nan=True)), min_size=12, max_size=12))
def test_any_measurements_give_finite_or_missing_features(values: list[float | None]) -> None:
    names = [
        field.name for field in dataclasses.fields(Observation) if field.name not in ("epoch", "is_finite")
    ]
    wild = Observation.from_measurements(1, dict(zip(names, values, strict=True)))
    row = feature_row([TRACE[0], wild], SETTING, PROBE)
    assert row.shape == (len(FEATURE_NAMES),)
    assert not np.isinf(row).any()


def test_an_empty_trace_is_refused() -> None:
    with pytest.raises(ValueError, match="trace is empty"):
        feature_row([], SETTING, None)


@pytest.mark.parametrize(("flag", "feature"), [(True, 1.0), (False, 0.0), (None, math.nan)])
def test_what_optimizer_and_model_are(flag: bool | None, feature: float) -> None:
    setting = Setting(8, averages_iterates=flag, scales_gradients=flag, normalises=flag)
    row = feature_row([Observation(epoch=0)], setting, None)
    for name in ("averages_iterates", "scales_gradients", "normalises"):
        assert row[FEATURE_NAMES.index(name)] == pytest.approx(feature, nan_ok=True)


def test_an_unknown_budget_leaves_its_features_missing_and_no_other() -> None:
    trace = [Observation(epoch=2, train_loss=1.0, inner_valid_loss=1.1)]
    known = feature_row(trace, SETTING, None)
    unknown = feature_row(trace, dataclasses.replace(SETTING, total_epochs=None), None)
    time = list(FEATURE_GROUPS["time"])
    assert np.isfinite(known[time]).all()
    assert np.isnan(unknown[time]).all()
    np.testing.assert_array_equal(np.delete(known, time), np.delete(unknown, time))
    no_steps = feature_row(trace, dataclasses.replace(SETTING, steps_per_epoch=None), None)
    missing = [name for name, a, b in zip(FEATURE_NAMES, known, no_steps, strict=True) if a != b and a == a]
    assert missing == ["log_total_steps"]
