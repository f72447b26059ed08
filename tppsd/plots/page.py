"""A page of matplotlib figures and tables: one HTML file that loads nothing, and reads well in light and in dark."""

from __future__ import annotations

import re
from collections.abc import Sequence
from html import escape
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING

from tppsd.data.whole_files import write_text
from tppsd.plots.style import AUTOREGRESSIVE, BAND, FAINT, GRID, MARKS, OTHERS, REAL, SPECULATIVE, TEXT

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_PAPER = "#FDFDFC"
_IN_DARK = {  # colours of figures and of the page, and what stands for them on a dark screen
    _PAPER: "#14171B", TEXT: "#E6E8EB", FAINT: "#98A1AE", GRID: "#2B3038", BAND: "#39424E", REAL: "#C9CED6",
    AUTOREGRESSIVE: "#56B4E9", SPECULATIVE: "#FF8A4C",
    OTHERS[0]: "#3FC79A", OTHERS[1]: "#E39CC6", OTHERS[2]: "#ECB73F", OTHERS[3]: "#8FC9EF",
    MARKS[0]: "#A3A6F5", MARKS[1]: "#E3BE4E", MARKS[2]: "#5EC4B2", MARKS[3]: "#E08A98", MARKS[4]: "#9ED6F3",
    MARKS[5]: "#5FC985", MARKS[6]: "#CF7FC3", MARKS[7]: "#BDBD5A",
}  # fmt: skip
_STYLE = """
:root { color-scheme: light dark; LIGHT }
@media (prefers-color-scheme: dark) { :root { DARK } }
body { margin: 0 auto; padding: 3rem 2rem 5rem; max-width: 80rem; background: PAPER; color: TEXT; }
body, svg text { font-family: system-ui, -apple-system, "Segoe UI", Roboto, sans-serif !important; }
body { font-size: 15px; line-height: 1.55; }
h1 { font-size: 1.7rem; margin: 0 0 0.6rem; }
h2 { font-size: 1.15rem; margin: 3rem 0 0.3rem; }
p { max-width: 62rem; margin: 0.2rem 0 0.8rem; color: FAINT; }
p.lead { color: TEXT; }
div { overflow-x: auto; margin: 1.4rem 0; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: 0.82rem; }
th, td { padding: 0.3rem 0.6rem; text-align: right; white-space: nowrap; }
th { color: FAINT; border-bottom: 1px solid GRID; vertical-align: bottom; white-space: pre; }
th:first-child, td:first-child { text-align: left; padding-left: 0.2rem; }
table.text td { text-align: left; vertical-align: top; white-space: normal; }
table.text td:first-child { white-space: nowrap; }
td[colspan] { padding-top: 1.2rem; font-weight: 650; border-bottom: 1px solid GRID; }
svg { max-width: 100%; height: auto; }
svg text { fill: TEXT; }
@media (max-width: 45rem) { body { padding: 1.2rem 1rem 3rem; } svg { max-width: none; width: 44rem; } }
"""


class Page:
    """Collects headings, paragraphs, tables and figures from top to bottom, and writes them as one HTML file."""

    def __init__(self, title: str) -> None:
        self.title = title
        self._parts = [f"<h1>{escape(title)}</h1>"]
        self._num_figures = 0

    def heading(self, text: str) -> None:
        """Add a heading."""
        self._parts.append(f"<h2>{escape(text)}</h2>")

    def paragraph(self, text: str) -> None:
        """Add a paragraph."""
        self._parts.append(f"<p>{escape(text)}</p>")

    def lead(self, text: str) -> None:
        """Add a paragraph that says the main thing of a section."""
        self._parts.append(f'<p class="lead">{escape(text)}</p>')

    def table(self, heads: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        """Add a table.

        Args:
            heads: what stands above the columns; a line break is kept.
            rows: cells from left to right; a row of a single cell is a heading over the rows that follow.

        Raises:
            ValueError: a row has neither one cell nor as many as there are heads.
        """
        lines = []
        for row in rows:
            if len(row) not in (1, len(heads)):
                raise ValueError(f"a row of {len(row)} cells does not fit a table of {len(heads)} columns: {row}")
            opened = f'<td colspan="{len(heads)}">' if len(row) == 1 < len(heads) else "<td>"
            lines.append("<tr>" + "".join(f"{opened}{escape(cell)}</td>" for cell in row) + "</tr>")
        head = "".join(f"<th>{escape(text)}</th>" for text in heads)
        self._parts.append(f"<div><table><thead><tr>{head}</tr></thead><tbody>{''.join(lines)}</tbody></table></div>")

    def account(self, rows: Sequence[tuple[str, str]]) -> None:
        """Add names with what is said of each, in sentences that wrap."""
        lines = "".join(f"<tr><td>{escape(name)}</td><td>{escape(text)}</td></tr>" for name, text in rows)
        self._parts.append(f'<div><table class="text"><tbody>{lines}</tbody></table></div>')

    def figure(self, figure: Figure) -> None:
        """Add a figure as inline SVG; its colours change with the reader's light or dark setting."""
        self._num_figures += 1
        self._parts.append(f"<div>{_inline_svg(figure, self._num_figures)}</div>")

    def html(self) -> str:
        """Return the whole document."""
        return (
            f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{escape(self.title)}</title>'
            f'<meta name="viewport" content="width=device-width, initial-scale=1"><style>{_style()}</style></head>\n'
            f"<body>{''.join(self._parts)}</body></html>\n"
        )

    def write(self, path: str | Path) -> Path:
        """Write the page, whole or not at all, make the folder if need be, and return the path."""
        return write_text(path, self.html())


def _variable(colour: str) -> str:
    """Return the CSS variable of a colour."""
    return f"--c{colour.removeprefix('#').lower()}"


def _style() -> str:
    """Return the style sheet, with every colour as a variable that is set for light and for dark."""
    light = " ".join(f"{_variable(colour)}: {colour};" for colour in _IN_DARK)
    dark = " ".join(f"{_variable(colour)}: {other};" for colour, other in _IN_DARK.items())
    text = _STYLE.replace("LIGHT", light).replace("DARK", dark)
    for name, colour in {"PAPER": _PAPER, "TEXT": TEXT, "FAINT": FAINT, "GRID": GRID}.items():
        text = text.replace(name, f"var({_variable(colour)})")
    return text


def _inline_svg(figure: Figure, number: int) -> str:
    """Return a figure as an SVG element whose text is text, whose background is the page's and whose ids are its own.

    Args:
        figure: what to draw.
        number: of the figure on the page, from which the ids of its markers and clip paths are made.
    """
    from matplotlib import rc_context

    drawn = StringIO()
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": str(number)}):
        figure.savefig(drawn, format="svg", transparent=True)
    svg = drawn.getvalue()
    svg = svg[svg.index("<svg") :].rstrip()  # without the XML declaration and the document type
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r"<!--.*?-->\s*", "", svg, flags=re.DOTALL)
    svg = svg.replace(' xmlns="http://www.w3.org/2000/svg"', "").replace(
        ' xmlns:xlink="http://www.w3.org/1999/xlink"', ""
    )
    svg = svg.replace("xlink:href", "href")
    used = set(re.findall(r'(?:href="|url\()#([^")]+)', svg))
    svg = re.sub(r' id="([^"]+)"', lambda found: found[0] if found[1] in used else "", svg)
    for colour in _IN_DARK:
        svg = svg.replace(colour.lower(), f"var({_variable(colour)})")
    return svg
