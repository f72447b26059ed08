"""The way from a source to flat tables in splits: open, parse, check, order, cut into windows and splits."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from tppsd.data.arrow import release_unused
from tppsd.data.event_table import from_event_rows, is_event_table
from tppsd.data.gaps import fitting_unit
from tppsd.data.list_table import from_sequence_rows
from tppsd.data.marks import MarkVocabulary
from tppsd.data.memory import memory_for
from tppsd.data.observation import columns_of_windows, in_intervals, observed_until, with_window
from tppsd.data.obstacles import DataError, Obstacles
from tppsd.data.options import Context, ReadOptions
from tppsd.data.sequence_table import SequenceTable, block_edges, check_values, missing
from tppsd.data.splits import Segments, by_fractions, by_time, into_windows, whole, with_history
from tppsd.data.tables import SPLITS, Tables, from_sequences, is_sequences, open_tables
from tppsd.data.units import NANOSECONDS, Clock, known_unit, parse_timestamp, to_text

ROUNDING = 4 * np.finfo(np.float64).eps  # relative to the time: how far a given inter-time may lie from the difference


def clock_of(tables: Collection[SequenceTable], options: ReadOptions) -> Clock:
    """Return unit and origin of the times of all tables of a source.

    Of timestamps the unit is `time_unit`, or the largest in which the median positive inter-time is at least 1; the
    origin is `origin`, or the midnight (UTC) before the first time. Numbers are taken as they are.

    Raises:
        ValueError: some tables have timestamps and others numbers, or an option does not go with the times.
    """
    dated = [table for table in tables if table.has_dates]
    if not dated:
        if options.origin is not None:
            raise DataError(
                f"origin = {options.origin} is for timestamps, and the times are numbers; say with time_format how "
                "they count"
            )
        return Clock(options.time_unit or _own(tables, "time_unit"))
    if len(dated) < len(tables):
        plain = next(table for table in tables if not table.has_dates)
        raise DataError(
            f"{plain.source}: {plain.columns['time']} holds numbers, but that of {dated[0].source} timestamps; "
            "all tables of a data set must have the same kind of times"
        )
    unit = known_unit(options.time_unit or _own(tables, "time_unit"))
    if options.time_unit is not None and unit is None:
        raise DataError(f"time_unit = {options.time_unit!r} must be one of {', '.join(NANOSECONDS)} for timestamps")
    earliest = min(
        ticks[~missing(ticks)].min()
        for table in dated
        for ticks in (table.event_times, table.t_start)
        if not missing(ticks).all()
    )
    midnight = earliest.astype("datetime64[D]").astype("datetime64[ns]")
    said = options.origin or _own(tables, "time_origin")
    origin = midnight if said is None else parse_timestamp(said, "origin")
    return Clock(unit or fitting_unit(dated), origin)


def _own(tables: Collection[SequenceTable], name: str) -> str | None:
    """Return what the first table that says anything says of the unit or the origin."""
    said = (getattr(table.own, name) for table in tables if table.own is not None)
    return next((value for value in said if value is not None), None)


def origin_of(clock: Clock, table: SequenceTable) -> str | None:
    """Return the timestamp that is time 0 (ISO 8601, UTC), also where a file of numbers says so; None if nothing does.

    Args:
        clock: of the log.
        table: its first one.
    """
    if clock.origin is not None:
        return to_text(clock.origin)
    return None if table.own is None else table.own.time_origin


def inter_times(table: SequenceTable, clock: Clock) -> np.ndarray:
    """Return the inter-times, float64 (num_events,), of one block after another.

    They are differences of the times or, where it agrees with them up to rounding, the finer value of the data. Of
    timestamps they are exact.
    """
    found = np.empty(len(table.event_times))
    for start, stop in block_edges(table.offsets):
        found[table.offsets[start] : table.offsets[stop]] = _inter_times(table.part(start, stop), clock)
    return found


def _inter_times(table: SequenceTable, clock: Clock) -> np.ndarray:
    times, has_events = table.event_times, table.lengths > 0
    first = table.offsets[:-1][has_events]
    differences = np.diff(times, prepend=times[:1])
    differences[first] = times[first] - table.t_start[has_events]
    exact: np.ndarray = np.nan_to_num(clock.durations(differences))  # NaN: a first event without a t_start
    if table.inter_times is None:
        return exact
    agrees = np.abs(table.inter_times - exact) <= ROUNDING * np.abs(times)
    return np.where(agrees, table.inter_times, exact)


@dataclass(frozen=True)
class EventLog:
    """Holds a source as it was understood, before its sequences are built one by one.

    Attributes:
        name: short name of the source.
        options: how it was read.
        parts: split -> sequences in flat form; "train" is always there.
        whole: the tables before they were cut into windows and splits.
        vocabulary: the marks, from the training split.
        marks: split -> int64 (num_events,), the marks of its events.
        clock: unit and origin of the times.
        window, lookback: in units of time, or None.
        notes: what a user should be told.
    """

    name: str
    options: ReadOptions
    parts: dict[str, SequenceTable]
    whole: tuple[SequenceTable, ...]
    vocabulary: MarkVocabulary
    marks: dict[str, np.ndarray]
    clock: Clock
    window: float | None
    lookback: float | None
    notes: tuple[str, ...]

    @property
    def time_origin(self) -> str | None:
        """See `origin_of`."""
        return origin_of(self.clock, self.whole[0])


def read_log(source: Any, options: ReadOptions, is_split: bool = True) -> EventLog:
    """Read a source up to the sequences in flat form.

    Args:
        source: as of `tppsd.data.reading.read_dataset`.
        options: how it is read.
        is_split: cut data that come in one piece into splits; else all of them are "train".

    Raises:
        FileNotFoundError, TypeError: there is nothing that could be read.
        ValueError: what stands in the way, all of it, each with the option that mends it.
    """
    context = Context(options)
    with memory_for(source):
        opened = open_tables(source, context)
        log = context.obstacles.tried(_understand, opened, context, is_split)
    context.obstacles.raise_all(_shown(opened))
    assert log is not None  # else there was an obstacle
    return log


def _shown(opened: Tables) -> str:
    sources = [source for source, _ in opened.tables.values()]
    return sources[0] if len(sources) == 1 else opened.name


def _understand(opened: Tables, context: Context, is_split: bool) -> EventLog | None:
    """Return the log, or None where obstacles leave nothing to go on with."""
    options, obstacles = context.options, context.obstacles
    tables: dict[str | None, SequenceTable] = {}
    if not is_split and set(opened.tables) == {None}:
        opened = opened._replace(tables={"train": opened.tables[None]})
    for split, (source, table) in opened.tables.items():
        if (flat := obstacles.tried(flatten, source, table, context)) is not None:
            tables[split] = flat
    if len(tables) < len(opened.tables):
        return None
    clock = clock_of(tables.values(), options)
    tables = obstacles.tried(_observed, tables, options, clock) or tables
    cuts = Cuts.of(options, clock, obstacles)
    parts = None
    try:
        parts = _split(tables, options, cuts)
    except ValueError as error:
        if not obstacles.found:  # the others may be why
            obstacles.add(error)
    if parts is None or (parts["train"].marks is None and "mark" in parts["train"].columns):
        return None
    vocabulary = MarkVocabulary.of(parts["train"], options.min_mark_count, options.mark_names)
    encoded = {split: obstacles.tried(vocabulary.encode, part) for split, part in parts.items()}
    return EventLog(
        name=opened.name,
        options=options,
        parts=parts,
        whole=tuple(tables.values()),
        vocabulary=vocabulary,
        marks={split: marks for split, marks in encoded.items() if marks is not None},
        clock=clock,
        window=clock.length(cuts.window),
        lookback=clock.length(cuts.lookback),
        notes=tuple(context.notes),
    )


def _observed(
    tables: dict[str | None, SequenceTable], options: ReadOptions, clock: Clock
) -> dict[str | None, SequenceTable]:
    """Return the tables with the windows in which their sequences were observed."""
    last = max(observed_until(table).max() for table in tables.values())
    observed = {}
    for split, table in tables.items():
        if options.observed is not None:
            observed[split] = in_intervals(table, options.observed, clock)
        else:
            observed[split] = with_window(table, own_options(options, table), clock, last)
        check_values(observed[split])
    return observed


def own_options(options: ReadOptions, table: SequenceTable) -> ReadOptions:
    """Return the options without a t_end that named a column, which was read with the table."""
    if isinstance(options.t_end, str) and options.t_end == table.columns.get("t_end"):
        return replace(options, t_end=None)
    return options


def flatten(source: str, table: Any, context: Context) -> SequenceTable | None:
    """Return an OpenTable or a list of EventSequence in flat form, its values checked.

    None where obstacles leave nothing to go on with.

    Raises:
        ValueError: a value that no event sequence can have.
    """
    flat = from_sequences(source, table) if is_sequences(table) else _from_table(source, table, context)
    release_unused()
    if flat is not None:
        check_values(flat)
    return flat


def _from_table(source: str, table: Any, context: Context) -> SequenceTable | None:
    if table.num_rows == 0:
        context.obstacles.add(ValueError(f"{source}: has no rows; a split needs at least one sequence"))
        return None
    own = replace(context, options=columns_of_windows(context.options, table.column_names))
    read = from_event_rows if is_event_table(table, own.options.column_map) else from_sequence_rows
    return read(source, table, own)


@dataclass(frozen=True)
class Cuts:
    """Holds the options `split_times`, `window` and `lookback` as ticks and differences of ticks.

    None stands for what is not given.
    """

    split_times: list[Any] | None
    window: Any
    lookback: Any

    @classmethod
    def of(cls, options: ReadOptions, clock: Clock, obstacles: Obstacles) -> Cuts:
        """Read the options by the clock of the data; what cannot be read is noted."""

        def ticks(values: Sequence[float | str]) -> list[Any]:
            return [clock.tick(value, "split_times") for value in values]

        times, window, lookback = options.split_times, options.window, options.lookback
        return cls(
            None if times is None else obstacles.tried(ticks, times),
            None if window is None else obstacles.tried(clock.duration, window, "window"),
            None if lookback is None else obstacles.tried(clock.duration, lookback, "lookback"),
        )

    def __call__(self, table: SequenceTable, segments: Segments) -> SequenceTable:
        """Return segments of a table as sequences: with all their history, or cut into windows."""
        if self.window is None:
            return with_history(table, segments)
        return into_windows(table, segments, self.window, self.lookback)


def _split(tables: dict[str | None, SequenceTable], options: ReadOptions, cuts: Cuts) -> dict[str, SequenceTable]:
    """Return split -> its sequences.

    Windows are cut within splits; one stream is split by its windows, in order of time.
    """
    table = tables.get(None)
    if table is None:
        if options.split_times is not None:
            raise DataError("split_times cuts one table into splits, but the data come in splits; leave it out")
        parts = {split: tables[split] for split in SPLITS if split in tables}
    elif cuts.split_times is not None:
        return {split: cuts(table, part) for split, part in by_time(table, cuts.split_times).items()}
    elif cuts.window is not None and len(table) == 1:
        return by_fractions(cuts(table, whole(table)), options.fractions)
    else:
        parts = by_fractions(table, options.fractions)
    return parts if cuts.window is None else {split: cuts(part, whole(part)) for split, part in parts.items()}
