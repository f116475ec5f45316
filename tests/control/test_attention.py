"""How many layers of attention a network has, and what the probe makes of it."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
from torch import nn

from metalr.control import ProbeCurve, lr_range_test, num_attention_layers
from metalr.tasks import NETWORKS, make_network
from metalr.training.networks import traits_of


def encoder(num_layers: int) -> nn.Module:
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    return nn.TransformerEncoder(layer, num_layers, enable_nested_tensor=False)


class SdpaSelfAttention(nn.Linear):
    """As the transformers library has it: an attention within an attention."""


class ToyAttention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.self, self.output = SdpaSelfAttention(8, 8), nn.Linear(8, 8)


@pytest.mark.parametrize("num_layers", [1, 3])
def test_layers_are_counted_once(num_layers: int) -> None:
    assert num_attention_layers(encoder(num_layers)) == num_layers
    assert num_attention_layers(nn.Sequential(*(ToyAttention() for _ in range(num_layers)))) == num_layers


def test_a_decoder_attends_twice_a_layer() -> None:
    assert num_attention_layers(nn.TransformerDecoder(nn.TransformerDecoderLayer(8, 2, 16), 2)) == 4


def test_of_our_networks_transformers_alone_attend() -> None:
    found = {name: num_attention_layers(make_network(name, 3, 10, 8, 8)) for name in NETWORKS}
    assert {name: number for name, number in found.items() if number} == {
        "transformer": 1,
        "vit": 4,
        "swin": 4,
    }
    assert found == {name: traits_of(name).num_attention_layers for name in NETWORKS}


LRS = (0.001, 0.01, 0.1, 1.0)
CURVE = ProbeCurve(LRS, (2.3, 2.2, 2.0, 4.0), 2.3, exploded=False, num_steps=4, normalises=True)


@pytest.mark.parametrize("averages", [False, True])
def test_under_adam_the_reference_falls_with_the_root_of_the_depth(averages: bool) -> None:
    adam = dataclasses.replace(CURVE, scales_gradients=True, averages_iterates=averages)
    references = {n: dataclasses.replace(adam, num_attention_layers=n).reference_lr for n in (0, 1, 4, 16)}
    assert references[0] == references[1]
    assert references[4] == pytest.approx(references[1] / 2)
    assert references[16] == pytest.approx(references[1] / 4)


def test_under_sgd_it_does_not() -> None:
    deep = dataclasses.replace(CURVE, num_attention_layers=16, momentum=0.9)
    assert deep.reference_lr == dataclasses.replace(CURVE, momentum=0.9).reference_lr


def test_the_probe_counts_them_and_its_record_keeps_them() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(encoder(4), nn.Flatten(), nn.Linear(24, 2))
    inputs, labels = torch.randn(16, 3, 8), torch.randint(2, (16,))
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.001)
    curve = lr_range_test(model, optimizer, lambda step: nn.functional.cross_entropy(model(inputs), labels))
    assert curve.num_attention_layers == 4
    kept = ProbeCurve.from_dict(curve.to_dict())
    assert kept == curve and kept.reference_lr == curve.reference_lr
    shallow = {key: value for key, value in curve.to_dict().items() if key != "num_attention_layers"}
    assert math.isclose(ProbeCurve.from_dict(shallow).reference_lr, 2 * curve.reference_lr)
