"""Who is better: the same network under every schedule and controller, on paired seeds.

* `protocol`: which runs a comparison needs, and the cells (task, budget, initial LR) they fall into.
* `statistics`: bootstrap intervals, the paired permutation test, Holm, and when to claim nothing.
* `measures`: what is measured of one run; `pairing`: tuned baselines, regret, the family of tests.
* `summary`: records -> summary.json; `definitions`: what its figures mean.
* `wording`, `tables`, `costs`, `svg`, `plots`, `page`, `report`: summary.json -> something to read.
"""

from metalr.comparison.protocol import Cell, cell_of, cells_of, missing_peers, plan_runs
from metalr.comparison.report import write_report
from metalr.comparison.summary import summarise
from metalr.comparison.wording import verdict

__all__ = [
    "Cell",
    "cell_of",
    "cells_of",
    "missing_peers",
    "plan_runs",
    "summarise",
    "verdict",
    "write_report",
]
