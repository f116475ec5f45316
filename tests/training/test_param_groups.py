"""Which weights are in which group, and that what is frozen does not change by a bit."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from training.tiny import TRAIN, tiny_task

from metalr.config import ConfigError, DepthGroup, TrainConfig
from metalr.control import make_schedule
from metalr.training import Training, evaluate, make_optimizer, train_epoch
from metalr.training.param_groups import apply_freezing, parameter_groups


def groups_of(*settings: dict[str, Any]) -> list[DepthGroup]:
    return [DepthGroup(**values) for values in settings]


def names_of(model: nn.Module, groups: list[dict[str, Any]]) -> list[list[str]]:
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    return [[names[id(parameter)] for parameter in group["params"]] for group in groups]


def test_by_default_the_optimizer_is_the_one_over_all_parameters() -> None:
    model = tiny_task(network="resnet18").make_model(0)
    (group,) = parameter_groups(model, TRAIN)
    expected = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, weight_decay=5e-4)
    optimizer = make_optimizer(model, TRAIN)
    assert optimizer.state_dict() == expected.state_dict()
    for parameters in (group["params"], optimizer.param_groups[0]["params"]):
        pairs = zip(parameters, model.parameters(), strict=True)
        assert all(mine is theirs for mine, theirs in pairs)


def test_depth_groups_of_a_resnet_by_hand() -> None:
    """Seven parts into three: 3, 2 and 2; the head's group first."""
    model = tiny_task(network="resnet18").make_model(0)
    depth = groups_of({"lr_ratio": 0.01}, {"lr_ratio": 0.1}, {})
    groups = parameter_groups(model, TRAIN.model_copy(update={"depth_groups": depth}))
    children = [sorted({name.split(".")[0] for name in names}) for names in names_of(model, groups)]
    assert children == [["fc", "layer4"], ["layer2", "layer3"], ["bn1", "conv1", "layer1"]]
    assert [group["lr"] for group in groups] == pytest.approx([0.05, 0.005, 0.0005])
    assert [group["weight_decay"] for group in groups] == [5e-4] * 3
    assert sum(len(group["params"]) for group in groups) == len(list(model.parameters()))


@pytest.mark.parametrize(("network", "parts"), [("mlp", 3), ("cnn", 4), ("resnet18", 7)])
def test_as_many_groups_as_parts_and_no_more(network: str, parts: int) -> None:
    model = tiny_task(network=network).make_model(0)
    fitting = TRAIN.model_copy(update={"depth_groups": groups_of(*[{}] * parts)})
    assert len(parameter_groups(model, fitting)) == parts
    with pytest.raises(ConfigError, match=rf"depth_groups: {parts + 1} groups, .* has {parts} parts"):
        too_many = TRAIN.model_copy(update={"depth_groups": groups_of(*[{}] * (parts + 1))})
        parameter_groups(model, too_many)


class OfAllKinds(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.token = nn.Parameter(torch.ones(4))
        self.conv = nn.Conv2d(1, 4, 3)
        self.norm = nn.BatchNorm2d(4)
        self.still = nn.BatchNorm2d(4, affine=False)
        self.group_norm = nn.GroupNorm(2, 4)
        self.layer_norm = nn.LayerNorm((2, 2))
        self.rms = nn.RMSNorm(4)
        self.scale_norm = ScaleNorm()
        self.attention = nn.MultiheadAttention(4, 1)
        self.layer_scale = LayerScale()
        self.head = nn.Linear(4, 2)


class ScaleNorm(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.g = nn.Parameter(torch.ones(1))
        self.matrix = nn.Parameter(torch.ones(2, 2))


class LayerScale(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(4))


DECAYED = ["token", "conv.weight", "scale_norm.matrix", "attention.in_proj_weight"]
DECAYED += ["attention.out_proj.weight", "layer_scale.gamma", "head.weight"]


def test_norms_and_biases_of_every_kind_do_not_decay_and_one_axis_is_not_enough() -> None:
    model = OfAllKinds()
    config = TRAIN.model_copy(update={"decay_norms_and_biases": False})
    decayed, undecayed = names_of(model, parameter_groups(model, config))
    assert decayed == DECAYED
    assert undecayed == [name for name, _ in model.named_parameters() if name not in DECAYED]
    assert [group["weight_decay"] for group in parameter_groups(model, config)] == [5e-4, 0.0]
    assert [group["lr"] for group in parameter_groups(model, config)] == [0.05, 0.05]


def test_each_depth_group_splits_in_two_and_empty_ones_are_left_out() -> None:
    model = OfAllKinds()
    depth = groups_of({"lr_ratio": 0.1}, *[{"lr_ratio": 0.5}] * 7, {})
    config = TRAIN.model_copy(update={"decay_norms_and_biases": False, "depth_groups": depth})
    groups = parameter_groups(model, config)
    assert names_of(model, groups)[0] == ["head.weight"]
    assert names_of(model, groups)[1] == ["head.bias"]
    assert names_of(model, groups)[-2:] == [["token", "conv.weight"], ["conv.bias"]]
    assert ["rms.weight"] in names_of(model, groups)  # a part of a norm alone has no decayed group
    ratios = [group["lr"] / 0.05 for group in groups]
    assert ratios[:2] == [1.0, 1.0]
    assert ratios[-2:] == pytest.approx([0.1, 0.1])
    assert all(group["params"] for group in groups)


def test_groups_are_good_for_a_users_own_model() -> None:
    from torchvision.models import resnet18

    model = resnet18(weights=None)
    config = TrainConfig(
        lr=0.01,
        decay_norms_and_biases=False,
        depth_groups=groups_of({"lr_ratio": 0.01}, {"lr_ratio": 0.1}, {}),
    )
    groups = parameter_groups(model, config)
    assert [group["lr"] for group in groups] == pytest.approx([0.01] * 2 + [0.001] * 2 + [0.0001] * 2)
    torch.optim.AdamW(groups)
    count = sum(p.numel() for group in groups for p in group["params"])
    assert count == sum(p.numel() for p in model.parameters())


def test_a_shared_weight_belongs_to_the_first_part_that_has_it() -> None:
    model = nn.Sequential(nn.Linear(2, 2, bias=False), nn.Linear(2, 2, bias=False), nn.Linear(2, 2))
    model[2].weight = model[0].weight
    config = TRAIN.model_copy(update={"depth_groups": groups_of({}, {}, {})})
    assert names_of(model, parameter_groups(model, config)) == [["2.bias"], ["1.weight"], ["0.weight"]]


class Scalar(nn.Module):
    """A weight whose gradient is what it is given."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(1.0, dtype=torch.float64))

    def forward(self, gradient: float) -> Tensor:
        return self.weight * gradient


def steps_by_hand(config: TrainConfig, gradients: list[float]) -> float:
    """Two steps from weight 1, written out."""
    weight, first, second = 1.0, 0.0, 0.0
    for step, gradient in enumerate(gradients, start=1):
        if config.optimizer != "adamw":
            gradient += config.weight_decay * weight
        if config.optimizer == "sgd":
            first = config.momentum * first + gradient
            weight -= config.lr * first
            continue
        if config.optimizer == "adamw":
            weight -= config.lr * config.weight_decay * weight
        first = config.momentum * first + (1 - config.momentum) * gradient
        second = config.beta2 * second + (1 - config.beta2) * gradient**2
        corrected = first / (1 - config.momentum**step), second / (1 - config.beta2**step)
        weight -= config.lr * corrected[0] / (corrected[1] ** 0.5 + 1e-8)
    return weight


@pytest.mark.parametrize(("optimizer", "first_step"), [
    ("sgd", 1 - 0.1 * (0.5 + 0.2)), ("adamw", 1 - 0.1 * 0.2 - 0.1), ("adam", 1 - 0.1),
])  # fmt: skip
def test_optimizers_against_steps_by_hand(optimizer: str, first_step: float) -> None:
    config = TrainConfig(lr=0.1, weight_decay=0.2, momentum=0.8, beta2=0.9, optimizer=optimizer)
    model = Scalar()
    made = make_optimizer(model, config)
    for count, gradient in enumerate([0.5, -0.1], start=1):
        made.zero_grad()
        model(gradient).backward()
        made.step()
        assert model.weight.item() == pytest.approx(steps_by_hand(config, [0.5, -0.1][:count]), rel=1e-12)
        if count == 1:
            assert model.weight.item() == pytest.approx(first_step, rel=1e-7)


@pytest.mark.parametrize("optimizer", ["sgd", "adamw", "adam"])
def test_without_their_decay_norms_and_biases_stay_where_no_gradient_pulls(optimizer: str) -> None:
    moved = []
    for decays in (False, True):
        model = nn.Sequential(nn.Linear(1, 1), nn.BatchNorm1d(1))
        for parameter in model.parameters():
            nn.init.ones_(parameter)
            parameter.grad = torch.zeros_like(parameter)
        changes = {"decay_norms_and_biases": decays, "optimizer": optimizer, "weight_decay": 0.1}
        make_optimizer(model, TRAIN.model_copy(update=changes)).step()
        moved.append([name for name, p in model.named_parameters() if p.item() != 1.0])
    assert moved == [["0.weight"], ["0.weight", "0.bias", "1.weight", "1.bias"]]


FROZEN = groups_of({"lr_ratio": 0.1, "unfreeze_epoch": 2}, {"lr_ratio": 0.5, "unfreeze_epoch": None}, {})
PARTS = ({"conv1", "bn1", "layer1"}, {"layer2", "layer3"}, {"layer4", "fc"})


def training_of(depth_groups: list[DepthGroup] | None) -> Training:
    task = tiny_task(network="resnet18")
    changes = {"depth_groups": depth_groups, "grad_clip": 1.0, "weight_decay": 0.1}
    config = TRAIN.model_copy(update=changes)
    model = task.make_model(3)
    optimizer = make_optimizer(model, config)
    return Training(task, config, model, optimizer, make_schedule("cosine", optimizer, 4, 2), 3, 2)


def state_of(model: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


def changed_parts(before: dict[str, Tensor], after: dict[str, Tensor]) -> list[bool]:
    """Whether all, or else none, of a part's weights and buffers moved."""
    changes = {name: not torch.equal(before[name], after[name]) for name in before}
    moved = [{changes[name] for name in changes if name.split(".")[0] in part} for part in PARTS]
    assert all(len(kinds) == 1 for kinds in moved)
    return [kinds.pop() for kinds in moved]


def test_nothing_frozen_changes_and_it_trains_after_the_unfreeze() -> None:
    training = training_of(FROZEN)
    found = []
    for _ in range(4):
        before = state_of(training.model)
        seen = train_epoch(training).observation
        assert seen.is_finite
        assert seen.grad_norm and seen.update_norm and seen.weight_norm
        found.append(changed_parts(before, state_of(training.model)))
    assert found == [[False, False, True]] * 2 + [[True, False, True]] * 2


def test_without_frozen_groups_everything_moves() -> None:
    """Negative control: batch-norm statistics too, which need no gradient to move."""
    for depth_groups in (None, groups_of({}, {}, {})):
        training = training_of(depth_groups)
        before = state_of(training.model)
        train_epoch(training)
        assert changed_parts(before, state_of(training.model)) == [True] * 3
    statistics = training_of(None).model
    before = state_of(statistics)
    statistics.requires_grad_(False)
    statistics(torch.ones(2, 3, 8, 8))  # no gradient, but training mode
    assert not torch.equal(before["bn1.running_mean"], statistics.state_dict()["bn1.running_mean"])


def test_freezing_depends_on_the_epoch_alone() -> None:
    def modes(model: nn.Module) -> list[bool]:
        needs = [parameter.requires_grad for parameter in model.parameters()]
        return needs + [module.training for module in model.modules()]

    config = training_of(FROZEN).config
    model, other = training_of(FROZEN).model, training_of(FROZEN).model
    apply_freezing(model, config, 0)
    frozen = modes(model)
    assert not model.bn1.training and not model.layer3[0].bn2.training and model.layer4.training
    apply_freezing(model, config, 3)
    assert modes(model) != frozen
    apply_freezing(other, config, 3)
    assert modes(model) == modes(other)
    apply_freezing(model.eval(), config, 0)
    assert modes(model) == frozen


def test_evaluation_puts_every_mode_back_as_it_was() -> None:
    training = training_of(FROZEN)
    apply_freezing(training.model, training.config, 0)
    before = [module.training for module in training.model.modules()]
    state = state_of(training.model)
    evaluate(training.model, training.task, "inner_valid", training.config)
    assert [module.training for module in training.model.modules()] == before
    assert {True, False} <= set(before)
    assert all(torch.equal(state[name], value) for name, value in training.model.state_dict().items())


def test_a_child_of_buffers_alone_rests_with_the_one_before_it() -> None:
    config = TRAIN.model_copy(update={"depth_groups": groups_of({"unfreeze_epoch": 1}, {})})
    model = OfAllKinds()
    apply_freezing(model, config, 0)
    assert not model.still.training and not model.token.requires_grad
    assert model.attention.training
    apply_freezing(model, config, 1)
    assert model.still.training and model.token.requires_grad
    leading = nn.Sequential(nn.BatchNorm1d(2, affine=False), nn.Linear(2, 2), nn.Linear(2, 2))
    apply_freezing(leading, config, 0)
    assert [module.training for module in leading] == [False, False, True]  # with the first part
