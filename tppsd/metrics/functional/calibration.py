"""Calibration: whether events come as often as probabilities say, of their times and of their marks."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from tppsd.metrics.functional.probability import reliability_bins
from tppsd.metrics.functional.time_rescaling import ks_uniform


class PITCalibration(NamedTuple):
    """Holds a histogram of PITs int64 (num_bins,) and how far it is from uniform.

    Beside it are its mean absolute deviation, D = sup |F_n(u) - u| and n.
    """

    counts: Tensor
    deviation: float
    ks_statistic: float
    num_events: int


def pit_calibration(uniforms: Tensor, num_bins: int = 10) -> PITCalibration:
    """Compare probability integral transforms with U(0, 1); deviation and D are NaN without events.

        n_b = #{i: (b - 1) / B <= u_i < b / B},  deviation = 1/B sum_b |n_b / n - 1/B|,  D = sup_u |F_n(u) - u|

    A hump in the middle says that the distribution is too wide, a valley too narrow, a slope too early or too late.

    Args:
        uniforms: (num_events,) in [0, 1]: G(tau_i | h_{i-1}). On windows that end before the next event long
            inter-times are missing, so take 1 - exp(-gap) of the gaps of `carry_over` instead, which the right
            distribution makes uniform.
        num_bins: B.
    Source: Gneiting, Balabdaoui and Raftery, J. R. Stat. Soc. B 69 (2007).

    Example:
        >>> found = pit_calibration(torch.tensor([0.1, 0.3, 0.6, 0.9]), num_bins=2)
        >>> found.counts.tolist(), float(found.deviation), round(float(found.ks_statistic), 2)
        ([2, 2], 0.0, 0.2)
    """
    ks = ks_uniform(uniforms)  # refuses values outside [0, 1]
    bins = (uniforms.detach().double().cpu().flatten() * num_bins).long().clamp_max(num_bins - 1)
    counts = torch.bincount(bins, minlength=num_bins)
    deviation = float((counts.double() / counts.sum() - 1 / num_bins).abs().mean())
    return PITCalibration(counts, deviation, ks.statistic, ks.num_events)


def confidence_bins(mark_probs: Tensor, marks: Tensor, num_bins: int = 15) -> Tensor:
    """Sort events by the probability p_i of their most probable mark into B bins of equal width, float64 (3, B).

        rows: n_b = #{i in b}, sum_{i in b} p_i, sum_{i in b} 1{k_i is the most probable mark};  i in b: (b-1)/B <= p_i
            < b/B

    Args:
        mark_probs: (num_events, num_marks); marks: int64 (num_events,); num_bins: B.

    Example:
        >>> probs = torch.tensor([[0.9, 0.1], [0.3, 0.7], [0.2, 0.8]])
        >>> confidence_bins(probs, torch.tensor([0, 1, 0]), num_bins=2)
        tensor([[0.0000, 3.0000],
                [0.0000, 2.4000],
                [0.0000, 2.0000]], dtype=torch.float64)
    """
    confidence, predicted = mark_probs.detach().double().max(-1)
    return reliability_bins(confidence.clamp_max(1.0), predicted == marks, num_bins)  # float32 may round beyond 1


def expected_calibration_error(bins: Tensor) -> Tensor:
    """Return ECE = sum_b n_b / n |accuracy_b - mean confidence_b|, float64 () in [0, 1]; NaN without events.

    0 for calibrated probabilities of infinitely many events; for n events it is positive by chance, of order sqrt(B /
    n).

    Args:
        bins: sums of `confidence_bins`, (3, num_bins).
    Source: Naeini et al. (AAAI 2015); Guo et al. (ICML 2017), with B = 15.

    Example:
        >>> probs = torch.tensor([[0.9, 0.1], [0.3, 0.7], [0.2, 0.8]])
        >>> bins = confidence_bins(probs, torch.tensor([0, 1, 0]), num_bins=2)
        >>> round(float(expected_calibration_error(bins)), 3)
        0.133
    """
    num_events, confidence, correct = bins
    error: Tensor = (correct - confidence).abs().sum() / num_events.sum()
    return error
