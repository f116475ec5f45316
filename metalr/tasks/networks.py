"""The networks that are trained: ResNets for small images, CNNs, MLPs, row readers, torchvision's newer ones.

All take normalised images of shape (B, in_channels, image_size, image_size) to logits (B, num_classes).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn

from metalr.tasks.torchvision_networks import (
    make_convnext,
    make_densenet,
    make_mobilenet,
    make_shufflenet,
    make_swin,
    make_vit,
)

__all__ = ["MIN_WIDTH", "NETWORKS", "make_network"]

MIN_WIDTH = 8
"""Convolutions with 4 channels in channels_last corrupt the heap of torch 2.12.1 on the CPU."""


class _ResidualBlock(nn.Module):
    """Two 3x3 convolutions beside a shortcut; the names of its parameters are torchvision's."""

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(out_channels)
        self.relu = nn.ReLU(inplace=True)
        self.downsample: nn.Sequential | None = None
        if stride != 1 or in_channels != out_channels:
            projection = nn.Conv2d(in_channels, out_channels, 1, stride, bias=False)
            self.downsample = nn.Sequential(projection, nn.BatchNorm2d(out_channels))

    def forward(self, inputs: Tensor) -> Tensor:
        shortcut = inputs if self.downsample is None else self.downsample(inputs)
        hidden = self.relu(self.bn1(self.conv1(inputs)))
        return self.relu(self.bn2(self.conv2(hidden)) + shortcut)  # type: ignore[no-any-return]


class _ResNet(nn.Module):
    """ResNet (He et al. 2015, arXiv 1512.03385) whose stem keeps the side: 3x3, stride 1, no pooling.

    Two blocks a stage are ResNet-18: at width 64 the state dict is that of torchvision's `resnet18` but for
    the shape of `conv1.weight`. One block a stage is ResNet-10.
    """

    def __init__(
        self,
        in_channels: int,
        num_classes: int,
        image_size: int,
        width: int,
        dropout: float,
        *,
        blocks_per_stage: int,
    ) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, width, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        self.layer1 = self._stage(width, width, 1, blocks_per_stage)
        self.layer2 = self._stage(width, 2 * width, 2, blocks_per_stage)
        self.layer3 = self._stage(2 * width, 4 * width, 2, blocks_per_stage)
        self.layer4 = self._stage(4 * width, 8 * width, 2, blocks_per_stage)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.dropout = nn.Dropout(dropout)
        self.fc = nn.Linear(8 * width, num_classes)
        _initialise_convolutions(self)

    @staticmethod
    def _stage(in_channels: int, out_channels: int, stride: int, num_blocks: int) -> nn.Sequential:
        first = _ResidualBlock(in_channels, out_channels, stride)
        others = (_ResidualBlock(out_channels, out_channels, 1) for _ in range(num_blocks - 1))
        return nn.Sequential(first, *others)

    def forward(self, images: Tensor) -> Tensor:
        hidden = self.relu(self.bn1(self.conv1(images)))
        hidden = self.layer4(self.layer3(self.layer2(self.layer1(hidden))))
        return self.fc(self.dropout(self.avgpool(hidden).flatten(1)))  # type: ignore[no-any-return]


def _initialise_convolutions(network: nn.Module) -> None:
    """Normal weights of variance 2 / fan_out, zero biases, as in torchvision (He et al. 2015, 1502.01852)."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)


def _group_norm(channels: int) -> nn.GroupNorm:
    """In groups of 8 channels where they divide into such."""
    return nn.GroupNorm(math.gcd(channels, channels // 8 or 1), channels)


Normalisation = Callable[[int], nn.Module]
"""A layer for that many channels or units."""


def _convolution(before: int, after: int, normalisation: Normalisation | None) -> list[nn.Module]:
    norm = [normalisation(after)] if normalisation else []
    return [nn.Conv2d(before, after, 3, padding=1), *norm, nn.ReLU(inplace=True)]


def _make_cnn(
    in_channels: int,
    num_classes: int,
    image_size: int,
    width: int,
    dropout: float,
    *,
    normalisation: Normalisation | None = None,
) -> nn.Module:
    """3x3 convolutions of width, 2 width and 4 width channels, halving the side twice."""
    network = nn.Sequential(
        *_convolution(in_channels, width, normalisation),
        nn.MaxPool2d(2),
        *_convolution(width, 2 * width, normalisation),
        nn.MaxPool2d(2),
        *_convolution(2 * width, 4 * width, normalisation),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Dropout(dropout),
        nn.Linear(4 * width, num_classes),
    )
    _initialise_convolutions(network)
    return network


def _make_vgg(
    in_channels: int,
    num_classes: int,
    image_size: int,
    width: int,
    dropout: float,
    *,
    normalisation: Normalisation | None = None,
) -> nn.Module:
    """VGG-11 (Simonyan and Zisserman 2014, arXiv 1409.1556) for small images, and a head of one hidden layer.

    Pools where the side stays at 2 pixels or more; a mean over what is left of it in place of 7 x 7.
    """
    layers: list[nn.Module] = []
    before, side = in_channels, image_size
    for stage in ((width,), (2 * width,), (4 * width,) * 2, (8 * width,) * 2, (8 * width,) * 2):
        for after in stage:
            layers += _convolution(before, after, normalisation)
            before = after
        if side >= 4:
            layers.append(nn.MaxPool2d(2))
            side //= 2
    head = [nn.Linear(before, before), nn.ReLU(inplace=True), nn.Dropout(dropout)]
    network = nn.Sequential(
        *layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), *head, nn.Linear(before, num_classes)
    )
    _initialise_convolutions(network)
    return network


def _make_cnn_fc(
    in_channels: int,
    num_classes: int,
    image_size: int,
    width: int,
    dropout: float,
    *,
    normalisation: Normalisation | None = None,
) -> nn.Module:
    """A tutorial's CNN: three 3x3 convolutions, each halving the side, and a hidden layer over all pixels.

    torch's own initialisation, as in a user's own.
    """
    layers: list[nn.Module] = []
    before, side = in_channels, image_size
    for after in (width, 2 * width, 4 * width):
        layers += _convolution(before, after, normalisation)
        before = after
        if side >= 2:
            layers.append(nn.MaxPool2d(2))
            side //= 2
    hidden = 4 * width
    head = [nn.Linear(before * side**2, hidden), nn.ReLU(inplace=True), nn.Dropout(dropout)]
    return nn.Sequential(*layers, nn.Flatten(), *head, nn.Linear(hidden, num_classes))


def _make_lenet(in_channels: int, num_classes: int, image_size: int, width: int, dropout: float) -> nn.Module:
    """LeNet-5 (LeCun et al. 1998), in the original's proportions, with ReLUs and maximum pooling.

    Its convolutions keep the side; torch's own initialisation.
    """
    second, first_hidden, second_hidden = (round(width * units / 6) for units in (16, 120, 84))
    return nn.Sequential(
        nn.Conv2d(in_channels, width, 5, padding=2),
        nn.ReLU(inplace=True),
        nn.MaxPool2d(2),
        nn.Conv2d(width, second, 5, padding=2),
        nn.ReLU(inplace=True),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(second * (image_size // 4) ** 2, first_hidden),
        nn.ReLU(inplace=True),
        nn.Linear(first_hidden, second_hidden),
        nn.ReLU(inplace=True),
        nn.Dropout(dropout),
        nn.Linear(second_hidden, num_classes),
    )


def _make_mlp(
    in_channels: int,
    num_classes: int,
    image_size: int,
    width: int,
    dropout: float,
    *,
    normalisation: Normalisation | None = None,
    activation: Callable[[], nn.Module] | None = None,
    num_hidden: int = 2,
) -> nn.Module:
    """`num_hidden` layers of `width` units; torch's own initialisation, as in a user's plain MLP."""
    layers: list[nn.Module] = [nn.Flatten()]
    for before in (in_channels * image_size**2, *[width] * (num_hidden - 1)):
        norm = [normalisation(width)] if normalisation else []
        layers += [nn.Linear(before, width), *norm, activation() if activation else nn.ReLU(inplace=True)]
    return nn.Sequential(*layers, nn.Dropout(dropout), nn.Linear(width, num_classes))


class _RowNetwork(nn.Module):
    """One layer over the rows of an image, from the top down, as over the words of a sentence.

    `transformer`: a pre-norm encoder layer (Vaswani et al. 2017, arXiv 1706.03762) and the mean over rows;
    `gru`: a gated recurrent unit (Cho et al. 2014, arXiv 1406.1078) and its state after the last row.
    """

    def __init__(
        self, in_channels: int, num_classes: int, image_size: int, width: int, dropout: float, *, kind: str
    ) -> None:
        super().__init__()
        self.embedding = nn.Linear(in_channels * image_size, width)
        self.positions = nn.Parameter(0.02 * torch.randn(image_size, width))
        self.layer: nn.Module
        if kind == "transformer":
            num_heads = math.gcd(width, 4)
            self.layer = nn.TransformerEncoderLayer(
                width, num_heads, 2 * width, dropout=0.0, batch_first=True, norm_first=True
            )
            self.norm: nn.Module = nn.LayerNorm(width)
        else:
            self.layer, self.norm = nn.GRU(width, width, batch_first=True), nn.Identity()
        self.dropout = nn.Dropout(dropout)
        self.fc = nn.Linear(width, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        rows_BHD = images.transpose(1, 2).flatten(2)
        hidden = self.layer(self.embedding(rows_BHD) + self.positions)
        summary = hidden[0][:, -1] if isinstance(hidden, tuple) else hidden.mean(dim=1)
        return self.fc(self.dropout(self.norm(summary)))  # type: ignore[no-any-return]


NETWORKS: dict[str, Callable[[int, int, int, int, float], nn.Module]] = {
    "resnet18": partial(_ResNet, blocks_per_stage=2),
    "resnet10": partial(_ResNet, blocks_per_stage=1),
    "cnn": _make_cnn,
    "cnn_bn": partial(_make_cnn, normalisation=nn.BatchNorm2d),
    "cnn_gn": partial(_make_cnn, normalisation=_group_norm),
    "mlp": _make_mlp,
    "mlp_bn": partial(_make_mlp, normalisation=nn.BatchNorm1d),
    "mlp_ln": partial(_make_mlp, normalisation=nn.LayerNorm),
    "mlp_tanh": partial(_make_mlp, activation=nn.Tanh),
    "mlp_deep": partial(_make_mlp, num_hidden=4),
    "transformer": partial(_RowNetwork, kind="transformer"),
    "gru": partial(_RowNetwork, kind="gru"),
    "cnn_fc": _make_cnn_fc,
    "cnn_fc_bn": partial(_make_cnn_fc, normalisation=nn.BatchNorm2d),
    "cnn_fc_gn": partial(_make_cnn_fc, normalisation=_group_norm),
    "lenet": _make_lenet,
    "vgg": _make_vgg,
    "vgg_bn": partial(_make_vgg, normalisation=nn.BatchNorm2d),
    "vit": make_vit,
    "swin": make_swin,
    "convnext": make_convnext,
    "mobilenet": make_mobilenet,
    "shufflenet": make_shufflenet,
    "densenet": make_densenet,
}
"""Name in `task.network` -> maker from (in_channels, num_classes, image_size, width, dropout)."""


def make_network(
    name: str, in_channels: int, num_classes: int, image_size: int, width: int, dropout: float = 0.0
) -> nn.Module:
    """A freshly initialised network on the CPU; draws from torch's global generator.

    `image_size` is the side in pixels, `width` the channels of the first stage (units of a hidden layer for
    an MLP), `dropout` the probability in 0..1 before the last layer.
    Raises ValueError for an unknown name, for a width below 8, and with convolutions for images of under 4
    pixels.
    """
    if name not in NETWORKS:
        raise ValueError(f"network={name!r} is unknown; choose one of {', '.join(sorted(NETWORKS))}")
    if width < MIN_WIDTH:
        raise ValueError(
            f"width={width} must be at least {MIN_WIDTH}: convolutions of 4 channels in channels_last layout "
            "crash torch 2.12 on the CPU"
        )
    smallest = 1 if name.startswith("mlp") or name in ("transformer", "gru", "vit") else 4
    if image_size < smallest:
        raise ValueError(f"image_size={image_size} must be at least {smallest} pixels for network={name}")
    return NETWORKS[name](in_channels, num_classes, image_size, width, dropout)
