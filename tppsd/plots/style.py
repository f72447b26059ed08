"""The style that all figures share: colours by role and by mark, labels, legends, and how a figure is saved."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterable, Sequence
from math import ceil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tppsd.data.sequences import EventSequence
from tppsd.data.whole_files import whole_or_absent

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


REAL, AUTOREGRESSIVE, SPECULATIVE = "#3A3F47", "#0072B2", "#D55E00"
OTHERS = ("#009E73", "#CC79A7", "#E69F00", "#56B4E9")
MARKS = ("#332288", "#DDAA33", "#44AA99", "#CC6677", "#88CCEE", "#117733", "#AA4499", "#999933")
ROLES = {
    "real": REAL,
    "data": REAL,
    "true": REAL,
    "autoregressive": AUTOREGRESSIVE,
    "speculative": SPECULATIVE,
    "target": OTHERS[0],
    "draft": OTHERS[1],
}

_LEGEND_SIZE = 8.5  # points
_LETTER, _HANDLE, _LINE = 0.075, 0.5, 0.18  # inches of a legend: a mean letter, what stands beside a label, a line

TEXT, FAINT, GRID, BAND = "#22262B", "#6B7280", "#E5E7EB", "#DCE3EA"


def save(figure: Figure, path: str | Path) -> Path:
    """Write `figure` (format by suffix; PNG at 200 dots per inch), make the folder if need be, and return the path."""
    path = Path(path)
    undated = {"Date": None} if path.suffix == ".svg" else None  # the same figure, the same file
    with whole_or_absent(path) as temporary:
        kind = path.suffix.removeprefix(".") or "png"
        figure.savefig(temporary, format=kind, dpi=200, facecolor="white", metadata=undated)
    return path


def new_figure(width: float, height: float) -> Figure:
    """Return an empty figure of this size in inches, with a layout that leaves room for labels."""
    from tppsd.plots.figure import plain_figure

    figure = plain_figure(width, height)
    figure.set_layout_engine("constrained", w_pad=0.1, h_pad=0.08)
    return figure


def colours_of(names: Iterable[str]) -> dict[str, str]:
    """Return a colour per name: its role's, if a word of the name is a role, else the next of the others."""
    chosen: dict[str, str] = {}
    for name in names:
        candidates = [ROLES[word] for word in re.findall(r"[a-z]+", name.lower()) if word in ROLES]
        free = [colour for colour in (*candidates, *OTHERS) if colour not in chosen.values()]
        chosen[name] = free[0] if free else REAL
    return chosen


def num_marks_of(sequences: Iterable[EventSequence]) -> int:
    """Return one more than the largest mark of the sequences."""
    return 1 + max((int(sequence.marks.max()) for sequence in sequences if len(sequence)), default=0)


def mark_palette(num_marks: int) -> list[Any]:
    """Return a colour per mark."""
    if num_marks == 1:
        return [REAL]
    if num_marks <= len(MARKS):
        return list(MARKS[:num_marks])
    from matplotlib import colormaps

    return [colormaps["viridis"](0.95 * mark / (num_marks - 1)) for mark in range(num_marks)]


def mark_legend(figure: Figure, panels: list[Axes], palette: list[Any], names: Sequence[str] | None) -> None:
    """Add the legend of marks: short lines for a few, a colour bar for many, nothing for one."""
    if len(palette) == 1:
        return
    if len(palette) > len(MARKS):
        from matplotlib.cm import ScalarMappable
        from matplotlib.colors import ListedColormap, Normalize
        from matplotlib.ticker import MaxNLocator

        scale = ScalarMappable(Normalize(-0.5, len(palette) - 0.5), ListedColormap(palette))
        bar = figure.colorbar(scale, ax=panels, pad=0.01, aspect=40, ticks=MaxNLocator(integer=True))
        bar.set_label("mark", fontsize=9.5, color=TEXT)
        bar.ax.tick_params(labelsize=8.5, labelcolor=TEXT, length=0)
        bar.outline.set_visible(False)
        return
    from matplotlib.lines import Line2D

    handles = [Line2D([], [], color=colour, linewidth=3) for colour in palette]
    legend_below(figure, handles, names_of_marks(names, len(palette)))


def names_of_marks(names: Sequence[str] | None, num_marks: int) -> list[str]:
    """Return the names of the first marks, or their numbers where there are no names.

    Raises:
        ValueError: there are names, but too few.
    """
    if names is None:
        return [f"mark {mark}" for mark in range(num_marks)]
    if len(names) < num_marks:
        raise ValueError(f"mark_names has {len(names)} names for {num_marks} marks; give one for each mark")
    return list(names[:num_marks])


def title_of(figure: Figure, title: str) -> None:
    """Write the title of a figure."""
    figure.suptitle(title, x=0.01, ha="left", fontsize=12.5, fontweight="bold", color=TEXT)


def label(axes: Axes, x: str, y: str, title: str) -> None:
    """Write the labels and the title of a panel."""
    plain(axes)
    axes.set_xlabel(x, fontsize=9.5, color=TEXT)
    axes.set_ylabel(y, fontsize=9.5, color=TEXT)
    axes.set_title(title, loc="left", fontsize=9.5, color=FAINT)


def short_number(value: float) -> str:
    """Return a number as one reads it: three digits, and large ones whole instead of as powers of ten."""
    return f"{value:,.0f}" if 1e3 <= abs(value) < 1e9 else f"{value:.3g}"


def time_label(text: str, unit: str | None) -> str:
    """Return the label of a time axis, with the unit where it is known."""
    return f"{text} [{unit}]" if unit else text


def legend_of(owner: Axes | Figure, *entries: Any, **options: Any) -> None:
    """Add a legend without a frame."""
    owner.legend(*entries, frameon=False, fontsize=_LEGEND_SIZE, labelcolor=TEXT, handlelength=1.4, **options)


def legend_below(figure: Figure, handles: Iterable[Any], names: Iterable[str], most: int = 6) -> None:
    """Add a legend under the panels, in as many columns as the longest name leaves room for.

    Further lines make the figure higher.
    """
    width = figure.get_figwidth()
    labels = [textwrap.fill(name, int((width - _HANDLE) / _LETTER)) for name in names]
    columns = max(1, min(most, len(labels), int(width / (_HANDLE + max(map(_inches, labels))))))
    lines = sum(text.count("\n") for text in labels) + ceil(len(labels) / columns)
    figure.set_figheight(figure.get_figheight() + _LINE * (lines - 1))
    legend_of(figure, list(handles), labels, loc="outside lower center", ncols=columns)


def _inches(text: str) -> float:
    """Return the width of a label of a legend in inches."""
    from matplotlib.font_manager import FontProperties
    from matplotlib.textpath import text_to_path

    font = FontProperties(size=_LEGEND_SIZE)
    return (
        max(text_to_path.get_text_width_height_descent(line, font, False)[0] for line in text.splitlines() or [""]) / 72
    )


def whole_numbers(axes: Axes) -> None:
    """Let the ticks of the horizontal axis be whole numbers."""
    from matplotlib.ticker import MaxNLocator

    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))


def plain(axes: Axes) -> None:
    """Remove what distracts from a panel: upper and right spines, tick marks, dark grids."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(FAINT)
    axes.tick_params(labelsize=8.5, colors=FAINT, labelcolor=TEXT, length=0)
    axes.grid(color=GRID, linewidth=0.7)
    axes.set_axisbelow(True)
