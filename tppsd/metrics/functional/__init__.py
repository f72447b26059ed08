"""The formulas, as plain functions of tensors. No torchmetrics, no Lightning; scipy only where a p-value is asked for."""

from tppsd.metrics.functional.acceptance import acceptance_by_position, acceptance_rate, events_per_round, step_acceptance
from tppsd.metrics.functional.correlation import Lag1Correlation, lag1_correlation
from tppsd.metrics.functional.independence import IndependenceResult, lag1_independence, pair_independence
from tppsd.metrics.functional.likelihood import likelihood_discrepancy, nll_per_event
from tppsd.metrics.functional.own_law import own_law_residuals
from tppsd.metrics.functional.permutation import PermutationResult, event_counts, mark_totals, permutation_test, time_counts
from tppsd.metrics.functional.time_rescaling import (
    KSResult,
    SequenceResiduals,
    carry_over,
    ks_band,
    ks_exponential,
    ks_uniform,
)

__all__ = [
    "IndependenceResult",
    "KSResult",
    "Lag1Correlation",
    "PermutationResult",
    "SequenceResiduals",
    "acceptance_by_position",
    "acceptance_rate",
    "carry_over",
    "event_counts",
    "events_per_round",
    "ks_band",
    "ks_exponential",
    "ks_uniform",
    "lag1_correlation",
    "lag1_independence",
    "likelihood_discrepancy",
    "mark_totals",
    "nll_per_event",
    "own_law_residuals",
    "pair_independence",
    "permutation_test",
    "step_acceptance",
    "time_counts",
]
