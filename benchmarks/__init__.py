"""Speed, overhead, scaling and memory, measured and never tested: `make bench`, or `python -m benchmarks`.

Reading order: `measurement` (rounds, medians, paired ratios), `settings` (how much is measured), `cases`
(what is trained), `report` (table and JSON); then one module a group of rows: `floor`, `epoch` with the
`people_loop` it is held against, `workers`, `control`, `start` and `memory` in `one_worker`, `harvest`,
`operators`.
"""
