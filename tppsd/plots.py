"""Figures of samples and their tests. Each function returns a matplotlib Figure; `save` writes it.

Figures are made without pyplot: no global state, no display, nothing to close. A name keeps its colour in every figure
(real dark grey, autoregressive blue, speculative vermilion), and marks have a palette of their own. Both are colour-blind
safe (Okabe and Ito 2008; Tol 2021).
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

from tppsd.data.sequences import EventSequence
from tppsd.metrics.functional import acceptance_by_position, events_per_round, ks_band, ks_uniform, step_acceptance
from tppsd.sampling.tree import Tree

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

REAL, AUTOREGRESSIVE, SPECULATIVE = "#3A3F47", "#0072B2", "#D55E00"
OTHERS = ("#009E73", "#CC79A7", "#E69F00", "#56B4E9")
MARKS = ("#332288", "#DDAA33", "#44AA99", "#CC6677", "#88CCEE", "#117733", "#AA4499", "#999933")
_ROLES = {
    "real": REAL,
    "data": REAL,
    "true": REAL,
    "autoregressive": AUTOREGRESSIVE,
    "speculative": SPECULATIVE,
    "target": OTHERS[0],
    "draft": OTHERS[1],
}

_TEXT, _FAINT, _GRID, _BAND = "#22262B", "#6B7280", "#E5E7EB", "#DCE3EA"
_MAX_POINTS = 2000  # of a curve; more only makes the file larger
_MAX_PANELS = 6  # marks of an intensity plot with a panel each


def save(figure: Figure, path: str | Path) -> Path:
    """Write `figure` (format by suffix; PNG at 200 dots per inch), make the folder if need be, and return the path."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=200, facecolor="white")
    return path


# --- time rescaling --------------------------------------------------------------------------------------------------


def ks_plot(
    curves: Mapping[str, Tensor], law: Literal["exponential", "uniform"] = "exponential", title: str = "Time rescaling"
) -> Figure:
    """Empirical against theoretical distribution of residuals, with the 95 % band of the Kolmogorov-Smirnov test.

    Left: sorted u_i = F(z_i) against (i - 1/2) / n. Right: the deviation times sqrt(n), where one band serves every n: a
    curve that leaves it is rejected at 5 %.

    Args:
        curves: per name, residuals (num_events,): gaps of `carry_over`, or mark PITs. At least one must not be empty.
        law: F, Exp(1) or U(0, 1).
    """
    uniforms = {name: _sorted_uniforms(values, law) for name, values in curves.items() if values.numel()}
    if not uniforms:
        raise ValueError("a KS plot needs at least one residual; every curve is empty")
    figure = _figure(8.6, 4.1 + 0.22 * (len(uniforms) // 2))
    left, right = figure.subplots(1, 2, width_ratios=(1, 1.3))
    fewest = min(len(u) for u in uniforms.values())
    band = ks_band(fewest)
    diagonal = torch.tensor([0.0, 1.0])
    shade = left.fill_between(diagonal, diagonal - band, diagonal + band, color=_BAND, linewidth=0)
    left.plot(diagonal, diagonal, color=_FAINT, linewidth=0.8)
    right.axhspan(-band * fewest**0.5, band * fewest**0.5, color=_BAND, linewidth=0)
    right.axhline(0, color=_FAINT, linewidth=0.8)
    legend = {}
    for name, colour in _colours(uniforms).items():
        u = uniforms[name]
        kept = torch.linspace(0, len(u) - 1, min(len(u), _MAX_POINTS)).long()
        empirical = (kept + 0.5) / len(u)
        left.plot(u[kept], empirical, color=colour, linewidth=1.8)
        (line,) = right.plot(u[kept], (empirical - u[kept]) * len(u) ** 0.5, color=colour, linewidth=1.3)
        result = ks_uniform(u)
        legend[f"{name}: D = {result.statistic:.4f}, p = {result.p_value:.2g}, n = {result.num_events:,}"] = line
    legend[f"95 % band of the Kolmogorov-Smirnov test (left: n = {fewest:,})"] = shade
    distribution = "Exp(1)" if law == "exponential" else "U(0, 1)"
    _label(left, f"{distribution} probability", "empirical probability", "Distribution")
    _label(right, f"{distribution} probability", "√n (empirical - theoretical)", "Deviation")
    left.set(xlim=(0, 1), ylim=(0, 1), aspect="equal")
    right.set_xlim(0, 1)
    right.margins(y=0.12)
    _legend(figure, legend.values(), legend.keys(), loc="outside lower center", ncols=2)
    _title(figure, title)
    return figure


def _sorted_uniforms(values: Tensor, law: str) -> Tensor:
    x = values.detach().double().cpu().flatten()
    return (-torch.expm1(-x.clamp_min(0)) if law == "exponential" else x).sort().values


# --- sequences -------------------------------------------------------------------------------------------------------


def raster(
    groups: Mapping[str, Sequence[EventSequence]],
    num_rows: int = 8,
    mark_names: Sequence[str] | None = None,
    time_unit: str | None = None,
    title: str = "Event sequences",
) -> Figure:
    """One panel per group and one row per sequence, a tick per event in the colour of its mark, on a line as long as the window.

    Args:
        groups: per name (real, autoregressive, speculative), sequences; the first `num_rows` are drawn.
        mark_names: labels of the marks for the legend; default: their numbers.
        time_unit: unit of the event times.
    """
    shown = {name: list(sequences)[:num_rows] for name, sequences in groups.items() if len(sequences)}
    if not shown:
        raise ValueError("a raster needs at least one sequence; every group is empty")
    rows = [len(sequences) for sequences in shown.values()]
    palette = _mark_palette(_num_marks(s for sequences in shown.values() for s in sequences))
    figure = _figure(9.0, 1.3 + 0.19 * sum(rows) + 0.25 * len(rows))
    panels = figure.subplots(len(shown), 1, sharex=True, squeeze=False, height_ratios=rows)[:, 0]
    colours = _colours(shown)
    for panel, (name, sequences) in zip(panels, shown.items(), strict=True):
        _raster_panel(panel, sequences, palette if len(palette) > 1 else [colours[name]])
        panel.set_title(name, loc="left", fontsize=10, fontweight="bold", color=colours[name], pad=3)
    panels[-1].set_xlabel(_time_label("time since the start of the window", time_unit), fontsize=9.5, color=_TEXT)
    panels[-1].set_xlim(0, max(s.window_end - s.window_start for sequences in shown.values() for s in sequences) or 1.0)
    _mark_legend(figure, list(panels), palette, mark_names)
    _title(figure, title)
    return figure


def _raster_panel(axes: Axes, sequences: Sequence[EventSequence], palette: list[Any]) -> None:
    _style(axes)
    for row, sequence in enumerate(sequences):
        axes.hlines(row, 0, sequence.window_end - sequence.window_start, color=_GRID, linewidth=1, zorder=1)
        times = sequence.event_times - sequence.window_start
        colours = [palette[mark] for mark in sequence.marks.tolist()]
        axes.vlines(times, row - 0.36, row + 0.36, colors=colours, linewidth=1.1, zorder=2)
    axes.set_ylim(len(sequences) - 0.4, -0.6)
    axes.set_yticks([])
    axes.grid(False)
    axes.spines[["left", "bottom"]].set_visible(False)


def intensity_plot(
    times: Tensor,
    curves: Mapping[str, Tensor],
    events: EventSequence | None = None,
    mark_names: Sequence[str] | None = None,
    time_unit: str | None = None,
    title: str = "Conditional intensity",
) -> Figure:
    """Intensities over time with the events that drive them: a panel per mark, or one panel of the sum if there are many.

    Args:
        times: (n,).
        curves: per name, intensities (n,) or (n, num_marks), in events per unit of time.
        events: the events, drawn as ticks below the curves.
    """
    values = {name: curve.detach().cpu().reshape(len(times), -1) for name, curve in curves.items()}
    if not values:
        raise ValueError("an intensity plot needs at least one curve")
    num_marks = next(iter(values.values())).shape[1]
    split = 1 < num_marks <= _MAX_PANELS
    if not split:
        values = {name: curve.sum(1, keepdim=True) for name, curve in values.items()}
    num_panels = num_marks if split else 1
    figure = _figure(9.0, 1.5 + 1.35 * num_panels if split else 3.4)
    panels = figure.subplots(num_panels, 1, sharex=True, sharey=True, squeeze=False)[:, 0]
    palette = _mark_palette(max(num_marks, _num_marks([events] if events is not None else [])))
    for mark, panel in enumerate(panels):
        _intensity_panel(panel, times, {name: curve[:, mark] for name, curve in values.items()})
        if events is not None:
            ticks = events.event_times[events.marks == mark] if split else events.event_times
            colours = palette[mark] if split else [palette[k] for k in events.marks.tolist()]
            panel.vlines(ticks, 0, 0.07, colors=colours, linewidth=1.1, transform=panel.get_xaxis_transform(), zorder=4)
        if split:
            label = mark_names[mark] if mark_names is not None else f"mark {mark}"
            panel.set_title(label, loc="left", fontsize=9, color=palette[mark], fontweight="bold", pad=3)
    panels[0].set_ylim(bottom=0)  # after all panels, which share it, are drawn
    panels[-1].set_xlim(float(times[0]), float(times[-1]))
    panels[-1].set_xlabel(_time_label("time", time_unit), fontsize=9.5, color=_TEXT)
    figure.supylabel(f"events per {time_unit}" if time_unit else "events per unit of time", fontsize=9.5, color=_TEXT)
    _legend(panels[0], loc="lower right", bbox_to_anchor=(1, 1.0), borderaxespad=0.1, ncols=len(values))
    if events is not None and not split:
        _mark_legend(figure, list(panels), palette, mark_names)
    _title(figure, title)
    return figure


def _intensity_panel(axes: Axes, times: Tensor, curves: Mapping[str, Tensor]) -> None:
    """Solid curves, the first on top, under a thin dashed one for the truth."""
    _style(axes)
    for i, (name, colour) in enumerate(_colours(curves).items()):
        style, width, order = ("--", 1.1, 3.0) if colour == REAL else ("-", 1.6, 3 - (i + 1) / (len(curves) + 1))
        axes.plot(times, curves[name], style, color=colour, linewidth=width, label=name, zorder=order)


# --- rounds ----------------------------------------------------------------------------------------------------------


def accepted_counts_plot(accepted_counts: Tensor, title: str = "Speculative rounds") -> Figure:
    """How many drafted events a round accepts, and acceptance against the position in the draft (with 95 % intervals).

    Args:
        accepted_counts: int64 (drafted, accepted), see `tppsd.metrics.functional.acceptance`.
    """
    counts = accepted_counts.cpu()
    if not counts[1:].any():
        raise ValueError("accepted_counts holds no round with a drafted event; there is nothing to plot")
    longest = int(counts.sum(1).nonzero().max())
    shares = (counts.sum(0)[: longest + 1] / counts.sum()).double()
    figure = _figure(8.6, 3.6)
    left, right = figure.subplots(1, 2)
    bars = left.bar(range(longest + 1), (100 * shares).tolist(), color=SPECULATIVE, width=0.82, zorder=2)
    left.bar_label(bars, [f"{share:.0%}" if share >= 0.005 else "" for share in shares], fontsize=8, color=_TEXT, padding=2)
    events = events_per_round(counts)
    _label(left, "drafted events accepted in a round", "rounds [%]", f"{events:.2f} events per round")
    left.margins(y=0.12)
    left.grid(axis="x", visible=False)

    by_position = acceptance_by_position(counts)[:longest]
    tested = torch.stack([counts[j:, j - 1 :].sum() for j in range(1, longest + 1)])
    positions = torch.arange(1, longest + 1)
    half_width = 1.96 * (by_position * (1 - by_position) / tested).sqrt()
    right.fill_between(positions, by_position - half_width, by_position + half_width, color=SPECULATIVE, alpha=0.18, linewidth=0)
    right.plot(positions, by_position, "o-", color=SPECULATIVE, linewidth=1.5, markersize=4.5)
    overall = step_acceptance(counts)
    right.axhline(overall, color=_FAINT, linewidth=1, linestyle=":")
    _label(right, "position in the draft", "P(accepted | tested)", f"step acceptance {overall:.3f} (dotted)")
    lowest = float((by_position - half_width).nan_to_num(1.0).min())
    right.set_ylim(max(0.0, math.floor(10 * lowest - 0.2) / 10), 1.0)
    for panel in (left, right):
        panel.xaxis.get_major_locator().set_params(integer=True)
    _title(figure, title)
    return figure


def accepted_paths_plot(candidates: Sequence[int], node_counts: Tensor, num_rounds: int, title: str = "Accepted paths") -> Figure:
    """The candidate tree, each branch as wide as the share of rounds that accepted it, and how often a round gets how deep.

    Args:
        candidates: children of every node, depth by depth.
        node_counts: int64 (num_nodes,), rounds in which each node was accepted (`SamplingStats.node_counts`).
        num_rounds: rounds in all.
    """
    tree = Tree(tuple(candidates))
    if num_rounds < 1 or len(node_counts) != tree.num_nodes:
        raise ValueError(f"{len(node_counts)} nodes in {num_rounds} rounds cannot be drawn as a tree of {tree.num_nodes} nodes")
    shares = node_counts.double().cpu() / num_rounds
    heights = {-1: 0.5}
    figure = _figure(8.6, 2.4 + 0.05 * min(60, tree.num_nodes))
    left, right = figure.subplots(1, 2, width_ratios=(1.6, 1))
    for depth in range(tree.depth):
        level = range(tree.starts[depth], tree.starts[depth + 1])
        for i, node in enumerate(level):
            heights[node] = 1 - (i + 0.5) / len(level)
            parent, share = tree.parents[node], float(shares[node])
            ends = [heights[parent], heights[node]]
            left.plot([depth, depth + 1], ends, color=_GRID, linewidth=0.6, zorder=1)
            left.plot([depth, depth + 1], ends, color=SPECULATIVE, linewidth=10 * share, solid_capstyle="round", zorder=2)
    _label(left, "depth", "", "branches by share of rounds")
    left.set_yticks([])
    left.grid(False)
    reached = torch.stack([shares[tree.level(depth)].sum() for depth in range(tree.depth)])
    bars = right.bar(range(1, tree.depth + 1), (100 * reached).tolist(), color=SPECULATIVE, width=0.82, zorder=2)
    right.bar_label(bars, [f"{share:.0%}" for share in reached], fontsize=8, color=_TEXT, padding=2)
    _label(right, "depth", "rounds that get there [%]", f"{1 + float(reached.sum()):.2f} events per round")
    right.margins(y=0.12)
    for panel in (left, right):
        panel.xaxis.get_major_locator().set_params(integer=True)
    _title(figure, f"{title}: candidates = {tuple(candidates)}")
    return figure


# --- style -----------------------------------------------------------------------------------------------------------


def _figure(width: float, height: float) -> Figure:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height))
    figure.set_layout_engine("constrained", w_pad=0.1, h_pad=0.08)
    return figure


def _colours(names: Iterable[str]) -> dict[str, str]:
    """A colour per name: its role's, if a word of the name is a role, else the next of the others."""
    chosen: dict[str, str] = {}
    for name in names:
        candidates = [_ROLES[word] for word in re.findall(r"[a-z]+", name.lower()) if word in _ROLES]
        free = [colour for colour in (*candidates, *OTHERS) if colour not in chosen.values()]
        chosen[name] = free[0] if free else REAL
    return chosen


def _num_marks(sequences: Iterable[EventSequence]) -> int:
    return 1 + max((int(sequence.marks.max()) for sequence in sequences if len(sequence)), default=0)


def _mark_palette(num_marks: int) -> list[Any]:
    if num_marks == 1:
        return [REAL]
    if num_marks <= len(MARKS):
        return list(MARKS[:num_marks])
    from matplotlib import colormaps

    return [colormaps["viridis"](0.95 * mark / (num_marks - 1)) for mark in range(num_marks)]


def _mark_legend(figure: Figure, panels: list[Axes], palette: list[Any], names: Sequence[str] | None) -> None:
    """Short lines for a few marks, a colour bar for many, nothing for one."""
    if len(palette) == 1:
        return
    if len(palette) > len(MARKS):
        from matplotlib.cm import ScalarMappable
        from matplotlib.colors import ListedColormap, Normalize
        from matplotlib.ticker import MaxNLocator

        scale = ScalarMappable(Normalize(-0.5, len(palette) - 0.5), ListedColormap(palette))
        bar = figure.colorbar(scale, ax=panels, pad=0.01, aspect=40, ticks=MaxNLocator(integer=True))
        bar.set_label("mark", fontsize=9.5, color=_TEXT)
        bar.ax.tick_params(labelsize=8.5, labelcolor=_TEXT, length=0)
        bar.outline.set_visible(False)
        return
    from matplotlib.lines import Line2D

    labels = [names[mark] if names is not None else f"mark {mark}" for mark in range(len(palette))]
    handles = [Line2D([], [], color=colour, linewidth=3) for colour in palette]
    _legend(figure, handles, labels, loc="outside lower center", ncols=min(len(palette), 6))


def _title(figure: Figure, title: str) -> None:
    figure.suptitle(title, x=0.01, ha="left", fontsize=12.5, fontweight="bold", color=_TEXT)


def _label(axes: Axes, x: str, y: str, title: str) -> None:
    _style(axes)
    axes.set_xlabel(x, fontsize=9.5, color=_TEXT)
    axes.set_ylabel(y, fontsize=9.5, color=_TEXT)
    axes.set_title(title, loc="left", fontsize=9.5, color=_FAINT)


def _time_label(text: str, unit: str | None) -> str:
    return f"{text} [{unit}]" if unit else text


def _legend(owner: Axes | Figure, *entries: Any, **options: Any) -> None:
    owner.legend(*entries, frameon=False, fontsize=8.5, labelcolor=_TEXT, handlelength=1.4, **options)


def _style(axes: Axes) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(_FAINT)
    axes.tick_params(labelsize=8.5, colors=_FAINT, labelcolor=_TEXT, length=0)
    axes.grid(color=_GRID, linewidth=0.7)
    axes.set_axisbelow(True)
