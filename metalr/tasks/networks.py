"""The networks that are trained: a ResNet-18 for small images, a plain CNN, an MLP; one registry.

All take normalised images of shape (B, in_channels, image_size, image_size) to logits (B, num_classes).
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn

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


class _ResNet18(nn.Module):
    """ResNet-18 (He et al. 2015, arXiv 1512.03385) whose stem keeps the side: 3x3, stride 1, no pooling.

    At width 64 the state dict is that of torchvision's `resnet18` but for the shape of `conv1.weight`.
    """

    def __init__(
        self, in_channels: int, num_classes: int, image_size: int, width: int, dropout: float
    ) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, width, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        self.layer1 = self._stage(width, width, stride=1)
        self.layer2 = self._stage(width, 2 * width, stride=2)
        self.layer3 = self._stage(2 * width, 4 * width, stride=2)
        self.layer4 = self._stage(4 * width, 8 * width, stride=2)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.dropout = nn.Dropout(dropout)
        self.fc = nn.Linear(8 * width, num_classes)
        _initialise_convolutions(self)

    @staticmethod
    def _stage(in_channels: int, out_channels: int, stride: int) -> nn.Sequential:
        first = _ResidualBlock(in_channels, out_channels, stride)
        return nn.Sequential(first, _ResidualBlock(out_channels, out_channels, 1))

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


def _make_cnn(in_channels: int, num_classes: int, image_size: int, width: int, dropout: float) -> nn.Module:
    """3x3 convolutions of width, 2 width and 4 width channels, halving the side twice; no normalisation."""
    network = nn.Sequential(
        nn.Conv2d(in_channels, width, 3, padding=1),
        nn.ReLU(inplace=True),
        nn.MaxPool2d(2),
        nn.Conv2d(width, 2 * width, 3, padding=1),
        nn.ReLU(inplace=True),
        nn.MaxPool2d(2),
        nn.Conv2d(2 * width, 4 * width, 3, padding=1),
        nn.ReLU(inplace=True),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Dropout(dropout),
        nn.Linear(4 * width, num_classes),
    )
    _initialise_convolutions(network)
    return network


def _make_mlp(in_channels: int, num_classes: int, image_size: int, width: int, dropout: float) -> nn.Module:
    """Two hidden layers of `width` units; torch's own initialisation, as in a user's plain MLP."""
    return nn.Sequential(
        nn.Flatten(),
        nn.Linear(in_channels * image_size**2, width),
        nn.ReLU(inplace=True),
        nn.Linear(width, width),
        nn.ReLU(inplace=True),
        nn.Dropout(dropout),
        nn.Linear(width, num_classes),
    )


NETWORKS: dict[str, Callable[[int, int, int, int, float], nn.Module]] = {
    "resnet18": _ResNet18,
    "cnn": _make_cnn,
    "mlp": _make_mlp,
}
"""Name in `task.network` -> maker from (in_channels, num_classes, image_size, width, dropout)."""


def make_network(
    name: str, in_channels: int, num_classes: int, image_size: int, width: int, dropout: float = 0.0
) -> nn.Module:
    """A freshly initialised network on the CPU; draws from torch's global generator.

    `image_size` is the side in pixels, `width` the channels of the first stage (units of a hidden layer for
    `mlp`), `dropout` the probability in 0..1 before the last layer.
    Raises ValueError for an unknown name, for a width below 8, and for images of under 4 pixels (`mlp`: 1).
    """
    if name not in NETWORKS:
        raise ValueError(f"network={name!r} is unknown; choose one of {', '.join(sorted(NETWORKS))}")
    if width < MIN_WIDTH:
        raise ValueError(
            f"width={width} must be at least {MIN_WIDTH}: convolutions of 4 channels in channels_last layout "
            "crash torch 2.12 on the CPU"
        )
    smallest = 1 if name == "mlp" else 4
    if image_size < smallest:
        raise ValueError(f"image_size={image_size} must be at least {smallest} pixels for network={name}")
    return NETWORKS[name](in_channels, num_classes, image_size, width, dropout)
