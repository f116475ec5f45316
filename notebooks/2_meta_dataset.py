# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
# ---

# %% [markdown]
# # The meta-dataset: what a training looks like, and where its best next LR lies
#
# A harvest runs many trainings and forks each of them at a few epochs: the same state goes on under several
# candidate learning rates to the end of the budget. What does the state look like in numbers, where do the
# best candidates lie, and what would it cost to take the one that makes the *next epoch* best? This reading
# trains nothing: it reads the meta-dataset that is committed with the project.

# %%
import json
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

import metalr
from metalr.control import FEATURE_GROUPS, FEATURE_NAMES

folder = Path(metalr.__file__).parents[1] / "meta_data" / "cifar10-small"
tables = json.loads((folder / "card.json").read_text())["tables"]  # its card says what lies where
states, forks = (pd.read_parquet(folder / tables[name]["file"]) for name in ("transitions", "forks"))
if "optimizer" not in states:  # of a harvest from before there was a choice
    states = states.assign(optimizer="sgd")
columns = [column for name in FEATURE_NAMES if (column := f"feature/{name}") in states]
num_forks = len(forks.groupby(["run_id", "epoch"]))
num_runs = states["run_id"].nunique()
print(f"{num_runs} trainings, {len(states)} states, {num_forks} forks, {len(forks)} candidates")
print(states.groupby(["optimizer", "network"])["run_id"].nunique().to_string())

# %% [markdown]
# ## The state
#
# Every state is a row of dimensionless features, in groups that come from one source each: a loop that
# cannot measure gradients lacks that whole group. Missing values are normal; before the first epoch nearly
# everything but the probe's curve is.

# %%
for group, positions in FEATURE_GROUPS.items():
    wanted = [f"feature/{FEATURE_NAMES[position]}" for position in positions]
    values = states[[column for column in wanted if column in columns]]
    print(f"{group:12} {values.shape[1]:2} features, missing {100 * values.isna().mean().mean():3.0f} %")

# %%
shown = [
    "progress", "log_inner_valid_loss", "gap", "log_update_over_weights", "grad_noise", "log_reference_lr",
]  # fmt: skip
figure, panels = plt.subplots(2, 3, figsize=(9, 4.6), layout="constrained")
for axes, name in zip(panels.flat, shown, strict=True):
    axes.hist(states[f"feature/{name}"].dropna(), bins=30, color="#2F80C3")
    axes.set(title=name, ylabel="states")

# %% [markdown]
# ## One fork
#
# The regret of a candidate is its final `outer_valid` loss minus that of the best candidate. The forks of
# one training, each at another epoch: what matters is how wide the valley is, and where it lies. A candidate
# that diverged has the largest regret that a loss can honestly have, that of guessing.

# %%
by_fork = {key: rows.sort_values("factor") for key, rows in forks.groupby(["run_id", "epoch"])}
longest = forks.groupby("run_id")["epoch"].nunique().idxmax()
figure, axes = plt.subplots(figsize=(6, 3.6), layout="constrained")
for (run, epoch), rows in by_fork.items():
    if run == longest:
        axes.loglog(rows["peak_lr"], rows["regret"] + 1e-3, marker="o", label=f"after {epoch} epochs")
axes.set(title="final regret of each candidate", xlabel="equivalent peak LR", ylabel="regret + 0.001 (nats)")
axes.legend()

# %% [markdown]
# ## Where the best next LR lies
#
# In multiples of the probe's reference LR, by how much of the budget is spent. Each dot is a fork; the line
# is the median. One number for all states would have to lie in the middle of this cloud.

# %%
best = pd.DataFrame(
    {
        "best": rows.loc[rows["regret"].idxmin(), "factor"],
        "greedy": rows.loc[rows["next_regret"].idxmin(), "factor"],
        "regret of greedy": rows.loc[rows["next_regret"].idxmin(), "regret"],
        "run_id": run,
        "epoch": epoch,
    }
    for (run, epoch), rows in by_fork.items()
    if rows[["regret", "next_regret"]].notna().any().all()
)
described = states[["run_id", "epoch", "optimizer", "network", "feature/progress"]]
best = best.merge(described, on=["run_id", "epoch"])
figure, axes = plt.subplots(figsize=(6, 3.6), layout="constrained")
for (optimizer, rows), marker in zip(best.groupby("optimizer"), "osD^v", strict=False):
    jitter = np.random.default_rng(0).uniform(-0.015, 0.015, len(rows))
    axes.semilogy(rows["feature/progress"] + jitter, rows["best"], marker, ms=4, alpha=0.6, label=optimizer)
medians = best.groupby(best["feature/progress"].round(1))["best"].median()
axes.plot(medians.index, medians, color="black", lw=1, label="median")
axes.set(title="best candidate of each fork", xlabel="progress", ylabel="best LR / reference LR")
axes.legend(fontsize="small")
print(best.groupby(["optimizer", "network"])["best"].describe()[["count", "25%", "50%", "75%"]].to_string())

# %% [markdown]
# ## The greedy label, and what it costs
#
# The cheap label is the candidate with the lowest loss one epoch later. On the same forks: how often it is
# smaller than the best one, by what factor, and how much final loss is lost by following it.

# %%
ratio = best["greedy"] / best["best"]
print(f"greedy below the best: {100 * (ratio < 1).mean():.0f} %, above: {100 * (ratio > 1).mean():.0f} %")
print(f"median greedy / best: {ratio.median():.2f}")
print(f"mean final loss lost by following it: {best['regret of greedy'].mean():.4f} nats")

# %% [markdown]
# ## What one fixed rule costs
#
# The best single multiple of the reference LR for all forks, and the best single LR. This is what a learned
# controller has to beat.

# %%
table = forks.pivot_table(index=["run_id", "epoch"], columns="factor", values="regret")
means = table.mean()
print(means.rename("mean regret (nats)").round(4).to_string())
grid = np.geomspace(1e-4, 10.0, 41)
fixed = [
    np.mean([np.interp(np.log(lr), np.log(rows["peak_lr"]), rows["regret"]) for rows in by_fork.values()])
    for lr in grid
]
print(f"best multiple: {means.idxmin():.3g} x the reference, {means.min():.4f} nats")
print(f"best single LR: {grid[int(np.argmin(fixed))]:.3g}, {min(fixed):.4f} nats")

# %% [markdown]
# ## Which features move with the best LR
#
# Rank correlation with the best multiple, over all forks. A weak single correlation is not the end of it:
# the learner sees all of them together, and the whole run so far.

# %%
place = ["run_id", "epoch"]
joined = best[[*place, "best"]].merge(states[[*place, *columns]], on=place)
moving = [column for column in columns if joined[column].nunique() > 1]
ranks = joined[moving].corrwith(joined["best"], method="spearman")
ranks.index = [name.removeprefix("feature/") for name in ranks.index]
print(ranks.reindex(ranks.abs().sort_values(ascending=False).index).head(10).round(2).to_string())
