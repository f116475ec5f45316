import pytest
import torch
from torch import nn

from metalr.control import MetaLR, has_plain_head, normalises
from metalr.control.probe import lr_range_test
from metalr.control.probe_curve import ProbeCurve, usual_lr


class RootMeanSquareNorm(nn.Module):
    """As libraries write their own."""

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return inputs / inputs.square().mean(-1, keepdim=True).sqrt()


@pytest.mark.parametrize(
    ("layer", "expected"),
    [
        (nn.BatchNorm1d(4), True),
        (nn.LayerNorm(4), True),
        (nn.GroupNorm(2, 4), True),
        (nn.InstanceNorm1d(4), True),
        (RootMeanSquareNorm(), True),
        (nn.Identity(), False),
        (nn.Dropout(), False),
    ],
)
def test_a_normalisation_is_found_at_any_depth(layer: nn.Module, expected: bool) -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.Sequential(nn.ReLU(), nn.Sequential(layer)), nn.Linear(4, 2))
    assert normalises(model) == expected


def convolution(norm: nn.Module | None = None) -> list[nn.Module]:
    """8 features of images of 3 x 4 x 4."""
    norm = norm or nn.BatchNorm2d(8)
    return [nn.Conv2d(3, 8, 3), norm, nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()]


class Gated(nn.Module):
    """Squeeze and excitation with linear layers, registered last."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(*convolution())
        self.gate = nn.Sequential(nn.Linear(8, 2), nn.ReLU(), nn.Linear(2, 8), nn.Sigmoid())
        self.head = nn.Linear(8, 5)


class TwoHeads(nn.Module):
    """Side by side."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(*convolution())
        self.classes, self.boxes = nn.Linear(8, 5), nn.Linear(8, 4)


@pytest.mark.parametrize("model", [Gated(), TwoHeads()])
def test_a_gate_and_two_heads_side_by_side_hide_nothing(model: nn.Module) -> None:
    assert normalises(model) and not has_plain_head(model)


HIDDEN = (nn.Linear(8, 6), nn.ReLU(), nn.Dropout(0.5), nn.Linear(6, 5))


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        (nn.Sequential(*convolution(), nn.Linear(8, 5)), True),
        (nn.Sequential(*convolution(), *HIDDEN), False),
        (nn.Sequential(*convolution(), *HIDDEN, nn.Sigmoid()), False),  # of the outputs: gates nothing
        (nn.Sequential(*convolution(nn.GroupNorm(2, 8)), *HIDDEN), False),
        (nn.Sequential(*convolution(nn.InstanceNorm2d(8)), *HIDDEN), False),
        (nn.Sequential(nn.Linear(8, 8), nn.LayerNorm(8), *HIDDEN), True),  # as in a transformer's block
        (nn.Sequential(*convolution(), nn.Linear(8, 6), nn.BatchNorm1d(6), nn.Linear(6, 5)), True),
    ],
)
def test_a_hidden_layer_behind_the_last_norm_of_channels_is_not_held(
    model: nn.Module, expected: bool
) -> None:
    assert normalises(model) == expected
    assert has_plain_head(model) != expected
    batch = torch.randn(4, 3, 4, 4) if isinstance(model[0], nn.Conv2d) else torch.randn(4, 8)
    targets, optimizer = torch.randint(2, (4,)), torch.optim.SGD(model.parameters(), lr=0.01)
    curve = lr_range_test(model, optimizer, lambda _: nn.functional.cross_entropy(model(batch), targets))
    assert (curve.normalises, curve.has_plain_head) == (expected, not expected)


@pytest.mark.parametrize(
    ("known", "factor"),
    [({}, 10 / 3), ({"averages_iterates": True}, 10 / 3), ({"scales_gradients": True}, 1.0)],
)
def test_only_sgd_is_usually_given_more_under_normalisation(known: dict[str, bool], factor: float) -> None:
    assert usual_lr(**known, normalises=True) == pytest.approx(factor * usual_lr(**known))
    assert usual_lr(**known, normalises=False) == usual_lr(**known, normalises=None) == usual_lr(**known)


def test_the_reference_of_a_network_that_normalises_is_between_the_edge_and_the_usual_lr() -> None:
    lrs, losses = (0.001, 0.01, 0.1, 1.0), (2.3, 2.0, 2.2, 9.0)
    plain = ProbeCurve(lrs, losses, 2.3, exploded=False, num_steps=4, momentum=0.9)
    normal = ProbeCurve(lrs, losses, 2.3, exploded=False, num_steps=4, momentum=0.9, normalises=True)
    assert plain.edge_lr == normal.edge_lr
    assert plain.reference_lr == pytest.approx((plain.edge_lr / 8 * 0.03) ** 0.5)
    assert normal.reference_lr == pytest.approx((normal.edge_lr * 0.1) ** 0.5)
    assert ProbeCurve.from_dict(normal.to_dict()) == normal
    old = {key: value for key, value in normal.to_dict().items() if key != "normalises"}
    assert not ProbeCurve.from_dict(old).normalises  # as it was read then


@pytest.mark.parametrize("normal", [False, True])
def test_probe_and_scheduler_see_it_in_the_model_and_without_a_model_it_is_not_known(normal: bool) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8) if normal else nn.Identity(), nn.Linear(8, 2))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    inputs, targets = torch.randn(16, 4), torch.randint(2, (16,))
    curve = lr_range_test(model, optimizer, lambda _: nn.functional.cross_entropy(model(inputs), targets))
    assert curve.normalises == normal
    told = MetaLR(optimizer, total_epochs=3, model=model).state_dict()
    assert told["setting"]["normalises"] == normal
    assert told["reference_lr"] == pytest.approx(0.1 if normal else 0.03)
    untold = MetaLR(optimizer, total_epochs=3).state_dict()
    assert untold["setting"]["normalises"] is None
    assert untold["reference_lr"] == pytest.approx(0.03)
