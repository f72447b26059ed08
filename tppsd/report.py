"""A benchmark as one HTML page: table and figures inline, light and dark, nothing loaded from anywhere."""

from __future__ import annotations

import os
import platform
from collections.abc import Callable, Sequence
from html import escape
from pathlib import Path

import torch

from tppsd.benchmark import figures
from tppsd.benchmark.plan import Figure, Plan
from tppsd.benchmark.rows import Measurement, Row
from tppsd.benchmark.table import LEGEND, SPREADS, TABLE_COLUMNS, averaged, shown_columns, spread, where

SECTIONS: dict[Figure, tuple[str, str, Callable[[Sequence[Measurement]], list[str]]]] = {
    "ks": (
        "Time rescaling",
        "Empirical against theoretical distribution of the residuals, under the true process where it is known, else under the "
        "model that was sampled. Grey: 95 % band of the Kolmogorov-Smirnov test.",
        figures.ks_charts,
    ),
    "draft_length": (
        "Draft length",
        "What a longer draft costs and gives. Shaded: smallest to largest over paired runs.",
        figures.draft_length_charts,
    ),
    "position": (
        "Acceptance against position",
        "Share of drafted events that are accepted, of those whose predecessors in the draft were.",
        figures.position_charts,
    ),
    "accepted_counts": (
        "Accepted events per round",
        "The fastest speculative sampler of each cell. Each round yields one event more than it accepts.",
        figures.accepted_counts_charts,
    ),
    "marks": (
        "Marks",
        "Share of each mark among the sampled events, autoregressive beside the fastest speculative sampler.",
        figures.mark_charts,
    ),
}


def write_report(plan: Plan, measurements: Sequence[Measurement], path: str | Path) -> Path:
    """Write the page of all measurements, and return its path; an interrupted write leaves nothing behind.

    Raises:
        ValueError: there are no measurements.
    """
    if not measurements:
        raise ValueError("a report needs at least one measurement; there is none")
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        temporary.write_text(page(plan, measurements), encoding="utf-8")
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    return path


def page(plan: Plan, measurements: Sequence[Measurement]) -> str:
    """The HTML document."""
    rows = averaged([measured.row for measured in measurements])
    style = (Path(__file__).parent / "report.css").read_text(encoding="utf-8")
    sections = []
    for name in plan.figures:
        heading, caption, draw = SECTIONS[name]
        if charts := draw(measurements):
            sections.append(f'<h2>{heading}</h2><p>{escape(caption)}</p><div class="charts">{"".join(charts)}</div>')
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{escape(plan.title)}</title>'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<style>{style}</style></head><body><h1>{escape(plan.title)}</h1><p>{escape(_summary(plan))}</p>"
        f'<div class="scroll">{_table(plan, rows)}</div><p>{escape(LEGEND)}.</p>{"".join(sections)}'
        f"<footer>{escape(_setting(plan))}</footer></body></html>\n"
    )


def _summary(plan: Plan) -> str:
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
    where_run = torch.cuda.get_device_name() if plan.device == "cuda" else f"CPU ({platform.machine()})"
    return f"{where_run}, threads: {torch.get_num_threads()}, torch {torch.__version__}, Python {platform.python_version()}"


def _table(plan: Plan, rows: Sequence[Row]) -> str:
    columns = shown_columns(plan.columns, rows)
    reported = {name for row in rows for name in row.paper}
    heads = "".join(
        f"<th>{escape(TABLE_COLUMNS[name].heading).replace(' ', '<br>')}</th>"
        + ("<th></th>" if name in SPREADS else "")
        + ('<th class="paper">paper</th>' if name in reported else "")
        for name in columns
    )
    width = 1 + sum(1 + (name in SPREADS) + (name in reported) for name in columns)
    lines, previous = [], None
    for row in rows:
        if where(row) != previous:
            previous = where(row)
            lines.append(f'<tr class="cell"><td colspan="{width}">{escape(previous)}</td></tr>')
        dot = f'<span class="dot" style="background:var(--{figures.colour_of(row, rows)})"></span>'
        cells = "".join(_cell(row, name, name in reported) for name in columns)
        lines.append(f"<tr><td>{dot}{escape(row.sampler)}</td>{cells}</tr>")
    return f"<table><thead><tr><th>sampler</th>{heads}</tr></thead><tbody>{''.join(lines)}</tbody></table>"


def _cell(row: Row, name: str, with_paper: bool) -> str:
    value, form = getattr(row, name), TABLE_COLUMNS[name].form
    cells = f"<td>{'' if value is None else form(value)}</td>"
    if name in SPREADS:
        cells += f'<td class="spread">{spread(row, name)}</td>'
    if with_paper:
        cells += f'<td class="paper">{form(row.paper[name]) if name in row.paper else ""}</td>'
    return cells
