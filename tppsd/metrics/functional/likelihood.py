"""Log-likelihoods as reported numbers."""

from __future__ import annotations

from torch import Tensor


def nll_per_event(log_likelihoods: Tensor, num_events: Tensor) -> Tensor:
    """- sum_s L_s / sum_s N_s in nats per event, float64 (); NaN without events.

    A ratio of sums over all sequences, never a mean of per-sequence ratios. Always say the convention (`window` or
    `benchmark`) next to the number.

    Args:
        log_likelihoods: (num_sequences,), L_s.
        num_events: (num_sequences,), N_s, number of events with a term in L_s.
    """
    return -log_likelihoods.double().sum() / num_events.double().sum()


def likelihood_discrepancy(first: Tensor, second: Tensor) -> float:
    """|mean_s L_s over `first` - mean_s L_s over `second`|, nats per sequence.

    Args:
        first, second: (num_sequences,), log-likelihoods of two samples under one model (or of one sample under two models).
    Source: TPP-SD (arXiv 2507.09252), section 5.1.
    """
    return float((first.double().mean() - second.double().mean()).abs())
