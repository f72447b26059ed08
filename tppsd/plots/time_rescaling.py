"""Figures of how good a distribution is: residuals against their exact distribution, and NLL by time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

from tppsd.metrics.functional import ks_band, ks_uniform
from tppsd.plots.style import BAND, FAINT, TEXT, colours_of, label, legend_below, new_figure, time_label, title_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_MAX_POINTS = 2000  # of a curve; more only makes the file larger


def ks_plot(
    curves: Mapping[str, Tensor],
    distribution: Literal["exponential", "uniform"] = "exponential",
    title: str = "Time rescaling",
) -> Figure:
    """Draw empirical against theoretical distributions of residuals.

    Grey is the 95 % band of the Kolmogorov-Smirnov test.

    Left: sorted u_i = F(z_i) against (i - 1/2) / n. Right: the deviation times sqrt(n), where one band serves every n:
    a curve that leaves it is rejected at 5 %.

    Args:
        curves: per name, residuals (num_events,): gaps of `carry_over`, or mark PITs. At least one must not be empty.
        distribution: F, Exp(1) or U(0, 1).
    """
    uniforms = {name: _sorted_uniforms(values, distribution) for name, values in curves.items() if values.numel()}
    if not uniforms:
        raise ValueError("a KS plot needs at least one residual; every curve is empty")
    figure = new_figure(8.6, 4.1)
    left, right = figure.subplots(1, 2, width_ratios=(1, 1.3))
    fewest = min(len(u) for u in uniforms.values())
    band = ks_band(fewest)
    diagonal = torch.tensor([0.0, 1.0])
    shade = left.fill_between(diagonal, diagonal - band, diagonal + band, color=BAND, linewidth=0)
    left.plot(diagonal, diagonal, color=FAINT, linewidth=0.8)
    right.axhspan(-band * fewest**0.5, band * fewest**0.5, color=BAND, linewidth=0)
    right.axhline(0, color=FAINT, linewidth=0.8)
    legend = {}
    for curve, colour in colours_of(uniforms).items():
        u = uniforms[curve]
        kept = torch.linspace(0, len(u) - 1, min(len(u), _MAX_POINTS)).long()
        empirical = (kept + 0.5) / len(u)
        marker = "o" if len(u) == 1 else ""  # a line through one point would not be seen
        left.plot(u[kept], empirical, marker=marker, color=colour, linewidth=1.8)
        deviation = (empirical - u[kept]) * len(u) ** 0.5
        (line,) = right.plot(u[kept], deviation, marker=marker, color=colour, linewidth=1.3)
        result = ks_uniform(u)
        legend[f"{curve}: D = {result.statistic:.4f}, p = {result.p_value:.2g}, n = {result.num_events:,}"] = line
    legend[f"95 % band of the Kolmogorov-Smirnov test (left: n = {fewest:,})"] = shade
    name = "Exp(1)" if distribution == "exponential" else "U(0, 1)"
    label(left, f"{name} probability", "empirical probability", "Distribution")
    label(right, f"{name} probability", "√n (empirical - theoretical)", "Deviation")
    left.set(xlim=(0, 1), ylim=(0, 1), aspect="equal")
    right.set_xlim(0, 1)
    right.margins(y=0.12)
    legend_below(figure, legend.values(), legend.keys(), most=2)
    title_of(figure, title)
    return figure


def _sorted_uniforms(values: Tensor, distribution: str) -> Tensor:
    """Return residuals as sorted numbers in [0, 1], uniform if the distribution is right."""
    x = values.detach().double().cpu().flatten()
    return (-torch.expm1(-x.clamp_min(0)) if distribution == "exponential" else x).sort().values


def nll_by_time_plot(
    edges: Sequence[float],
    curves: Mapping[str, Sequence[float]],
    truth: Sequence[float],
    trained_until: float | None = None,
    start: float = 0.0,
    unit: str | None = None,
    title: str = "Longer windows than in training",
) -> Figure:
    """Draw the NLL per event above that of the true process, by stretch of the window.

    Args:
        edges: ends of the stretches, as given to `nll_by_time`.
        curves: per name, NLL per event of each stretch.
        truth: the same of the true process.
        trained_until: end of the windows of the training split; None = unmarked.
        start: of the first stretch.
        unit: of time.
    """
    figure = new_figure(7.2, 3.9)
    axes = figure.subplots()
    axes.axhline(0, color=FAINT, linewidth=0.8)
    for name, colour in colours_of(curves).items():
        excess = [nll - true for nll, true in zip(curves[name], truth, strict=True)]
        axes.stairs(excess, [start, *edges], color=colour, linewidth=2, label=name, baseline=None)
    if trained_until is not None:
        axes.axvline(trained_until, color=TEXT, linewidth=0.9, linestyle=(0, (4, 3)))
        axes.annotate(
            "windows end here in training", (trained_until, 1), (4, -3), xycoords=("data", "axes fraction"),
            textcoords="offset points", va="top", fontsize=8.5, color=FAINT,
        )  # fmt: skip
    axes.set_xlim(start, edges[-1])
    axes.margins(y=0.15)
    time = time_label("time since the window's start", unit)
    label(axes, time, "nats per event above the truth", "Negative log-likelihood of the events of each stretch")
    legend_below(figure, *axes.get_legend_handles_labels(), most=4)
    title_of(figure, title)
    return figure
