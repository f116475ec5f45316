# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
# ---

# %% [markdown]
# # Anatomy of a controller
#
# What does a learned controller look at, what does it expect, and what does it do? This reading takes one
# decision apart and checks it against what really happens, moves every feature and sees what the controller
# makes of it, and watches a whole run epoch by epoch. It takes the controller that ships with the package;
# where none ships it fits a small one on the spot, good enough to be looked at and for nothing else.

# %%
import contextlib
import os
import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch

import metalr
from metalr import load_config, load_controller
from metalr.control import FEATURE_GROUPS, FEATURE_NAMES, Observation, ProbeCurve, Setting, best_offset
from metalr.control import feature_rows as features_of
from metalr.display import SilentDisplay
from metalr.harvest.branching import run_trunk
from metalr.harvest.meta_dataset import load_meta_dataset
from metalr.stages import train_meta
from metalr.tasks import make_task
from metalr.training import ArtifactError, ForkPlan, Job, RunSpec, RunStore, steps_per_epoch, train_run

FAST = bool(os.environ.get("METALR_FAST"))
config = load_config(None, [
    "name=anatomy", "workers=0", "store=runs", "wandb.mode=disabled",
    "task.num_train=400", "train.epochs=8", "train.device=cpu",
    "harvest.mixture=[{}, {train.batch_size: 64}]", "harvest.schedules=[cosine]", "harvest.budgets=null",
    "harvest.initial_lrs=[0.03, 0.3]", "harvest.seeds=[1000]", "harvest.fork_fractions=[0.0, 0.5]",
    "harvest.num_candidates=7", "meta.learners=[mlp]", "meta.num_folds=2",
    f"meta.epochs={20 if FAST else 60}",
])  # fmt: skip
folder = tempfile.TemporaryDirectory()

# %%
committed = Path(metalr.__file__).parents[1] / "meta_data" / "cifar10-small"
try:
    controller = load_controller("default")
    states = load_meta_dataset(committed).transitions
    print("the controller that ships with the package")
except ArtifactError:
    with contextlib.chdir(folder.name):
        (path,) = train_meta(config, SilentDisplay())
        controller = load_controller(path)
        states = load_meta_dataset(Path("meta_data") / config.name).transitions
    print("a small one, fitted just now on four trainings of a small network")
factors = np.exp(controller.log_offsets)
print(f"{len(factors)} candidates, from {factors[0]:.3g} to {factors[-1]:.3g} times the reference LR")

# %% [markdown]
# ## One decision, before the first epoch
#
# All that is known is the probe: a short ramp of the learning rate, after which the network is as it was.
# Where the loss climbs back over its start lies the edge of stability; candidates are multiples of a
# reference LR below it.

# %%
task = make_task(config.task, config.data, torch.device("cpu"))
shared = {"task": config.task, "train": config.train, "control": config.control, "data_digest": task.digest}
plan = ForkPlan(epochs=[0], peak_factors=[float(factor) for factor in factors])
trunk = RunSpec(**shared, method="constant", forks=plan, seed=0)
record = run_trunk(Job(spec=trunk, store=folder.name), task)
probe = ProbeCurve.from_dict(record.rows[0]["probe"])
figure, axes = plt.subplots(figsize=(6, 3.2), layout="constrained")
axes.semilogx(probe.lrs, probe.losses, marker="o", ms=4, color="#2F80C3")
axes.axvline(probe.reference_lr, color="#DB5A00", ls="--", label=f"reference LR {probe.reference_lr:.2g}")
axes.axhline(probe.initial_loss, color="#808080", lw=0.8, label="loss before training")
axes.set(xlabel="learning rate", ylabel="loss (nats)", ylim=(0, 3 * probe.initial_loss), title="the probe")
axes.legend()

# %% [markdown]
# From that the controller predicts a *regret curve*: how much worse than the best one each candidate will
# end. Every candidate was also really trained, from the same state to the end of the budget. The cheap label,
# the loss one epoch on, has its lowest point elsewhere: a controller that is taught it decays too early.

# %%
setting = Setting(
    config.train.epochs, steps_per_epoch(trunk, task), task.num_classes, config.train.batch_size,
    config.train.momentum, config.train.weight_decay, averages_iterates=False, scales_gradients=False,
    normalises=False,
)  # fmt: skip


def predictions(features_TF):
    """What the controller expects after each observation; the memory goes along."""
    memory, found = controller.initial_state(), []
    for features_F in features_TF:
        memory, prediction = controller.step(memory, features_F)
        found.append(np.array(prediction.log_regrets))
    return np.stack(found)


def observations(run):
    """What the controller was told in a run."""
    return [Observation.from_dict(row["observation"]) for row in run.rows]


start = predictions(features_of(observations(record)[:1], setting, probe))[0]
branches = pd.DataFrame(record.forks)
finite = branches[branches["final_loss"].notna()].sort_values("peak_lr")
best = finite.loc[finite["final_loss"].idxmin()]
greedy = finite.loc[finite["next_loss"].idxmin()]
chosen_lr = probe.reference_lr * np.exp(best_offset(controller.log_offsets, start))
figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.4), layout="constrained")
left.semilogx(factors * probe.reference_lr, np.exp(start), marker="o", color="#2F80C3")
left.set(title="expected", xlabel="equivalent peak LR", ylabel="regret (nats)", yscale="log")
for column, label, color in (
    ("final_loss", "end of the budget", "#2F80C3"),
    ("next_loss", "one epoch on", "#DB5A00"),
):
    right.loglog(finite["peak_lr"], finite[column], marker="o", color=color, label=label)
right.set(title="what came true", xlabel="equivalent peak LR", ylabel="outer_valid loss (nats)")
for axes in (left, right):
    axes.axvline(chosen_lr, color="#808080", ls="--", label="the decision")
right.legend()
print(f"decided:         LR {chosen_lr:.3g}")
print(f"best next epoch: LR {greedy['peak_lr']:.3g}, final loss {greedy['final_loss']:.3f}")
print(f"best at the end: LR {best['peak_lr']:.3g}, final loss {best['final_loss']:.3f}")

# %% [markdown]
# ## A run, epoch by epoch
#
# The controller sets the LR of a whole run: the peak it decides on, times the height of the anchor, the
# shape that ends at zero. `reason` says what had the last word: the controller, or a bound that held it.

# %%
live = RunSpec(**shared, method="metalr-mlp", controller_sha256=controller.sha256, seed=0)
run = train_run(Job(spec=live, store=folder.name), task, controller)
watched = pd.DataFrame(
    {
        "LR": row.get("lr"),
        "train loss": row["observation"].get("train_loss"),
        "valid accuracy": row["observation"].get("inner_valid_accuracy"),
        "wish": (row["decision"]["proposed_peak_lr"] or np.nan) / probe.reference_lr,
        "peak": row["decision"]["peak_lr"] / probe.reference_lr,
        "reason": row["decision"]["reason"],
    }
    for row in run.rows
)
watched.index.name = "epoch"
print("wish and peak are multiples of the reference LR")
print(watched.round(4).to_string(na_rep="-"))
assert len(watched) == config.train.epochs + 1

# %% [markdown]
# What it expected at each of these decisions, pale is good; the line is the peak that was taken. Below, the
# LR of every step.

# %%
features_TF = features_of(observations(run), setting, ProbeCurve.from_dict(run.rows[0]["probe"]))
expected_TK = predictions(features_TF)
figure, (top, bottom) = plt.subplots(2, 1, figsize=(7, 5.4), sharex=True, layout="constrained")
epochs = np.arange(len(expected_TK))
image = top.pcolormesh(epochs, np.log2(factors), expected_TK.T, cmap="Blues", shading="nearest")
top.plot(epochs, np.log2(watched["peak"]), color="#DB5A00", marker="o", ms=4)
top.set(ylabel="log2 (peak / reference LR)", title="expected log regret, and the peak taken")
figure.colorbar(image, ax=top)
lrs = [lr for row in RunStore(folder.name).load_lrs(run.run_id) for lr in row["lrs"]]
bottom.plot((np.arange(len(lrs)) + 0.5) / setting.steps_per_epoch, lrs, color="#DB5A00")
bottom.set(xlabel="epoch", ylabel="learning rate", title="LR of each step")

# %% [markdown]
# ## What it responds to
#
# The state after half of the budget, with one feature at a time moved through the range it has in the
# meta-dataset (its 5th to 95th percentile), all else as it was: how far does the decision move? Swing is the
# factor between the largest and the smallest LR decided on. A feature without a swing is not used *here*; it
# may matter in another state.

# %%
middle = features_TF[: len(features_TF) // 2 + 1]


def decided(features_TF):
    """The decision after the last observation, as log2 of its multiple of the reference LR."""
    return best_offset(controller.log_offsets, predictions(features_TF)[-1]) / np.log(2)


def moved(position, value):
    """The middle state with one feature, or several, at another value."""
    changed = middle.copy()
    changed[-1, position] = value
    return decided(changed)


responses = {}
for position, name in enumerate(FEATURE_NAMES):
    known = states[f"feature/{name}"].dropna() if f"feature/{name}" in states else ()
    if len(known) and not np.isnan(middle[-1, position]):
        sweep = np.linspace(*np.quantile(known, [0.05, 0.95]), 5 if FAST else 15)
        responses[name] = sweep, np.array([moved(position, value) for value in sweep])
swings = pd.Series({name: 2 ** np.ptp(curve) for name, (_, curve) in responses.items()})
swings = swings.sort_values(ascending=False)
print(swings.round(2).rename("swing (factor)").to_string())

# %%
figure, panels = plt.subplots(3, 3, figsize=(9, 7), sharey=True, layout="constrained")
now = decided(middle)
for axes, name in zip(panels.flat, swings.index, strict=False):
    axes.plot(*responses[name], color="#2F80C3")
    axes.plot(middle[-1, FEATURE_NAMES.index(name)], now, "o", color="#DB5A00")
    axes.set_title(name, fontsize="medium")
figure.supylabel("decision: log2 (peak / reference LR)")
figure.suptitle("the nine features with the largest swing; the dot is the state as it was")

# %% [markdown]
# ## When it is told less
#
# Features come in groups, each from one source; a loop that cannot measure gradients lacks a whole group. The
# decision in the same state with each group hidden, against the one with everything.

# %%
hidden = {group: moved(list(positions), np.nan) for group, positions in FEATURE_GROUPS.items()}
figure, axes = plt.subplots(figsize=(6, 3.4), layout="constrained")
axes.barh(list(hidden), [value - now for value in hidden.values()], color="#2F80C3")
axes.axvline(0, color="#808080", lw=0.8)
axes.set(xlabel="change of the decision (log2)", title="with one group of features hidden")
axes.invert_yaxis()
final = run.result["final"]
print(f"the run ended at {100 * final['outer_valid/accuracy']:.1f} % on outer_valid")
folder.cleanup()
