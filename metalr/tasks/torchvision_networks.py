"""Torchvision's newer architectures for small images: a stem that keeps more of the side, and few layers.

Only the stem and a dropout before the last layer are ours; blocks and initialisation are torchvision's.
"""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Literal

from torch import nn

__all__ = ["make_convnext", "make_densenet", "make_mobilenet", "make_shufflenet", "make_swin", "make_vit"]


def make_vit(in_channels: int, num_classes: int, image_size: int, width: int, dropout: float) -> nn.Module:
    """A vision transformer of 4 layers on patches of up to 4 pixels (Dosovitskiy et al. 2020, 2010.11929)."""
    from torchvision.models import VisionTransformer

    patch = math.gcd(image_size, 4)
    network: nn.Module = VisionTransformer(
        image_size, patch, num_layers=4, num_heads=math.gcd(width, 4), hidden_dim=width, mlp_dim=2 * width,
        num_classes=num_classes,
    )  # fmt: skip
    stem = nn.Conv2d(in_channels, width, patch, stride=patch)
    _initialise(stem, math.sqrt(1 / (in_channels * patch**2)))
    network.conv_proj = stem
    network.heads = nn.Sequential(nn.Dropout(dropout), network.get_submodule("heads.head"))
    return network


def make_convnext(
    in_channels: int, num_classes: int, image_size: int, width: int, dropout: float
) -> nn.Module:
    """A ConvNeXt of three stages of two blocks, on patches of 2 pixels (Liu et al. 2022, 2201.03545)."""
    from torchvision.models import ConvNeXt
    from torchvision.models.convnext import CNBlockConfig

    stages = [*pairwise((width, 2 * width, 4 * width)), (4 * width, None)]
    network: nn.Module = ConvNeXt(
        [CNBlockConfig(*stage, num_layers=2) for stage in stages], num_classes=num_classes
    )
    patch = 2 if image_size >= 8 else 1
    stem = nn.Conv2d(in_channels, width, patch, stride=patch)
    _initialise(stem, 0.02)
    network.set_submodule("features.0.0", stem)
    norm, flatten, last = network.get_submodule("classifier").children()
    network.classifier = nn.Sequential(norm, flatten, nn.Dropout(dropout), last)
    return network


def make_mobilenet(
    in_channels: int, num_classes: int, image_size: int, width: int, dropout: float
) -> nn.Module:
    """A MobileNetV2 that halves the side thrice, not five times (Sandler et al. 2018, 1801.04381)."""
    from torchvision.models import MobileNetV2

    blocks = [  # expansion, channels, blocks, stride
        [1, 16, 1, 1], [6, 24, 2, 1], [6, 32, 3, 2], [6, 64, 4, 2], [6, 96, 3, 1], [6, 160, 3, 2],
        [6, 320, 1, 1],
    ]  # fmt: skip
    network: nn.Module = MobileNetV2(num_classes, width / 32, blocks, dropout=dropout)
    theirs = network.get_submodule("features.0.0")
    assert isinstance(theirs, nn.Conv2d)
    ours = _first_convolution(in_channels, theirs.out_channels, "fan_out")
    network.set_submodule("features.0.0", ours)
    return network


def make_densenet(
    in_channels: int, num_classes: int, image_size: int, width: int, dropout: float
) -> nn.Module:
    """A DenseNet-BC of three blocks of four layers, growth rate `width` (Huang et al. 2016, 1608.06993)."""
    from torchvision.models import DenseNet

    network: nn.Module = DenseNet(width, (4, 4, 4), 2 * width, num_classes=num_classes)
    network.set_submodule("features.conv0", _first_convolution(in_channels, 2 * width, "fan_in"))
    network.set_submodule("features.pool0", nn.Identity())
    network.classifier = nn.Sequential(nn.Dropout(dropout), network.get_submodule("classifier"))
    return network


def make_shufflenet(
    in_channels: int, num_classes: int, image_size: int, width: int, dropout: float
) -> nn.Module:
    """A ShuffleNetV2 that halves the side thrice, not five times (Ma et al. 2018, 1807.11164)."""
    from torchvision.models import ShuffleNetV2

    channels = [width, 2 * width, 4 * width, 8 * width, 16 * width]
    network: nn.Module = ShuffleNetV2([2, 3, 2], channels, num_classes=num_classes)
    first = nn.Conv2d(in_channels, width, 3, padding=1, bias=False)  # torch's own initialisation, as theirs
    network.set_submodule("conv1.0", first)
    network.set_submodule("maxpool", nn.Identity())
    network.fc = nn.Sequential(nn.Dropout(dropout), network.get_submodule("fc"))
    return network


def make_swin(in_channels: int, num_classes: int, image_size: int, width: int, dropout: float) -> nn.Module:
    """A Swin transformer of two stages of two blocks, patches of 2 pixels (Liu et al. 2021, 2103.14030)."""
    from torchvision.models import SwinTransformer

    patch = 2 if image_size >= 8 else 1
    heads = [math.gcd(width, 2), math.gcd(2 * width, 4)]
    network: nn.Module = SwinTransformer(
        [patch, patch], width, [2, 2], heads, window_size=[4, 4], mlp_ratio=2.0,
        stochastic_depth_prob=0.0, num_classes=num_classes,
    )  # fmt: skip
    network.set_submodule("features.0.0", nn.Conv2d(in_channels, width, patch, stride=patch))
    network.head = nn.Sequential(nn.Dropout(dropout), network.get_submodule("head"))
    return network


def _initialise(convolution: nn.Conv2d, std: float) -> None:
    assert convolution.bias is not None
    nn.init.trunc_normal_(convolution.weight, std=std)
    nn.init.zeros_(convolution.bias)


def _first_convolution(in_channels: int, out_channels: int, mode: Literal["fan_in", "fan_out"]) -> nn.Conv2d:
    """3x3, stride 1, initialised as torchvision does in the network (He et al. 2015, arXiv 1502.01852)."""
    convolution = nn.Conv2d(in_channels, out_channels, 3, padding=1, bias=False)
    nn.init.kaiming_normal_(convolution.weight, mode=mode)
    return convolution
