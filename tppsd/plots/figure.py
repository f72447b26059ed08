"""The figure that all plots are drawn on; of its own, since it is the first file that loads matplotlib."""

from __future__ import annotations

from functools import partial
from typing import Any

from matplotlib.figure import Figure
from matplotlib.text import Text


def plain_figure(width: float, height: float) -> Figure:
    """Return a figure, in inches, in whose texts a dollar is a dollar: names of marks and files are no formulas.

    It is no class of its own: loggers know figures by the name of their class.
    """
    figure = Figure(figsize=(width, height))
    figure.draw = partial(_draw, figure)  # type: ignore[method-assign]
    return figure


def _draw(figure: Figure, renderer: Any) -> None:
    """Draw a figure; what a logarithmic axis writes itself, as powers of ten, stays a formula."""
    for text in figure.findobj(Text):
        assert isinstance(text, Text)
        if "$" in text.get_text() and not text.get_text().startswith(r"$\mathdefault"):
            text.set_parse_math(False)
    Figure.draw(figure, renderer)
