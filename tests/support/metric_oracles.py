"""What scipy and plain loops say about the data of tests/metric_cases.py, and oracles of single formulas."""

from __future__ import annotations

import math

import numpy as np
import torch
from metric_cases import HORIZON, ITEMS, NUM_ITEMS, NUM_MARKS, RESIDUALS
from scipy import stats
from scipy.integrate import simpson
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from tppsd.data.sequences import EventSequence
from tppsd.metrics.functional import carry_over
from tppsd.models.mixture import LogNormalMixture


def mean_within(distribution: LogNormalMixture, horizon: float) -> float:
    """integral_0^H S dx of one distribution, by Simpson's rule in log x."""
    y = torch.linspace(-30, math.log(horizon), 2001, dtype=torch.float64)
    return float(simpson((distribution.log_survival(y.exp()) + y).exp().numpy(), x=y.numpy()))


def crps_by_quadrature(distribution: LogNormalMixture, tau: float, num_nodes: int = 10_001) -> float:
    """integral_0^tau G^2 dx + integral_tau^inf S^2 dx of one distribution, by Simpson's rule in log x."""

    def integral(log_squared: Tensor, y: Tensor) -> float:
        return float(simpson((log_squared + y).exp().numpy(), x=y.numpy()))

    a, s = (
        distribution.shift + distribution.scale * distribution.means,
        distribution.scale * distribution.log_stds.exp(),
    )
    log_tau = torch.tensor(tau, dtype=torch.float64).log()
    low, high = float((a - 12 * s).min()), float((a + 3 * s * s + 12 * s).max())
    left = torch.linspace(min(low, float(log_tau) - 40), float(log_tau), num_nodes, dtype=torch.float64)
    right = torch.linspace(float(log_tau), max(high, float(log_tau)), num_nodes, dtype=torch.float64)
    below = 2 * distribution.cdf(left.exp()).log()
    return integral(below, left) + integral(2 * distribution.log_survival(right.exp()), right)


def transport_by_assignment(
    first: EventSequence, second: EventSequence, cost: float, num_marks: int = NUM_MARKS
) -> float:
    """The assignment problem with a dummy partner at distance `cost` for every event."""
    total = 0.0
    for mark in range(num_marks):
        a, b = (s.event_times[s.marks == mark].numpy() for s in (first, second))
        table = np.full((len(a) + len(b), len(a) + len(b)), cost)
        table[: len(a), : len(b)] = np.abs(a[:, None] - b)
        table[len(a) :, len(b) :] = 0.0
        total += float(table[linear_sum_assignment(table)].sum())
    return total


def calibration_error(num_bins: int = 15) -> float:
    confidence, predicted = ITEMS.mark_probs.max(-1)
    error = 0.0
    for b in range(num_bins):
        inside = (confidence >= b / num_bins) & (confidence < (b + 1) / num_bins)
        if inside.any():
            accuracy = (predicted == ITEMS.marks)[inside].double().mean()
            error += float(inside.double().mean() * (accuracy - confidence[inside].mean()).abs())
    return error


def oracles() -> dict[str, list[float]]:
    """Expected results of every class on all items."""
    gaps = carry_over(RESIDUALS)
    uniforms = -torch.expm1(-gaps)
    times = stats.kstest(gaps.numpy(), "expon")
    counts = np.histogram(uniforms, bins=10, range=(0, 1))[0]
    distributions = [ITEMS.distribution[i] for i in range(NUM_ITEMS)]
    crps = [
        crps_by_quadrature(distribution, float(tau), 2001)
        for distribution, tau in zip(distributions, ITEMS.inter_times, strict=True)
    ]
    return {
        "time_rescaling": [times.statistic, times.pvalue, len(gaps)],
        "calibration": [*counts, np.abs(counts / len(gaps) - 0.1).mean(), times.statistic, len(gaps)],
        "nll": [-float(ITEMS.log_likelihoods.sum()) / int(ITEMS.num_events.sum())],
        "rmse": [float(np.sqrt(np.mean((ITEMS.forecasts - ITEMS.inter_times).numpy() ** 2)))],
        "crps": [np.mean(crps)],
        "mean_unusable": [
            np.mean(
                [mean_within(distribution, HORIZON) < 0.5 * float(distribution.mean) for distribution in distributions]
            )
        ],
        "accuracy": [np.mean((ITEMS.mark_probs.argmax(1) == ITEMS.marks).numpy())],
        "ece": [calibration_error()],
    }
