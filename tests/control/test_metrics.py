"""What metrics may be called, what they may be made of, and what is said about the others."""

import math
import warnings

import numpy as np
import pytest
import torch

from metalr.control.metrics import ALIASES, MetricReader


@pytest.mark.parametrize(("field", "alias"), [(f, a) for f, aliases in ALIASES.items() for a in aliases])
def test_every_alias_is_read(field: str, alias: str) -> None:
    assert MetricReader().read({alias: 0.25}) == {field: 0.25}


def test_no_alias_is_two_things() -> None:
    names = [alias for aliases in ALIASES.values() for alias in aliases]
    assert len(names) == len(set(names))


@pytest.mark.parametrize(
    "value",
    [
        0.5,
        np.float32(0.5),
        np.array(0.5),
        np.array([0.5]),
        torch.tensor(0.5),
        torch.tensor([[0.5]]),
        torch.tensor(0.5, dtype=torch.bfloat16),
        torch.tensor(0.5, requires_grad=True),
    ],
)
def test_whatever_holds_one_number_is_one(value: object) -> None:
    assert MetricReader().read(value) == {"inner_valid_loss": 0.5}
    read = MetricReader().read({"loss": value})
    assert read == {"train_loss": 0.5}
    assert type(read["train_loss"]) is float


def test_the_more_exact_name_counts_and_none_is_missing() -> None:
    mapping = {"accuracy": 0.1, "val_accuracy": 0.9, "loss": None, "training_loss": 2, "epoch": 3, "lr": 0.1}
    assert MetricReader().read(mapping) == {"inner_valid_accuracy": 0.9, "train_loss": 2.0}


def test_unknown_names_are_told_once_together() -> None:
    reader = MetricReader()
    with pytest.warns(UserWarning, match=r"ignores 'bleu', 'f1'; .* train_loss, val_loss and val_accuracy"):
        assert reader.read({"f1": 0.3, "bleu": 4.0, "val_loss": 1.0}) == {"inner_valid_loss": 1.0}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert reader.read({"rouge": 1.0}) == {}


@pytest.mark.parametrize("accuracy", [93.1, -0.1, math.nan, math.inf])
def test_an_accuracy_that_is_no_fraction_is_left_out(accuracy: float) -> None:
    reader = MetricReader()
    with pytest.warns(UserWarning, match="from 0 to 1"):
        assert reader.read({"val_acc": accuracy, "val_loss": 1.0}) == {"inner_valid_loss": 1.0}
    assert reader.read({"val_acc": accuracy}) == {}


@pytest.mark.parametrize("loss", [math.nan, math.inf, -math.inf, 10**400, torch.tensor(math.nan)])
def test_losses_that_are_not_finite_come_through(loss: object) -> None:
    assert not math.isfinite(MetricReader().read(loss)["inner_valid_loss"])


@pytest.mark.parametrize(
    ("value", "named"),
    [
        ("0.5", "got '0.5'"),
        (b"1", "got b'1'"),
        ([0.5], r"got \[0.5\]"),
        (object, "got <class 'object'>"),
        (torch.zeros(3), r"tensor of shape \(3,\)"),
        (torch.tensor(1j), "complex64 tensor"),
        (np.zeros(2), "got array"),
    ],
)
def test_what_is_no_number_is_named_in_one_line(value: object, named: str) -> None:
    with pytest.raises(TypeError, match=f"metric 'val_loss' must be a number, .*{named}") as caught:
        MetricReader().read({"val_loss": value})
    assert "\n" not in str(caught.value)
