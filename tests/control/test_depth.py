import pytest
import torch
from torch import nn

from metalr.config import ProbeConfig
from metalr.control import num_plain_layers
from metalr.control.probe import lr_range_test
from metalr.control.probe_curve import ProbeCurve
from metalr.tasks import NETWORKS


def chain(num_layers: int, *, bias: bool = True) -> list[nn.Module]:
    layers: list[nn.Module] = []
    for _ in range(num_layers):
        layers += [nn.Linear(8, 8, bias=bias), nn.ReLU()]
    return layers


class Shortcut(nn.Module):
    def __init__(self, *inner: nn.Module) -> None:
        super().__init__()
        self.inner = nn.Sequential(*inner)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return inputs + self.inner(inputs)


@pytest.mark.parametrize(
    ("model", "shape", "count"),
    [
        (nn.Sequential(*chain(7)), (4, 8), 7),
        (nn.Sequential(*chain(7)), (4, 3, 8), 7),
        (nn.Sequential(*chain(3, bias=False)), (4, 3, 8), 3),
        (nn.Sequential(*chain(3, bias=False)), (4, 8), 3),
        (nn.Sequential(*chain(5), nn.LayerNorm(8), *chain(2)), (4, 8), 2),
        (nn.Sequential(*chain(5), nn.BatchNorm1d(8), *chain(1)), (4, 8), 1),
        (
            nn.Sequential(nn.Linear(8, 8), *(Shortcut(*chain(3)) for _ in range(4)), nn.Linear(8, 1)),
            (4, 8),
            2,
        ),
        (nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(32, 2)), (4, 3, 4, 4), 2),
        (nn.Sequential(nn.Flatten()), (4, 8), 0),
    ],
)
def test_the_plain_layers_by_hand(model: nn.Module, shape: tuple[int, ...], count: int) -> None:
    assert num_plain_layers(model(torch.randn(shape)).mean()) == count


def test_an_embedding_is_where_a_network_of_words_begins() -> None:
    model = nn.Sequential(nn.Embedding(5, 8), *chain(6))
    assert num_plain_layers(model(torch.zeros(2, 3, dtype=torch.long)).mean()) == 6


def test_what_has_no_gradients_counts_none() -> None:
    model = nn.Sequential(*chain(7))
    with torch.no_grad():
        assert num_plain_layers(model(torch.randn(4, 8)).mean()) == 0


def test_the_packages_networks_by_hand() -> None:
    images, deep = torch.randn(2, 3, 8, 8), {}
    for name, make in NETWORKS.items():
        count = num_plain_layers(make(3, 10, 8, 8, 0.0)(images).mean())
        if count > 2:
            deep[name] = count
    assert deep == {"mlp": 3, "mlp_tanh": 3, "mlp_deep": 5, "cnn": 4, "cnn_fc": 5, "lenet": 5, "vgg": 10}


def test_the_probe_counts_them_and_changes_nothing_by_it() -> None:
    model = nn.Sequential(*chain(6))
    before = [parameter.clone() for parameter in model.parameters()]
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    inputs = torch.randn(16, 8)
    curve = lr_range_test(model, optimizer, lambda _: model(inputs).square().mean(), ProbeConfig())
    assert curve.num_plain_layers == 6
    assert ProbeCurve.from_dict(curve.to_dict()) == curve
    old = {key: value for key, value in curve.to_dict().items() if key != "num_plain_layers"}
    assert ProbeCurve.from_dict(old).num_plain_layers == 0  # of before they were counted
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))


@pytest.mark.parametrize(
    ("num_layers", "factor"), [(0, 1.0), (4, 1.0), (5, 0.5), (8, 0.3125), (10, 0.25), (40, 0.25)]
)
@pytest.mark.parametrize("scales_gradients", [False, True])
def test_the_reference_falls_with_the_number_of_plain_layers(
    num_layers: int, factor: float, scales_gradients: bool
) -> None:
    def reference(**changes: object) -> float:
        curve = ProbeCurve(
            (0.01, 0.1, 1.0),
            (2.2, 1.9, 3.0),
            2.3,
            exploded=False,
            num_steps=3,
            scales_gradients=scales_gradients,
        ).to_dict()
        return ProbeCurve.from_dict(curve | changes).reference_lr

    assert reference(num_plain_layers=num_layers) == pytest.approx(factor * reference())
    for trait in ("normalises", "averages_iterates", "is_distance"):  # there it stays as it is
        known = {trait: True}
        assert reference(num_plain_layers=num_layers, **known) == pytest.approx(reference(**known))
