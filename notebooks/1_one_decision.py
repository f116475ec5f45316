# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
# ---

# %% [markdown]
# # One decision, and what it is worth
#
# A learning rate that makes the next epoch good is not the one that makes the run good. This reading takes
# one small network on scikit-learn's digits, probes it, and continues the same untrained state under nine
# candidate learning rates to the end of the budget.

# %%
import tempfile

import matplotlib.pyplot as plt
import torch

from metalr import ExperimentConfig
from metalr.harvest.branching import run_trunk
from metalr.harvest.plan import candidate_factors
from metalr.tasks import make_task
from metalr.training import ForkPlan, Job, RunSpec

config = ExperimentConfig()
task = make_task(config.task, config.data, torch.device("cpu"))
spec = RunSpec(
    task=config.task,
    train=config.train.model_copy(update={"epochs": 8, "device": "cpu"}),
    method="constant",
    control=config.control,
    forks=ForkPlan(epochs=[0, 4], peak_factors=candidate_factors(config)),
    seed=0,
    data_digest=task.digest,
)
store = tempfile.TemporaryDirectory()
record = run_trunk(Job(spec=spec, store=store.name), task)

# %% [markdown]
# ## The probe
#
# Twenty steps on a rising learning rate, on one batch; afterwards the network is as it was. Where the loss
# climbs back over its start lies the edge of stability; candidates are multiples of an eighth of it.

# %%
probe = record.rows[0]["probe"]
figure, axes = plt.subplots()
axes.semilogx(probe["lrs"], probe["losses"], marker="o")
axes.axvline(probe["edge_lr"], linestyle="--", label="edge of stability")
axes.axvline(probe["reference_lr"], linestyle=":", label="reference")
axes.axhline(probe["initial_loss"], color="grey", linewidth=0.8)
axes.set(xlabel="LR", ylabel="loss after the step (nats)", title="LR range test")
axes.legend()

# %% [markdown]
# ## The fork
#
# Each candidate is the peak of an anchor that ends at zero. The curve of the next epoch's loss and the curve
# of the final loss have their lowest points at different learning rates: a controller that is taught the
# first is taught to decay too early.

# %%
figure, panels = plt.subplots(1, 2, figsize=(9, 3.5), sharey=True)
for axes, epoch in zip(panels, spec.forks.epochs, strict=True):
    branches = [row for row in record.forks if row["epoch"] == epoch and row["final_loss"] is not None]
    peaks = [row["peak_lr"] for row in branches]
    axes.loglog(peaks, [row["next_loss"] for row in branches], marker="o", label="one epoch on")
    axes.loglog(peaks, [row["final_loss"] for row in branches], marker="s", label="end of the budget")
    axes.set(xlabel="equivalent peak LR", title=f"after {epoch} of {spec.train.epochs} epochs")
panels[0].set_ylabel("outer_valid loss (nats)")
panels[0].legend()

# %%
at_start = [row for row in record.forks if row["epoch"] == 0 and row["final_loss"] is not None]
greedy = min(at_start, key=lambda row: row["next_loss"])
best = min(at_start, key=lambda row: row["final_loss"])
print(f"best next epoch:   LR {greedy['peak_lr']:.3g}, final loss {greedy['final_loss']:.3f}")
print(f"best at the end:   LR {best['peak_lr']:.3g}, final loss {best['final_loss']:.3f}")
store.cleanup()
