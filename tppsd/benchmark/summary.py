"""A summary of a long benchmark: for every cell the fastest speculative sampler.

Beside it stand the autoregressive one and `auto`.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path

from tppsd.benchmark.rows import Row
from tppsd.benchmark.table import averaged, encoder_name, text
from tppsd.plots.speedups import Speedup

_TYPES: dict[str, tuple[type, ...]] = {  # of the fields of a row, as JSON has them
    "str": (str,), "int": (int,), "float": (float, int), "str | None": (str, type(None)),
    "float | None": (float, int, type(None)),
}  # fmt: skip


@dataclass(frozen=True)
class Summary:
    """Holds the rows of a cell that count.

    Attributes:
        autoregressive: its row.
        fastest: row of the largest median speed-up among the samplers whose method and draft are given.
        auto: row of the method "auto", None where it was not asked for.
    """

    autoregressive: Row
    fastest: Row
    auto: Row | None


def read_rows(paths: Iterable[str | Path]) -> list[Row]:
    """Read rows that `tppsd benchmark --json` has written.

    Raises:
        FileNotFoundError, ValueError: a file is not there or empty, or a line of it is not a row.
    """
    rows = []
    for path in map(Path, paths):
        if not path.is_file():
            raise FileNotFoundError(f"{path}: there is no such file")
        rows += _rows_of(path)
    return rows


def _rows_of(path: Path) -> list[Row]:
    """Read the rows of one file."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: not a text file in UTF-8 ({error.reason} at byte {error.start})") from error
    if not lines:
        raise ValueError(f"{path}: the file is empty; it must hold rows of `tppsd benchmark --json`")
    return [_row(line, f"{path}, line {number}") for number, line in enumerate(lines, 1)]


def _row(line: str, where: str) -> Row:
    """Read a row, and check the types of its cell and its numbers, which the table and the figure write."""
    try:
        row = Row(**json.loads(line))
    except (json.JSONDecodeError, TypeError) as error:
        raise ValueError(f"{where}: not a row of `tppsd benchmark --json` ({error})") from error
    for f in fields(Row):
        allowed, value = _TYPES.get(str(f.type)), getattr(row, f.name)
        if allowed is not None and type(value) not in allowed:
            raise ValueError(f"{where}: not a row of `tppsd benchmark --json` ({f.name} = {value!r} must be {f.type})")
    return row


def summaries(rows: Sequence[Row]) -> list[Summary]:
    """Return every cell in which something was compared with the autoregressive sampler, in order of appearance."""
    cells: dict[tuple[str | None, str, str, int], list[Row]] = {}
    for row in averaged(rows):
        cells.setdefault((row.data, row.encoder, row.target, row.batch_size), []).append(row)
    found = []
    for cell in cells.values():
        compared = [row for row in cell if row.method == "speculative"]
        base = [row for row in cell if row.method == "autoregressive"]
        if compared and base:
            auto = next((row for row in cell if row.method == "auto"), None)
            found.append(Summary(base[0], max(compared, key=lambda row: row.speedup), auto))
    return found


def markdown(cells: Sequence[Summary]) -> str:
    """Return a table with a line per cell."""
    heads = ["data", "encoder", "target", "rows", "autoregressive, ms per event", "fastest", "ms per event"]
    heads += ["speed-up", "`auto`"]
    lines = ["| " + " | ".join(heads) + " |", "|" + "---|" * len(heads)]
    for cell in cells:
        base, best = cell.autoregressive, cell.fastest
        name = best.sampler.removeprefix("speculative, ")
        auto = "" if cell.auto is None else text(cell.auto, "speedup")
        numbers = [
            text(base, "milliseconds_per_event"),
            name,
            text(best, "milliseconds_per_event"),
            text(best, "speedup"),
            auto,
        ]
        where = [base.data or "from scratch", encoder_name(base), base.target, str(base.batch_size)]
        lines.append("| " + " | ".join(where + numbers) + " |")
    return "\n".join(lines)


def speedups(cells: Sequence[Summary]) -> list[Speedup]:
    """Return the fastest samplers for `tppsd.plots.speedup_plot`.

    The figure has a panel per batch size, and a colour per size of the target.
    """
    return [
        Speedup(
            f"{cell.fastest.batch_size} row{'s' if cell.fastest.batch_size > 1 else ''} in flight",
            f"{cell.fastest.data or 'from scratch'}, {encoder_name(cell.fastest)}", f"target {cell.fastest.target}",
            cell.fastest.speedup, cell.fastest.speedup_low, cell.fastest.speedup_high,
        )
        for cell in cells
    ]  # fmt: skip
