"""The account of `tppsd inspect`, as text and as a page: the log as it was understood, tables, what is to mind."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from tppsd.data.facts import LogFacts, SplitFacts
from tppsd.data.observation import observed_until
from tppsd.data.remarks import remarks
from tppsd.data.sequence_table import missing
from tppsd.data.units import to_text
from tppsd.plots import event_log
from tppsd.plots.page import Page

SHOWN_MARKS = 12  # of the table of marks
RARE = 10  # events of the training split below which a mark is called rare
DRIFT = 0.1  # total variation between marks from which a drift is called one
RATES = 1.5  # factor between rates, likewise


def describe(facts: LogFacts) -> Iterator[Any]:
    """Lines and tables for the console."""
    from rich.text import Text

    yield Text(facts.log.name, style="bold")
    for name, text in understood(facts):
        yield f"  {name:<13}{text}"
    yield ""
    yield _table(("split", *facts.splits), split_rows(facts))
    if facts.log.vocabulary.num_marks > 1:
        yield _table(
            ("mark", *facts.splits), mark_rows(facts), f"{facts.log.vocabulary.num_marks} marks, share of events"
        )
    for name, text in further(facts):
        yield f"  {name:<13}{text}"
    to_mind = mind(facts)
    yield Text("\nTo mind", style="bold") if to_mind else "\nNothing to mind."
    for line in to_mind:
        yield f"  - {line}"


def _table(columns: tuple[str, ...], rows: list[list[str]], title: str | None = None) -> Any:
    from rich.table import Table

    table = Table(title=title, title_justify="left")
    for column in columns:
        table.add_column(column, justify="left" if column in ("split", "mark") else "right", no_wrap=True)
    for row in rows:
        table.add_row(*row)
    return table


def page_of(facts: LogFacts) -> Page:
    """Return the same account as a page, with pictures."""
    page, splits = Page(facts.log.name), list(facts.splits)
    page.account([*understood(facts), *further(facts)])
    page.heading("To mind")
    for line in mind(facts) or ["Nothing."]:
        page.paragraph(line)
    page.heading("Splits")
    page.table(["", *splits], split_rows(facts))
    has_marks = facts.log.vocabulary.num_marks > 1
    if has_marks:
        page.heading("Marks")
        page.table(["share of events", *splits], mark_rows(facts))
    page.heading("Pictures")
    drawn = [
        (event_log.event_raster(facts), "Events of the first sequences; colours are marks, given events are grey."),
        (event_log.rate_over_time(facts), "Rate over time."),
        (event_log.gap_histogram(facts), "Inter-times on a logarithmic axis."),
    ]
    if has_marks:
        caption = "Which mark follows which: each row holds the shares of the next."
        drawn.append((event_log.mark_frequencies(facts), "How often each mark occurs."))
        drawn.append((event_log.mark_transitions(facts), caption))
    if (by_hour := event_log.rate_by_hour_and_weekday(facts)) is not None:
        drawn.append((by_hour, "When in the day and in the week events happen."))
    for figure, caption in drawn:
        page.paragraph(caption)
        page.figure(figure)
    return page


def understood(facts: LogFacts) -> list[tuple[str, str]]:
    """Return (what, how it was understood): columns, times, sequences, windows, observation, splits."""
    log, table = facts.log, facts.log.whole[0]
    unit = log.clock.unit or "units"
    ticks = np.concatenate([one.event_times for one in log.whole])
    span = f"from {to_text(ticks.min())} to {to_text(ticks.max())}" if len(ticks) else "of no event"
    kind = "timestamps in UTC" if log.clock.has_dates else "numbers"
    origin = (
        f"; unit {unit}, time 0 is {to_text(log.clock.origin)}"
        if log.clock.has_dates
        else f"; unit {log.clock.unit or 'not named'}"
    )
    num_sequences = sum(map(len, log.whole))
    is_stream = table.sequence_ids is not None and num_sequences == 1 and table.sequence_ids[0] is None
    lines = [
        ("columns", ", ".join(f"{field} = {column}" for field, column in table.columns.items())),
        ("times", f"{kind} {span}{origin}"),
        ("sequences", "one stream" if is_stream else f"{num_sequences:,}"),
    ]
    if log.window is not None:
        lookback = (
            "no lookback" if log.lookback is None else f"each with the {log.lookback:.6g} {unit} before it, given"
        )
        lines.append(("windows", f"of {log.window:.6g} {unit}, {lookback}"))
    lines.append(("observed", f"{_start(facts)}, {_end(facts)}"))
    lines.append(("splits", _splits(facts)))
    return lines


def _start(facts: LogFacts) -> str:
    known = np.concatenate([~missing(table.t_start) for table in facts.log.whole])
    if known.all():
        return "from t_start"
    return (
        "from the first event, which is given" if not known.any() else "from t_start or, without one, the first event"
    )


def _end(facts: LogFacts) -> str:
    known = np.concatenate([~missing(table.t_end) for table in facts.log.whole])
    if known.all():
        ends = {to_text(end) for table in facts.log.whole for end in np.unique(table.t_end)[:2]}
        return f"until {ends.pop()}" if len(ends) == 1 else "until t_end"
    return "until the last event (no t_end)" if not known.any() else "until t_end or, without one, the last event"


def _splits(facts: LogFacts) -> str:
    options, whole = facts.log.options, facts.log.whole
    if len(whole) > 1:
        return "as the data have them"
    if options.split_times is not None:
        return f"by time, at {', '.join(map(str, options.split_times))}"
    return f"by fractions {', '.join(f'{share:g}' for share in options.fractions)}, in order"


LABELS = (
    "sequences", "scored events", "given events", "events: fewest", "median", "most", "first event", "last event",
    "events per unit", "median gap", "ties",
)  # fmt: skip


def split_rows(facts: LogFacts) -> list[list[str]]:
    """One row per label: what it is of each split."""
    columns = [_split_column(own) for own in facts.splits.values()]
    unit = facts.log.clock.unit
    in_unit = {"events per unit": f"events per {unit}", "median gap": f"median gap [{unit}]"} if unit else {}
    labels = [in_unit.get(label, label) for label in LABELS]
    return [[label, *values] for label, *values in zip(labels, *columns, strict=True)]


def _split_column(own: SplitFacts) -> list[str]:
    lengths, times = own.scored_lengths, own.table.event_times[own.is_scored]
    edges = [_day(times.min()), _day(times.max())] if len(times) else ["", ""]
    counts = [own.num_sequences, own.num_scored, own.num_given, lengths.min(), int(np.median(lengths)), lengths.max()]
    return [
        *(f"{count:,}" for count in counts),
        *edges,
        f"{own.rate:.4g}",
        f"{own.median_gap:.4g}",
        f"{own.num_ties:,}",
    ]


def _day(tick: Any) -> str:
    return str(tick.astype("datetime64[D]")) if isinstance(tick, np.datetime64) else f"{tick:.6g}"


def mark_rows(facts: LogFacts) -> list[list[str]]:
    """Return the commonest marks of the training split: name and share in each split."""
    num_marks = facts.log.vocabulary.num_marks
    counts = [own.mark_counts(num_marks) for own in facts.splits.values()]
    order = np.argsort(-counts[0], kind="stable")
    rows = [
        [facts.mark_name(mark), *(f"{100 * count[mark] / max(count.sum(), 1):.1f} %" for count in counts)]
        for mark in order[:SHOWN_MARKS].tolist()
    ]
    if num_marks > SHOWN_MARKS:
        others = order[SHOWN_MARKS:]
        shares = (f"{100 * count[others].sum() / max(count.sum(), 1):.1f} %" for count in counts)
        rows.append([f"{len(others)} others", *shares])
    return rows


def further(facts: LogFacts) -> list[tuple[str, str]]:
    """Return rows on inter-times, silences and duplicates."""
    unit, gaps = facts.log.clock.unit or "", facts.train.scored_gaps
    positive = gaps[gaps > 0]
    lines = []
    if len(positive):
        low, middle, high, most = (f"{edge:.4g}" for edge in np.quantile(positive, [0.1, 0.5, 0.9, 1.0]))
        lines.append(
            ("inter-times", f"10 % below {low}, half below {middle}, 90 % below {high}, longest {most} {unit}".rstrip())
        )
        lines.append(("resolution", f"smallest positive inter-time {positive.min():.4g} {unit}".rstrip()))
    silences = [f"{to_text(a)} to {to_text(b)}" for a, b in facts.longest_silences()]
    if silences:
        lines.append(("silences", f"longest without any event: {'; '.join(silences)}"))
    return lines


def mind(facts: LogFacts) -> list[str]:
    """Return what is to mind, each with the option that mends it where there is one."""
    log = facts.log
    lines = list(log.notes)
    tied = sum(own.num_ties for own in facts.splits.values())
    if tied:
        total = sum(own.num_scored for own in facts.splits.values())
        order = "" if log.vocabulary.num_marks == 1 else "; the score of their marks depends on the order of the rows"
        lines.append(
            f"{tied:,} of {total:,} inter-times are ties, which are floored in training and scoring: see "
            f"min_inter_time{order}"
        )
    return [*lines, *remarks(facts.dataset), *_about_marks(facts), *_about_splits(facts)]


def _about_marks(facts: LogFacts) -> list[str]:
    num_marks = facts.log.vocabulary.num_marks
    if num_marks == 1:
        return []
    counts = facts.train.mark_counts(num_marks)
    rare = np.flatnonzero(counts < RARE)
    if len(rare) == 0:
        return []
    names = ", ".join(f"{facts.mark_name(mark)} ({counts[mark]})" for mark in rare[:5].tolist())
    more = f" and {len(rare) - 5} more" if len(rare) > 5 else ""
    return [
        f"{len(rare)} of {num_marks} marks have fewer than {RARE} training events: {names}{more}; min_mark_count "
        "groups rare ones"
    ]


def _about_splits(facts: LogFacts) -> list[str]:
    lines = []
    if facts.log.options.split_times is None and facts.log.window is None:
        for (a, b), count in facts.shared_ids().items():
            if count:
                lines.append(f"{count:,} ids of sequences occur in both {a} and {b}: the splits may not be independent")
    for (a, b), count in facts.copies().items():
        if count:
            lines.append(
                f"{count:,} sequences of {b} are copies of sequences of {a}, with the same inter-times and marks"
            )
    for split, own in facts.splits.items():
        if split == "train" or not (own.num_scored and facts.train.num_scored):
            continue
        if (drift := facts.mark_drift(split)) > DRIFT:
            lines.append(f"marks drift: total variation {drift:.2f} between train and {split}")
        ratio = own.rate / facts.train.rate if facts.train.rate > 0 else np.nan  # NaN also where all events are ties
        if np.isfinite(ratio) and not 1 / RATES < ratio < RATES:
            lines.append(f"rates drift: {split} has {ratio:.2f} times the events per unit of time of train")
    for split, own in facts.splits.items():
        until, last = observed_until(own.table), own.table.event_times
        silent = own.num_sequences and len(last) and (own.scored_lengths == 0).mean() > 0.5
        if silent:
            lines.append(f"{split}: more than half of the sequences have no scored event, up to {to_text(until.max())}")
    return lines
