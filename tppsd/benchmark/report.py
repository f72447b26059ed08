"""The page of a benchmark: its table, its figures, and where it was run."""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from tppsd.benchmark import figures
from tppsd.benchmark.machine import Machine
from tppsd.benchmark.plan import Figure, Plan
from tppsd.benchmark.rows import Measurement, Row
from tppsd.benchmark.table import LEGEND, TABLE_COLUMNS, averaged, shown_columns, text, where
from tppsd.plots.page import Page

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Drawn

SECTIONS: dict[Figure, tuple[str, str, Callable[[Sequence[Measurement]], Iterator[Drawn]]]] = {
    "ks": (
        "Time rescaling",
        "Distribution of the residuals, under the true process where it is known, else under the model that was "
        "sampled.",
        figures.ks_figures,
    ),
    "draft_length": (
        "Draft length",
        "What a longer draft costs and gives. Shaded: smallest to largest over paired runs.",
        figures.draft_length_figures,
    ),
    "position": (
        "Acceptance against position",
        "Share of drafted events that are accepted, of those whose predecessors in the draft were.",
        figures.position_figures,
    ),
    "accepted_counts": (
        "Accepted events per round",
        "The fastest speculative sampler of each cell. Each round yields one event more than it accepts.",
        figures.accepted_counts_figures,
    ),
    "marks": (
        "Marks",
        "Share of each mark among the sampled events, autoregressive beside the fastest speculative sampler.",
        figures.mark_figures,
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
    page.paragraph(_summary(plan))
    rows = averaged([measured.row for measured in measurements])
    page.table(*_table(plan, rows))
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


def _summary(plan: Plan) -> str:
    """Say how the numbers were measured."""
    return (
        f"Samplers run in turn in one process after a warm-up: medians of {plan.repeats} runs"
        + (f", means over {len(plan.seeds)} seeds" if len(plan.seeds) > 1 else "")
        + (". All are compiled" if plan.compile else "")
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


def _table(plan: Plan, rows: Sequence[Row]) -> tuple[list[str], list[list[str]]]:
    """Return heads and rows: a section per cell, and a paper's number beside ours where it has one."""
    columns = shown_columns(plan.columns, rows)
    reported = {name for row in rows for name in row.paper}
    heads, lines, previous = ["sampler"], list[list[str]](), None
    for name in columns:
        heads += [TABLE_COLUMNS[name].heading, *(["(paper)"] if name in reported else [])]
    for row in rows:
        if where(row) != previous:
            previous = where(row)
            lines.append([previous])
        cells = [row.sampler]
        for name in columns:
            cells.append(text(row, name))
            if name in reported:
                cells.append(TABLE_COLUMNS[name].form(row.paper[name]) if name in row.paper else "")
        lines.append(cells)
    return heads, lines
