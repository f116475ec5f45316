# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
# ---

# %% [markdown]
# # What the comparisons say
#
# Is the learned controller as good as the best schedule one could have tuned? This reading trains nothing: it
# reads what is committed under `experiments/results`, one `summary.json` for each recipe that was compared.

# %%
import json
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

import metalr

results = Path(metalr.__file__).parents[1] / "experiments" / "results"
summaries = {
    path.parent.name: json.loads(path.read_text()) for path in sorted(results.glob("*/summary.json"))
}
summaries = {name: summary for name, summary in summaries.items() if "tuned" in summary}
list(summaries)

# %% [markdown]
# ## Untuned: from whatever LR one starts
#
# `regret` is the final test accuracy of the best tuned hand schedule minus the method's own, in percentage
# points, mean over initial LRs, budgets and paired seeds. Zero is as good as tuned; a hand schedule that is
# not tuned pays for every cell in which the LR was a bad guess.

# %%
tables = {}
for name, summary in summaries.items():
    rows = {
        method: {
            "regret (pp)": entry["mean_regret_pp"],
            "interval": entry["ci95"],
            "worst cell (pp)": entry["worst_cell_regret_pp"],
            "sensitivity (pp)": entry["sensitivity_pp"],
            "control (% of wall time)": entry["overhead_pct"],
        }
        for method, entry in summary["overall"].items()
    }
    tables[name] = pd.DataFrame(rows).T.sort_values("regret (pp)")
    print(f"\n{name}, n = {len(summary['seeds'])} seeds\n{tables[name].to_string()}")

# %% [markdown]
# ## Tuned: each method at the LR that `outer_valid` prefers
#
# The fair rivals: every hand schedule and every peer that has an LR to tune, at its best. The reference of
# the regret above is the best hand schedule here; what stands above it is a peer that beat them all.

# %%
for name, summary in summaries.items():
    for group in summary["tuned"]:
        ranked = sorted(group["methods"].items(), key=lambda item: -item[1]["outer_valid_accuracy_pct"])
        print(f"\n{name}, {group['budget_epochs']} epochs; reference: {group['best']}")
        for method, entry in ranked[:8]:
            accuracy = entry["test_accuracy_pct"]["mean"]
            print(f"  {method:20} LR {entry['lr']:<6g} test accuracy {accuracy:.1f} %")

# %% [markdown]
# ## Where each method is strong
#
# One row a method, one column a cell: the initial LR, and below it the budget in epochs. Pale is as good as
# tuned. A schedule has one pale column for each budget, where its LR was guessed right; a method that finds
# its LR by itself has a row of one colour.

# %%
for name, summary in summaries.items():
    cells, methods = summary["cells"], list(summary["overall"])
    regret = np.array(
        [[cell["methods"][m]["regret_pp"]["mean"] for cell in cells] for m in methods], dtype=float
    )
    figure, axes = plt.subplots(
        figsize=(1.5 + 0.7 * len(cells), 1.0 + 0.28 * len(methods)), layout="constrained"
    )
    image = axes.imshow(regret, cmap="PuOr_r", vmin=-10, vmax=10, aspect="auto")
    axes.set_xticks(range(len(cells)), [f"{c['initial_lr']:g}\n{c['budget_epochs']}" for c in cells])
    axes.set_yticks(range(len(methods)), methods)
    axes.set(xlabel="initial LR, and below it the budget in epochs", title=f"{name}: regret")
    figure.colorbar(image, label="regret (percentage points)")
    plt.show()
    plt.close(figure)
