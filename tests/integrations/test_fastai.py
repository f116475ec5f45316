"""FastaiMetaLR: what it refuses, and what it sees of either kind of optimizer."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from integrations.rules import controller

pytest.importorskip("fastai", reason="fastai is not installed")

from fastai.callback.core import Callback
from fastai.data.core import DataLoaders
from fastai.data.load import DataLoader
from fastai.learner import Learner
from fastai.optimizer import SGD, OptimWrapper

from metalr.integrations import FastaiMetaLR

pytestmark = pytest.mark.slow


def make_learner(folder: Path, opt_func: Any = SGD) -> Learner:
    rows = [(torch.ones(2), torch.ones(1)) for _ in range(8)]
    loaders = DataLoaders(*(DataLoader(rows, bs=2) for _ in range(2)), device="cpu")
    model = torch.nn.Linear(2, 1)
    return Learner(loaders, model, torch.nn.MSELoss(), opt_func, lr=0.01, path=folder)


def fit(learn: Learner, epochs: int, callback: Callback, **settings: Any) -> list[dict[str, Any]]:
    with learn.no_bar(), learn.no_logging():
        learn.fit(epochs, cbs=callback, **settings)
    return callback.scheduler.state_dict()["trace"][1:]


def test_one_cycle_is_refused(tmp_path: Path) -> None:
    learn = make_learner(tmp_path)
    with learn.no_bar(), learn.no_logging(), pytest.raises(ValueError, match="cannot share the LR"):
        learn.fit_one_cycle(2, cbs=FastaiMetaLR(controller()))


@pytest.mark.parametrize(
    ("opt_func", "has_gradients"), [(SGD, False), (partial(OptimWrapper, opt=torch.optim.SGD), True)]
)
def test_both_kinds_of_optimizer(tmp_path: Path, opt_func: Any, has_gradients: bool) -> None:
    learn = make_learner(tmp_path, opt_func)
    callback = FastaiMetaLR(controller())
    trace = fit(learn, 3, callback)
    assert len(trace) == 3
    assert all(("grad_norm" in row) is has_gradients for row in trace)
    assert all(row.keys() >= {"train_loss", "inner_valid_loss"} for row in trace)
    assert learn.opt.hypers[0]["lr"] == callback.scheduler.get_last_lr()[0]


def test_a_new_fit_begins_anew(tmp_path: Path) -> None:
    learn = make_learner(tmp_path)
    assert len(fit(learn, 2, FastaiMetaLR(controller()))) == 2
    assert len(fit(learn, 3, FastaiMetaLR(controller()))) == 3


def test_validating_touches_nothing(tmp_path: Path) -> None:
    learn = make_learner(tmp_path)
    fit(learn, 2, FastaiMetaLR(controller()))
    before = learn.opt.hypers[0]["lr"]
    with learn.no_bar(), learn.no_logging():
        learn.validate(cbs=FastaiMetaLR(controller()))
    assert learn.opt.hypers[0]["lr"] == before
