"""The networks: equal to torchvision where they claim it, usable for every size, refused where they crash."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from metalr.control import normalises
from metalr.tasks import NETWORKS, make_network


def _torchvision_with_our_stem(ours: nn.Module) -> nn.Module:
    """torchvision's ResNet-18 with random weights, whose stem is a copy of ours."""
    from torchvision.models import resnet18

    theirs = resnet18(num_classes=10)
    theirs.conv1 = nn.Conv2d(3, 64, 3, padding=1, bias=False)
    theirs.maxpool = nn.Identity()
    theirs.conv1.load_state_dict(ours.get_submodule("conv1").state_dict())
    return theirs


@pytest.mark.parametrize("training", [False, True])
def test_resnet18_computes_what_torchvision_computes(training: bool) -> None:
    torch.manual_seed(0)
    ours = make_network("resnet18", 3, 10, 16, 64)
    theirs = _torchvision_with_our_stem(ours)
    missing = ours.load_state_dict(theirs.state_dict(), strict=True)
    assert not missing.missing_keys
    ours.train(training)
    theirs.train(training)
    images = torch.randn(4, 3, 16, 16)
    with torch.no_grad():
        ours_first, theirs_first = ours(images), theirs(images)
    assert torch.equal(ours_first, theirs_first)
    for name, value in theirs.state_dict().items():  # running statistics included
        assert torch.equal(ours.state_dict()[name], value), name
    with torch.no_grad():  # negative control: one weight moved is seen
        ours.get_submodule("layer4.1.conv2").weight.mul_(1.01)  # type: ignore[operator]
        assert not torch.equal(ours.eval()(images), theirs.eval()(images))


def test_resnet18_has_the_parameters_of_torchvision_but_for_the_stem() -> None:
    from torchvision.models import resnet18

    ours = {name: value.shape for name, value in make_network("resnet18", 3, 10, 32, 64).state_dict().items()}
    theirs = {name: value.shape for name, value in resnet18(num_classes=10).state_dict().items()}
    assert list(ours) == list(theirs)
    assert {name for name in ours if ours[name] != theirs[name]} == {"conv1.weight"}
    assert tuple(ours["conv1.weight"]) == (64, 3, 3, 3)


@pytest.mark.parametrize("name", sorted(NETWORKS))
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("side", [4, 7, 8, 16, 28, 32, 48])
def test_every_network_takes_every_image(name: str, channels: int, side: int) -> None:
    network = make_network(name, channels, 7, side, 8)
    logits = network(torch.randn(2, channels, side, side))
    assert logits.shape == (2, 7)
    logits.sum().backward()
    assert all(parameter.grad is not None for parameter in network.parameters())


@pytest.mark.parametrize("name", sorted(NETWORKS))
def test_every_network_takes_every_width(name: str) -> None:
    assert make_network(name, 3, 10, 8, 13)(torch.randn(2, 3, 8, 8)).shape == (2, 10)


@pytest.mark.parametrize(
    ("name", "count"),
    [
        ("resnet18", 11_173_962), ("cnn", 373_386), ("mlp", 201_482), ("mlp_deep", 209_802),
        ("transformer", 42_506), ("gru", 33_866), ("vit", 142_026), ("convnext", 1_596_874),
        ("vgg", 9_488_266), ("mobilenet", 8_722_698), ("densenet", 2_819_466),
        ("shufflenet", 1_022_474), ("swin", 368_278), ("cnn_fc", 1_422_218), ("lenet", 15_444_981),
    ],
)  # fmt: skip
def test_number_of_parameters(name: str, count: int) -> None:
    # resnet18: torchvision's 11,181,642 for ten classes, less 64 * 3 * (49 - 9) of the stem.
    # cnn: 64*(27+1) + 128*(64*9+1) + 256*(128*9+1) + 10*257.
    # cnn_fc: the cnn's convolutions, 370_816; a hidden layer 256*(256*4*4 + 1) and 10*257.
    # lenet: 64*76, 171*1601, 1280*(171*64 + 1), 896*1281, 10*897.
    # mlp: 64*3073 + 64*65 + 10*65; deep: 2 * 64*65 more.
    # transformer: rows 64*97, positions 32*64; attention 192*65 + 64*65, 64 <-> 128, three norms of 128; 650.
    # gru: the same rows and positions, 3*64 * (64 + 64 + 2); 650.
    # vgg: torchvision's eight convolutions of VGG-11, 9_220_480; 512*513 + 10*513.
    # vit: patches 64*49, 65 positions and a token of 64; four such layers; a norm of 128; 650.
    # convnext: 64*13 and a norm of 128, two blocks of 8d^2 + 58d for d = 64, 128, 256, between them
    # 8d^2 + 4d; a norm of 512; 10*257. mobilenet, densenet, shufflenet and swin: counted
    # by torch alone, no formula of ours.
    network = make_network(name, 3, 10, 32, 64)
    assert sum(parameter.numel() for parameter in network.parameters()) == count


def test_resnet18_keeps_the_side_until_the_second_stage() -> None:
    network = make_network("resnet18", 3, 10, 32, 8)
    sides: list[int] = []
    for stage in ("conv1", "layer1", "layer2", "layer3", "layer4"):
        network.get_submodule(stage).register_forward_hook(lambda _m, _i, out: sides.append(out.shape[-1]))
    network(torch.randn(2, 3, 32, 32))
    assert sides == [32, 32, 16, 8, 4]


@pytest.mark.parametrize("name", ["resnet18", "cnn"])
def test_convolutions_start_with_variance_two_over_fan_out(name: str) -> None:
    torch.manual_seed(0)
    network = make_network(name, 3, 10, 32, 64)
    convolutions = [module for module in network.modules() if isinstance(module, nn.Conv2d)]
    for convolution in convolutions[1:]:
        fan_out = convolution.out_channels * math.prod(convolution.kernel_size)
        assert float(convolution.weight.detach().std()) == pytest.approx(math.sqrt(2 / fan_out), rel=0.03)


def test_all_but_the_plain_networks_normalise() -> None:
    plain = {name for name in NETWORKS if not normalises(make_network(name, 3, 10, 32, 8))}
    assert plain == {"cnn", "mlp", "mlp_tanh", "mlp_deep", "gru", "vgg", "vgg_bn", "lenet"} | {
        f"cnn_fc{kind}" for kind in ("", "_bn", "_gn")
    }


@pytest.mark.parametrize(
    ("name", "kind", "count"),
    [
        ("resnet10", nn.BatchNorm2d, 12),  # the stem, two in each of four blocks, three shortcuts
        ("cnn_bn", nn.BatchNorm2d, 3),
        ("cnn_fc_bn", nn.BatchNorm2d, 3),
        ("cnn_fc_gn", nn.GroupNorm, 3),
        ("vgg_bn", nn.BatchNorm2d, 8),
        ("cnn_gn", nn.GroupNorm, 3),
        ("mlp_bn", nn.BatchNorm1d, 2),
        ("mlp_ln", nn.LayerNorm, 2),
    ],
)
def test_each_hidden_layer_has_its_own_normalisation(name: str, kind: type[nn.Module], count: int) -> None:
    modules = list(make_network(name, 3, 10, 16, 16).modules())
    assert sum(isinstance(module, kind) for module in modules) == count
    assert sum("Norm" in type(module).__name__ for module in modules) == count


@pytest.mark.parametrize("name", sorted(NETWORKS))
def test_dropout_acts_in_training_alone_and_before_the_last_layer(name: str) -> None:
    network = make_network(name, 3, 10, 8, 16, dropout=0.5)
    inputs: list[torch.Tensor] = []
    last = [module for module in network.modules() if isinstance(module, nn.Linear)][-1]
    nn.init.normal_(last.weight)  # that of a vision transformer starts at zero
    dropout = [module for module in network.modules() if isinstance(module, nn.Dropout)][-1]
    last.register_forward_pre_hook(lambda _m, args: inputs.append(args[0]))
    dropout.register_forward_hook(lambda _m, args, out: inputs.append(out))
    images = torch.randn(16, 3, 8, 8)
    network(images)
    assert torch.equal(inputs[0], inputs[1])
    network.eval()
    assert torch.equal(network(images), network(images))
    network.train()
    assert not torch.equal(network(images), network(images))
    without = make_network(name, 3, 10, 8, 16)
    without(images)  # moves the batch-norm statistics before the two passes that are compared
    assert torch.equal(without(images), without(images))


@pytest.mark.parametrize("name", sorted(NETWORKS))
def test_narrow_networks_are_refused_with_the_reason(name: str) -> None:
    with pytest.raises(ValueError, match=r"width=7 must be at least 8.*channels_last.*crash"):
        make_network(name, 3, 10, 32, 7)
    make_network(name, 3, 10, 32, 8)


def test_unknown_names_and_tiny_images_are_refused() -> None:
    with pytest.raises(ValueError, match=r"is unknown; choose one of cnn, cnn_bn, .*, resnet10, resnet18"):
        make_network("resnet50", 3, 10, 32, 8)
    with pytest.raises(ValueError, match="image_size=3 must be at least 4"):
        make_network("cnn", 3, 10, 3, 8)


def test_the_smallest_width_trains_in_channels_last() -> None:
    network = make_network("resnet18", 3, 10, 8, 8).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    images = torch.randn(8, 3, 8, 8).contiguous(memory_format=torch.channels_last)
    network(images).square().mean().backward()
    gradients = [parameter.grad for parameter in network.parameters()]
    assert all(gradient is not None and bool(gradient.isfinite().all()) for gradient in gradients)


def test_a_network_over_rows_tells_their_order_and_reads_every_channel() -> None:
    for name in ("transformer", "gru"):
        torch.manual_seed(0)
        network = make_network(name, 3, 10, 8, 16)
        images = torch.randn(2, 3, 8, 8)
        logits = network(images)
        assert not torch.allclose(logits, network(images.flip(2)), atol=1e-4), name
        for channel in range(3):
            changed = images.clone()
            changed[:, channel] += 1.0
            assert not torch.allclose(logits, network(changed), atol=1e-4), name


def test_only_mlp_tanh_has_no_kinks() -> None:
    kinds = {
        name: {type(module) for module in make_network(name, 1, 10, 8, 8).modules()} & {nn.ReLU, nn.Tanh}
        for name in ("mlp", "mlp_deep", "mlp_tanh")
    }
    assert kinds == {"mlp": {nn.ReLU}, "mlp_deep": {nn.ReLU}, "mlp_tanh": {nn.Tanh}}
