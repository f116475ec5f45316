"""The README's commands exist, its example runs, and its numbers are those of the committed results."""

import hashlib
import json
import math
import re
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from metalr.cli import app
from metalr.config import load_config
from metalr.control import FEATURE_NAMES
from metalr.harvest.meta_dataset import load_meta_dataset
from metalr.stages import harvest_settings
from metalr.training import RunStore
from metalr.training.archive import finished_runs, unpack_runs

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


def test_it_opens_with_the_two_commands() -> None:
    first_block = README.split("```")[1]
    commands = [line.split("#")[0].strip() for line in first_block.strip().splitlines()]
    assert commands == ["make compare", "make test"]


def test_every_make_target_exists() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = set(re.findall(r"(?:^|`)make ([a-z-]+)", README, re.MULTILINE))
    assert len(named) >= 5
    assert named <= targets


def test_every_recipe_is_a_file_that_loads() -> None:
    (table,) = re.findall(r"^\| recipe \| data.*\n\|[-|]+\n((?:\|.*\n)+)", README, re.MULTILINE)
    listed = {name for row in table.splitlines() for name in re.findall(r"`([a-z0-9-]+)`", row.split("|")[1])}
    recipes = set(re.findall(r"RECIPE=([a-z0-9-]+)", README)) | listed
    assert recipes == {path.stem for path in (ROOT / "experiments").glob("*.yaml")} - {"wandb_sweep"}
    for recipe in recipes:
        assert load_config(str(ROOT / "experiments" / f"{recipe}.yaml")).name == recipe


def test_the_number_of_features_is_right() -> None:
    assert f"{len(FEATURE_NAMES)} dimensionless features" in README


def test_every_verb_exists() -> None:
    verbs = {
        command.name or command.callback.__name__.replace("_", "-") for command in app.registered_commands
    }
    (listed,) = re.findall(r"`metalr ([a-z-]+\|[a-z|-]+)`", README)
    assert set(listed.split("|")) - {"config"} <= verbs
    assert "run-one" in verbs


def test_the_example_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    finder, example = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    names: dict = {}
    exec(compile(example, "README.md", "exec"), names)
    assert "peak LR" in names["scheduler"].explain()
    exec(compile(finder, "README.md", "exec"), names)
    assert names["result"].reason
    assert (tmp_path / "curve.svg").is_file()


def test_the_gallery_is_what_its_command_draws(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (words,) = re.findall(r"`metalr (schedules [^`]+ --output) (\S+)`", README)
    committed = (ROOT / words[1]).read_bytes()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WANDB_MODE", "disabled")
    result = CliRunner().invoke(app, [*words[0].split(), str(tmp_path / "gallery.svg")])
    assert result.exit_code == 0, result.output
    assert (tmp_path / "gallery.svg").read_bytes() == committed


Rows = list[list[str]]
RULES = {
    "learned": "learned",
    "best fixed LR": "best_fixed_lr",
    "best fixed multiple of the reference": "best_fixed_multiple",
    "best LR of the next epoch": "greedy_label",
    "keep the run's LR": "keep",
}


def results() -> list[tuple[dict, Rows, Rows]]:
    """Each recipe's committed summary, with the README's tables of accuracies and of decision rules."""
    (section,) = re.findall(r"<!-- results:begin -->(.*?)<!-- results:end -->", README, re.DOTALL)
    found = []
    for recipe, body in re.findall(r"### `([a-z0-9-]+)`(.*?)(?=### |\Z)", section, re.DOTALL):
        summary = json.loads((ROOT / "experiments" / "results" / recipe / "summary.json").read_text())
        tables = re.findall(r"(?:^\|.*\n)+", body, re.MULTILINE)
        accuracies, rules = (
            [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()]
            for table in tables
        )
        found.append((summary, accuracies, rules))
    return found


def expected_row(summary: dict, method: str) -> list[str]:
    """Untuned and tuned accuracy at each budget, regret and worst regret, as the README prints them."""
    untuned, tuned = [], []
    for group in summary["tuned"]:
        budget = group["budget_epochs"]
        cells = [cell for cell in summary["cells"] if cell["budget_epochs"] == budget]
        means = [cell["methods"][method]["test_accuracy_pct"]["mean"] for cell in cells]
        untuned.append(f"{sum(means) / len(means):.1f}")
        best = group["methods"].get(method)
        tuned.append(f"{best['test_accuracy_pct']['mean']:.1f} ({best['lr']:g})" if best else "\N{EN DASH}")
    overall = summary["overall"][method]
    return [*untuned, *tuned, f"{overall['mean_regret_pp']:.2f}", f"{overall['worst_cell_regret_pp']:.2f}"]


def test_every_accuracy_and_regret_is_that_of_the_committed_summary() -> None:
    assert results()
    for summary, (_, _, *rows), _ in results():
        assert {name for name, *_ in rows} == set(summary["overall"])
        for name, *values in rows:
            assert values == expected_row(summary, name), name


def test_every_decision_rule_is_that_of_the_committed_summary() -> None:
    for summary, _, (_, _, *rows) in results():
        for rule, *values in rows:
            for learner, value in zip(("mlp", "lstm"), values, strict=True):
                assert value == f"{summary['meta_training'][learner]['held_out'][RULES[rule]]:.3f}", rule


def test_the_committed_results_are_those_of_their_manifest() -> None:
    for summary, _, _ in results():
        folder = ROOT / "experiments" / "results" / summary["recipe"]
        manifest = json.loads((folder / "manifest.json").read_text())
        assert manifest["commit"] == summary["commit"]
        assert not manifest["commit"].endswith("-dirty")
        for name, expected in manifest["files"].items():
            assert hashlib.sha256((folder / name).read_bytes()).hexdigest() == expected, name


FINDER_ROWS = {
    "`find_lr`, valley (the default)": "find_lr valley",
    "`find_lr`, steepest descent": "find_lr steepest",
    "`find_lr`, a tenth of the minimum": "find_lr minimum",
    "the controller's probe (20 steps)": "probe reference",
    "fastai's valley": "fastai valley",
    "fastai's minimum": "fastai minimum",
    "fastai's steep": "fastai steep",
    "torch-lr-finder's": "torch-lr-finder",
    "fastai's slide": "fastai slide",
}


def test_the_finder_costs_what_its_study_measured() -> None:
    summary = json.loads((ROOT / "experiments" / "results" / "lr-finder" / "summary.json").read_text())
    assert not summary["commit"].endswith("-dirty")
    assert all(case["state_restored"] for case in summary["cases"].values())
    (section,) = re.findall(r"<!-- finder:begin -->(.*?)<!-- finder:end -->", README, re.DOTALL)
    rows = [
        [cell.strip() for cell in line.strip("|").split("|")] for line in re.findall(r"^\|.*", section, re.M)
    ]
    assert {row[0] for row in rows[2:]} == set(FINDER_ROWS)
    for name, *values in rows[2:]:
        groups = [summary["overall"][group][FINDER_ROWS[name]] for group in ("met", "new")]
        expected = [100 * group[key] for group in groups for key in ("mean_lost", "worst_lost")]
        assert values == [f"{value:.1f}" for value in expected], name


@pytest.mark.parametrize(
    "name",
    [
        "cifar10-small",
        "normalised-small",
        "visited-small",
        "long-budgets",
        "varied-tasks",
        "small-loops",
        "regressions",
        "newer-networks",
        "plain-networks",
        "plain-heads",
    ],
)
def test_a_shipped_meta_dataset_is_that_of_its_recipe(name: str) -> None:
    config = load_config(str(ROOT / "experiments" / f"{name}.yaml"))
    card = load_meta_dataset(ROOT / "meta_data" / name).card  # which verifies its tables
    settings = harvest_settings(config, [])
    assert {key: card["settings"][key] for key in ("name", "harvest", "control")} == {
        key: settings[key] for key in ("name", "harvest", "control")
    }


def shipped_tables() -> list[Rows]:
    """The four tables of the README's section on the shipped controllers, without their headers."""
    (section,) = re.findall(r"<!-- shipped:begin -->(.*?)<!-- shipped:end -->", README, re.DOTALL)
    for other in ("parts", "budgets"):
        section = re.sub(rf"<!-- {other}:begin -->.*?<!-- {other}:end -->", "", section, flags=re.DOTALL)
    return [rows_of(table) for table in re.findall(r"(?:^\|.*\n)+", section, re.MULTILINE)]


def rows_of(table: str) -> Rows:
    """The cells of a table, without its header."""
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in table.strip().splitlines()[2:]]


SHIPPED_RULES = {
    "learned": "learned",
    "learned, without the probe": "learned_unprobed",
    "best fixed multiple of the reference (the anchor alone)": "best_fixed_multiple",
    "best fixed LR": "best_fixed_lr",
    "best LR of the next epoch": "greedy_label",
    "keep the run's LR": "keep",
}


def test_the_shipped_controllers_held_out_figures_are_their_cards() -> None:
    pretrained = ROOT / "metalr" / "learning" / "pretrained"
    cards = [json.loads((pretrained / f"{name}.json").read_text())["held_out"] for name in ("mlp", "lstm")]
    rules, _, _, _ = shipped_tables()
    assert [row[0] for row in rules] == list(SHIPPED_RULES)
    for rule, *values in rules:
        assert values == [f"{card[SHIPPED_RULES[rule]]:.3f}" for card in cards], rule


def test_the_shipped_controllers_accuracies_are_those_of_their_comparison() -> None:
    folder = ROOT / "experiments" / "results" / "control-small"
    summary = json.loads((folder / "summary.json").read_text())
    (cell,), (group,) = summary["cells"], summary["tuned"]
    _, accuracies, _, _ = shipped_tables()
    assert len(accuracies) == 7
    for name, accuracy, _ in accuracies:
        method = name.split(",")[0]
        found = group["methods"][method] if "tuned" in name else cell["methods"][method]
        estimate = found["test_accuracy_pct"]
        assert accuracy == f"{estimate['mean']:.1f} ± {estimate['sd']:.1f}", name
        assert estimate["n"] == 6
    hand = {name: m for name, m in group["methods"].items() if name != "schedule-free-adamw"}
    assert len(hand) == 9 and group["best"] == "wsd"
    behind = [-hand[name]["against_reference"]["difference_pp"]["mean"] for name in ("rex", "one_cycle")]
    assert f"REX and one-cycle, are {behind[0]:.1f} and {behind[1]:.1f} points below it" in README


def test_the_other_tasks_are_those_of_their_comparisons() -> None:
    _, _, tasks, _ = shipped_tables()
    recipes = [name for row in tasks for name in re.findall(r"^`(control-[a-z0-9-]+)`", row[0])]
    elsewhere = {"control-small", "control-untuned", "control-budgets"}
    folders = {path.name for path in (ROOT / "experiments" / "results").glob("control-*")} - elsewhere
    assert set(recipes) == folders and len(recipes) == len(tasks)
    for recipe, (task, best, *regrets) in zip(recipes, tasks, strict=True):
        folder = ROOT / "experiments" / "results" / recipe
        summary = json.loads((folder / "summary.json").read_text())
        (cell,), (group,) = summary["cells"], summary["tuned"]
        kept = "on Schedule-Free AdamW" in task
        if not kept:
            tuned = group["methods"][group["best"]]
            estimate = tuned["test_accuracy_pct"]
            expected = f"{group['best']} at {tuned['lr']:g}: {estimate['mean']:.1f} ± {estimate['sd']:.1f}"
            assert best == expected, task
            assert estimate["n"] == 6
        for learner, regret in zip(("mlp", "lstm"), regrets, strict=True):
            method = f"metalr-{learner}-sf" if kept else f"metalr-{learner}"
            found = cell["methods"].get(method)
            assert regret.split()[0] == (f"{found['regret_pp']['mean']:+.1f}" if found else "\N{EN DASH}"), (
                task
            )
        manifest = json.loads((folder / "manifest.json").read_text())
        assert not manifest["commit"].endswith("-dirty")


def test_what_kinds_of_networks_the_harvest_does_not_hold_cost_is_the_mean_of_their_rows() -> None:
    _, _, tasks, _ = shipped_tables()
    kinds = [row for row in tasks if "a kind not in the harvest" in row[0]]
    assert len(kinds) == 10
    for column in (2, 3):
        costs = {row[0].split("`")[1]: exact_regret(row, column) for row in kinds}
        assert f"{sum(costs.values()) / 10:.1f}" == "0.3"
        del costs["control-deep"]
        assert f"{sum(costs.values()) / 9:.1f}" == "0.5"
    assert "cost 0.3 points (MLP and LSTM) in the mean of the ten, 0.5 without the one" in README


def exact_regret(row: list[str], column: int) -> float:
    """That of the summary behind a row of the other tasks, points."""
    folder = ROOT / "experiments" / "results" / row[0].split("`")[1]
    (cell,) = json.loads((folder / "summary.json").read_text())["cells"]
    mean = cell["methods"][("metalr-mlp", "metalr-lstm")[column - 2]]["regret_pp"]["mean"]
    return float(mean)


def test_the_other_loops_are_those_of_their_summary() -> None:
    summary = json.loads((ROOT / "experiments" / "results" / "other-loops" / "summary.json").read_text())
    _, _, _, loops = shipped_tables()
    assert summary["n"] == 6
    assert len(loops) == len(summary["overall"])
    for (method, start, better, worse, *_), entry in zip(loops, summary["overall"], strict=True):
        assert (method, start) == (entry["method"], entry["start"])
        assert (int(better), int(worse)) == (entry["verdicts"]["better"], entry["verdicts"]["worse"])


def test_the_ablation_is_that_of_its_summary() -> None:
    folder = ROOT / "experiments" / "results" / "improved-against-plain"
    summary = json.loads((folder / "summary.json").read_text())
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["commit"] == summary["commit"] and not manifest["commit"].endswith("-dirty")
    for name, expected in manifest["files"].items():
        assert hashlib.sha256((folder / name).read_bytes()).hexdigest() == expected, name
    (section,) = re.findall(r"<!-- ablation:begin -->(.*?)<!-- ablation:end -->", README, re.DOTALL)
    assert f"n = {len(summary['seeds'])} paired seeds" in section
    lines = re.findall(r"^\|.*", section, re.MULTILINE)[2:]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    assert [row[0] for row in rows] == [entry["row"] for entry in summary["rows"]]
    for (_, accuracy, difference, *_rest), entry in zip(rows, summary["rows"], strict=True):
        found = entry["test_accuracy_pct"]
        assert accuracy == f"{found['mean']:.1f} ± {found['sd']:.1f}"
        if "paired" in entry:
            assert difference == f"{entry['paired']['difference_pp']['mean']:+.1f}"


CASES = ("width 8, 16 px", "width 8, 32 px", "width 16, 16 px", "width 16, 32 px")
SPEED_ROWS = {
    "epoch against the bare floor, 1 thread": ("The whole epoch: {}, 1 thread", "epoch / floor"),
    "epoch against the usual DataLoader loop, 1 thread": (
        "The whole epoch: {}, 1 thread",
        "epoch / people's loop",
    ),
    "the same, 2 threads": ("The whole epoch: {}, 2 threads", "epoch / people's loop"),
    "observing and deciding, % of the epoch": (
        "Control: {}, 1 thread",
        "observing and deciding, share of the epoch",
    ),
    "snapshot, fork, restore, % of the epoch": (
        "Control: {}, 1 thread",
        "snapshot, fork, restore, share of the epoch",
    ),
}


def test_what_the_parts_of_the_law_are_worth_is_that_of_the_committed_study() -> None:
    summary = json.loads((ROOT / "experiments" / "results" / "closed-loop" / "summary.json").read_text())
    assert not summary["commit"].endswith("-dirty")

    def losses_of(arm: str) -> list[float]:
        losses = [-row["difference_pp"]["mean"] for row in summary["rows"] if row["arm"] == arm]
        assert len(losses) == 4
        return losses

    for words, arm in (
        ("the hold instead of a straight fall", "an anchor that falls in a straight line"),
        ("the predictions", "predictions not counted (probe and anchor alone)"),
        ("the probe where the optimizer's LR is 1", "probe off, from LR 1"),
    ):
        losses = losses_of(arm)
        assert f"{words} {min(losses):.1f} to {max(losses):.1f}" in README, arm
    assert losses_of("envelope off") == [0.0] * 4
    assert sum(row["num_rollbacks"] for row in summary["rows"] if row["arm"] == "full") == 0
    assert "the envelope met nothing in these 24 runs (" in README
    assert len(summary["seeds"]) * 4 == 24


ABLATION_ARMS = {
    "LSTM instead of MLP": "full, LSTM",
    "label: the best next epoch instead of the end of the budget": "label: greedy (one epoch)",
    "candidates relative to the LR of now (recursive)": "output: recursive",
    "candidates relative to the usual LR (absolute)": "output: absolute",
    "nothing but the time is seen (state-blind)": "state: time alone",
    "no losses, weights or gradients are seen": "state: time, task and probe",
    "no probe": "probe off",
    "predictions not counted": "trust 0 (the probe alone)",
    "untrained": "untrained",
    "`meta_loss_weight` 0 instead of 0.1": "meta_loss_weight 0",
    "`meta_loss_weight` 1": "meta_loss_weight 1",
    "one network instead of four": "one network instead of an ensemble",
    "10 source tasks": "10 source tasks",
    "40 source tasks": "40 source tasks",
    "80 source tasks": "80 source tasks",
    "no DAgger round": "first two, no DAgger round",
    "one DAgger round of three": "first three, one DAgger round",
    "two DAgger rounds of three": "first four, two DAgger rounds",
    "on-line adaptation by the auxiliary head": "on-line adaptation 1",
}


def test_what_the_parts_of_meta_training_are_worth_is_that_of_the_committed_study() -> None:
    summary = json.loads((ROOT / "experiments" / "results" / "meta-ablations" / "summary.json").read_text())
    assert not summary["commit"].endswith("-dirty")
    card = json.loads((ROOT / "metalr" / "learning" / "pretrained" / "mlp.json").read_text())
    assert summary["num_forks"] == card["held_out"]["num_forks"]
    rows = {row["arm"]: row for row in summary["arms"]}
    for label, arm in ABLATION_ARMS.items():
        low, high = rows[arm]["ci95"]
        assert f"| {label} | {rows[arm]['difference_nats']:.3f} [{low:.3f}, {high:.3f}] |" in README, label


def test_the_three_budgets_are_those_of_their_comparison() -> None:
    folder = ROOT / "experiments" / "results" / "control-budgets"
    summary = json.loads((folder / "summary.json").read_text())
    assert not summary["commit"].endswith("-dirty")
    (section,) = re.findall(r"<!-- budgets:begin -->(.*?)<!-- budgets:end -->", README, re.DOTALL)
    *rows, mean = rows_of(section)

    def shown(value: float, ci95: list[float]) -> str:
        return f"{value:+.1f} [{ci95[0]:+.1f}, {ci95[1]:+.1f}]"

    for (budget, best, *regrets), cell, group in zip(rows, summary["cells"], summary["tuned"], strict=True):
        tuned = group["methods"][group["best"]]
        estimate = tuned["test_accuracy_pct"]
        assert budget == f"{cell['budget_epochs']} epochs"
        assert best == f"{group['best']} at {tuned['lr']:g}: {estimate['mean']:.1f} ± {estimate['sd']:.1f}"
        assert estimate["n"] == 12
        for learner, regret in zip(("mlp", "lstm"), regrets, strict=True):
            found = cell["methods"][f"metalr-{learner}"]["regret_pp"]
            assert regret == shown(found["mean"], found["ci95"]), budget
    for learner, regret in zip(("mlp", "lstm"), mean[2:], strict=True):
        found = summary["overall"][f"metalr-{learner}"]
        assert regret == shown(found["mean_regret_pp"], found["ci95"])
    mlp, lstm = summary["overall"]["metalr-mlp"], summary["overall"]["metalr-lstm"]
    assert mlp["ci95"][0] < 0.0 < mlp["ci95"][1] <= 0.5 and mlp["worst_cell_regret_pp"] <= 1.0
    assert lstm["mean_regret_pp"] <= 0.0 and lstm["ci95"][1] <= 0.5 and lstm["worst_cell_regret_pp"] <= 1.0
    assert (
        f"the LSTM, the default, ends {-lstm['mean_regret_pp']:.2f} points above it in the mean and loses "
        f"{lstm['worst_cell_regret_pp']:.1f} where it loses most, the MLP ends {mlp['mean_regret_pp']:.2f} "
        f"below it and loses {mlp['worst_cell_regret_pp']:.1f}." in README
    )


def test_how_far_a_label_must_look_ahead_is_that_of_the_committed_study() -> None:
    summary = json.loads((ROOT / "experiments" / "results" / "label-horizon" / "summary.json").read_text())
    assert not summary["commit"].endswith("-dirty")
    rows = summary["rows"]
    assert [row["horizon"] for row in rows] == [1, 2, 5, 10]
    for values in (
        [f"{row['regret_nats']['mean']:.3f}" for row in rows],
        [f"{math.exp(row['log_lr_over_best']['mean']):.2f}" for row in rows],
    ):
        assert f"{', '.join(values[:-1])} and {values[-1]}" in README
    assert f"eight small tasks of 20 epochs ({rows[0]['num_forks']} forks)" in README


def test_what_nobody_tuned_is_that_of_the_committed_results() -> None:
    path = ROOT / "experiments" / "results" / "control-untuned" / "summary.json"
    (cell,) = json.loads(path.read_text())["cells"]
    mean = {name: method["test_accuracy_pct"]["mean"] for name, method in cell["methods"].items()}
    best = max(("constant", "step", "cosine"), key=lambda name: mean[name])
    gains = [mean[f"metalr-{learner}"] - mean[best] for learner in ("mlp", "lstm")]
    shown = f"is {best} at {mean[best]:.1f} %, {gains[0]:.1f} (MLP) and {gains[1]:.1f} points below"
    assert shown in README


def test_the_speed_on_a_gpu_is_that_of_the_committed_benchmark() -> None:
    rows = json.loads((ROOT / "experiments" / "results" / "bench" / "gpu-steps.json").read_text())["rows"]
    seconds = {row["name"]: row["median"] for row in rows if row["unit"] == "s"}
    floor = seconds["bare floor, compiled"]
    (section,) = re.findall(r"<!-- gpu:begin -->(.*?)<!-- gpu:end -->", README, re.DOTALL)
    shown = [
        [cell.strip() for cell in line.strip("|").split("|")][1:]
        for line in re.findall(r"^\|.*", section, re.M)[2:]
    ]
    names = [*(f"loop, train.step={step}" for step in ("cuda_graph", "compile", "eager")), "people's loop"]
    expected = [[f"{seconds[name]:.2f}", f"{floor / seconds[name]:.2f}"] for name in names]
    assert shown == expected


@pytest.mark.parametrize(("name", "column"), [("cifar10-100", 0), ("cifar10-30", 2)])
def test_the_study_on_a_gpu_is_that_of_the_committed_results(name: str, column: int) -> None:
    summary = json.loads((ROOT / "experiments" / "results" / name / "summary.json").read_text())
    (cell,) = [cell for cell in summary["cells"] if cell["initial_lr"] == 0.01]
    (tuned,) = summary["tuned"]
    (section,) = re.findall(r"<!-- study:begin -->(.*?)<!-- study:end -->", README, re.DOTALL)
    rows = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in re.findall(r"^\|.*", section, re.M)[2:]
    ]
    assert {row[0] for row in rows} >= set(cell["methods"])
    for method, *values in rows:
        untuned, best = values[column : column + 2]
        if method not in cell["methods"]:
            assert (untuned, best) == ("\u2013", "\u2013"), method
            continue
        assert untuned == f"{cell['methods'][method]['test_accuracy_pct']['mean']:.1f}", method
        found = tuned["methods"].get(method)
        is_tuned = found and (name == "cifar10-30" or method == "cosine")
        expected = f"{found['test_accuracy_pct']['mean']:.1f} ({found['lr']:g})" if is_tuned else "\u2013"
        assert best == expected, method


def test_the_study_on_three_seeds_is_that_of_the_committed_runs(tmp_path: Path) -> None:
    store = RunStore(tmp_path)
    unpack_runs(ROOT / "experiments" / "results" / "cifar10-100-seeds" / "runs.jsonl.xz", store)
    ends: dict[str, dict[int, float]] = {}
    for record in map(store.load, finished_runs(store)):
        if record.spec.method != "cosine" or record.spec.train.lr == 0.1:
            ends.setdefault(record.spec.method, {})[record.spec.seed] = record.result["final"][
                "test/accuracy"
            ]
    assert ends.keys() == {"metalr-lstm", "cosine"}
    lstm, cosine = ([100 * ends[name][seed] for seed in range(3)] for name in ("metalr-lstm", "cosine"))
    (sentence,) = re.findall(r"<!-- study-seeds:begin -->(.*?)<!-- study-seeds:end -->", README, re.DOTALL)
    assert sentence == (
        "on three seeds the LSTM ends at {:.1f}, {:.1f} and {:.1f}, ".format(*lstm)
        + "the cosine at 0.1 at {:.1f}, {:.1f} and {:.1f}: ".format(*cosine)
        + f"{(sum(cosine) - sum(lstm)) / 3:.1f} below on average"
    )


def test_the_speed_is_that_of_the_committed_benchmark() -> None:
    bench = json.loads((ROOT / "experiments" / "results" / "bench" / "bench.json").read_text())
    assert not bench["machine"]["commit"].endswith("-dirty")
    medians = {(row["group"], row["name"]): row["median"] for row in bench["rows"]}
    (section,) = re.findall(r"<!-- speed:begin -->(.*?)<!-- speed:end -->", README, re.DOTALL)
    header, _, *lines = re.findall(r"^\|.*", section, re.MULTILINE)
    assert tuple(cell.strip() for cell in header.strip("|").split("|"))[1:] == CASES
    rows = {
        name: values for name, *values in ([c.strip() for c in line.strip("|").split("|")] for line in lines)
    }
    assert set(rows) == set(SPEED_ROWS)
    for label, (group, name) in SPEED_ROWS.items():
        assert rows[label] == [f"{medians[group.format(case), name]:.2f}" for case in CASES], label
    control = json.loads((ROOT / "experiments" / "results" / "bench" / "control.json").read_text())
    assert not control["machine"]["commit"].endswith("-dirty")
    decisions = {row["name"].split(",")[0]: row["median"] for row in control["rows"] if row["unit"] == "ms"}
    assert f"{decisions['mlp']:.2f} ms (MLP) or {decisions['lstm']:.2f} ms (LSTM)" in section
