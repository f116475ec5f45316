"""What a run is, and what of it is its identity: every setting that can change its result."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationInfo,
    field_serializer,
    field_validator,
    model_validator,
)

from metalr.config import ControlConfig, ProbeConfig, SchedulesConfig, TaskConfig, TrainConfig, run_id
from metalr.config.controlled import CONTROLLED, optimizer_of
from metalr.config.identity import with_added
from metalr.config.models import MethodName
from metalr.config.peers import AVERAGING_OPTIMIZERS, GRADIENT_SCALING_OPTIMIZERS, PEERS
from metalr.config.section import Seed
from metalr.control import usual_rise, warmup_fraction
from metalr.training.layout import resolved_layout
from metalr.training.networks import traits_of
from metalr.training.step import resolved_step

__all__ = [
    "ADDED_SETTINGS",
    "SCHEMA_VERSION",
    "UNUSED_LAW",
    "ForkPlan",
    "Job",
    "RunSpec",
    "control_of",
    "schedules_of",
]

SCHEMA_VERSION: Literal[1] = 1
"""Raised whenever the same settings would give another result, or another layout of the records."""


ADDED_SETTINGS: dict[tuple[str, ...], Any] = {
    ("schedules",): None,
    ("task", "classes"): None,
    ("task", "objective"): "classify",
    ("train", "optimizer"): "sgd",
    ("train", "beta2"): 0.999,
    ("train", "decay_norms_and_biases"): True,
    ("train", "depth_groups"): None,
    ("train", "early_stopping"): None,
    ("train", "step"): "eager",
    ("train", "evaluate_every"): 1,
    ("forks_together",): False,
    ("control", "decay_fraction"): 0.2,
    ("control", "rise"): 1.0,
    ("control", "rise_fraction"): 0.2,
    ("control", "stall_factor"): None,
    ("control", "least_gain"): 0.0,
    ("control", "probe", "batch_size"): None,
    ("control", "probe", "fresh_batches"): False,
    ("control", "probe", "paid"): "every_epoch",
}
"""Settings that came after the first records, with what runs did before they existed.

At that value a setting is no part of the identity, so that runs, comparisons and meta-datasets made earlier
keep their ids. It is the value then, not the default now: a default may change, an id may not.
"""
UNUSED_LAW: dict[str, Any] = {
    "stall_factor": None,
    "least_gain": 0.0,
    "correction_bound": 3.7,
    "rise": 1.0,
    "rise_fraction": 0.2,
}
"""The part of the control law that decides, where nothing decides (a trunk under a schedule, `find`): as it
first was, so that a new default changes no id."""


FIRST_METHODS = ("constant", "step", "cosine", "linear")
"""The schedules there were before they had settings."""


def schedules_of(method: str, schedules: SchedulesConfig) -> SchedulesConfig | None:
    """The schedule settings that are part of a run's identity; None where it has none, or its first ones."""
    if method in CONTROLLED:
        return None
    if method in PEERS:
        method = PEERS[method].schedule
    section = getattr(schedules, method, None)
    first = SchedulesConfig()
    unchanged = section == getattr(first, method, None) and schedules.warmup.epochs == 0.0
    return None if method in FIRST_METHODS and unchanged else schedules


def control_of(method: str, control: ControlConfig) -> ControlConfig | None:
    """What a compared run needs of the control law: all under a controller, the probe for the LR finder."""
    if method in CONTROLLED:
        return control
    if method == "find":
        # What has no meaning here stays as it first was, and out of the run's identity.
        probe = (control.probe or ProbeConfig()).model_copy(update={"paid": "every_epoch"})
        return ControlConfig(probe=probe, anchor="linear", warmup_fraction=0.05, **UNUSED_LAW)
    return None


class _Frozen(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class ForkPlan(_Frozen):
    """Where a trunk is forked, and into what."""

    epochs: list[int]
    """Epochs completed before each fork; 0 is before training."""
    peak_factors: list[float]
    """Candidate equivalent peaks as multiples of the probe's reference LR."""


class RunSpec(_Frozen):
    """Every setting that can change a run's result, and nothing else: its hash is the run's id."""

    schema_version: Literal[1] = SCHEMA_VERSION
    task: TaskConfig
    train: TrainConfig
    """`epochs` is the budget, `lr` the initial LR; `device`, `step` and `channels_last` are resolved."""
    method: MethodName
    control: ControlConfig | None = None
    """Present where the run probes: under a controller, and as a trunk of the harvest."""
    controller_sha256: str | None = None
    """The frozen controller of a `metalr-*` method."""
    forks: ForkPlan | None = None
    forks_together: bool = False
    """Whether the candidates of a fork train as one stacked network, which moves the last bits."""
    schedules: SchedulesConfig | None = None
    """What the method's schedule uses of its settings; null: none of ours, or one at its first form."""
    seed: Seed
    data_digest: str
    """SHA-256 over the splits' images and labels."""
    evaluate_test: bool = False
    """Whether `test` is read, once, after the last epoch."""

    @model_validator(mode="after")
    def _a_method_has_its_optimizer(self) -> RunSpec:
        wanted = optimizer_of(self.method)
        if wanted is not None and self.train.optimizer != wanted:
            raise ValueError(f"method {self.method} is train.optimizer={wanted}, not {self.train.optimizer}")
        return self

    @model_validator(mode="before")
    @classmethod
    def _what_runs_did_then(cls, values: Any) -> Any:
        """A record from before a setting existed was made with what runs did then, whatever is usual now."""
        return with_added(values, ADDED_SETTINGS) if isinstance(values, dict) else values

    @field_validator("train")
    @classmethod
    def _resolved(cls, train: TrainConfig, info: ValidationInfo) -> TrainConfig:
        step = train.step
        if step == "auto":
            step = resolved_step(step, train.device, train.optimizer)  # type: ignore[assignment]
        task: TaskConfig = info.data["task"]
        layout = resolved_layout(train.channels_last, task, train.device, train.threads)
        return train.model_copy(update={"step": step, "channels_last": layout})

    @field_validator("control")
    @classmethod
    def _anchored(cls, control: ControlConfig | None, info: ValidationInfo) -> ControlConfig | None:
        if control is None or "train" not in info.data:
            return control
        optimizer = info.data["train"].optimizer
        changes: dict[str, Any] = {}
        if control.anchor == "auto":
            changes["anchor"] = "constant" if optimizer in AVERAGING_OPTIMIZERS else "hold"
        scales, averages = optimizer in GRADIENT_SCALING_OPTIMIZERS, optimizer in AVERAGING_OPTIMIZERS
        known = traits_of(info.data["task"].network).normalises
        if control.warmup_fraction == "auto":
            changes["warmup_fraction"] = warmup_fraction(scales_gradients=scales, normalises=known)
        if control.rise == "auto":
            changes["rise"] = usual_rise(
                scales_gradients=scales,
                averages_iterates=averages,
                normalises=known,
                total_epochs=info.data["train"].epochs,
            )
        if control.probe:
            first, last = control.probe.lrs(scales_gradients=scales)
            changes["probe"] = control.probe.model_copy(update={"min_lr": first, "max_lr": last})
        return control.model_copy(update=changes)

    @field_serializer("schedules")
    def _only_what_is_used(self, value: SchedulesConfig | None) -> dict[str, Any] | None:
        used = {"warmup", self.method, self.schedule_name or self.method}
        return None if value is None else value.model_dump(include=used)

    @property
    def schedule_name(self) -> str | None:
        """The hand schedule that moves the LR; None under a learned controller."""
        if self.method in CONTROLLED:
            return None
        if self.method in PEERS:
            return PEERS[self.method].schedule
        return "cosine" if self.method == "find" else self.method

    @property
    def run_id(self) -> str:
        """16 hexadecimal digits."""
        return run_id(self, ADDED_SETTINGS)


class Job(_Frozen):
    """A run to do, with what cannot change its result: where things lie."""

    spec: RunSpec
    store: str
    """Directory of the run records."""
    data_dir: str | None = None
    download: bool = True
    controller: str | None = None
    """Path of the controller (its `.safetensors` file)."""
    checkpoint_interval_s: Annotated[float, Field(ge=0.0)] = 10.0
    """Least time between two checkpoints; 0 writes one every epoch."""
