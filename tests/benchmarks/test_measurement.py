"""Medians, paired ratios and interleaving, on a clock of our own."""

from __future__ import annotations

import gc
from collections.abc import Callable, Mapping

import pytest

from benchmarks.measurement import Goal, Measurement, Row, measure, order_of_round, paired_ratio


class Machine:
    """A clock that only work moves on; a tenth slower at every call, as if ever more went on beside it."""

    def __init__(self) -> None:
        self.now = 0.0
        self.log: list[str] = []

    def subject(self, label: str, cost: float) -> Callable[[], Mapping[str, float]]:
        def work() -> Mapping[str, float]:
            seconds = cost * 1.1 ** len(self.log)
            self.log.append(label)
            self.now += seconds
            return {"half": seconds / 2}

        return work


def test_median_and_quartiles() -> None:
    found = Measurement("x", "s", (4.0, 1.0, 2.0, 3.0, 100.0))
    assert found.median == 3.0
    assert found.spread == (2.0, 4.0)


def test_nothing_measured_is_an_error() -> None:
    with pytest.raises(ValueError, match="x: nothing was measured"):
        _ = Measurement("x", "s", ()).median


def test_a_ratio_is_taken_within_each_round() -> None:
    above, below = (2.0, 40.0, 6.0), (2.0, 10.0, 1.0)
    found = paired_ratio("a / b", above, below)
    assert found.values == (1.0, 4.0, 6.0)
    assert found.median == 4.0
    unpaired = Measurement("", "", above).median / Measurement("", "", below).median
    assert unpaired == 3.0  # what is not reported


def test_a_ratio_of_unequal_numbers_of_rounds_is_refused() -> None:
    with pytest.raises(ValueError):
        paired_ratio("a / b", [1.0, 2.0], [1.0])


def test_every_other_round_runs_backwards() -> None:
    assert [order_of_round("ABC", index) for index in range(3)] == [list("ABC"), list("CBA"), list("ABC")]


def test_rounds_are_interleaved_and_the_warmup_is_dropped() -> None:
    machine = Machine()
    subjects = {"a": machine.subject("a", 2.0), "b": machine.subject("b", 1.0)}
    found = measure(subjects, rounds=2, warmup=1, clock=lambda: machine.now)
    assert machine.log == ["a", "b", "b", "a", "a", "b"]
    expected = {"a": (2 * 1.1**3, 2 * 1.1**4), "b": (1.1**2, 1.1**5)}
    assert set(found.seconds) == {"a", "a/half", "b", "b/half"}
    for label, seconds in expected.items():
        assert found.seconds[label] == pytest.approx(seconds, rel=1e-12)
        assert found.seconds[f"{label}/half"] == pytest.approx([s / 2 for s in seconds], rel=1e-12)


def test_alternating_order_takes_the_drift_of_a_machine_out() -> None:
    machine = Machine()
    subjects = {"a": machine.subject("a", 2.0), "b": machine.subject("b", 1.0)}
    seconds = measure(subjects, rounds=8, clock=lambda: machine.now).seconds
    ratio = paired_ratio("a / b", seconds["a"], seconds["b"]).median
    assert ratio == pytest.approx(2.0 * (1.1 + 1 / 1.1) / 2, rel=1e-12)  # 2.009
    forwards = paired_ratio("", seconds["a"][1::2], seconds["b"][1::2]).median
    assert forwards == pytest.approx(2.0 / 1.1, rel=1e-12)  # one order alone would be 10 % off


def test_garbage_collections_inside_timed_work_are_counted() -> None:
    def collecting() -> None:
        gc.collect()

    assert measure({"x": collecting}, rounds=3, warmup=2).num_collections == 3
    gc.disable()  # else one of its own could come in between
    try:
        assert measure({"x": lambda: None}, rounds=3, warmup=2).num_collections == 0
    finally:
        gc.enable()


def test_no_rounds_are_refused() -> None:
    with pytest.raises(ValueError, match="rounds=0 must be at least 1"):
        measure({}, rounds=0)


def test_speed_is_amount_over_seconds() -> None:
    machine = Machine()
    rounds = measure({"a": machine.subject("a", 2.0)}, rounds=1, warmup=0, clock=lambda: machine.now)
    assert rounds.per_second("a", 100, "speed", "images/s") == Measurement("speed", "images/s", (50.0,))


@pytest.mark.parametrize(
    ("goal", "value", "reached"),
    [
        (Goal("at least", 0.95), 0.95, True),
        (Goal("at least", 0.95), 0.949, False),
        (Goal("at most", 1.0), 1.0, True),
        (Goal("at most", 1.0), 1.001, False),
    ],
)
def test_a_goal_is_reached_on_its_bound(goal: Goal, value: float, reached: bool) -> None:
    assert Row("g", Measurement("x", "", (value,)), goal).reached is reached


def test_a_row_without_goal_is_neither_reached_nor_missed() -> None:
    row = Row("g", Measurement("x", "s", (1.0, 2.0, 4.0)))
    assert row.reached is None
    assert row.to_dict() == {
        "group": "g",
        "name": "x",
        "unit": "s",
        "median": 2.0,
        "quartiles": [1.5, 3.0],
        "n": 3,
        "values": [1.0, 2.0, 4.0],
        "goal": None,
        "reached": None,
        "note": "",
    }
