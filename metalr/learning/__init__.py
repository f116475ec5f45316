"""From the meta-dataset to a controller: examples, learners, fitting, and the files that ship.

Reading order: `examples` (what is learned from), `task_groups` (what is held out together), `views` (the same
without a probe), `learners` (the networks), `ensemble` (training), `rules` (what decisions cost), `fitting`
(held-out figures), `controller` (saved, loaded, asked), `shipping`.
"""
