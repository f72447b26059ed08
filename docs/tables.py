"""Make the tables of the results from JSON lines: `python docs/tables.py` writes them into the pages.

A table of docs/results/NAME.jsonl stands between `<!-- table: NAME -->` and `<!-- end -->` in one of the pages. The
first line says what it is ("table"), when and how it was measured ("measured"), and which columns are set in bold
("bold") or, as figures of others, in italics ("published"). Every other line is a row, its keys are the headings. A new
measurement is a changed or a new line, and this command.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "docs/results"
PAGES = (
    *sorted(RESULTS.glob("*.md")),
    ROOT / "docs/concepts/fidelity.md",
    ROOT / "docs/concepts/estimators.md",
    ROOT / "lightning_configs/recipes/README.md",
)
PLACE = re.compile(r"<!-- table: (\S+) -->\n.*?<!-- end -->", re.DOTALL)
GROUPED = 10_000  # from this size on whole numbers have commas


class Number(str):
    """Is a number as it is written, so that 0.930 does not become 0.93."""


class Table(NamedTuple):
    """Holds a table of results.

    Fields: about: what it is and how it was measured; rows: heading -> value.
    """

    about: dict[str, Any]
    rows: list[dict[str, Any]]


def read(name: str) -> Table:
    """Read a table.

    Raises:
        ValueError: a line is no JSON object, or there is no row.
    """
    path, lines = RESULTS / f"{name}.jsonl", []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        try:
            row = json.loads(line, parse_float=Number, parse_int=Number)
        except json.JSONDecodeError as error:
            raise ValueError(f"{path.name}, line {number}: is not JSON ({error})") from None
        if not isinstance(row, dict):
            raise ValueError(f"{path.name}, line {number}: is not a JSON object")
        lines.append(row)
    about = lines.pop(0) if lines and "table" in lines[0] else {}
    if not lines:
        raise ValueError(f"{path.name}: has no row")
    return Table(about, lines)


def written(table: Table) -> str:
    """Return a table as Markdown, with a caption."""
    headings = list(dict.fromkeys(heading for row in table.rows for heading in row))
    lines = [headings, ["---"] * len(headings)]
    for row in table.rows:
        lines.append([_cell(row.get(heading), heading, table.about) for heading in headings])
    text = "\n".join("| " + " | ".join(cells) + " |" for cells in lines).replace("|  |", "| |").replace("|  |", "| |")
    caption = "; ".join(str(table.about[key]) for key in ("table", "measured") if key in table.about)
    return f"{text}\n\n*{caption}.*" if caption else text


def _cell(value: Any, heading: str, about: dict[str, Any]) -> str:
    text = value_text(value)
    if text and heading in about.get("bold", ()):
        first, space, rest = text.partition(" ")
        return f"**{first}**{space}{rest}"
    if text and heading in about.get("published", ()):
        return ", ".join(f"*{part}*" for part in text.split(", "))
    return text


def value_text(value: Any) -> str:
    """Return a value as a reader sees it.

    Objects are: {"median", "min", "max"}, {"mean", "std"}, {"fastest", "auto"}, {"best"}, and {"value", ...} with what
    stands in parentheses behind it; further keys "draft_length" and "published" (a figure of others).
    """
    if value is None:
        return ""
    if isinstance(value, Number):
        return f"{int(value):,}" if re.fullmatch(r"\d+", value) and int(value) >= GROUPED else str(value)
    if isinstance(value, list):
        return ", ".join(map(value_text, value))
    if not isinstance(value, dict):
        return str(value)
    parts = dict(value)
    if "median" in parts:
        text = f"{parts.pop('median')} ({parts.pop('min')} to {parts.pop('max')})"
    elif "mean" in parts:
        text = f"{parts.pop('mean')} ± {parts.pop('std')}"
    elif "fastest" in parts:
        text = f"**{parts.pop('fastest')}**, {parts.pop('auto')}"
    elif "best" in parts:
        text = f"**{parts.pop('best')}**"
    else:
        text = value_text(parts.pop("value", None))
    if "draft_length" in parts:
        text += f", {parts.pop('draft_length')}"
    if "published" in parts:
        text = f"{text} (*{parts.pop('published')}*)" if text else f"*{parts.pop('published')}*"
    return " ".join([text, *(f"({value_text(part)})" for part in parts.values())]).strip()


def with_tables(page: str) -> str:
    """Return a page whose tables are those of their JSON lines."""
    return PLACE.sub(lambda found: f"<!-- table: {found[1]} -->\n\n{written(read(found[1]))}\n\n<!-- end -->", page)


def without_place() -> Iterator[str]:
    """Yield the tables that no page shows."""
    placed = {name for page in PAGES for name in PLACE.findall(page.read_text(encoding="utf-8"))}
    for path in sorted(RESULTS.glob("*.jsonl")):
        if path.stem not in placed:
            yield path.stem


def main() -> None:
    """Write the tables into the pages."""
    for page in PAGES:
        before = page.read_text(encoding="utf-8")
        after = with_tables(before)
        if after != before:
            page.write_text(after, encoding="utf-8")
            print(f"written: {page.relative_to(ROOT)}")
    if lost := list(without_place()):
        sys.exit(f"no page shows {', '.join(lost)}: write <!-- table: {lost[0]} --> and <!-- end --> where it belongs")


if __name__ == "__main__":
    main()
