"""The figures of a benchmark report: one chart per cell (data, encoder, batch size), from its measurements."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import torch

from tppsd.benchmark.names import in_passes, short_names
from tppsd.benchmark.rows import Measurement, Row
from tppsd.benchmark.table import TABLE_COLUMNS, where
from tppsd.charts import Chart
from tppsd.metrics.functional import ks_band, ks_uniform

_MAX_POINTS = 250  # of a curve; more only makes the page larger
_LETTER_WIDTH = 6.2  # of a line's name
_COLOURED = ("speculative", "fixed_point", "auto")  # methods without a colour of their own
_OTHERS = ("other1", "other2", "other3", "other4", "other5", "other6")


def _cells(measurements: Sequence[Measurement]) -> list[tuple[str, list[Measurement]]]:
    """Measurements by cell, the first seed of each."""
    cells: dict[str, list[Measurement]] = {}
    first_seed = measurements[0].row.seed
    for measured in measurements:
        if measured.row.seed == first_seed:
            cells.setdefault(where(measured.row), []).append(measured)
    return list(cells.items())


def colour_of(row: Row, rows: Iterable[Row]) -> str:
    """CSS variable of a sampler: blue for the autoregressive one, vermilion for the first draft, others for further
    drafts and methods."""
    if row.method == "autoregressive":
        return "autoregressive"
    if row.method in ("reencode", "eager"):
        return "band"
    if row.method == "draft":
        return "real"
    kinds = list(dict.fromkeys(_kind(r) for r in rows if r.method in _COLOURED))
    return ("speculative", *_OTHERS)[kinds.index(_kind(row)) % (1 + len(_OTHERS))]


def _kind(row: Row) -> tuple[object, ...]:
    """What rows of one colour, and one line over draft lengths, have in common."""
    return row.method, row.draft, row.rule, row.draft_passes


def _speculative(cell: Sequence[Measurement]) -> list[Measurement]:
    return [measured for measured in cell if measured.row.method == "speculative"]


def _fastest(cell: Sequence[Measurement]) -> list[Measurement]:
    """The fastest speculative sampler of a cell, where there is one."""
    return sorted(_speculative(cell), key=lambda measured: -measured.row.speedup)[:1]


def _length(row: Row) -> int:
    """Of the longest draft: of "auto", as long as any position was tested."""
    return row.draft_length if isinstance(row.draft_length, int) else len(row.acceptance_by_position or ())


def _draft_labels(shown: Iterable[Row]) -> dict[tuple[object, ...], str]:
    """By kind, the names of lines: the draft, its passes, and the rule where there are several."""
    rows = list(shown)
    several_rules = len({row.rule for row in rows}) > 1
    drafts = short_names({str(row.draft) for row in rows})
    return {
        _kind(row): drafts[str(row.draft)] + in_passes(row.draft_passes) + (f", {row.rule}" if several_rules else "")
        for row in rows
    }


def _line_chart(
    title: str,
    x_label: str,
    y_label: str,
    ranges: tuple[tuple[float, float], tuple[float, float]],
    labels: Iterable[str],
) -> Chart:
    """A chart with room for the names of its lines."""
    room = max(58, 16 + math.ceil(_LETTER_WIDTH * max(map(len, labels))))
    return Chart(title, x_label, y_label, *ranges, width=252 + room, labels=room)


# --- law -------------------------------------------------------------------------------------------------------------


def ks_charts(measurements: Sequence[Measurement]) -> list[str]:
    """KS plots: autoregressive, the drafts alone, and the fastest speculative sampler."""
    charts = []
    for name, cell in _cells(measurements):
        rows = [measured.row for measured in cell]
        shown = [measured for measured in cell if measured.row.method in ("autoregressive", "draft")] + _fastest(cell)
        charts.append(_ks_chart(name, shown, rows))
    return charts


def _ks_chart(name: str, shown: Sequence[Measurement], rows: Sequence[Row]) -> str:
    true = shown[0].fidelity.true_gaps is not None
    curves = []
    for measured in shown:
        gaps = measured.fidelity.true_gaps if true else measured.fidelity.gaps
        if gaps is not None and len(gaps):
            curves.append((measured.row, (-torch.expm1(-gaps.clamp_min(0))).sort().values))
    law = "true process" if true else "own law"
    chart = Chart(name, f"Exp(1) probability, {law}", "empirical probability", (0, 1), (0, 1), width=290, height=300)
    band = min(0.5, ks_band(min((len(u) for _, u in curves), default=1)))
    chart.band([0, band, 1 - band, 1], [0, 0, 1 - 2 * band, 1 - band], [band, 2 * band, 1, 1], "band")
    chart.guide([0, 1], [0, 1])
    for line, (row, u) in enumerate(curves):
        kept = torch.linspace(0, len(u) - 1, min(len(u), _MAX_POINTS)).long()
        colour = colour_of(row, rows)
        chart.line(u[kept].tolist(), ((kept + 0.5) / len(u)).tolist(), colour)
        chart.note(line, f"{row.sampler.removeprefix('speculative, ')}: D = {ks_uniform(u).statistic:.3f}", colour)
    return chart.svg()


def mark_charts(measurements: Sequence[Measurement]) -> list[str]:
    """Histograms of marks, autoregressive beside the fastest speculative sampler, where there are marks."""
    charts = []
    for name, cell in _cells(measurements):
        shown = [measured for measured in cell if measured.row.method == "autoregressive"] + _fastest(cell)
        num_marks = len(cell[0].fidelity.mark_counts)
        shares = [m.fidelity.mark_counts.double() / max(1, int(m.fidelity.mark_counts.sum())) for m in shown]
        if num_marks == 1:
            continue
        highest = max(float(share.max()) for share in shares) or 1.0
        chart = Chart(name, "mark", "share of events", (-0.5, num_marks - 0.5), (0, 1.4 * highest), width=340)
        width = 0.8 / len(shown)
        for i, (measured, share) in enumerate(zip(shown, shares, strict=True)):
            colour = colour_of(measured.row, [m.row for m in cell])
            starts = [mark - 0.4 + i * width for mark in range(num_marks)]
            names = [
                f"{measured.row.sampler}: mark {mark}, {100 * float(share[mark]):.1f} %" for mark in range(num_marks)
            ]
            chart.bars(starts, share.tolist(), colour, width, names)
            chart.note(i, measured.row.sampler, colour)
        charts.append(chart.svg())
    return charts


# --- speed -----------------------------------------------------------------------------------------------------------


def draft_length_charts(measurements: Sequence[Measurement]) -> list[str]:
    """The paper's Figure 3: speed-up, acceptance and distances against the draft length, where there are three or
    more."""
    charts = []
    for name, cell in _cells(measurements):
        spread = [m for m in _speculative(cell) if m.row.candidates is None and isinstance(m.row.draft_length, int)]
        if len({measured.row.draft_length for measured in spread}) < 3:
            continue
        for column in ("speedup", "acceptance_rate", "ks_statistic", "wasserstein_time", "likelihood_discrepancy"):
            if all(getattr(measured.row, column) is not None for measured in spread):
                charts.append(_against_length(name, [m.row for m in spread], column, [m.row for m in cell]))
        charts.append('<div class="break"></div>')
    return charts


def _against_length(name: str, rows: Sequence[Row], column: str, cell: Sequence[Row]) -> str:
    lengths = sorted({_length(row) for row in rows})
    highest = max(row.speedup_high if column == "speedup" else getattr(row, column) for row in rows)
    heading = TABLE_COLUMNS[column].heading
    y_range = (0.0, 1.0) if column == "acceptance_rate" else (0.0, max(1.1 * highest, 1e-9))
    labels = _draft_labels(rows)
    chart = _line_chart(heading, "draft length", name, ((0, 1.04 * lengths[-1]), y_range), labels.values())
    if column == "speedup":
        chart.guide([0, 1.04 * lengths[-1]], [1, 1])
    for kind, line in labels.items():
        own = sorted((row for row in rows if _kind(row) == kind), key=_length)
        xs, colour = [float(_length(row)) for row in own], colour_of(own[0], cell)
        if column == "speedup":
            chart.band(xs, [row.speedup_low for row in own], [row.speedup_high for row in own], colour)
        chart.line(xs, [getattr(row, column) for row in own], colour, line, points=True)
    return chart.svg()


def position_charts(measurements: Sequence[Measurement]) -> list[str]:
    """P(accepted | tested) against the position in the draft, the longest draft of every drafter, number of passes and
    rule."""
    charts = []
    for name, cell in _cells(measurements):
        rows = [measured.row for measured in _speculative(cell)]
        longest = {_kind(row): row for row in sorted(rows, key=_length)}
        if not longest:
            continue
        length = max(_length(row) for row in longest.values())
        shares = [
            [p for p in row.acceptance_by_position or [] if p is not None] for row in longest.values()
        ]  # up to the last tested
        lowest = min((p for own in shares for p in own), default=0.0)
        y_range = (min(0.9, math.floor(10 * lowest) / 10), 1.0)
        labels, ranges = _draft_labels(longest.values()), ((0.5, length + 0.5), y_range)
        chart = _line_chart(name, "position in the draft", "acceptance", ranges, labels.values())
        for (kind, row), own in zip(longest.items(), shares, strict=True):
            if own:
                chart.line(range(1, 1 + len(own)), own, colour_of(row, rows), labels[kind], points=length <= 24)
        charts.append(chart.svg())
    return charts


def accepted_counts_charts(measurements: Sequence[Measurement]) -> list[str]:
    """Shares of rounds by number of accepted events, of the fastest speculative sampler."""
    charts = []
    for name, cell in _cells(measurements):
        for measured in _fastest(cell):
            counts = measured.accepted_counts
            if counts is None or not counts[1:].any():
                continue
            shares = (counts.sum(0) / counts.sum()).tolist()
            colour = colour_of(measured.row, [m.row for m in cell])
            chart = Chart(
                name, "accepted events", "share of rounds", (-0.6, len(shares) - 0.4), (0, 1.3 * max(shares)), width=300
            )
            names = [f"{i} accepted: {100 * share:.1f} % of rounds" for i, share in enumerate(shares)]
            chart.bars([i - 0.41 for i in range(len(shares))], shares, colour, 0.82, names)
            chart.note(
                0,
                f"{measured.row.sampler.removeprefix('speculative, ')}: {measured.row.events_per_round:.2f} events per round",
                colour,
            )
            charts.append(chart.svg())
    return charts
