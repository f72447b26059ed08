"""The figure that all plots are drawn on; of its own, since it is the first file that loads matplotlib."""

from __future__ import annotations

from typing import Any

from matplotlib.figure import Figure
from matplotlib.text import Text


class PlainFigure(Figure):
    """Is a figure in whose texts a dollar is a dollar: names of marks and files are no formulas."""

    def draw(self, renderer: Any) -> None:
        """Draw it; what a logarithmic axis writes itself, as powers of ten, stays a formula."""
        for text in self.findobj(Text):
            assert isinstance(text, Text)
            if "$" in text.get_text() and not text.get_text().startswith(r"$\mathdefault"):
                text.set_parse_math(False)
        super().draw(renderer)
