"""Figures of what speculative rounds accept (prefixes of chains, paths of trees), and of speed-ups at a glance."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from tppsd.metrics.functional import acceptance_by_position, events_per_round, step_acceptance
from tppsd.plots.style import FAINT, GRID, OTHERS, SPECULATIVE, TEXT, label, legend_below, new_figure, title_of
from tppsd.sampling.tree.shape import Tree

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_MAX_LABELS, _MAX_NARROW_LABELS = 16, 10  # bars with a number each, in a panel of half a figure and in a smaller one
_FEWEST_TESTS = 20  # of a position in the draft: with fewer, its interval says nothing


def accepted_counts_plot(accepted_counts: Tensor, title: str = "Speculative rounds") -> Figure:
    """Draw how many drafted events a round accepts, and acceptance against the position in the draft.

    Acceptance has 95 % intervals.

    Args:
        accepted_counts: int64 (drafted, accepted), see `tppsd.metrics.functional.acceptance`.
    """
    counts = accepted_counts.cpu()
    if not counts[1:].any():
        raise ValueError("accepted_counts holds no round with a drafted event; there is nothing to plot")
    longest = int(counts.sum(1).nonzero().max())
    shares = (counts.sum(0)[: longest + 1] / counts.sum()).double()
    figure = new_figure(8.6, 3.6)
    left, right = figure.subplots(1, 2)
    bars = left.bar(range(longest + 1), (100 * shares).tolist(), color=SPECULATIVE, width=0.82, zorder=2)
    if longest < _MAX_LABELS:
        left.bar_label(
            bars, [f"{share:.0%}" if share >= 0.005 else "" for share in shares], fontsize=8, color=TEXT, padding=2
        )
    events = events_per_round(counts)
    label(left, "drafted events accepted in a round", "rounds [%]", f"{events:.2f} events per round")
    left.set_xlim(-0.7, float(counts.sum(0).nonzero().max()) + 0.7)
    left.margins(y=0.12)
    left.grid(axis="x", visible=False)

    tested = torch.stack([counts[j:, j - 1 :].sum() for j in range(1, longest + 1)])
    shown = max(1, int((tested >= _FEWEST_TESTS).sum()))  # fewer are tested the deeper the position
    by_position, tested = acceptance_by_position(counts)[:shown], tested[:shown]
    positions = torch.arange(1, shown + 1)
    half_width = 1.96 * (by_position * (1 - by_position) / tested).sqrt()
    right.fill_between(
        positions, by_position - half_width, by_position + half_width, color=SPECULATIVE, alpha=0.18, linewidth=0
    )
    right.plot(positions, by_position, "o-", color=SPECULATIVE, linewidth=1.5, markersize=4.5)
    overall = step_acceptance(counts)
    right.axhline(overall, color=FAINT, linewidth=1, linestyle=":")
    label(right, "position in the draft", "P(accepted | tested)", f"step acceptance {overall:.3f} (dotted)")
    lowest = float((by_position - half_width).nan_to_num(1.0).min())
    right.set_xlim(0.5, shown + 0.5)
    right.set_ylim(max(0.0, math.floor(10 * lowest - 0.2) / 10), 1.0)
    for panel in (left, right):
        panel.xaxis.get_major_locator().set_params(integer=True, min_n_ticks=1)
    title_of(figure, title)
    return figure


def accepted_paths_plot(
    candidates: Sequence[int], node_counts: Tensor, num_rounds: int, title: str = "Accepted paths"
) -> Figure:
    """Draw the candidate tree, each branch as wide as the share of rounds that accepted it.

    Beside it stands how often a round gets how deep.

    Args:
        candidates: children of every node, depth by depth.
        node_counts: int64 (num_nodes,), rounds in which each node was accepted (`SamplingStats.node_counts`).
        num_rounds: rounds in all.
    """
    tree = Tree(tuple(candidates))
    if num_rounds < 1 or len(node_counts) != tree.num_nodes:
        raise ValueError(
            f"{len(node_counts)} nodes in {num_rounds} rounds cannot be drawn as a tree of {tree.num_nodes} nodes"
        )
    shares = node_counts.double().cpu() / num_rounds
    heights = {-1: 0.5}
    figure = new_figure(8.6, 2.4 + 0.05 * min(60, tree.num_nodes))
    left, right = figure.subplots(1, 2, width_ratios=(1.6, 1))
    for depth in range(tree.depth):
        level = range(tree.starts[depth], tree.starts[depth + 1])
        for i, node in enumerate(level):
            heights[node] = 1 - (i + 0.5) / len(level)
            parent, share = tree.parents[node], float(shares[node])
            ends = [heights[parent], heights[node]]
            left.plot([depth, depth + 1], ends, color=GRID, linewidth=0.6, zorder=1)
            left.plot(
                [depth, depth + 1], ends, color=SPECULATIVE, linewidth=10 * share, solid_capstyle="round", zorder=2
            )
    label(left, "depth", "", "branches by share of rounds")
    left.set_yticks([])
    left.grid(False)
    reached = torch.stack([shares[tree.level(depth)].sum() for depth in range(tree.depth)])
    bars = right.bar(range(1, tree.depth + 1), (100 * reached).tolist(), color=SPECULATIVE, width=0.82, zorder=2)
    if tree.depth <= _MAX_NARROW_LABELS:
        right.bar_label(bars, [f"{share:.0%}" for share in reached], fontsize=8, color=TEXT, padding=2)
    label(right, "depth", "rounds that get there [%]", f"{1 + float(reached.sum()):.2f} events per round")
    right.margins(y=0.12)
    for panel in (left, right):
        panel.xaxis.get_major_locator().set_params(integer=True, min_n_ticks=1)
    title_of(figure, f"{title}: candidates = {tuple(candidates)}")
    return figure


class Speedup(NamedTuple):
    """Holds a dot with its range.

    Fields: panel, line, series: where it is drawn and in which colour; median, low, high: how many times as fast as
    the baseline.
    """

    panel: str
    line: str
    series: str
    median: float
    low: float
    high: float


def speedup_plot(speedups: Sequence[Speedup], title: str = "Speed-up over cached autoregressive sampling") -> Figure:
    """Draw a panel for each `panel`, a line for each `line`, and a dot with a whisker for each `series`.

    All are in order of appearance.

    Raises:
        ValueError: there is nothing to draw, or more than four series.
    """
    panels, lines, series = (list(dict.fromkeys(str(s[i]) for s in speedups)) for i in range(3))
    if not 1 <= len(series) <= len(OTHERS):
        raise ValueError(f"a figure of speed-ups has one to {len(OTHERS)} series; there are {len(series)}")
    figure = new_figure(max(5.6, 2.0 + 2.6 * len(panels)), 1.5 + 0.32 * len(lines))  # at least as wide as its title
    every = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
    for axes, panel in zip(every, panels, strict=True):
        for i, name in enumerate(series):
            own = [s for s in speedups if (s.panel, s.series) == (panel, name)]
            ys = [lines.index(s.line) + 0.24 * (i - (len(series) - 1) / 2) for s in own]
            medians = [s.median for s in own]
            whiskers = [[s.median - s.low for s in own], [s.high - s.median for s in own]]
            axes.errorbar(
                medians, ys, xerr=whiskers, fmt="o", color=OTHERS[i], markersize=4.5, elinewidth=1.2, label=name
            )
        axes.axvline(1.0, color=FAINT, linewidth=1.0, linestyle=":")
        axes.set_xlim(left=0.0)
        label(axes, "times as fast", "", panel)
        axes.grid(axis="y", visible=False)
    every[0].set_yticks(range(len(lines)), lines, color=TEXT)
    every[0].invert_yaxis()
    if len(series) > 1:
        legend_below(figure, *every[0].get_legend_handles_labels())
    title_of(figure, title)
    return figure
