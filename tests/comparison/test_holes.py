"""Whatever is missing, diverged or constant: no crash, no NaN, words instead, and still the right numbers."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Callable

import pytest
from comparison.test_reference import load_reference
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from metalr.comparison import summarise, verdict
from metalr.comparison.report import markdown_report
from metalr.comparison.wording import caveats, strengths_and_weaknesses
from metalr.config import ExperimentConfig
from metalr.training.records import RunRecord
from metalr.training.specs import RunSpec

Build = Callable[..., list[RunRecord]]
Configure = Callable[..., ExperimentConfig]
METHODS = [
    "constant",
    "cosine",
    "explore",
    "find",
    "prodigy",
    "schedule-free-sgd",
    "metalr-mlp",
    "metalr-lstm",
]
NO_WORDS = re.compile(r"(?<!\w)(nan|inf|none|null|infinity)(?![\w-])", re.IGNORECASE)
shares = st.sampled_from([0.0, 0.2, 0.6, 1.0])


def values_of(chances: tuple[float, float, float], seed: int) -> Callable[[RunSpec], float | None]:
    """Final accuracies: some diverged, some methods without any spread, else three digits at random."""
    _, diverged, constant = chances

    def value(spec: RunSpec) -> float | None:
        own = random.Random(f"{seed} {spec.run_id}")
        if own.random() < diverged:
            return None
        if random.Random(f"{seed} {spec.method}").random() < constant:
            return 70.0
        return own.randint(100, 950) / 10.0

    return value


@pytest.mark.timeout(300)
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    methods=st.sets(st.sampled_from(METHODS), min_size=1),
    num_seeds=st.sampled_from([1, 2, 5, 6, 7]),
    lrs=st.sampled_from([[0.1], [0.01, 0.1]]),
    budgets=st.sampled_from([[1], [2, 3]]),
    chances=st.tuples(shares.filter(lambda share: share < 1.0), shares, shares),
    seed=st.integers(0, 10**6),
)
def test_random_holes(
    build: Build,
    config_with: Configure,
    methods: set[str],
    num_seeds: int,
    lrs: list[float],
    budgets: list[int],
    chances: tuple[float, float, float],
    seed: int,
) -> None:
    config = config_with(
        methods=sorted(methods), seeds=list(range(num_seeds)), initial_lrs=lrs, budgets=budgets,
        tuning_lrs=[0.3], num_resamples=100,
    )  # fmt: skip
    missing = random.Random(seed)
    records = [r for r in build(config, values_of(chances, seed)) if missing.random() >= chances[0]]
    assume(records)
    summary = summarise(records, config, {})
    json.dumps(summary, allow_nan=False)
    sentences = [verdict(summary), *caveats(summary), *strengths_and_weaknesses(summary)]
    for text in (*sentences, markdown_report(summary, [])):
        prose = text.split("## Definitions")[0]
        assert not NO_WORDS.search(prose), NO_WORDS.search(prose)
    assert all(sentence.endswith(".") for sentence in sentences)
    assert load_reference().check_summary(summary, records)["differences"] == {}


@pytest.mark.parametrize("text", ["mean nan", "-inf to 3", "[None]", "| NaN |", "p = null"])
def test_the_pattern_sees_what_is_no_word(text: str) -> None:
    assert NO_WORDS.search(text)


def test_one_seed_is_said_in_words(build: Build, config_with: Configure) -> None:
    config = config_with(methods=["constant", "metalr-mlp"], initial_lrs=[0.1], seeds=[4])
    summary = summarise(build(config, lambda spec: 80.0 + len(spec.method)), config, {})
    assert "one value: no interval; 1 seed" in verdict(summary)
    assert "is not judged against" in verdict(summary)
    assert any("Fewer than 6 paired seeds" in sentence for sentence in caveats(summary))


def test_a_method_that_always_diverges_is_the_worst(build: Build, config_with: Configure) -> None:
    config = config_with(methods=["constant", "cosine", "metalr-mlp"], initial_lrs=[0.1], num_resamples=100)

    def accuracy(spec: RunSpec) -> float | None:
        return None if spec.method == "metalr-mlp" else 60.0 + spec.seed + len(spec.method)

    summary = summarise(build(config, accuracy), config, {})
    overall = summary["overall"]["metalr-mlp"]
    assert overall["mean_rank"] == 3.0 and overall["num_diverged"] == 6
    assert overall["share_reached_target"] == 0.0 and overall["judgement"] == "above"
    entry = summary["cells"][0]["methods"]["metalr-mlp"]
    assert entry["epochs_to_target"] is None and entry["wall_time_s"] is None
    assert entry["test_loss"]["n"] == 0 and entry["test_loss"]["note"] == "no values"
    assert "ends below the best tuned baseline (constant at 0.1)" in verdict(summary)
    words = " ".join([*caveats(summary), *strengths_and_weaknesses(summary)])
    assert "6 runs of 18 diverged" in words and "6 of its 6 runs diverged" in words


def test_a_method_that_diverges_at_one_lr_is_tuned_away_from_it_and_pays_there(
    build: Build, config_with: Configure
) -> None:
    config = config_with(
        methods=["constant", "cosine", "metalr-mlp"], initial_lrs=[0.1, 1.0], num_resamples=100
    )

    def accuracy(spec: RunSpec) -> float | None:
        if spec.method == "cosine" and spec.train.lr == 1.0:
            return None
        return {"constant": 70.0, "cosine": 80.0, "metalr-mlp": 79.0}[spec.method] + 0.1 * spec.seed

    summary = summarise(build(config, accuracy), config, {})
    assert summary["tuned"][0]["best"] == "cosine" and summary["tuned"][0]["methods"]["cosine"]["lr"] == 0.1
    cosine, mlp = (summary["overall"][name] for name in ("cosine", "metalr-mlp"))
    assert cosine["worst_cell_regret_pp"] == pytest.approx(80.25 - 10.0)
    assert cosine["sensitivity_pp"] == pytest.approx((80.25 - 10.0) / 2)
    assert cosine["num_diverged"] == 6 and cosine["share_reached_target"] <= 0.5
    assert mlp["mean_regret_pp"] == pytest.approx(1.0) and mlp["sensitivity_pp"] == pytest.approx(0.0)
    pair = summary["cells"][1]["paired"]["metalr-mlp vs cosine"]
    assert pair["judgement"] == "above" and pair["difference_pp"]["mean"] == pytest.approx(69.25)
