"""From seconds to rows: the arithmetic of every group, on numbers made by hand; the table; the sizes."""

from __future__ import annotations

import json

import pytest

from benchmarks.cases import cases_of
from benchmarks.control import control_rows
from benchmarks.epoch import epoch_rows
from benchmarks.harvest import HarvestCost, harvest_rows
from benchmarks.measurement import Goal, Measurement, Rounds, Row
from benchmarks.memory import memory_rows
from benchmarks.operators import format_operators, shares_of
from benchmarks.report import format_number, format_table, machine, report_of, unquiet
from benchmarks.settings import QUICK, HarvestSize, Settings
from benchmarks.workers import worker_rows

CASE = cases_of(Settings(widths=(8,), image_sizes=(16,), threads=(1,)))[0]


def by_name(rows: list[Row]) -> dict[str, Row]:
    return {row.measurement.name: row for row in rows}


def test_the_epoch_leaves_evaluation_out_and_then_in() -> None:
    seconds = {"floor": (1.0, 2.0), "epoch": (1.5, 3.0), "epoch/eval": (0.5, 0.5), "people": (4.0, 5.0)}
    images = {"floor": 100, "epoch": 100, "people": 200}
    rows = by_name(epoch_rows(CASE, Rounds(seconds, 0), images, {}))
    assert rows["bare floor, in its best way"].measurement.values == (100.0, 50.0)
    assert rows["epoch"].measurement.values == (100.0, 40.0)
    assert rows["epoch with evaluation"].measurement.values == pytest.approx((100 / 1.5, 100 / 3))
    assert rows["evaluation's share"].measurement.values == pytest.approx((100 / 3, 100 / 6))
    assert rows["epoch / floor"].measurement.values == (1.0, 0.8)
    assert rows["epoch / floor"].reached is False  # 0.9 of 0.95
    assert rows["epoch with evaluation / floor"].measurement.values == pytest.approx((2 / 3, 2 / 3))
    assert rows["epoch / people's loop"].measurement.values == (2.0, 1.0)
    assert rows["epoch / people's loop"].goal == Goal("at least", 2.0)


def test_the_goal_against_peoples_loop_depends_on_the_width() -> None:
    seconds = {label: (1.0,) for label in ("floor", "epoch", "people")} | {"epoch/eval": (0.0,)}
    wide = cases_of(Settings(widths=(16,)))[0]
    rows = by_name(epoch_rows(wide, Rounds(seconds, 0), dict.fromkeys(seconds, 10), {}))
    assert rows["epoch / people's loop"].goal == Goal("at least", 1.3)


def test_workers_in_runs_per_hour() -> None:
    rows = worker_rows(Rounds({"1": (8.0, 10.0, 8.0), "2": (4.0, 5.0, 5.0)}, 0), num_jobs=4)
    assert rows[0].measurement.values == (1800.0, 1440.0, 1800.0)
    assert rows[1].measurement.values == (3600.0, 2880.0, 2880.0)
    assert rows[2].measurement.values == (2.0, 2.0, 1.6)
    assert rows[2].reached


def test_control_as_a_share_of_the_median_epoch() -> None:
    rows = by_name(control_rows(CASE, (4.0, 5.0, 100.0), (0.04, 0.05), (0.06,)))
    assert rows["observing and deciding"].measurement.values == (40.0, 50.0)
    share = rows["observing and deciding, share of the epoch"]
    assert share.measurement.values == pytest.approx((0.8, 1.0))
    assert share.reached
    assert rows["snapshot, fork, restore, share of the epoch"].reached is False  # 1.2 %


def test_memory_that_grows_is_seen_and_its_warmup_is_not() -> None:
    warmup = [100.0 * run for run in range(10)]
    slope, ratio = memory_rows(warmup + [500.0] * 40)[1:]
    assert slope.measurement.median == pytest.approx(0.0, abs=1e-9)
    assert ratio.measurement.median == 1.0
    assert ratio.reached
    grown = memory_rows(warmup + [500.0 + 2.0 * run for run in range(40)])
    assert grown[1].measurement.median == pytest.approx(200.0)  # MiB per 100 runs
    assert grown[2].measurement.median == pytest.approx(575.0 / 503.0)  # means of 4 runs
    assert grown[2].reached is False


def test_a_harvest_predicted_within_a_fifth_and_linear() -> None:
    size = HarvestSize(4, (0.0, 0.5), 3)
    # 5 s to start the workers, and 1 s an epoch
    costs = [HarvestCost(size, 4, 95, 90.0, 100.0), HarvestCost(size, 8, 195, 260.0, 200.0)]
    rows = harvest_rows([*costs, HarvestCost(size, 16, 395, 400.0, 400.0)])
    errors = [row for row in rows if row.measurement.unit == "%"]
    assert [row.measurement.median for row in errors] == pytest.approx([10.0, 30.0, 0.0])
    assert [row.reached for row in errors] == [True, False, True]
    assert rows[-2].measurement.values == (1.0, 1.0)
    assert rows[-1].measurement.median == 1.0
    bent = harvest_rows([*costs, HarvestCost(size, 16, 395, 400.0, 450.0)])
    assert bent[-1].measurement.median == pytest.approx(1.25)
    assert bent[-1].reached is False
    assert str(costs[0]) == "4 runs, forked 2x into 3, 95 epochs"


def test_operators_by_share_of_self_time() -> None:
    found = shares_of([("add", 5, 1.0), ("conv", 2, 6.0), ("copy", 1, 3.0)])
    assert [(op.name, op.calls, op.share_pct) for op in found] == [
        ("conv", 2, 60.0),
        ("copy", 1, 30.0),
        ("add", 5, 10.0),
    ]
    row = {"name": "conv", "calls": 2, "self_ms": 6.0, "share_pct": 60.0}
    line = format_operators({"a case": [row]}).splitlines()[1]
    assert line.split() == ["conv", "6.0", "ms", "60.0", "%", "2", "calls"]


def test_the_table_shows_goals_and_what_missed_them() -> None:
    rows = [
        Row("Group", Measurement("speed", "images/s", (1234.5,)), Goal("at least", 2000), "a note"),
        Row("Group", Measurement("ratio", "x", (2.0, 3.0, 4.0)), Goal("at least", 1.9)),
        Row("Other", Measurement("plain", "s", (0.04567,))),
    ]
    assert format_table(rows).splitlines() == [
        "Group",
        "  what   median          quartiles         n  goal           reached",
        "  speed  1,234 images/s  1,234 .. 1,234    1  at least 2000  NO",
        "      a note",
        "  ratio  3 x             2.5 .. 3.5        3  at least 1.9   yes",
        "",
        "Other",
        "  what   median          quartiles         n  goal           reached",
        "  plain  0.0457 s        0.0457 .. 0.0457  1",
    ]


@pytest.mark.parametrize(
    ("value", "shown"), [(0.04567, "0.0457"), (999.4, "999"), (12345.6, "12,346"), (-2.0, "-2")]
)
def test_numbers_have_three_digits(value: float, shown: str) -> None:
    assert format_number(value) == shown


def test_the_report_holds_every_raw_value_and_is_json() -> None:
    rows = [Row("g", Measurement("x", "s", (1.0, 2.0, 9.0)), Goal("at most", 1.5))]
    report = report_of(rows, machine(), Settings(), {"operators": {}})
    found = json.loads(json.dumps(report, allow_nan=False))
    assert found["rows"][0]["values"] == [1.0, 2.0, 9.0]
    assert found["rows"][0]["reached"] is False
    assert found["settings"]["num_images"] == 4000
    assert {"commit", "versions", "processor", "cores", "load_1_min", "torch_threads"} <= set(
        found["machine"]
    )
    assert {"torch", "python", "numpy", "metalr"} <= set(found["machine"]["versions"])


def test_a_busy_machine_is_named() -> None:
    assert unquiet({"load_1_min": 0.4}) is None
    assert unquiet({"load_1_min": None}) is None
    assert "load 1.50" in str(unquiet({"load_1_min": 1.5}))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rounds": 0}, "rounds=0: give whole numbers of at least 1"),
        ({"widths": (8, 4)}, "widths=8 4: give whole numbers of at least 8"),
        ({"threads": ()}, "threads=nothing"),
        ({"memory_runs": 5}, "memory_runs=5: give whole numbers of at least 10"),
        ({"num_images": 255}, "at least two batches of 128"),
    ],
)
def test_sizes_that_cannot_be_are_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Settings(**changes)  # type: ignore[arg-type]


def test_quick_is_smaller_everywhere() -> None:
    quick, full = Settings(**QUICK), Settings()
    assert len(cases_of(quick)) == 1 < len(cases_of(full)) == 8
    assert quick.num_images < full.num_images and quick.memory_runs < full.memory_runs
    assert not quick.compile
