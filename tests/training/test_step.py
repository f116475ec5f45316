"""One batch's step: never waiting, never compiled or recorded anew for an LR, and what it falls back to."""

from __future__ import annotations

import copy
import warnings
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from training.repeat import repeat
from training.tiny import TRAIN, exact_convolutions, tiny_task

from metalr.config import ConfigError, DepthGroup, TrainConfig
from metalr.control import Snapshot, make_schedule
from metalr.training import eager_step, loop
from metalr.training.eager_step import EagerStep
from metalr.training.graphed_step import GraphedStep
from metalr.training.loop import Training, branched, train_epoch
from metalr.training.recipe import make_optimizer
from metalr.training.step import make_step, resolved_step

GROUPS = [DepthGroup(lr_ratio=0.1, unfreeze_epoch=1), DepthGroup(lr_ratio=0.5), DepthGroup()]


def training_of(
    schedule: str = "cosine", dropout: float = 0.0, network: str = "mlp", steps: int = 8, **changes: Any
) -> Training:
    task = tiny_task(dropout=dropout, network=network)
    config = TrainConfig.model_validate(TRAIN.model_dump() | changes)
    model = task.make_model(3)
    optimizer = make_optimizer(model, config)
    made = make_schedule(schedule, optimizer, config.epochs, steps)
    return Training(task, config, model, optimizer, made, 3, steps)


def graphed(training: Training, record: Any = repeat) -> Training:
    training.train_step = GraphedStep(training.model, training.optimizer, training.config, record)
    return training


def weights(training: Training) -> Tensor:
    return torch.cat([value.detach().double().flatten() for value in training.model.state_dict().values()])


def batches(training: Training) -> list[tuple[Tensor, Tensor]]:
    return list(loop.epoch_batches(training))


class Waits(TorchFunctionMode):
    """Counts what makes the host wait for a device: reading a value, or copying to the CPU."""

    NAMES = ("item", "tolist", "cpu", "numpy", "__float__", "__int__", "__bool__", "__index__", "__array__")

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self._reads = _Reads(self.counts)

    def __enter__(self) -> Waits:
        self._reads.__enter__()
        return super().__enter__()

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        self._reads.__exit__(*error)

    def __torch_function__(self, func: Any, kinds: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = getattr(func, "__name__", "")
        self.counts[name] += name in self.NAMES
        return func(*args, **(kwargs or {}))


class _Reads(TorchDispatchMode):
    """The one operation under `item`, `float` and `bool`, also where torch's own code calls them."""

    def __init__(self, counts: Counter[str]) -> None:
        super().__init__()
        self.counts = counts

    def __torch_dispatch__(self, func: Any, kinds: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.counts[str(func)] += str(func) == "aten._local_scalar_dense.default"
        return func(*args, **(kwargs or {}))


def waits_of(training: Training, observe: bool = True) -> int:
    with Waits() as waits:
        loop._train_steps(training, observe)
    return sum(waits.counts.values())


def with_tensor_lr(training: Training) -> Training:
    """The training with its LRs as tensors, as a user's optimizer may hold them."""
    for group in training.optimizer.param_groups:
        group["lr"] = torch.tensor(group["lr"])
    return training


@pytest.mark.parametrize("schedule", ["cosine", "rex", "one_cycle", "explore"])
@pytest.mark.parametrize("changes", [{}, {"grad_clip": 0.1, "nesterov": True}])
@pytest.mark.parametrize("steps", [4, 8])
def test_no_step_of_an_epoch_waits_for_the_device(schedule: str, changes: Any, steps: int) -> None:
    training = training_of(schedule, 0.2, steps=steps, **changes)
    train_epoch(training)
    assert waits_of(training) == 0


@pytest.mark.parametrize("steps", [4, 8])
def test_a_replayed_epoch_does_not_wait(steps: int) -> None:
    training = graphed(training_of("cosine", 0.2, steps=steps))
    replaying = _without_update(training)
    assert waits_of(replaying) == 0


def _without_update(training: Training) -> Training:
    """The recorded update runs on this CPU as plain SGD, which reads its tensor LR; on a GPU it is fused."""
    train_epoch(training)
    recording: Any = training.train_step._recording  # type: ignore[union-attr]
    recording._replay_update = lambda: None
    return training


def test_lrs_on_the_device_are_read_once_an_epoch(monkeypatch: pytest.MonkeyPatch) -> None:
    counts = []
    for steps in (4, 8):
        training = with_tensor_lr(training_of("constant", steps=steps))
        training.train_step = EagerStep(training.model, training.optimizer, training.config)
        monkeypatch.setattr(training.optimizer, "step", lambda: None)
        counts.append(waits_of(training, observe=False))
    assert counts == [1, 1]  # the epoch's `tolist`


@pytest.mark.parametrize("what", ["loss", "lr", "cpu"])
def test_a_loop_that_waits_is_caught(what: str) -> None:
    """Negative control: each of the usual ways to read something in every step."""
    training = training_of(steps=8)
    step = make_step(training.model, training.optimizer, training.config)
    if what == "lr":
        with_tensor_lr(training)

    def reading(*batch: Any) -> Tensor:
        loss = step(*batch)
        if what == "lr":
            float(training.optimizer.param_groups[0]["lr"])
        else:
            loss.item() if what == "loss" else loss.cpu()
        return loss

    training.train_step = _Callable(reading, step.begin_epoch)  # type: ignore[assignment]
    assert waits_of(training) >= 8


class _Callable:
    def __init__(self, call: Any, begin_epoch: Any) -> None:
        self.call, self.begin_epoch = call, begin_epoch

    def __call__(self, *batch: Any) -> Tensor:
        found: Tensor = self.call(*batch)
        return found


class Compiles:
    """A backend that runs what it is given and counts how often it is asked to."""

    def __init__(self) -> None:
        self.count = 0

    def __call__(self, module: Any, inputs: Any, **settings: Any) -> Any:
        self.count += 1
        return module.forward


@pytest.fixture
def compiles(monkeypatch: pytest.MonkeyPatch) -> Any:
    torch._dynamo.reset()
    backend, original = Compiles(), torch.compile

    def compiled(function: Any, *, mode: str, dynamic: bool) -> Any:
        assert mode == "reduce-overhead"
        return original(function, backend=backend, dynamic=dynamic, fullgraph=True)

    monkeypatch.setattr(eager_step.torch, "compile", compiled)
    yield backend
    torch._dynamo.reset()


# What torch's compiler imports on its way.
@pytest.mark.filterwarnings("ignore:`torch.jit.script_method`:DeprecationWarning")
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_no_lr_compiles_anew(compiles: Compiles, dtype: str) -> None:
    training = training_of("cosine", 0.2, step="compile", dtype=dtype)
    plain = training_of("cosine", 0.2, step="eager", dtype=dtype)
    lrs = []
    for _ in range(3):
        found, expected = train_epoch(training), train_epoch(plain)
        lrs += found.lrs
        assert found.observation.train_loss == pytest.approx(expected.observation.train_loss, rel=1e-6)
    assert len(set(lrs)) == 24
    assert compiles.count == 1


def test_an_lr_inside_what_is_compiled_does_compile_anew(compiles: Compiles) -> None:
    """Negative control: a number that changes from step to step is a new program each time."""

    def step(weight: Tensor, lr: float) -> Tensor:
        return weight - lr * weight

    compiled: Any = eager_step.torch.compile(step, mode="reduce-overhead", dynamic=False)
    for lr in (0.1, 0.2, 0.3, 0.4):
        compiled(torch.ones(3), lr)
    assert compiles.count == 4


@pytest.mark.parametrize(
    ("network", "dropout", "schedule", "changes"),
    [
        ("mlp", 0.3, "cosine", {}),
        ("mlp", 0.3, "one_cycle", {"nesterov": True}),
        ("mlp", 0.0, "explore", {"grad_clip": 0.2, "momentum": 0.0}),
        ("mlp", 0.3, "rex", {"depth_groups": GROUPS, "decay_norms_and_biases": False}),
        ("mlp", 0.0, "cosine", {"optimizer": "adamw", "lr": 0.01}),
        ("mlp", 0.0, "one_cycle", {"optimizer": "adam", "lr": 0.01}),
        ("cnn", 0.2, "linear", {"channels_last": True, "label_smoothing": 0.1}),
        ("resnet18", 0.2, "cosine", {"grad_clip": 1.0}),
    ],
)
def test_a_replayed_run_equals_an_eager_one(
    network: str, dropout: float, schedule: str, changes: dict[str, Any]
) -> None:
    plain = training_of(schedule, dropout, network, 4, **changes)
    replayed = graphed(training_of(schedule, dropout, network, 4, **changes))
    for _ in range(3):
        expected, found = train_epoch(plain), train_epoch(replayed)
        assert found.lrs == expected.lrs
        for name, value in expected.observation.to_dict().items():
            assert getattr(found.observation, name) == pytest.approx(value, rel=1e-4, abs=1e-7), name
    torch.testing.assert_close(weights(replayed), weights(plain), rtol=1e-5, atol=1e-6)
    mine, theirs = replayed.optimizer.state_dict(), plain.optimizer.state_dict()
    assert mine["param_groups"] == theirs["param_groups"]
    assert mine["state"].keys() == theirs["state"].keys()
    for index, held in theirs["state"].items():
        for key, value in held.items():
            if value is not None:
                torch.testing.assert_close(mine["state"][index][key], value, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("lost", ["lr", "momentum", "state", "freezing"])
def test_what_a_recording_must_follow(lost: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Negative controls: a recording that keeps the LR, the momentum, a state or what trains goes astray."""
    schedule, changes = "one_cycle" if lost == "momentum" else "cosine", {}
    if lost == "freezing":
        changes = {"depth_groups": GROUPS}
    plain, replayed = training_of(schedule, **changes), graphed(training_of(schedule, **changes))
    train_epoch(plain)
    train_epoch(replayed)
    recording: Any = replayed.train_step._recording  # type: ignore[union-attr]
    if lost == "lr":
        recording._own.param_groups[0]["lr"] = _Deaf(recording._own.param_groups[0]["lr"])
    if lost == "momentum":
        monkeypatch.setattr("metalr.training.graphed_step._constants", lambda optimizer: recording._constants)
    if lost == "state":
        replayed.optimizer.load_state_dict(make_optimizer(plain.model, plain.config).state_dict())
        replayed.optimizer.param_groups[0]["lr"] = plain.optimizer.param_groups[0]["lr"]
    if lost == "freezing":
        monkeypatch.setattr("metalr.training.graphed_step._trains", lambda model: recording.trains)
    train_epoch(plain)
    if lost == "freezing":
        with pytest.raises(RuntimeError, match="size of tensor"):  # gradients of more than was recorded
            train_epoch(replayed)
        return
    train_epoch(replayed)
    assert (weights(plain) - weights(replayed)).abs().max() > 1e-4


class _Deaf:
    """An LR that no longer hears what is filled in."""

    def __init__(self, lr: Tensor) -> None:
        self.lr = lr

    def __neg__(self) -> Tensor:
        return -self.lr

    def fill_(self, value: float) -> None:
        pass


def test_a_recorded_run_goes_on_from_a_snapshot_bit_for_bit() -> None:
    """As a resumed run, a rolled back epoch and a fork do; the recording is the same or a new one."""
    straight = graphed(training_of("cosine", 0.3))
    train_epoch(straight)
    snapshot = Snapshot.take(straight.model, straight.optimizer)
    schedule = copy.deepcopy(straight.schedule.scheduler.state_dict())
    train_epoch(straight)
    expected = weights(straight)
    snapshot.restore(straight.model, straight.optimizer)
    straight.schedule.scheduler.load_state_dict(copy.deepcopy(schedule))
    straight.epoch = 1
    train_epoch(straight)
    assert torch.equal(weights(straight), expected)
    resumed = graphed(training_of("cosine", 0.3))
    snapshot.restore(resumed.model, resumed.optimizer)
    resumed.schedule.scheduler.load_state_dict(schedule)
    resumed.epoch = 1
    train_epoch(resumed)
    assert torch.equal(weights(resumed), expected)


def test_a_branch_shares_the_recording_and_leaves_the_trunks_state_alone() -> None:
    count = [0]

    def counting(work: Any) -> Any:
        count[0] += 1
        return repeat(work)

    trunk = graphed(training_of("cosine"), counting)
    train_epoch(trunk)
    momentum = [held["momentum_buffer"].clone() for held in trunk.optimizer.state.values()]
    snapshot = Snapshot.take(trunk.model, trunk.optimizer)
    optimizer = make_optimizer(trunk.model, trunk.config)
    branch = branched(trunk, make_schedule("constant", optimizer, 4, 8), optimizer)
    train_epoch(branch)
    assert count == [2]  # gradients and update, once each
    for held, before in zip(trunk.optimizer.state.values(), momentum, strict=True):
        assert torch.equal(held["momentum_buffer"], before)
    moved = [held["momentum_buffer"].clone() for held in optimizer.state.values()]
    snapshot.restore(trunk.model, trunk.optimizer)
    train_epoch(trunk)
    for held, before in zip(optimizer.state.values(), moved, strict=True):
        assert torch.equal(held["momentum_buffer"], before)


def test_making_a_recording_changes_nothing() -> None:
    training = graphed(training_of("cosine", 0.3, "resnet18"))
    images, labels = batches(training)[0]
    before, random = weights(training), torch.get_rng_state()
    seen: list[Tensor] = []

    def remember(work: Any) -> Any:
        results = repeat(work)
        seen.append(weights(training))
        return results

    step = GraphedStep(training.model, training.optimizer, training.config, remember)
    step._try_to_record(images, labels)
    assert not torch.equal(seen[-1], before)  # the rehearsals did move them
    assert torch.equal(weights(training), before)
    assert torch.equal(torch.get_rng_state(), random)
    assert all(p.grad is None for p in training.model.parameters())
    assert step._recording is not None
    for held in step._recording._own.state.values():
        assert not held["momentum_buffer"].any()


def test_where_nothing_can_be_recorded_steps_are_eager_after_one_warning() -> None:
    def refuse(work: Any) -> Any:
        work()
        raise RuntimeError("CUDA error: operation not permitted when stream is capturing\nSearch for ...")

    plain, failing = training_of("cosine", 0.3), graphed(training_of("cosine", 0.3), refuse)
    train_epoch(plain)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        train_epoch(failing)
    texts = [str(warning.message) for warning in caught]
    assert len(texts) == 1
    assert "steps are eager (CUDA error: operation not permitted when stream is capturing)" in texts[0]
    assert torch.equal(weights(failing), weights(plain))


def test_a_batch_of_another_shape_is_refused() -> None:
    training = graphed(training_of())
    images, labels = batches(training)[0]
    assert training.train_step is not None
    training.train_step(images, labels)
    with pytest.raises(
        ValueError, match=r"shape \(1, 3, 8, 8\), but the step was recorded for \(16, 3, 8, 8\)"
    ):
        training.train_step(images[:1], labels[:1])


def test_which_step_a_recipe_gets() -> None:
    assert [resolved_step("auto", device) for device in ("cpu", "cuda")] == ["eager", "cuda_graph"]
    assert resolved_step("auto", "cuda", "schedule_free_sgd") == "eager"
    assert [resolved_step(name, "cuda") for name in ("eager", "compile")] == ["eager", "compile"]
    assert isinstance(make_step(*_made(step="auto")), EagerStep)
    with pytest.raises(ConfigError, match=r"train\.step: cuda_graph needs a GPU"):
        make_step(*_made(step="cuda_graph"))


def _made(**changes: Any) -> tuple[Any, Any, Any]:
    training = training_of(**changes)
    return training.model, training.optimizer, training.config


def on_gpu(step: str, dropout: float = 0.0, network: str = "resnet18", **changes: Any) -> Training:
    from metalr.config import DataConfig
    from metalr.tasks import make_task

    config = tiny_task(dropout=dropout, network=network).config
    task = make_task(config, DataConfig(), torch.device("cuda"))
    train = TrainConfig.model_validate(TRAIN.model_dump() | {"device": "cuda", "step": step} | changes)
    model = task.make_model(3)
    optimizer = make_optimizer(model, train)
    return Training(task, train, model, optimizer, make_schedule("rex", optimizer, 4, 5), 3, 5)


@pytest.fixture
def exact() -> Iterator[None]:
    with exact_convolutions():
        yield


@pytest.mark.gpu
@pytest.mark.usefixtures("exact")
@pytest.mark.filterwarnings("default")  # of torch's compiler there are many, other ones in each version
@pytest.mark.parametrize(
    ("step", "changes"),
    [
        ("cuda_graph", {}),
        ("cuda_graph", {"grad_clip": 0.5}),
        ("cuda_graph", {"optimizer": "adamw", "lr": 0.001}),
        # Compiled kernels round otherwise: at an LR of 0.05 a part in 1e7 is 8 % of the loss after 20 steps.
        ("compile", {"lr": 0.001}),
        ("compile", {"lr": 0.001, "grad_clip": 0.5}),
        ("compile", {"optimizer": "adamw", "lr": 0.0001}),
    ],
)
def test_twenty_fast_steps_equal_eager_ones_on_a_gpu(step: str, changes: dict[str, Any]) -> None:
    plain, fast = on_gpu("eager", **changes), on_gpu(step, **changes)
    lrs = []
    for _ in range(4):
        expected, found = train_epoch(plain), train_epoch(fast)
        lrs += found.lrs
        assert found.observation.train_loss == pytest.approx(expected.observation.train_loss, rel=1e-4)
    assert len(set(lrs)) == 20
    torch.testing.assert_close(weights(fast), weights(plain), rtol=1e-4, atol=1e-4)
    if step == "cuda_graph":
        assert fast.train_step._recording is not None  # type: ignore[union-attr]


@pytest.mark.gpu
@pytest.mark.usefixtures("exact")
def test_a_resumed_run_has_the_bits_of_a_straight_one_on_a_gpu() -> None:
    straight = on_gpu("cuda_graph", 0.3)
    train_epoch(straight)
    snapshot = Snapshot.take(straight.model, straight.optimizer)
    schedule = copy.deepcopy(straight.schedule.scheduler.state_dict())
    train_epoch(straight)
    resumed = on_gpu("cuda_graph", 0.3)
    snapshot.restore(resumed.model, resumed.optimizer)
    resumed.schedule.scheduler.load_state_dict(schedule)
    resumed.epoch = 1
    train_epoch(resumed)
    assert torch.equal(weights(resumed), weights(straight))


@pytest.mark.gpu
@pytest.mark.filterwarnings("ignore:Synchronization debug mode")
def test_no_step_waits_on_a_gpu() -> None:
    """torch's own detector; reading the loss is the negative control."""
    training = on_gpu("cuda_graph", 0.3)
    train_epoch(training)
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        loop._train_steps(training, observe=True)
        with pytest.raises(RuntimeError, match="synchroniz"):
            torch.ones((), device="cuda").item()
    finally:
        torch.cuda.set_sync_debug_mode("default")
