"""The page of `tppsd inspect --report`: the account of a log with its pictures, inline, light and dark."""

from __future__ import annotations

import io
import os
import re
from html import escape
from pathlib import Path
from typing import Any

from tppsd.commands.inspect_text import further, mark_rows, mind, split_rows, understood
from tppsd.data.facts import LogFacts
from tppsd.data.paths import local_path
from tppsd.plots import event_log as plots
from tppsd.plots.style import FAINT, GRID, MARKS, OTHERS, REAL, TEXT

# colour of the figures -> (name of the CSS variable, on light, on dark)
THEME = {
    TEXT: ("text", "#1d2127", "#e6e8eb"),
    FAINT: ("faint", "#6b7280", "#98a1ae"),
    GRID: ("rule", "#e5e7eb", "#2b3038"),
    REAL: ("real", "#3a3f47", "#c9ced6"),
    OTHERS[0]: ("other1", "#009e73", "#3fc79a"),
    OTHERS[1]: ("other2", "#cc79a7", "#e39cc6"),
    OTHERS[3]: ("other4", "#0072b2", "#8fc9ef"),
    MARKS[0]: ("mark1", "#332288", "#a3a6f5"),
    MARKS[5]: ("mark6", "#117733", "#5fc985"),
}
STYLE = """
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 3rem 2rem 5rem; max-width: 74rem; background: var(--page); color: var(--text);
  font: 15px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif; }
h1 { font-size: 1.7rem; margin: 0 0 0.8rem; } h2 { font-size: 1.15rem; margin: 2.4rem 0 0.5rem; }
.scroll { overflow-x: auto; } table { border-collapse: collapse; font-variant-numeric: tabular-nums;
  font-size: 0.85rem; }
th, td { padding: 0.25rem 0.8rem 0.25rem 0; text-align: right; vertical-align: top;
  border-bottom: 1px solid var(--rule); }
th { color: var(--faint); font-weight: 600; } th:first-child, td:first-child, table.account td { text-align: left; }
figure { margin: 0; } figcaption { color: var(--faint); margin: 0.2rem 0 0.6rem; max-width: 60rem; }
.charts { display: flex; flex-wrap: wrap; gap: 1.5rem 2rem; } svg { max-width: 100%; height: auto; }
li { margin: 0.3rem 0; max-width: 62rem; }
"""


def write_page(facts: LogFacts, path: str | Path) -> Path:
    """Write the page and return its path; an interrupted write leaves nothing behind."""
    path = local_path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        temporary.write_text(page(facts), encoding="utf-8")
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    return path


def page(facts: LogFacts) -> str:
    """Return the HTML document: everything inline, nothing loaded from anywhere."""
    title = escape(facts.log.name)
    account = "".join(
        f"<tr><td>{escape(name)}</td><td>{escape(text)}</td></tr>"
        for name, text in [*understood(facts), *further(facts)]
    )
    to_mind = "".join(f"<li>{escape(line)}</li>" for line in mind(facts)) or "<li>Nothing.</li>"
    splits = list(facts.splits)
    tables = _table(["", *splits], split_rows(facts))
    if facts.log.vocabulary.num_marks > 1:
        tables += f"<h2>Marks</h2>{_table(['share of events', *splits], mark_rows(facts))}"
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{title}</title>'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<style>{_colours()}{STYLE}</style></head><body><h1>{title}</h1>"
        f'<div class="scroll"><table class="account">{account}</table></div><h2>To mind</h2><ul>{to_mind}</ul>'
        f'<h2>Splits</h2>{tables}<h2>Pictures</h2><div class="charts">{"".join(_pictures(facts))}</div></body></html>\n'
    )


def _pictures(facts: LogFacts) -> list[str]:
    drawn = [
        (plots.event_raster(facts), "Events of the first sequences; colours are marks, given events are grey."),
        (plots.rate_over_time(facts), "Rate over time."),
        (plots.gap_histogram(facts), "Inter-times on a logarithmic axis."),
    ]
    if facts.log.vocabulary.num_marks > 1:
        drawn.append((plots.mark_frequencies(facts), "How often each mark occurs."))
        drawn.append(
            (plots.mark_transitions(facts), "Which mark follows which: each row holds the shares of the next.")
        )
    if (by_hour := plots.rate_by_hour_and_weekday(facts)) is not None:
        drawn.append((by_hour, "When in the day and in the week events happen."))
    return [
        f"<figure><figcaption>{caption}</figcaption>{_svg(figure, number)}</figure>"
        for number, (figure, caption) in enumerate(drawn)
    ]


def _svg(figure: Any, number: int) -> str:
    """Return a figure as inline SVG whose colours are CSS variables, and whose identifiers are its own."""
    from matplotlib import rc_context

    stream = io.StringIO()
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": f"figure {number}", "svg.id": None}):
        figure.savefig(stream, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    svg = stream.getvalue()
    svg = svg[svg.index("<svg") :]
    for colour, (name, _, _) in THEME.items():
        svg = re.sub(re.escape(colour), f"var(--{name})", svg, flags=re.IGNORECASE)
    return re.sub(r'(id="|url\(#|href="#)', lambda found: f"{found[0]}f{number}-", svg)


def _colours() -> str:
    light = "".join(f"--{name}: {value};" for name, value, _ in THEME.values())
    dark = "".join(f"--{name}: {value};" for name, _, value in THEME.values())
    return (
        f":root {{ color-scheme: light dark; --page: #fdfdfc; {light} }}"
        f"@media (prefers-color-scheme: dark) {{ :root {{ --page: #14171b; {dark} }} }}"
    )


def _table(columns: list[str], rows: list[list[str]]) -> str:
    head = "".join(f"<th>{escape(column)}</th>" for column in columns)
    body = "".join(f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in row)}</tr>" for row in rows)
    return f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'
