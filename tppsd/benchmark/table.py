"""The tables: a section per cell, a paper's number beside ours where it has one; and the fastest sampler of each."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import fields, replace
from typing import Any, NamedTuple

import torch

from tppsd.benchmark.columns import COLUMNS
from tppsd.benchmark.plan import Plan
from tppsd.benchmark.rows import Row

SPREADS = {"milliseconds_per_event": ("low", "high"), "speedup": ("speedup_low", "speedup_high")}
IMPORTANT = ("milliseconds_per_event", "speedup", "events_per_round", "model_p_value")  # what a narrow terminal shows
LEGEND = (
    "target and drafts: heads x layers; medians over runs (smallest to largest); "
    "ΔL, D_KS, D_WS: distances of the TPP-SD paper; alpha: accepted / drafted; "
    "per step: accepted / tested; per round: events per target pass; "
    "model p: uniform if sampling is exact (in float32)"
)


def shown_columns(plan_columns: Sequence[str], rows: Sequence[Row]) -> list[str]:
    """Return the columns of the plan that some row, or the paper, has a number for."""
    return [name for name in plan_columns if any(getattr(row, name) is not None or name in row.paper for row in rows)]


def spread(row: Row, name: str) -> str:
    """Return smallest to largest over runs, of a column that has them.

    Empty for the speed-up of the baseline, which is 1.
    """
    if name not in SPREADS or (name == "speedup" and row.method == "autoregressive"):
        return ""
    return " to ".join(COLUMNS[name].form(getattr(row, bound)) for bound in SPREADS[name])


def text(row: Row, name: str) -> str:
    """Return the number of a column with its spread, empty where there is none."""
    number, interval = _number(row, name), spread(row, name)
    return f"{number} ({interval})" if number and interval else number


def _number(row: Row, name: str) -> str:
    """Return the number of a column, empty where there is none."""
    value = getattr(row, name)
    return "" if value is None else COLUMNS[name].form(value)


_ENCODERS = {"attnhp": "AttNHP", "rotary": "rotary"}  # the others are abbreviations


def encoder_name(row: Row) -> str:
    """Return how an encoder is written in tables."""
    return _ENCODERS.get(row.encoder, row.encoder.upper())


def where(row: Row) -> str:
    """Return the cell of a row in words."""
    parts = [row.data or "from scratch", encoder_name(row), f"target {row.target}"]
    return ", ".join(parts + ([f"{row.batch_size} rows"] if row.batch_size > 1 else []))


def averaged(rows: Sequence[Row]) -> list[Row]:
    """Return one row for all seeds: means of the numbers, medians of p-values, spreads over all."""
    groups: dict[Any, list[Row]] = {}
    for row in rows:
        groups.setdefault((row.data, row.encoder, row.target, row.batch_size, row.sampler), []).append(row)
    return [same[0] if len(same) == 1 else _average(same) for same in groups.values()]


def _average(rows: list[Row]) -> Row:
    """Return the row that stands for the same sampler with several seeds."""
    means: dict[str, Any] = {}
    for name in [f.name for f in fields(Row) if f.type in ("float", "float | None")]:
        values = [getattr(row, name) for row in rows]
        combine = {"low": min, "speedup_low": min, "high": max, "speedup_high": max}.get(
            name, statistics.median if name.endswith("p_value") else statistics.fmean
        )
        means[name] = None if None in values else combine(values)
    return replace(rows[0], **means, num_events=sum(row.num_events for row in rows))


def print_table(plan: Plan, rows: Sequence[Row], console: Any) -> None:
    """Write the table of all cells, and below it what "auto" chose in each cell, and why.

    All columns where the console is wide enough, else the most important ones, at last the bare numbers beside sampler
    names on several lines.
    """
    rows = averaged(rows)
    columns = shown_columns(plan.columns, rows)
    important = [name for name in columns if name in IMPORTANT] or columns
    layouts = ((columns, text), (important, text), (important, _number))
    fitting = (layout for layout in layouts if _width(_table(plan, rows, *layout), console) <= console.width)
    chosen, write = next(fitting, layouts[-1])
    console.print(_table(plan, rows, chosen, write))
    left_out = [COLUMNS[name].heading for name in columns if name not in chosen]
    if write is not text:
        left_out += ["spreads"] if any(name in SPREADS for name in chosen) else []
        left_out += ["papers' numbers"] if any(row.paper for row in rows) else []
    if left_out:
        named = ", ".join(left_out)
        console.print(f"not shown for want of width: {named}; a wider terminal or --json has them", soft_wrap=True)
    for row in rows:
        if row.choice is not None:
            console.print(
                f"{row.sampler} ({where(row)}) chose {row.choice}", soft_wrap=True, markup=False, highlight=False
            )


def _width(table: Any, console: Any) -> int:
    """Return the width of a table with as much room as it likes."""
    from rich.measure import Measurement

    return Measurement.get(console, console.options.update(width=10_000), table).maximum


def table_of(
    rows: Sequence[Row], columns: Sequence[str], write: Callable[[Row, str], str] = text
) -> tuple[list[str], list[list[str]]]:
    """Return heads and lines: a line of one cell begins a section, and a paper's number stands beside ours.

    Args:
        rows: averaged ones.
        columns: names of the columns.
        write: writes the number of a column; papers' numbers go with `text` alone.
    """
    reported = {name for row in rows for name in row.paper} if write is text else set()
    heads, lines, previous = ["sampler"], list[list[str]](), None
    for name in columns:
        heads += [COLUMNS[name].heading, *(["(paper)"] if name in reported else [])]
    for row in rows:
        if where(row) != previous:
            previous = where(row)
            lines.append([previous])
        cells = [row.sampler]
        for name in columns:
            cells.append(write(row, name))
            if name in reported:
                cells.append(COLUMNS[name].form(row.paper[name]) if name in row.paper else "")
        lines.append(cells)
    return heads, lines


def _table(plan: Plan, rows: Sequence[Row], columns: Sequence[str], write: Callable[[Row, str], str]) -> Any:
    """Build the table of some columns for the terminal."""
    from rich.box import SIMPLE_HEAD
    from rich.markup import escape
    from rich.table import Table

    heads, lines = table_of(rows, columns, write)
    setting = f"{plan.title} (threads: {torch.get_num_threads()}, runs: {plan.repeats})"
    table = Table(title=setting, title_justify="left", caption=LEGEND, caption_justify="left", box=SIMPLE_HEAD)
    table.add_column(heads[0], overflow="fold")
    for head in heads[1:]:
        table.add_column(head, justify="right", no_wrap=write is text, style="dim" if head == "(paper)" else "")
    for line in lines:
        if len(line) == 1:
            table.add_section()
            table.add_row(f"[bold]{escape(line[0])}[/]")
        else:
            table.add_row(escape(line[0]), *line[1:])
    return table


class Summary(NamedTuple):
    """Holds the rows of a cell that count.

    Fields:
        autoregressive: its row.
        fastest: row of the largest median speed-up among the samplers whose method and draft are given.
        auto: row of the method "auto", None where it was not asked for.
    """

    autoregressive: Row
    fastest: Row
    auto: Row | None


def summaries(rows: Sequence[Row]) -> list[Summary]:
    """Return every cell in which something was compared with the autoregressive sampler, in order of appearance."""
    cells: dict[str, list[Row]] = {}
    for row in averaged(rows):
        cells.setdefault(where(row), []).append(row)
    found = []
    for cell in cells.values():
        by_method = {row.method: row for row in cell}
        compared = [row for row in cell if row.method == "speculative"]
        if compared and "autoregressive" in by_method:
            fastest = max(compared, key=lambda row: row.speedup)
            found.append(Summary(by_method["autoregressive"], fastest, by_method.get("auto")))
    return found


def markdown(cells: Sequence[Summary]) -> str:
    """Return a table with a line per cell."""
    heads = ["data", "encoder", "target", "rows", "autoregressive, ms per event", "fastest", "ms per event"]
    heads += ["speed-up", "`auto`"]
    lines = [heads]
    for base, best, auto in cells:
        cell = [base.data or "from scratch", encoder_name(base), base.target, str(base.batch_size)]
        cell += [text(base, "milliseconds_per_event"), best.sampler.removeprefix("speculative, ")]
        cell += [text(best, "milliseconds_per_event"), text(best, "speedup")]
        lines.append([*cell, "" if auto is None else text(auto, "speedup")])
    head, *body = ("| " + " | ".join(line) + " |" for line in lines)
    return "\n".join([head, "|" + "---|" * len(heads), *body])
