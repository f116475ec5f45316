"""Many runs: the plan, the forks, the executors, and the meta-dataset they make.

Reading order: `plan` (which runs), `branching` (what a fork is), `execution` (who runs them),
`meta_dataset` (what comes out).
"""
