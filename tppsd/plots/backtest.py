"""Figure and page of a backtest: are probabilities, counts and times what they claim to be, and who is better."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import cycle
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from tppsd.metrics.functional.counts import pit_coverage
from tppsd.metrics.functional.probability import reliability_bins
from tppsd.plots.page import Page
from tppsd.plots.style import (
    AUTOREGRESSIVE,
    BAND,
    FAINT,
    OTHERS,
    SPECULATIVE,
    label,
    legend_below,
    new_figure,
    time_label,
    title_of,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

    from tppsd.forecasting.backtest_result import Backtest
    from tppsd.forecasting.case_scores import CaseScores

_NUM_BINS = 10
_SHOWN_SETS, _SHOWN_HORIZONS = 6, 4  # of the grid of reliability diagrams
_PROPER = (
    "crps_of_counts", "log_score_of_counts", "brier_score", "log_score", "auroc", "crps_of_next_time",
    "crps_of_first_time", "transport_distance", "transport_score", "temporal_map",
)  # fmt: skip


def backtest_plot(backtest: Backtest, mark: str | None = None, horizon: float | None = None) -> Figure:
    """Draw how well each model's forecasts are calibrated.

    From left to right: the share of origins at which an event came, against its forecast probability (a larger dot has
    more origins); histograms of the PITs of counts and of the next time, flat for a right forecast; the share of counts
    inside central intervals, against their level. The grey bands hold 95 % of bars of a right forecast, were origins
    independent.

    Args:
        backtest: the scores.
        mark: label of a set of marks; None = any, and all sets and horizons together in the reliability diagram.
        horizon: one of the horizons; None = the longest.

    Raises:
        ValueError: there is no such mark or horizon.
    """
    chosen = backtest.horizons[-1] if horizon is None else horizon
    shown = "any" if mark is None else mark
    if shown not in backtest.labels or chosen not in backtest.horizons:
        raise ValueError(
            f"mark = {mark!r}, horizon = {chosen:g}: choose from {backtest.labels} and {backtest.horizons}"
        )
    place = backtest.labels.index(shown), backtest.horizons.index(chosen)
    figure = new_figure(13.5, 3.9)
    reliability, counts, times, coverage = figure.subplots(1, 4)
    for axes in (reliability, coverage):
        _diagonal(axes)
    for axes in (counts, times):
        _band(axes, len(backtest.origins.times))
    handles = {}
    levels = torch.linspace(0.05, 0.95, 19, dtype=torch.float64)
    for name, scores, colour in _models(backtest):
        which = ... if mark is None else (slice(None), *place)
        _reliability(reliability, scores.probs[which].flatten(), scores.outcomes[which].flatten(), colour)
        pits = scores.count_pits[:, place[0], place[1]]
        (handles[name],) = coverage.plot(levels, pit_coverage(pits, levels.tolist()), color=colour, linewidth=1.6)
        _histogram(counts, pits, colour)
        _histogram(times, scores.next_time_pits, colour)
    for axes in (counts, times):
        axes.set_ylim(bottom=0)
    span = _within(backtest, shown, chosen)
    label(
        reliability,
        "forecast probability",
        "share of origins",
        "an event: all marks and horizons" if mark is None else f"an event: {span}",
    )
    label(counts, "PIT", "density", f"number of events: {span}")
    label(times, "PIT", "density", time_label("time of the next event", backtest.time_unit))
    label(coverage, "level of the interval", "share of origins inside", f"number of events: {span}")
    legend_below(figure, handles.values(), handles.keys())
    title_of(figure, f"Calibration at {len(backtest.origins.times):,} origins")
    return figure


def reliability_grid(backtest: Backtest) -> Figure:
    """Draw a reliability diagram of each set of marks, from top to bottom, at each horizon, from left to right.

    A larger dot has more origins. Of many sets those with most events are drawn, of many horizons the longest.
    """
    outcomes = next(iter(backtest.cases.values())).outcomes.double().mean(0)  # (num_sets, num_horizons)
    frequent = outcomes[:-1].sum(1).argsort(descending=True, stable=True)[: _SHOWN_SETS - 1].tolist()
    shown = [len(backtest.labels) - 1, *sorted(frequent)]
    horizons = list(range(len(backtest.horizons)))[-_SHOWN_HORIZONS:]
    figure = new_figure(0.8 + 2.6 * max(len(horizons), 2), 0.6 + 2.3 * len(shown))
    grid = figure.subplots(len(shown), len(horizons), squeeze=False, sharex=True, sharey=True)
    handles = {}
    for row, a in enumerate(shown):
        for column, b in enumerate(horizons):
            axes = grid[row, column]
            _diagonal(axes)
            for name, scores, colour in _models(backtest):
                handles[name] = _reliability(axes, scores.probs[:, a, b], scores.outcomes[:, a, b], colour)
            label(
                axes,
                "forecast probability" if row == len(shown) - 1 else "",
                "share of origins" if column == 0 else "",
                _within(backtest, backtest.labels[a], backtest.horizons[b]),
            )
    legend_below(figure, handles.values(), handles.keys())
    return figure


def _reliability(axes: Axes, probs: Tensor, outcomes: Tensor, colour: str) -> Line2D:
    """Draw the share of outcomes against their mean probability, bin by bin."""
    sums = reliability_bins(probs, outcomes, _NUM_BINS)
    number, predicted, happened = sums[:, sums[0] > 0]
    (line,) = axes.plot(predicted / number, happened / number, color=colour, linewidth=0.9)
    axes.scatter(predicted / number, happened / number, s=8 + 90 * number / number.sum(), color=colour)
    return line


def backtest_page(backtest: Backtest) -> Page:
    """Return the page of a backtest: what was done, comparisons, calibration and all scores."""
    page, models = Page("Backtest"), list(backtest.cases)
    unit = f" {backtest.time_unit}" if backtest.time_unit else ""
    horizons = ", ".join(f"{h:g}" for h in backtest.horizons)
    num_sequences = len(backtest.origins.sequence.unique())
    page.paragraph(
        f"{len(backtest.origins.times):,} origins in {num_sequences:,} sequences, horizons of {horizons}{unit}, "
        f"{backtest.num_paths:,} paths each, seed {backtest.seed}. Intervals are 95 % intervals of a bootstrap over "
        "sequences."
    )
    for note in backtest.notes:
        page.paragraph(note)
    if backtest.comparisons:
        page.heading("Is the target worth its cost?")
        page.paragraph(
            "Mean differences of scores, target less baseline, with paired 95 % intervals: negative is better; open is "
            "what an interval around 0 leaves open."
        )
        compared = {
            one[:4]: f"{one.verdict}: {_cell(one.difference, one.low, one.high)}" for one in backtest.comparisons
        }
        own = dict.fromkeys(one.metric for one in backtest.comparisons)
        page.table(["score", *models[1:]], _rows(backtest, compared, models[1:], own))
    page.heading("Calibration")
    page.figure(backtest_plot(backtest))
    if len(backtest.labels) * len(backtest.horizons) > 1:
        page.heading("Reliability by mark and horizon")
        page.paragraph(
            "The share of origins at which an event came, against its forecast probability; a larger dot has more "
            "origins."
        )
        page.figure(reliability_grid(backtest))
    scores = {row[:4]: _cell(row.value, row.low, row.high) for row in backtest.scores}
    page.heading("Scores")
    page.paragraph("Lower is better, but for auroc and temporal_map. Brackets hold 95 % intervals.")
    page.table(["score", *models], _rows(backtest, scores, models, _PROPER))
    page.heading("Calibration in numbers")
    rest = [name for name in dict.fromkeys(row.metric for row in backtest.scores) if name not in _PROPER]
    page.table(["score", *models], _rows(backtest, scores, models, rest))
    return page


def _rows(
    backtest: Backtest, cells: Mapping[tuple[str, str, str, float], str], models: Sequence[str], metrics: Iterable[str]
) -> list[list[str]]:
    """Return cells by metric, under a heading for each set of marks and horizon.

    Args:
        cells: by model, metric, set of marks and horizon; a metric without any has no row.
        models: from left to right.
    """
    rows: list[list[str]] = []
    for mark in reversed(backtest.labels):
        for horizon in reversed(backtest.horizons):
            rows.append([_within(backtest, mark, horizon)])
            for metric in metrics:
                own = [cells.get((model, metric, mark, horizon), "") for model in models]
                rows += [[metric, *own]] if any(own) else []
    return rows


def _cell(value: float, low: float, high: float) -> str:
    """Return a number with its interval, where it has one."""
    if math.isnan(value):
        return "-"
    return f"{value:.4g}" if math.isnan(low) else f"{value:.4g} [{low:.4g}, {high:.4g}]"


def _models(backtest: Backtest) -> Iterator[tuple[str, CaseScores, str]]:
    """Yield name, scores and colour of every model, the target first."""
    colours = cycle((SPECULATIVE, AUTOREGRESSIVE, *OTHERS))
    for (name, scores), colour in zip(backtest.cases.items(), colours, strict=False):
        yield name, scores, colour


def _within(backtest: Backtest, mark: str, horizon: float) -> str:
    """Return a set of marks and a horizon in words."""
    return f"{mark} within {horizon:g}" + (f" {backtest.time_unit}" if backtest.time_unit else "")


def _diagonal(axes: Axes) -> None:
    """Draw the line on which a share is as large as it was said to be."""
    axes.plot([0, 1], [0, 1], color=FAINT, linewidth=0.8)
    axes.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02))


def _histogram(axes: Axes, pits: Tensor, colour: str) -> None:
    heights = torch.histc(pits, _NUM_BINS, 0.0, 1.0) * _NUM_BINS / len(pits)
    axes.stairs(heights, torch.linspace(0, 1, _NUM_BINS + 1), color=colour, linewidth=1.5)
    axes.set_xlim(0, 1)


def _band(axes: Axes, num: int) -> None:
    """Shade where 95 % of the bars of `num` independent uniform numbers lie."""
    half = 1.96 * math.sqrt((_NUM_BINS - 1) / num)
    axes.axhspan(max(0.0, 1 - half), 1 + half, color=BAND, linewidth=0)
    axes.axhline(1, color=FAINT, linewidth=0.8)
