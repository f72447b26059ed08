"""Small charts as inline SVG for a page: colours are CSS variables, so that one drawing serves light and dark."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from html import escape

_LEFT, _RIGHT, _TOP, _BOTTOM = 46, 12, 40, 40  # margins
_LINE_HEIGHT = 13


@dataclass
class Chart:
    """Axes from (x_low, y_low) to (x_high, y_high); marks are drawn in the order in which they are added.

    Colours are names of CSS variables without the dashes, such as "speculative".

    Attributes:
        labels: width kept free on the right for the names of lines.
    """

    title: str
    x_label: str
    y_label: str
    x_range: tuple[float, float]
    y_range: tuple[float, float]
    width: int = 300
    height: int = 240
    labels: int = 0
    x_ticks: Sequence[float] | None = None
    _marks: list[str] = field(default_factory=list)
    _ends: list[tuple[float, str, str]] = field(default_factory=list)

    def x(self, value: float) -> float:
        low, high = self.x_range
        return _LEFT + (value - low) / (high - low) * (self.width - _LEFT - _RIGHT - self.labels)

    def y(self, value: float) -> float:
        low, high = self.y_range
        return self.height - _BOTTOM - (value - low) / (high - low) * (self.height - _TOP - _BOTTOM)

    def _path(self, xs: Sequence[float], ys: Sequence[float]) -> str:
        return "M" + "L".join(f"{self.x(x):.1f},{self.y(y):.1f}" for x, y in zip(xs, ys, strict=True))

    def line(
        self, xs: Sequence[float], ys: Sequence[float], colour: str, label: str = "", points: bool = False
    ) -> None:
        """A line; its `label` goes to its right end."""
        self._marks.append(f'<path class="line" d="{self._path(xs, ys)}" stroke="var(--{colour})"/>')
        if points:
            self._marks += [
                f'<circle cx="{self.x(x):.1f}" cy="{self.y(y):.1f}" r="2.6" fill="var(--{colour})">'
                f"<title>{escape(label)} {x:g}: {y:.3g}</title></circle>"
                for x, y in zip(xs, ys, strict=True)
            ]
        if label and self.labels:
            self._ends.append((self.y(ys[-1]), label, colour))

    def band(self, xs: Sequence[float], lows: Sequence[float], highs: Sequence[float], colour: str) -> None:
        """The area between two lines."""
        there, back = self._path(xs, highs), self._path(list(reversed(xs)), list(reversed(lows)))
        self._marks.append(f'<path class="band" d="{there}L{back[1:]}Z" fill="var(--{colour})"/>')

    def guide(self, xs: Sequence[float], ys: Sequence[float]) -> None:
        """A thin line to compare with."""
        self._marks.append(f'<path class="guide" d="{self._path(xs, ys)}"/>')

    def bars(
        self, xs: Sequence[float], heights: Sequence[float], colour: str, bar_width: float, names: Sequence[str]
    ) -> None:
        """Bars that start at `xs` and are `bar_width` wide, in units of x; `names` show when the pointer rests on
        one."""
        for x, height, name in zip(xs, heights, names, strict=True):
            top, base = self.y(height), self.y(self.y_range[0])
            self._marks.append(
                f'<rect x="{self.x(x):.1f}" y="{top:.1f}" width="{self.x(x + bar_width) - self.x(x):.1f}" '
                f'height="{max(0.0, base - top):.1f}" fill="var(--{colour})"><title>{escape(name)}</title></rect>'
            )

    def note(self, line: int, text: str, colour: str) -> None:
        """A coloured line of text in the upper left corner."""
        y = _TOP + 12 + _LINE_HEIGHT * line
        self._marks.append(
            f'<text class="note" x="{_LEFT + 8}" y="{y}" style="fill:var(--{colour})">{escape(text)}</text>'
        )

    def svg(self) -> str:
        """The drawing, with its title as text for those who cannot see it."""
        return (
            f'<svg viewBox="0 0 {self.width} {self.height}" width="{self.width}" height="{self.height}" role="img" '
            f'aria-label="{escape(self.title)}"><text class="title" x="0" y="14">{escape(self.title)}</text>'
            f"{self._axes()}{''.join(self._marks)}{self._end_labels()}</svg>"
        )

    def _axes(self) -> str:
        parts = []
        right, bottom = self.width - _RIGHT - self.labels, self.height - _BOTTOM
        for tick in ticks(*self.y_range):
            y = self.y(tick)
            parts.append(f'<path class="grid" d="M{_LEFT},{y:.1f}H{right}"/>')
            parts.append(f'<text class="tick" x="{_LEFT - 6}" y="{y + 3.5:.1f}" text-anchor="end">{tick:g}</text>')
        for tick in ticks(*self.x_range) if self.x_ticks is None else self.x_ticks:
            parts.append(
                f'<text class="tick" x="{self.x(tick):.1f}" y="{bottom + 14}" text-anchor="middle">{tick:g}</text>'
            )
        middle = (_LEFT + right) / 2
        parts.append(
            f'<text class="axis" x="{middle:.1f}" y="{bottom + 30}" text-anchor="middle">{escape(self.x_label)}</text>'
        )
        parts.append(f'<text class="axis" x="{_LEFT - 38}" y="{_TOP - 11}">{escape(self.y_label)}</text>')
        return "".join(parts)

    def _end_labels(self) -> str:
        """Names beside the right ends of the lines, moved apart where they would overlap."""
        parts, lowest = [], -math.inf
        excess = max(0.0, len(self._ends) * _LINE_HEIGHT - (self.height - _TOP - _BOTTOM))
        for y, label, colour in sorted(self._ends):
            y = max(min(y, self.height - _BOTTOM + excess), lowest + _LINE_HEIGHT)
            lowest = y
            x = self.width - _RIGHT - self.labels + 8
            parts.append(
                f'<text class="note" x="{x}" y="{y + 3.5:.1f}" style="fill:var(--{colour})">{escape(label)}</text>'
            )
        return "".join(parts)


def ticks(low: float, high: float, about: int = 5) -> list[float]:
    """Round numbers in [low, high], steps of 1, 2 or 5 times a power of ten."""
    raw = (high - low) / about
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= raw * (1 - 1e-9))
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [round(i * step, 10) for i in range(first, last + 1)]
