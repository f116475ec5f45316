"""What an experiment is: every setting with its meaning, unit, range and default.

The defaults are the `digits` recipe, so an empty file is a complete experiment.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from metalr.config.controlled import ControlledName, LearnerName
from metalr.config.peers import AVERAGING_OPTIMIZERS, RECORDED_OPTIMIZERS, OptimizerName, PeerName
from metalr.config.schedules import ScheduleName, SchedulesConfig
from metalr.config.section import LR, Count, Fraction, PositiveInt, Section, Seed

__all__ = [
    "DEFAULT_METHOD",
    "CompareConfig",
    "ControlConfig",
    "DataConfig",
    "DepthGroup",
    "EarlyStoppingConfig",
    "ExperimentConfig",
    "FinderConfig",
    "HarvestConfig",
    "MetaTrainConfig",
    "MethodName",
    "ProbeConfig",
    "ScheduleName",
    "Seed",
    "StrategyName",
    "TaskConfig",
    "TrainConfig",
    "WandbConfig",
]

MethodName = Literal[ScheduleName, "find", PeerName, ControlledName]
"""Who may set the LR: the schedules, the LR finder + cosine, the peers, the learned controllers."""
StrategyName = Literal[MethodName, "metalr"]
"""A method, or `metalr` for the learned controller of `DEFAULT_METHOD`."""
DEFAULT_METHOD: MethodName = "metalr-lstm"
"""What `metalr` stands for."""


class TaskConfig(Section):
    """The inner problem: which images, how many, which network."""

    dataset: Literal[
        "digits", "breast_cancer", "cifar10", "cifar100", "mnist", "fashion_mnist", "svhn", "synthetic"
    ] = "digits"
    """Source of images: `digits` is embedded (scikit-learn, 1,797 of 8x8), and so is `breast_cancer` (569 rows of a table,
    for the network `mlp`); `synthetic` is made from a seed for tests."""
    num_train: PositiveInt | None = None
    """Images in the `train` split; null takes all that the other splits leave."""
    num_inner_valid: PositiveInt = 150
    """Images the controller may see the loss of, carved from the dataset's train part."""
    num_outer_valid: PositiveInt = 300
    """Images for labels and tuning, carved from the dataset's train part."""
    num_test: PositiveInt | None = None
    """Images in `test`, read once by compare; null takes the whole test part (digits: 360)."""
    image_size: Annotated[int, Field(ge=4)] | None = None
    """Side in pixels after average pooling; null keeps the dataset's own. Must divide the original side."""
    classes: Annotated[tuple[Count, ...], Field(min_length=2)] | None = None
    """Classes that take part, relabelled 0, 1, ... in this order; null: all of the dataset's."""
    label_noise: Fraction = 0.0
    """Fraction of `train` labels replaced by another class drawn uniformly."""
    augmentation: Literal["none", "standard", "light", "strong"] = "none"
    """`standard`: random crop after padding an eighth of the side, and a mirror flip where the classes allow it;
    `light`, `strong`: rotation, colour jitter, shift and scale, `strong` also perspective, grey and erasing."""
    cutout: Count = 0
    """Side in pixels of a square zeroed in each augmented training image; 0 for none."""
    network: Literal[
        "resnet18", "resnet10", "cnn", "cnn_bn", "cnn_gn", "mlp", "mlp_bn", "mlp_ln", "mlp_tanh", "mlp_deep", "transformer",
        "gru",
    ] = "mlp"  # fmt: skip
    """`resnet18`, `resnet10`: CIFAR stem, torchvision blocks, two or one a stage; `cnn`: three convolutions; `mlp`: two hidden
    layers, `mlp_deep`: four; `_bn`, `_gn`, `_ln`: the same with batch, group or layer normalisation, `_tanh`: without ReLUs;
    `transformer`, `gru`: one layer over the rows of an image."""
    width: Annotated[int, Field(ge=8, le=1024)] = 32
    """Channels of the first stage (resnet18: 64 is the standard), or units of a hidden layer (an MLP)."""
    dropout: Fraction = 0.0
    """Probability of zeroing a unit before the last layer."""
    split_seed: Seed = 0
    """Seed of the permutation that carves the splits, and of the label noise."""

    @field_validator("classes")
    @classmethod
    def _each_class_once(cls, classes: tuple[int, ...] | None) -> tuple[int, ...] | None:
        if classes is not None and len(set(classes)) < len(classes):
            raise ValueError(f"{list(classes)} names a class twice")
        return classes


class DepthGroup(Section):
    """A part of the network's depth, as one parameter group."""

    lr_ratio: Annotated[float, Field(gt=0.0, le=1.0)] = 1.0
    """Its LR as a fraction of the recipe's; the last group, the head, has 1."""
    unfreeze_epoch: Count | None = 0
    """Epoch from which it trains, from 0; null: it never does."""


class EarlyStoppingConfig(Section):
    """The run ends where the inner validation accuracy has not risen for a while."""

    patience: PositiveInt = 15
    """Epochs without a new best accuracy that are borne."""
    restore_best: bool = True
    """Whether the run ends with the weights of its best epoch, or with the last ones."""


class TrainConfig(Section):
    """One run: budget and optimizer."""

    epochs: Annotated[int, Field(ge=1, le=10_000)] = 12
    """Budget T in epochs."""
    batch_size: PositiveInt = 32
    """Images per optimizer step; a last partial batch is dropped."""
    lr: LR = 0.01
    """Initial learning rate, where `compare` and `harvest` name none of their own."""
    optimizer: OptimizerName = "sgd"
    """`adamw` decays weights apart from the gradient (arXiv 1711.05101), `adam` adds the decay to it; the others are the peers'."""
    momentum: Fraction = 0.9
    """SGD's momentum; Adam's beta1."""
    beta2: Fraction = 0.999
    """Adam's decay of the squared gradient."""
    nesterov: bool = False
    """Nesterov's momentum instead of heavy ball."""
    weight_decay: Annotated[float, Field(ge=0.0, le=1.0)] = 5e-4
    """The optimizer's own: L2 coefficient (sgd, adam), or decoupled decay (adamw)."""
    decay_norms_and_biases: bool = True
    """Whether weight decay also acts on normalisation weights and on biases."""
    depth_groups: Annotated[list[DepthGroup], Field(min_length=1)] | None = None
    """Parameter groups from the first layer to the head, with their own LRs; null: one group for all."""
    early_stopping: EarlyStoppingConfig | None = None
    """null trains the whole budget."""
    label_smoothing: Fraction = 0.0
    """Mass spread over all classes in the training loss."""
    grad_clip: Annotated[float, Field(gt=0.0)] | None = None
    """Largest allowed gradient norm; null does not clip."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Arithmetic of forward and backward; `bfloat16` is autocast, weights stay float32."""
    channels_last: bool | Literal["auto"] = "auto"
    """Memory layout of images and convolution weights; `auto`: what measurement favours for network, device and threads."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where runs train; `auto` takes the GPU where there is one."""
    step: Literal["auto", "eager", "compile", "cuda_graph"] = "auto"
    """How a batch is trained; `cuda_graph` records it once and replays it (GPU: sgd, adamw, adam); `auto`: that where it can be,
    else `eager`."""
    evaluate_every: PositiveInt = 1
    """Epochs from one reading of the inner validation split to the next; the last epoch is always read."""
    threads: PositiveInt = 1
    """CPU threads of one run; part of a run's identity, since it can change the last bits."""

    @model_validator(mode="after")
    def _nesterov_needs_momentum(self) -> TrainConfig:
        if self.nesterov and self.momentum == 0.0:
            raise ValueError("nesterov=true needs momentum above 0")
        if self.nesterov and self.optimizer != "sgd":
            raise ValueError(f"nesterov=true is for optimizer=sgd, not {self.optimizer}")
        return self

    @model_validator(mode="after")
    def _peers_stand_alone(self) -> TrainConfig:
        if self.optimizer in RECORDED_OPTIMIZERS:
            return self
        if self.depth_groups:
            raise ValueError(f"depth_groups is for sgd, adamw and adam, not for optimizer={self.optimizer}")
        averaged = self.optimizer in AVERAGING_OPTIMIZERS
        if averaged and self.early_stopping and self.early_stopping.restore_best:
            problem = (
                f"optimizer={self.optimizer} is used at an average, which has no best epoch to go back to"
            )
            raise ValueError(f"{problem}: set early_stopping.restore_best=false")
        if self.step == "cuda_graph":
            raise ValueError(
                f"step=cuda_graph is for sgd, adamw and adam, not for optimizer={self.optimizer}"
            )
        if self.optimizer == "schedule_free_sgd" and not 0.0 < self.momentum < 1.0:
            raise ValueError(
                f"optimizer=schedule_free_sgd needs momentum between 0 and 1, not {self.momentum}"
            )
        return self

    @model_validator(mode="after")
    def _the_head_sets_the_lr(self) -> TrainConfig:
        head = self.depth_groups[-1] if self.depth_groups else DepthGroup()
        if head.lr_ratio != 1.0 or head.unfreeze_epoch != 0:
            last = len(self.depth_groups or []) - 1
            problem = "the last group is the head: its lr_ratio is 1, its unfreeze_epoch 0"
            raise ValueError(f"depth_groups.{last}: {problem}")
        return self


class RampConfig(Section):
    """A learning-rate range test: training steps on a rising LR."""

    num_steps: Annotated[int, Field(ge=8, le=1000)] = 20
    """Optimizer steps of the ramp."""
    min_lr: LR | None = None
    """LR at the start of the exponential ramp; null: 0.001, for optimizers that scale the gradient 3e-5."""
    max_lr: LR | None = None
    """LR at its end, where the loss has not exploded before; null: 10, for optimizers that scale the gradient 0.3."""
    explode_factor: Annotated[float, Field(gt=1.0)] = 4.0
    """The ramp stops where the loss exceeds this multiple of the initial loss, or is not finite."""

    @model_validator(mode="after")
    def _ramp_rises(self) -> RampConfig:
        for scales_gradients in (False, True):
            min_lr, max_lr = self.lrs(scales_gradients=scales_gradients)
            if max_lr < 10 * min_lr:
                raise ValueError(f"max_lr={max_lr} must be at least 10 x min_lr={min_lr}")
        return self

    def lrs(self, *, scales_gradients: bool) -> tuple[float, float]:
        """First and last LR of the ramp for an optimizer that does, or does not, scale gradients as Adam does."""
        first, last = (3e-5, 0.3) if scales_gradients else (1e-3, 10.0)
        return self.min_lr or first, self.max_lr or last


class ProbeConfig(RampConfig):
    """The learning-rate range test before the first epoch, paid for out of the run's budget."""

    batch_size: PositiveInt | None = 32
    """Images of each of its steps, which the budget pays for, at most `train.batch_size`; null: that."""
    fresh_batches: bool = True
    """Whether every step trains on a batch of its own while the loss of one fixed batch is measured, for a third of a
    step more; else all steps train on one batch, which a network that fits it soon has no edge on."""
    paid: Literal["first_epoch", "every_epoch"] = "first_epoch"
    """What gives way to its steps: the end of the first epoch, or as many steps of every epoch as they come to, rounded up,
    which is the way of a harvest's trunks, and of any run where they would fill half of the first epoch."""


class FinderConfig(RampConfig):
    """The LR finder of `metalr lr-find`: the probe with a longer ramp, on fresh batches."""

    num_steps: Annotated[int, Field(ge=8, le=10_000)] = 100
    """Optimizer steps of the ramp."""
    min_lr: LR = 1e-5
    """LR at the start of the ramp."""
    max_lr: LR = 10.0
    """LR at its end."""
    spacing: Literal["exponential", "linear"] = "exponential"
    """How the LR rises from step to step."""
    rule: Literal["steepest", "valley", "minimum"] = "valley"
    """Which suggestion is the answer; `minimum` is a tenth of the LR of lowest loss."""


class ControlConfig(Section):
    """The control law: probe, anchor, correct, envelope."""

    probe: ProbeConfig | None = ProbeConfig()
    """LR range test; null starts from the initial LR instead."""
    anchor: Literal["auto", "hold", "linear", "cosine", "constant"] = "auto"
    """Shape that every decision is anchored to: `hold` stays up, then falls to zero; `auto`: `constant` for optimizers
    that average their iterates, else `hold`."""
    decay_fraction: Annotated[float, Field(gt=0.0, le=1.0)] = 0.2
    """`hold`: part of the budget in which it falls."""
    warmup_fraction: Fraction | Literal["auto"] = "auto"
    """Part of the budget over which the LR rises linearly from zero; `auto`: none under SGD where the network
    normalises, else 0.05."""
    correction_bound: Annotated[float, Field(ge=1.0, le=1e3)] = 10.0
    """Largest factor, up or down, between a later decision and the first one."""
    least_gain: Annotated[float, Field(ge=0.0)] = 0.01
    """Nats of final loss that another equivalent peak must be predicted to gain; else the one in force is kept."""
    min_lr: LR = 1e-6
    """Smallest equivalent peak; the anchor itself still goes to zero."""
    max_lr: LR = 10.0
    """Largest LR ever set."""
    max_rise: Annotated[float, Field(gt=1.0)] = 3.0
    """Largest factor between the equivalent peaks of two successive decisions, upwards."""
    explode_factor: Annotated[float, Field(gt=1.0)] = 2.0
    """An epoch whose loss exceeds this multiple of the best so far (and of the initial loss) is rolled back."""
    stall_factor: Annotated[float, Field(gt=0.0, le=1.0)] | None = 0.99
    """After a probe, an epoch that ends at a training loss above this multiple of the one before training is rolled back
    too: nothing was learned, as after the death of all ReLUs. At most three times a run; null: never."""
    backoff: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.5
    """Factor on all later LRs after a rollback; twice where nothing was learned."""


class HarvestConfig(Section):
    """Many runs, forked at chosen epochs to find which next LR really was best."""

    mixture: Annotated[list[dict[str, Any]], Field(min_length=1)] = [
        {},
        {"task.network": "cnn", "task.width": 8},
        {"task.label_noise": 0.2, "train.batch_size": 64},
    ]
    """Tasks to harvest from, each a set of overrides of this recipe: `task.*`, `train.*` and the next four lists."""
    schedules: Annotated[list[ScheduleName], Field(min_length=1)] = [
        "constant", "step", "cosine", "linear",
    ]  # fmt: skip
    """Schedules of the trunk runs."""
    controllers: dict[LearnerName, str] = {}
    """Learned controllers to run trunks under beside the schedules, each a path or the name of a shipped one, so that
    the states are those that it visits itself (a DAgger round). Started at the first of `initial_lrs`."""
    initial_lrs: Annotated[list[LR], Field(min_length=1)] = [0.001, 0.01, 0.1, 1.0]
    """Initial LRs of the trunk runs."""
    budgets: Annotated[list[PositiveInt], Field(min_length=1)] | None = [6, 12]
    """Budgets in epochs; null takes train.epochs."""
    seeds: Annotated[list[Seed], Field(min_length=1)] = [1000, 1001]
    """Seeds of initialisation, data order and augmentation; keep them apart from compare.seeds."""
    max_runs: PositiveInt | None = 40
    """At most this many trunks, drawn evenly from the product of the lists above; null takes all."""
    fork_fractions: Annotated[list[Fraction], Field(min_length=1)] = [0.0, 0.25, 0.5, 0.75]
    """Where trunks are forked, as a fraction of the budget; 0 is before training, once per task, budget and seed."""
    num_candidates: Annotated[int, Field(ge=3, le=64)] = 9
    """Candidate peak LRs of a fork (K), spaced evenly in log LR."""
    candidate_span: tuple[Annotated[float, Field(gt=0.0, lt=1.0)], Annotated[float, Field(gt=1.0)]] = (
        1 / 16,
        16.0,
    )
    """Smallest and largest candidate as multiples of the probe's reference LR."""
    warmup_fraction: Fraction | Literal["auto"] | None = None
    """Part of the budget over which the LR of trunks under a controller, and of branches, rises; null: `control`'s."""
    together: Literal["auto", True, False] = "auto"
    """Whether the candidates of a fork train as one stacked network (SGD only); `auto`: where measured to pay, now nowhere."""


class MetaTrainConfig(Section):
    """Fitting the meta-learner on the meta-dataset."""

    source: Literal["recipe", "shipped"] = "recipe"
    """Where `train` and `compare` take their controllers from: fitted on the recipe's own meta-dataset, or as they come
    with the package, which needs no harvest."""

    also: list[Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]] = []
    """Meta-datasets to learn from beside the recipe's own, by the names of their folders in `meta_data/`."""
    learners: Annotated[list[LearnerName], Field(min_length=1)] = ["mlp", "lstm"]
    """Which meta-learners to fit."""
    label: Literal["branch", "greedy"] = "branch"
    """`branch`: final loss of each fork; `greedy`: its loss one epoch later (short-sighted, kept to show the cost)."""
    hidden: Annotated[int, Field(ge=4, le=1024)] = 64
    """Units of each hidden layer, or of the LSTM's state."""
    window: PositiveInt = 2
    """Observations the MLP sees at once; the LSTM sees the whole run."""
    ensemble: Annotated[int, Field(ge=1, le=32)] = 4
    """Networks averaged in one controller, alike but for their seeds."""
    lr: LR = 1e-3
    """Adam's learning rate."""
    batch_size: PositiveInt = 32
    """Forks per meta-training step."""
    epochs: PositiveInt = 50
    """Passes over the training forks."""
    weight_decay: Annotated[float, Field(ge=0.0, le=1.0)] = 0.0
    """Decoupled weight decay (AdamW); 0 is plain Adam."""
    meta_loss_weight: Annotated[float, Field(ge=0.0, le=10.0)] = 0.1
    """Weight of the auxiliary head's loss (the final loss to come)."""
    mask_rate: Fraction = 0.1
    """Probability of hiding a feature group from a training sample, so that missing ones are survivable."""
    trust: Annotated[float, Field(ge=0.0, le=1.0)] = 0.5
    """How far predicted regrets count against the mean of all forks, where a probe has told the scale; 0: the probe alone,
    1: whole. Chosen by cross-validation over tasks."""
    unprobed: bool = True
    """Whether every fork is learned from a second time as a training without a probe would have shown it."""
    num_folds: Annotated[int, Field(ge=2, le=100)] = 5
    """Folds of task groups (all budgets and seeds of a task), each held out once for the printed figures; fewer where
    groups are."""
    seed: Seed = 0
    """Seed of the folds, the initialisation and the batches."""


class CompareConfig(Section):
    """The same network under every method, on paired seeds."""

    methods: Annotated[list[MethodName], Field(min_length=1)] = [
        "constant", "step", "cosine", "metalr-mlp", "metalr-lstm",
    ]  # fmt: skip
    """Who takes part."""
    initial_lrs: Annotated[list[LR], Field(min_length=1)] | None = [0.001, 0.01, 0.1, 1.0]
    """Initial LRs of the cells; null takes train.lr."""
    tuning_lrs: Annotated[list[LR], Field(min_length=1)] | None = None
    """LRs at which hand schedules and peers run so that outer_valid can tune them, beside those of the cells."""
    tuned_methods: Annotated[list[MethodName], Field(min_length=1)] | None = None
    """Which of the methods run at `tuning_lrs`; null: all hand schedules and peers."""
    budgets: Annotated[list[PositiveInt], Field(min_length=1)] | None = None
    """Budgets of the cells in epochs; null takes train.epochs."""
    seeds: Annotated[list[Seed], Field(min_length=1)] = [0, 1, 2, 3, 4, 5]
    """Paired seeds: every method meets the same initialisation and data order."""
    confidence: Annotated[float, Field(gt=0.5, lt=1.0)] = 0.95
    """Coverage of the bootstrap intervals."""
    num_resamples: Annotated[int, Field(ge=100)] = 9999
    """Bootstrap resamples."""

    @model_validator(mode="after")
    def _nothing_twice(self) -> CompareConfig:
        for name in ("methods", "initial_lrs", "tuning_lrs", "tuned_methods", "budgets", "seeds"):
            values = getattr(self, name)
            if values is not None and len(set(values)) < len(values):
                raise ValueError(f"{name}={values} holds a value twice")
        return self


class DataConfig(Section):
    """Where the images lie; never part of a run's identity (their digest is)."""

    dir: str | None = None
    """cifar10: a directory with the Hub's parquet layout; torchvision sets: their root. null: the Hub, or ~/.cache/metalr."""
    download: bool = True
    """Whether a missing dataset may be fetched."""
    label: str | None = None
    """What reports call the data, where it is not the dataset as published; null takes the dataset's name."""


class WandbConfig(Section):
    """Weights & Biases, a mirror of the local records."""

    mode: Literal["auto", "online", "offline", "disabled"] = "auto"
    """`auto`: WANDB_MODE where set, else online with a key, else offline; never asks."""
    project: Annotated[str, Field(min_length=1)] = "metalr"
    """W&B project."""
    entity: str | None = None
    """W&B user or team; null takes the account's default."""
    tags: list[str] = []
    """Tags beside the ones made from dataset, network and stage."""
    trainings: bool | Literal["auto"] = "auto"
    """Whether each training of a harvest or comparison becomes a W&B run as it finishes; `auto`: where W&B is online."""


class ExperimentConfig(Section):
    """A whole experiment: one recipe file plus overrides."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")] = "digits"
    """Names the folders of meta-dataset, controllers and results."""
    task: TaskConfig = TaskConfig()
    train: TrainConfig = TrainConfig()
    strategy: StrategyName = "metalr"
    """Who sets the LR in `metalr train`."""
    schedules: SchedulesConfig = SchedulesConfig()
    finder: FinderConfig = FinderConfig()
    control: ControlConfig = ControlConfig()
    harvest: HarvestConfig = HarvestConfig()
    meta: MetaTrainConfig = MetaTrainConfig()
    compare: CompareConfig = CompareConfig()
    data: DataConfig = DataConfig()
    wandb: WandbConfig = WandbConfig()
    workers: Annotated[int, Field(ge=0, le=256)] = 2
    """Worker processes, one run each at a time; 0 trains in this process."""
    store: Annotated[str, Field(min_length=1)] = "runs"
    """Directory of the run records and controllers."""
