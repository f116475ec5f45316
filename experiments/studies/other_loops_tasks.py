"""Six small trainings of kinds that no controller was made on: the data, the networks, the losses.

Legend: B examples, F features, T characters of a context, V characters of the vocabulary.
"""

from __future__ import annotations

import hashlib
import importlib
import string
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

__all__ = ["LOOPS", "SPLITS", "Data", "Loop", "one_group"]

SPLITS = ("train", "inner_valid", "outer_valid", "test")
SPLIT_SEED = 20261125
"""Of the one division of each set: seeds of trainings change weights and order, never the division."""
CONTEXT = 24
CHARACTERS_PER_TOPIC = 500
ALPHABET = string.ascii_lowercase + " \n.,'()`_:-*=\"\\|/0123456789"

Split = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class Data:
    """Inputs and targets of the four splits."""

    splits: dict[str, Split]
    num_classes: int | None
    """None for a regression or a reconstruction."""

    @property
    def sha256(self) -> str:
        """Over all values, in the order of the splits."""
        digest = hashlib.sha256()
        for name in SPLITS:
            for part in self.splits[name]:
                digest.update(part.numpy().tobytes())
        return digest.hexdigest()


def one_group(model: nn.Module, lr: float) -> list[dict[str, Any]]:
    """All parameters at one LR."""
    return [{"params": list(model.parameters()), "lr": lr}]


@dataclass(frozen=True)
class Loop:
    """A training as somebody writes it."""

    description: str
    epochs: int
    batch_size: int
    load: Callable[[], Data]
    make_model: Callable[[], nn.Module]
    """From torch's global random state."""
    loss_fn: Callable[[Tensor, Tensor], Tensor]
    make_groups: Callable[[nn.Module, float], list[dict[str, Any]]] = one_group
    """Parameter groups from a network and the user's LR."""
    accuracy_fn: Callable[[Tensor, Tensor], Tensor] | None = None

    def steps_per_epoch(self) -> int:
        """The last, smaller batch included."""
        return -(-len(self.load().splits["train"][0]) // self.batch_size)

    def batches(self, order: Tensor) -> Iterator[Split]:
        """The training examples in this order."""
        inputs, targets = self.load().splits["train"]
        for chosen in order.split(self.batch_size):
            yield inputs[chosen], targets[chosen]


def _divided(inputs: Tensor, targets: Tensor, sizes: tuple[int, ...], num_classes: int | None) -> Data:
    """Splits of `sizes`, drawn without replacement; the test gets what is left."""
    order = torch.randperm(len(inputs), generator=torch.Generator().manual_seed(SPLIT_SEED))
    parts = order.split([*sizes, len(inputs) - sum(sizes)])
    return Data(
        {name: (inputs[part], targets[part]) for name, part in zip(SPLITS, parts, strict=True)}, num_classes
    )


def _standardised(data: Data) -> Data:
    """Every feature, and a real target, at mean 0 and sd 1 of `train`."""
    inputs, targets = data.splits["train"]
    splits = {name: (_scaled(x, inputs), y) for name, (x, y) in data.splits.items()}
    if data.num_classes is None:
        splits = {name: (x, _scaled(y, targets)) for name, (x, y) in splits.items()}
    return Data(splits, data.num_classes)


def _scaled(values: Tensor, reference: Tensor) -> Tensor:
    return (values - reference.mean(dim=0)) / reference.std(dim=0)


def _sklearn(name: str) -> tuple[Tensor, np.ndarray]:
    """Features as float32, and the targets, of one of scikit-learn's shipped sets."""
    features, targets = getattr(importlib.import_module("sklearn.datasets"), f"load_{name}")(return_X_y=True)
    return torch.tensor(features, dtype=torch.float32), targets


@cache
def _characters() -> Data:
    """The language reference that Python ships for `help()`: contexts of 24 characters and the next ones."""
    topics = importlib.import_module("pydoc_data.topics").topics
    random = np.random.default_rng(SPLIT_SEED)
    names = [str(name) for name in random.permutation(sorted(topics))]
    text = "".join(topics[name][:CHARACTERS_PER_TOPIC] for name in names).lower()
    codes = torch.tensor([ALPHABET.find(character) + 1 for character in text])
    rows = codes[: len(codes) // (CONTEXT + 1) * (CONTEXT + 1)].view(-1, CONTEXT + 1)
    # Cut in the order of the topics: what is tested on comes from other topics.
    parts = rows.split([480, 100, 300, len(rows) - 880])
    splits = {name: (part[:, :-1], part[:, 1:]) for name, part in zip(SPLITS, parts, strict=True)}
    return Data(
        {name: (x.contiguous(), y.contiguous()) for name, (x, y) in splits.items()}, len(ALPHABET) + 1
    )


@cache
def _breast_cancer() -> Data:
    features, classes = _sklearn("breast_cancer")
    return _standardised(_divided(features, torch.tensor(classes), (304, 50, 100), 2))


@cache
def _diabetes() -> Data:
    features, targets = _sklearn("diabetes")
    values = torch.tensor(targets, dtype=torch.float32)[:, None]
    return _standardised(_divided(features, values, (240, 50, 70), None))


@cache
def _digits() -> Data:
    pixels, classes = _sklearn("digits")
    return _divided(pixels / 16.0, torch.tensor(classes), (800, 200, 350), 10)


@cache
def _digits_to_rebuild() -> Data:
    return Data({name: (x, x) for name, (x, _) in _digits().splits.items()}, None)


@cache
def _digits_half(upper: bool) -> Data:
    """The digits 0 to 4, or 5 to 9 numbered from 0."""
    pixels, classes = _sklearn("digits")
    chosen = (classes >= 5) == upper
    labels = torch.tensor(classes[chosen] % 5)
    return _divided(pixels[torch.from_numpy(chosen)] / 16.0, labels, (320, 90, 200), 5)


class Transformer(nn.Module):
    """One pre-norm layer of width 32 that predicts each next character."""

    def __init__(self) -> None:
        super().__init__()
        width = 32
        self.characters = nn.Embedding(len(ALPHABET) + 1, width)
        self.positions = nn.Parameter(0.02 * torch.randn(CONTEXT, width))
        self.layer = nn.TransformerEncoderLayer(
            width, 2, 2 * width, dropout=0.0, batch_first=True, norm_first=True
        )
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, len(ALPHABET) + 1)
        self.register_buffer("mask", nn.Transformer.generate_square_subsequent_mask(CONTEXT))

    def forward(self, codes_BT: Tensor) -> Tensor:
        """Logits, B x T x V."""
        hidden = self.layer(self.characters(codes_BT) + self.positions, src_mask=self.mask)
        logits: Tensor = self.head(self.norm(hidden))
        return logits


def _tabular_network() -> nn.Module:
    return nn.Sequential(
        nn.Linear(30, 64), nn.BatchNorm1d(64), nn.ReLU(), nn.Dropout(0.1), nn.Linear(64, 64), nn.ReLU(),
        nn.Linear(64, 2),
    )  # fmt: skip


def _regression_network() -> nn.Module:
    return nn.Sequential(nn.Linear(10, 32), nn.Tanh(), nn.Linear(32, 32), nn.Tanh(), nn.Linear(32, 1))


def _autoencoder() -> nn.Module:
    sizes = (64, 48, 8, 48, 64)
    layers = [nn.Linear(*pair) for pair in pairwise(sizes)]
    return nn.Sequential(layers[0], nn.GELU(), layers[1], layers[2], nn.GELU(), layers[3], nn.Sigmoid())


def _cnn(num_classes: int = 10) -> nn.Sequential:
    """Three convolutions and no normalisation."""
    return nn.Sequential(
        nn.Unflatten(1, (1, 8, 8)), nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(),
        nn.Conv2d(8, 16, 3, padding=1, stride=2), nn.ReLU(), nn.Conv2d(16, 16, 3, padding=1), nn.ReLU(),
        nn.Flatten(), nn.Linear(256, num_classes),
    )  # fmt: skip


@cache
def _pretrained_weights() -> dict[str, Tensor]:
    """Of the CNN on the digits 0 to 4: 15 epochs of AdamW, the same for all seeds."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(SPLIT_SEED)
        model = _cnn(5)
        inputs, labels = _digits_half(upper=False).splits["train"]
        optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
        for _ in range(15):
            for chosen in torch.randperm(len(inputs)).split(16):
                optimizer.zero_grad()
                functional.cross_entropy(model(inputs[chosen]), labels[chosen]).backward()
                optimizer.step()
    return model.state_dict()


def _pretrained_cnn() -> nn.Module:
    """That network with its first convolution frozen and a new last layer."""
    model = _cnn(5)
    fresh = {name: value for name, value in model.state_dict().items() if name.startswith("8.")}
    model.load_state_dict(_pretrained_weights() | fresh)
    model[1].requires_grad_(False)
    return model


def _discriminative_groups(model: nn.Module, lr: float) -> list[dict[str, Any]]:
    """The new layer at the LR, the layers below at a tenth and a hundredth of it; the frozen one at none."""
    assert isinstance(model, nn.Sequential)
    layers = zip((8, 5, 3), (1.0, 0.1, 0.01), strict=True)
    return [{"params": list(model[index].parameters()), "lr": lr * factor} for index, factor in layers]


def _character_loss(logits_BTV: Tensor, targets_BT: Tensor) -> Tensor:
    return functional.cross_entropy(logits_BTV.flatten(0, 1), targets_BT.flatten())


def _accuracy(logits: Tensor, targets: Tensor) -> Tensor:
    return (logits.argmax(dim=-1) == targets).float().mean()


LOOPS = {
    "language-model": Loop(
        "a transformer of one layer, width 32, on 480 contexts of 24 characters of the language reference "
        "that ships with Python; nats a character, and accuracy of the next one",
        12, 16, _characters, Transformer, _character_loss, accuracy_fn=_accuracy,
    ),
    "tabular": Loop(
        "an MLP with batch norm and dropout on scikit-learn's breast cancer table (30 features, 304 rows)",
        20, 16, _breast_cancer, _tabular_network, functional.cross_entropy, accuracy_fn=_accuracy,
    ),
    "autoencoder": Loop(
        "an autoencoder 64-48-8-48-64 on 800 of scikit-learn's digits; mean squared error "
        "of a pixel in [0, 1]",
        15, 32, _digits_to_rebuild, _autoencoder, functional.mse_loss,
    ),
    "fine-tuning": Loop(
        "a CNN trained on the digits 0 to 4, then on 320 of the digits 5 to 9: first layer frozen, a new "
        "last layer at the LR, the layers between at a tenth and a hundredth of it",
        12, 16, lambda: _digits_half(upper=True), _pretrained_cnn, functional.cross_entropy,
        _discriminative_groups, _accuracy,
    ),
    "regression": Loop(
        "an MLP of tanh units on scikit-learn's diabetes table (10 features, 240 rows); mean squared error "
        "in units of the target's variance",
        20, 16, _diabetes, _regression_network, functional.mse_loss,
    ),
    "plain-cnn": Loop(
        "a CNN of three convolutions without any normalisation on 800 of scikit-learn's digits",
        12, 32, _digits, _cnn, functional.cross_entropy, accuracy_fn=_accuracy,
    ),
}  # fmt: skip
