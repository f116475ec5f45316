# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
# ---

# %% [markdown]
# # Every schedule, and where its learning rate comes from
#
# Which shapes does the learning rate of a training take, when is each of them a good choice, and how does one
# find the learning rate they all begin with? At the end you will have seen each hand schedule of this project
# drawn, with its formula and the way it fails, and a learning-rate range test on a live network.

# %%
import os
import tempfile
from collections import namedtuple

import matplotlib.pyplot as plt
import numpy as np
import torch

from metalr import ExperimentConfig, find_lr
from metalr.config import SchedulesConfig
from metalr.control import SCHEDULE_NAMES, schedule_preview
from metalr.tasks import make_task
from metalr.training import Job, RunSpec, train_run

FAST = bool(os.environ.get("METALR_FAST"))
EPOCHS, STEPS, LR = 30, 20, 0.1

# %% [markdown]
# ## The shapes
#
# `t` is the time in epochs, `T` the budget, `u = t / T`. The LR of a recipe is the largest one a schedule
# uses (`greedy` and `explore` go beyond it). Sources are arXiv numbers.

# %%
About = namedtuple("About", "formula use fails source")
ABOUT = {
    "constant": About("lr", "a first look at a new task", "the last steps' noise stays in the weights", ""),
    "step": About("lr * factor at milestones", "long budgets with known milestones",
                  "milestones tuned for one budget are wrong for another", "1512.03385"),
    "exponential": About("lr * exp(-rate t)", "unknown budgets", "most of the budget goes to tiny LRs", ""),
    "inverse_time": About("lr / (1 + rate t)", "convex problems, where theory asks for it",
                          "falls too early, then hardly at all", ""),
    "polynomial": About("lr (1 - u)^2", "segmentation", "as exponential", "1606.00915"),
    "linear": About("lr (1 - u)", "short budgets", "needs the budget beforehand", "1905.04753"),
    "cosine": About("lr (1 + cos(pi u)) / 2", "the usual default", "needs the budget first", "1608.03983"),
    "restarts": About("cosine again and again", "a usable model at the end of every cycle",
                      "the budget may end in the middle of a hot cycle", "1608.03983"),
    "cyclical": About("triangles between a low and a high LR", "an LR known only to a factor of ten",
                      "half of the budget is spent on rises", "1506.01186"),
    "one_cycle": About("one rise, one long fall, momentum opposite", "high LRs that need a rise",
                       "at small LRs the rise is lost time", "1708.07120"),
    "plateau": About("lr * factor where the validation loss stops falling", "unknown budgets",
                     "with few epochs its patience never ends", ""),
    "wsd": About("lr, then a fall over the last fifth", "a budget that may yet be prolonged",
                 "a bad LR is held for long", "2405.18392"),
    "rex": About("lr (1 - u) / (1 - u / 2)", "short and long budgets alike", "needs the budget beforehand",
                 "2107.04197"),
    "greedy": About("up while the validation loss falls, else down", "no budget at all",
                    "what is good for the next epoch is not what is good for the end", "2512.14527"),
    "explore": About("random straight pieces in log LR", "made to be harvested", "by design", ""),
}  # fmt: skip
assert set(ABOUT) == set(SCHEDULE_NAMES)
for name in SCHEDULE_NAMES:
    about = ABOUT[name]
    source = f" (arXiv {about.source})" if about.source else ""
    print(f"{name:13} {about.formula}{source}\n{'':13} good: {about.use}; fails: {about.fails}")

# %% [markdown]
# Each panel shows the LR of every step over the budget. `plateau` and `greedy` look at the run: here they see
# a pretended validation loss that falls until 0.4 of the budget and is flat from there.

# %%
lrs = {name: schedule_preview(name, SchedulesConfig(), LR, EPOCHS, STEPS)[0] for name in SCHEDULE_NAMES}
figure, panels = plt.subplots(5, 3, figsize=(9, 10), sharex=True, layout="constrained")
epochs = (np.arange(EPOCHS * STEPS) + 0.5) / STEPS
for axes, name in zip(panels.flat, SCHEDULE_NAMES, strict=True):
    axes.plot(epochs, lrs[name], color="#2F80C3")
    axes.set_title(name)
    axes.set_ylim(0, 1.08 * LR)
    if name in ("greedy", "explore"):
        axes.set_yscale("log")
        axes.set_ylim(LR / 10, LR * 10)
for axes in panels[-1]:
    axes.set_xlabel("epoch")
figure.supylabel("learning rate")

# %% [markdown]
# What the shapes leave of the recipe's LR, on average over the budget: the reason why schedules need
# different LRs to be at their best, and why comparing them at one LR is unfair.

# %%
means = {name: float(np.mean(values)) / LR for name, values in lrs.items()}
for name, mean in sorted(means.items(), key=lambda item: -item[1]):
    print(f"{name:13} {mean:.2f}")
assert means["wsd"] > means["linear"] > means["polynomial"]

# %% [markdown]
# ## Once a step, or once an epoch
#
# At 30 epochs the difference is small; at 4 the last epoch of a per-epoch linear schedule is trained at a
# quarter of the LR, the last step of a per-step one at almost none. A warm-up can stand in front of any
# schedule, which then has the rest of the budget.

# %%
per_epoch = SchedulesConfig.model_validate({"linear": {"interval": "epoch"}})
warm = SchedulesConfig.model_validate({"warmup": {"epochs": 0.5}})
figure, axes = plt.subplots(figsize=(6, 3.2), layout="constrained")
steps = (np.arange(4 * STEPS) + 0.5) / STEPS
for label, settings in {
    "per step": SchedulesConfig(),
    "per epoch": per_epoch,
    "with a warm-up": warm,
}.items():
    axes.plot(steps, schedule_preview("linear", settings, LR, 4, STEPS)[0], label=label)
axes.set(title="linear over 4 epochs", xlabel="epoch", ylabel="learning rate")
axes.legend()

# %% [markdown]
# ## Where the LR comes from: the finder
#
# A learning-rate range test (arXiv 1506.01186): training steps on a rising LR, until the loss explodes; then
# everything is put back. The suggestion is read off the curve, each rule at another place.

# %%
config = ExperimentConfig()
task = make_task(config.task, config.data, torch.device("cpu"))
train = task.splits["train"]
torch.manual_seed(0)
model = task.make_model(0)
before = {name: value.clone() for name, value in model.state_dict().items()}
optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9, weight_decay=5e-4)
generator = torch.Generator().manual_seed(0)
order = torch.randperm(len(train.labels_B), generator=generator)
batches = [task.train_batch(part, generator) for part in order.split(32)[:-1]]
found = find_lr(model, optimizer, torch.nn.CrossEntropyLoss(), batches)
assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())

figure, axes = plt.subplots(figsize=(6, 3.6), layout="constrained")
axes.semilogx(found.curve.lrs, found.curve.losses, color="#808080", lw=1, label="loss of each step")
for (rule, suggestion), color in zip(
    found.suggestions.items(), ("#2F80C3", "#DB5A00", "#3A9A4B"), strict=False
):
    if suggestion.lr is not None:
        axes.axvline(suggestion.lr, color=color, ls="--", label=f"{rule}: {suggestion.lr:.2g}")
top = 3 * found.curve.initial_loss  # beyond it the loss has exploded
axes.set(title="LR range test on digits", xlabel="learning rate", ylabel="loss (nats)", ylim=(0, top))
axes.legend()
print(f"suggested: {found.lr:.3g}, {found.reason}")

# %% [markdown]
# ## Is the suggestion any good?
#
# Train the same network for a few epochs of cosine at LRs around it.

# %%
factors = (0.1, 1.0, 10.0) if FAST else (0.03, 0.1, 0.3, 1.0, 3.0, 10.0)
accuracies = {}
with tempfile.TemporaryDirectory() as store:
    for factor in factors:
        recipe = config.train.model_copy(update={"epochs": 6, "lr": factor * found.lr, "device": "cpu"})
        spec = RunSpec(task=config.task, train=recipe, method="cosine", seed=0, data_digest=task.digest)
        record = train_run(Job(spec=spec, store=store), task)
        accuracies[factor] = 100 * record.result["final"].get("outer_valid/accuracy", 0.0)
for factor, accuracy in accuracies.items():
    print(f"{factor:5g} x the suggestion: {accuracy:.1f} % on outer_valid")
