"""What every figure of the report means, one sentence each; the report prints these."""

from __future__ import annotations

from collections.abc import Mapping

__all__ = ["DEFINITIONS", "LOSS_NAMES", "definitions_of"]

LOSS_NAMES: Mapping[str, str] = {
    "classify": "cross-entropy",
    "regress": "squared error",
    "reconstruct": "squared error",
}
"""`task.objective` -> what its loss is called."""

DEFINITIONS: Mapping[str, str] = {
    "test_accuracy_pct": (
        "Share of the test split classified rightly after the last epoch (never the best epoch), in "
        "percent; a diverged run counts as chance (100 / number of classes)."
    ),
    "test_loss": (
        "Mean cross-entropy on the test split after the last epoch; diverged runs have none and are "
        "left out, which flatters a method that diverges: read it beside the count of diverged runs."
    ),
    "ci95": (
        "Interval of the mean over seeds from the BCa bootstrap at the report's confidence. With 6 "
        "seeds it is too narrow (on normal samples a 95 % one held the mean in 88 % of 600 trials), so "
        "words such as better and worse also ask for Student's interval (t_ci95) and for at least 6 "
        "seeds."
    ),
    "wall_time_s": (
        "Seconds from the start to the end of a run, mean over the runs that finished; training, "
        "evaluation and control are shown apart."
    ),
    "samples_per_s": "Training images seen per second of training time, over the runs that finished.",
    "lr_variance": "Variance over epochs of the epoch's mean LR, mean over the runs that finished.",
    "log_lr_sd_decades": (
        "Standard deviation over epochs of log10 of the epoch's mean LR (population), in decades. In "
        "all logarithms an LR below 1e-6 of the run's largest counts as that fraction, since log 0 is "
        "not defined."
    ),
    "total_variation_log_lr": "Sum over epochs of the absolute change of log10 LR, in decades.",
    "schedule_efficiency": (
        "Final test accuracy gained over the constant-LR run of the same initial LR and seed, in "
        "percentage points, per decade of log_lr_sd_decades; without movement, or without constant "
        "runs, not defined."
    ),
    "regret_pp": (
        "Final test accuracy of the best tuned hand schedule (schedule and LR chosen by mean "
        "outer_valid accuracy over the whole grid) minus the method's own at this initial LR, paired by "
        "seed, in percentage points; negative is better than the tuned best. Its interval takes the "
        "choice of the reference as given."
    ),
    "regret_to_best_pp": (
        "The same against the best tuned method of all, peers among them, chosen by mean outer_valid "
        "accuracy. A peer whose LR is a multiple of the cell's is tuned over the same grid; one that needs "
        "no LR has one set of runs, which stands in every cell of its task and budget."
    ),
    "epochs_to_target": (
        "Epochs to the first inner_valid accuracy at or above the target, upper median over seeds; a run "
        "that never reaches it, or diverges, counts as never, and a median of never is null. The target is "
        "the mean inner_valid accuracy after the last epoch of the tuned reference of the same task and "
        "budget, which is a single noisy reading of a split that the controllers see. num_reached counts "
        "the runs that got there, share_reached_target their share over all cells."
    ),
    "seconds_to_target": "The same in seconds of training, evaluation and control.",
    "iqm_test_accuracy_pct": (
        "Interquartile mean: the mean of the middle half of the final test accuracies of all cells and "
        "seeds, with a percentile bootstrap interval that resamples seeds within cells (arXiv 2108.13264). "
        "A method that needs no LR has the same runs in several cells, drawn apart: its interval is too "
        "narrow."
    ),
    "iqm_regret_pp": "The same of the paired regrets.",
    "sensitivity_pp": (
        "Standard deviation (population) over initial LRs of the mean final test accuracy, mean over "
        "tasks and budgets, in percentage points: 0 is a method to which the initial LR makes no "
        "difference."
    ),
    "mean_rank": (
        "Place among the methods of a cell by mean final test accuracy (1 is best, ties share), mean "
        "over cells."
    ),
    "overhead_pct": (
        "Control time (the probe before the first epoch, features, decisions) in percent of wall time, "
        "over the runs that finished."
    ),
    "p_holm": (
        "p value of the two-sided paired permutation test over seeds, adjusted by Holm for all tests of "
        "its family (every controller against every other method: in every cell, or overall; every tuned "
        "method against the reference)."
    ),
}

_DIVERGED = (
    "diverged runs have none and are left out, which flatters a method that diverges: read it beside the "
    "count of diverged runs."
)

_OF_OTHER_OBJECTIVES: Mapping[str, Mapping[str, str]] = {
    "regress": {
        "test_loss": (
            "Mean squared error of the network's numbers, one a class, on the test split after the last "
            f"epoch: 1 is wanted at the right class and 0 at the others; {_DIVERGED}"
        ),
    },
    "reconstruct": {
        "test_accuracy_pct": (
            "Share of the variance of the test split's images that is rebuilt after the last epoch (never "
            "the best epoch), in percent; a diverged run counts as none. Wherever accuracy stands, this is "
            "meant."
        ),
        "test_loss": (
            "Mean squared error of a normalised pixel of the test split's images as rebuilt after the last "
            f"epoch; {_DIVERGED}"
        ),
    },
}


def definitions_of(objective: str) -> dict[str, str]:
    """The definitions in a comparison of this `task.objective`."""
    return {**DEFINITIONS, **_OF_OTHER_OBJECTIVES.get(objective, {})}
