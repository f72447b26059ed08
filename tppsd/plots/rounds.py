"""The figure of what speculative rounds accept."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from tppsd.metrics.functional import acceptance_by_position, events_per_round, step_acceptance
from tppsd.plots.style import FAINT, SPECULATIVE, TEXT, label, new_figure, title_of, whole_numbers

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_MAX_LABELS = 16  # bars with a number each
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
        whole_numbers(panel)
    title_of(figure, title)
    return figure
