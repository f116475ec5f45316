"""What an experiment is: every setting with its meaning, unit, range and default.

The defaults are the `digits` recipe, so an empty file is a complete experiment.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from metalr.config.control import ControlConfig, FinderConfig
from metalr.config.controlled import ControlledName, LearnerName
from metalr.config.peers import PeerName
from metalr.config.schedules import ScheduleName, SchedulesConfig
from metalr.config.section import LR, Fraction, PositiveInt, Section, Seed
from metalr.config.task import TaskConfig
from metalr.config.train import TrainConfig

__all__ = [
    "DEFAULT_METHOD",
    "CompareConfig",
    "DataConfig",
    "ExperimentConfig",
    "HarvestConfig",
    "MetaTrainConfig",
    "MethodName",
    "StrategyName",
    "WandbConfig",
]

MethodName = Literal[ScheduleName, "find", PeerName, ControlledName]
"""Who may set the LR: the schedules, the LR finder + cosine, the peers, the learned controllers."""
StrategyName = Literal[MethodName, "metalr"]
"""A method, or `metalr` for the learned controller of `DEFAULT_METHOD`."""
DEFAULT_METHOD: MethodName = "metalr-lstm"
"""What `metalr` stands for."""


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
    scale_tail: Annotated[float, Field(ge=0.0, le=0.4)] = 0.005
    """Share of a feature's values at either end that does not stretch the scale on which it is read: a run that diverges
    has losses of 1e24, and one such value makes a feature a constant for all others."""
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

    @model_validator(mode="after")
    def _only_classes_are_smoothed(self) -> ExperimentConfig:
        if not self.task.classifies and self.train.label_smoothing > 0.0:
            raise ValueError(
                f"train.label_smoothing: must be 0 where task.objective is {self.task.objective}"
            )
        return self
