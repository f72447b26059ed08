"""Scores of probabilities of yes or no, such as "an event in A within h".

`probs` and `outcomes` (bool or 0 and 1) are (num_cases, ...), scores are means over the first dimension, and `weights`
(num_cases,) count a case several times, as a bootstrap over sequences does.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class BrierDecomposition(NamedTuple):
    """Holds the parts of Brier score = reliability - resolution + uncertainty + within_bins, each float64 ()."""

    reliability: Tensor
    resolution: Tensor
    uncertainty: Tensor
    within_bins: Tensor


def brier_score(probs: Tensor, outcomes: Tensor, weights: Tensor | None = None) -> Tensor:
    """Return the mean squared error of probabilities, mean_i (p_i - o_i)^2, float64 (...).

    Lower is better, p = 1/2 has 1/4.

    Source: Brier, Mon. Weather Rev. 78 (1950).

    Example:
        >>> brier_score(torch.tensor([0.9, 0.2]), torch.tensor([1, 0]))
        tensor(0.0250, dtype=torch.float64)
    """
    return _mean((_checked(probs) - outcomes.double()).square(), weights)


def binary_log_score(probs: Tensor, outcomes: Tensor, weights: Tensor | None = None) -> Tensor:
    """Return the mean negative log-probability of what happened, in nats, float64 (...).

    It is infinite if the impossible happened.

        - mean_i [o_i log p_i + (1 - o_i) log(1 - p_i)]

    A frequency k of S paths may be 0 or 1: score (k + 1/2) / (S + 1) instead, and say so.

    Source: Good, J. R. Stat. Soc. B 14 (1952).

    Example:
        >>> binary_log_score(torch.tensor([0.5, 0.5]), torch.tensor([1, 0]))  # log 2
        tensor(0.6931, dtype=torch.float64)
    """
    probs = _checked(probs)
    return -_mean(torch.where(outcomes.bool(), probs.log(), torch.log1p(-probs)), weights)


def reliability_bins(probs: Tensor, outcomes: Tensor, num_bins: int = 10, weights: Tensor | None = None) -> Tensor:
    """Return the sums of a reliability diagram, in B bins of equal width, float64 (3, num_bins).

        rows: n_b = #{i in b}, sum_{i in b} p_i, sum_{i in b} o_i;   i in b: (b - 1) / B <= p_i < b / B

    Row 2 / row 0 over row 1 / row 0 is the diagram; calibrated probabilities lie on the diagonal.

    Args:
        probs, outcomes: (num_cases,).
        num_bins: B.
        weights: (num_cases,).

    Example:
        >>> reliability_bins(torch.tensor([0.9, 0.9, 0.2]), torch.tensor([1, 0, 0]), num_bins=2)
        tensor([[1.0000, 2.0000],
                [0.2000, 1.8000],
                [0.0000, 1.0000]], dtype=torch.float64)
    """
    probs, outcomes = _checked(probs), outcomes.double()
    weights = torch.ones_like(probs) if weights is None else weights.double()
    columns = torch.stack([torch.ones_like(probs), probs, outcomes]) * weights
    return columns.new_zeros(3, num_bins).index_add_(1, _bins(probs, num_bins), columns)


def brier_decomposition(
    probs: Tensor, outcomes: Tensor, num_bins: int = 10, weights: Tensor | None = None
) -> BrierDecomposition:
    """Decompose the Brier score over the bins of a reliability diagram.

        reliability = 1/n sum_b n_b (p_b - o_b)^2,   resolution = 1/n sum_b n_b (o_b - o)^2,   uncertainty = o (1 - o)
        within_bins = 1/n sum_b sum_{i in b} [(p_i - p_b)^2 - 2 (p_i - p_b) (o_i - o_b)]

    p_b and o_b are means over a bin, o the mean of all outcomes. The last term, missing in Murphy's decomposition,
    makes the sum exact where probabilities differ within a bin.

    Args:
        probs, outcomes: (num_cases,).
        num_bins: number of bins of equal width.
        weights: (num_cases,).
    Source: Murphy, J. Appl. Meteorol. 12 (1973); Stephenson, Coelho and Jolliffe, Weather Forecast. 23 (2008).

    Example:
        >>> probs, outcomes = torch.tensor([0.9, 0.9, 0.2, 0.2]), torch.tensor([1, 0, 0, 0])
        >>> parts = brier_decomposition(probs, outcomes)
        >>> total = parts.reliability - parts.resolution + parts.uncertainty + parts.within_bins
        >>> round(float(total), 4), round(float(brier_score(probs, outcomes)), 4)
        (0.225, 0.225)
    """
    counts, prob_sums, outcome_sums = reliability_bins(probs, outcomes, num_bins, weights)
    probs, outcomes, total = probs.double(), outcomes.double(), counts.sum()
    least = torch.finfo(torch.float64).tiny  # of a bin without cases
    prob_means, outcome_means = prob_sums / counts.clamp_min(least), outcome_sums / counts.clamp_min(least)
    bins, base_rate = _bins(probs, num_bins), _mean(outcomes, weights)
    prob_rest, outcome_rest = probs - prob_means[bins], outcomes - outcome_means[bins]
    return BrierDecomposition(
        (counts * (prob_means - outcome_means).square()).sum() / total,
        (counts * (outcome_means - base_rate).square()).sum() / total,
        base_rate * (1 - base_rate),
        _mean(prob_rest.square() - 2 * prob_rest * outcome_rest, weights),
    )


def auroc(probs: Tensor, outcomes: Tensor, weights: Tensor | None = None) -> Tensor:
    """Return the area under the ROC curve, float64 (): 1/2 without skill; NaN where all outcomes are equal.

        P(p_i > p_j) + P(p_i = p_j) / 2,   i a case in which it happened, j one in which it did not

    Args:
        probs, outcomes: (num_cases,); any increasing function of the probabilities gives the same.
        weights: (num_cases,).
    Source: Hanley and McNeil, Radiology 143 (1982); the Mann-Whitney statistic.

    Example:
        >>> auroc(torch.tensor([0.9, 0.4, 0.6, 0.1]), torch.tensor([1, 1, 0, 0]))
        tensor(0.7500, dtype=torch.float64)
    """
    weights = torch.ones_like(probs, dtype=torch.float64) if weights is None else weights.double()
    values, places = probs.unique(return_inverse=True)
    happened = outcomes.double()
    positive = weights.new_zeros(len(values)).index_add_(0, places, weights * happened)
    negative = weights.new_zeros(len(values)).index_add_(0, places, weights * (1 - happened))
    wins = positive @ (negative.cumsum(0) - negative / 2)
    return wins / (positive.sum() * negative.sum())


def _checked(probs: Tensor) -> Tensor:
    probs = probs.double()
    if probs.numel() and not (probs.min() >= 0 and probs.max() <= 1):
        raise ValueError(f"probabilities lie between {probs.min():g} and {probs.max():g}; they must be in [0, 1]")
    return probs


def _bins(probs: Tensor, num_bins: int) -> Tensor:
    return (probs * num_bins).long().clamp_max(num_bins - 1)


def _mean(values: Tensor, weights: Tensor | None) -> Tensor:
    if weights is None:
        return values.mean(0)
    mean: Tensor = torch.tensordot(weights.double(), values, 1) / weights.double().sum()
    return mean
