"""The page of a benchmark: its table, a figure per cell (data, encoder, batch size), and where it was run."""

from __future__ import annotations

import math
import platform
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from tppsd.benchmark.columns import COLUMNS
from tppsd.benchmark.measuring import Machine
from tppsd.benchmark.plan import Plan, in_passes, short_names
from tppsd.benchmark.rows import Measurement, Row
from tppsd.benchmark.table import LEGEND, averaged, shown_columns, table_of, where
from tppsd.plots.page import Page
from tppsd.plots.rounds import accepted_counts_plot
from tppsd.plots.style import (
    AUTOREGRESSIVE,
    FAINT,
    OTHERS,
    REAL,
    SPECULATIVE,
    label,
    legend_below,
    new_figure,
    title_of,
    whole_numbers,
)
from tppsd.plots.time_rescaling import ks_plot

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_AGAINST_LENGTH = ("speedup", "acceptance_rate", "ks_statistic", "wasserstein_time", "likelihood_discrepancy")
_FEWEST_LENGTHS = 3  # of a figure against the draft length

Kind = tuple[object, ...]  # what rows on one line over draft lengths have in common


def cells_of(measurements: Sequence[Measurement]) -> dict[str, list[Measurement]]:
    """Return the measurements of the first seed by cell, in order of appearance."""
    cells: dict[str, list[Measurement]] = {}
    for measured in measurements:
        if measured.row.seed == measurements[0].row.seed:
            cells.setdefault(where(measured.row), []).append(measured)
    return cells


def _speculative(cell: Sequence[Measurement]) -> list[Measurement]:
    """Return the speculative samplers of a cell."""
    return [measured for measured in cell if measured.row.method == "speculative"]


def _fastest(cell: Sequence[Measurement]) -> list[Measurement]:
    """Return the fastest speculative sampler of a cell, where there is one."""
    return sorted(_speculative(cell), key=lambda measured: -measured.row.speedup)[:1]


def ks_figures(measurements: Sequence[Measurement]) -> Iterator[Figure]:
    """Draw KS plots of the autoregressive sampler, the drafts alone, and the fastest speculative sampler."""
    for name, cell in cells_of(measurements).items():
        shown = [measured for measured in cell if measured.row.method in ("autoregressive", "draft")] + _fastest(cell)
        is_true = shown[0].fidelity.true_gaps is not None
        gaps = {m.row.sampler: m.fidelity.true_gaps if is_true else m.fidelity.gaps for m in shown}
        curves = {sampler: values for sampler, values in gaps.items() if values is not None and len(values)}
        if curves:
            yield ks_plot(curves, title=f"{name}: {'true process' if is_true else 'sampled model'}")


def accepted_counts_figures(measurements: Sequence[Measurement]) -> Iterator[Figure]:
    """Draw the shares of rounds by number of accepted events, of the fastest speculative sampler."""
    for name, cell in cells_of(measurements).items():
        for measured in _fastest(cell):
            if measured.accepted_counts is not None and measured.accepted_counts[1:].any():
                yield accepted_counts_plot(measured.accepted_counts, f"{name}: {measured.row.sampler}")


def mark_figures(measurements: Sequence[Measurement]) -> Iterator[Figure]:
    """Draw histograms of marks, autoregressive beside the fastest speculative sampler, where there are marks."""
    for name, cell in cells_of(measurements).items():
        num_marks = len(cell[0].fidelity.mark_counts)
        if num_marks == 1:
            continue
        shown = [measured for measured in cell if measured.row.method == "autoregressive"] + _fastest(cell)
        figure = new_figure(8.6, 3.2)
        axes = figure.subplots()
        width = 0.8 / len(shown)
        for i, (measured, colour) in enumerate(zip(shown, (AUTOREGRESSIVE, SPECULATIVE), strict=False)):
            counts = measured.fidelity.mark_counts.double()
            shares = (100 * counts / counts.sum().clamp_min(1)).tolist()
            middles = [mark - 0.4 + (i + 0.5) * width for mark in range(num_marks)]
            axes.bar(middles, shares, width, color=colour, label=measured.row.sampler)
        label(axes, "mark", "events [%]", "share of each mark among the sampled events")
        axes.grid(axis="x", visible=False)
        whole_numbers(axes)
        legend_below(figure, *axes.get_legend_handles_labels())
        title_of(figure, name)
        yield figure


def draft_length_figures(measurements: Sequence[Measurement]) -> Iterator[Figure]:
    """Draw speed-up, acceptance and distances against the draft length, where three lengths or more were timed.

    Source: Figure 3 of TPP-SD (arXiv 2507.09252).
    """
    for name, cell in cells_of(measurements).items():
        chains = [m.row for m in _speculative(cell) if m.row.candidates is None]
        rows = [row for row in chains if isinstance(row.draft_length, int)]
        if len({row.draft_length for row in rows}) < _FEWEST_LENGTHS:
            continue
        columns = [column for column in _AGAINST_LENGTH if all(getattr(row, column) is not None for row in rows)]
        figure = new_figure(max(5.6, 3.1 * len(columns)), 3.6)
        names = _draft_names(rows)
        panels = figure.subplots(1, len(columns), squeeze=False)[0]
        for axes, column in zip(panels, columns, strict=True):
            _against_length(axes, column, rows, names)
        legend_below(figure, *panels[0].get_legend_handles_labels())
        title_of(figure, name)
        yield figure


def _against_length(axes: Axes, column: str, rows: Sequence[Row], names: dict[Kind, str]) -> None:
    """Draw a line per draft, passes and rule; for speed-ups with the range over paired runs, and a line at 1."""
    for i, (kind, name) in enumerate(names.items()):
        own = sorted((row for row in rows if _kind(row) == kind), key=_length)
        lengths, colour = [_length(row) for row in own], _colour(i)
        axes.plot(lengths, [getattr(row, column) for row in own], "o-", color=colour, markersize=4, label=name)
        if column == "speedup":
            lows, highs = [row.speedup_low for row in own], [row.speedup_high for row in own]
            axes.fill_between(lengths, lows, highs, color=colour, alpha=0.18, linewidth=0)
    if column == "speedup":
        axes.axhline(1.0, color=FAINT, linewidth=1.0, linestyle=":")
    label(axes, "draft length", "", COLUMNS[column].heading)
    axes.set_xlim(left=0)
    axes.set_ylim(0, 1.03 if column == "acceptance_rate" else None)
    whole_numbers(axes)


def position_figures(measurements: Sequence[Measurement]) -> Iterator[Figure]:
    """Draw P(accepted | tested) against the position, for the longest draft of every drafter, passes and rule."""
    for name, cell in cells_of(measurements).items():
        rows = sorted((measured.row for measured in _speculative(cell)), key=_length)
        longest = {_kind(row): row for row in rows}
        names = _draft_names(longest.values())
        shares = {kind: [p for p in row.acceptance_by_position or [] if p is not None] for kind, row in longest.items()}
        if not any(shares.values()):
            continue
        figure = new_figure(7.2, 3.6)
        axes = figure.subplots()
        for i, (kind, own) in enumerate(shares.items()):
            axes.plot(range(1, 1 + len(own)), own, "o-", color=_colour(i), markersize=3.5, label=names[kind])
        label(axes, "position in the draft", "P(accepted | tested)", "")
        lowest = min(p for own in shares.values() for p in own)
        axes.set_ylim(min(0.9, math.floor(10 * lowest) / 10), 1.005)
        whole_numbers(axes)
        legend_below(figure, *axes.get_legend_handles_labels())
        title_of(figure, name)
        yield figure


def _kind(row: Row) -> Kind:
    """Return what rows on one line over draft lengths have in common."""
    return row.draft, row.rule, row.draft_passes


def _length(row: Row) -> int:
    """Return the longest draft of a row: with "auto", as far as any position was tested."""
    return row.draft_length if isinstance(row.draft_length, int) else len(row.acceptance_by_position or ())


def _draft_names(shown: Iterable[Row]) -> dict[Kind, str]:
    """Return the names of lines: the draft, its passes, and the rule where there are several."""
    rows = list(shown)
    several_rules = len({row.rule for row in rows}) > 1
    drafts = short_names({str(row.draft) for row in rows})
    return {
        _kind(row): drafts[str(row.draft)] + in_passes(row.draft_passes) + (f", {row.rule}" if several_rules else "")
        for row in rows
    }


def _colour(line: int) -> str:
    """Return the colour of a line by its number; they repeat after seven."""
    return (SPECULATIVE, *OTHERS, AUTOREGRESSIVE, REAL)[line % 7]


SECTIONS: dict[str, tuple[str, str, Callable[[Sequence[Measurement]], Iterator[Figure]]]] = {
    "ks": (
        "Time rescaling",
        "Distribution of the residuals, under the true process where it is known, else under the model that was "
        "sampled.",
        ks_figures,
    ),
    "draft_length": (
        "Draft length",
        "What a longer draft costs and gives. Shaded: smallest to largest over paired runs.",
        draft_length_figures,
    ),
    "position": (
        "Acceptance against position",
        "Share of drafted events that are accepted, of those whose predecessors in the draft were.",
        position_figures,
    ),
    "accepted_counts": (
        "Accepted events per round",
        "The fastest speculative sampler of each cell. Each round yields one event more than it accepts.",
        accepted_counts_figures,
    ),
    "marks": (
        "Marks",
        "Share of each mark among the sampled events, autoregressive beside the fastest speculative sampler.",
        mark_figures,
    ),
}


def write_report(plan: Plan, measurements: Sequence[Measurement], path: str | Path) -> Path:
    """Measure the machine, write the page of all measurements, and return its path.

    Raises:
        ValueError: there are no measurements.
    """
    if not measurements:
        raise ValueError("a report needs at least one measurement; there is none")
    page = Page(plan.title)
    page.paragraph(_summary(plan, measurements))
    rows = averaged([measured.row for measured in measurements])
    page.table(*table_of(rows, shown_columns(plan.columns, rows)))
    page.paragraph(f"{LEGEND}.")
    for name in plan.figures:
        heading, caption, draw = SECTIONS[name]
        if drawn := list(draw(measurements)):
            page.heading(heading)
            page.paragraph(caption)
            for figure in drawn:
                page.figure(figure)
    page.paragraph(_setting(plan))
    return page.write(path)


def _summary(plan: Plan, measurements: Sequence[Measurement]) -> str:
    """Say how the numbers were measured."""
    eager = "; ".join(dict.fromkeys(measured.row.sampler for measured in measurements if not measured.is_compiled))
    compiled = ". All are compiled" + (f" but: {eager}" if eager else "")
    return (
        f"Samplers run in turn in one process after a warm-up: medians of {plan.repeats} runs"
        + (f", means over {len(plan.seeds)} seeds" if len(plan.seeds) > 1 else "")
        + (compiled if any(measured.is_compiled for measured in measurements) else "")
        + (f". Matrices, keys and values are in {plan.dtype}" if plan.dtype != "float32" else "")
        + ". A speed-up is against our own cached autoregressive sampler"
        + (
            "; “over re-encoding” is against the loop that encodes the history anew for each event, as papers do."
            if "reencode" in plan.baselines
            else "."
        )
    )


def _setting(plan: Plan) -> str:
    """Say on which machine, with which limits and libraries, the benchmark was run."""
    where_run = torch.cuda.get_device_name() if plan.device == "cuda" else f"CPU ({platform.machine()})"
    return (
        f"{where_run}, threads: {torch.get_num_threads()}, {Machine.measured(plan.device)}; "
        f"torch {torch.__version__}, Python {platform.python_version()}"
    )
