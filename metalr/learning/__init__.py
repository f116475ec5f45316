"""From the meta-dataset to a controller: examples, learners, fitting, and the files that ship.

Reading order: `examples` (what is learned from), `learners` (the networks), `fitting` (training and
held-out figures), `controller` (saved, loaded, asked).
"""
