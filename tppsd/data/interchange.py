"""Files for this and other programs: the canonical Parquet file, CSEP's ASCII catalogues, and EasyTPP's JSON."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tppsd.data.arrow import ids_column
from tppsd.data.list_table import CENSORED, NAMES, ORIGIN, STAMPS, UNIT
from tppsd.data.log import EventLog, inter_times
from tppsd.data.sequences import EventSequence
from tppsd.data.units import NANOSECONDS, parse_timestamp, to_nanoseconds
from tppsd.data.whole_files import whole_or_absent


def write_parquet(log: EventLog, path: str | Path) -> Path:
    """Write all splits of a log to one Parquet file (zstd); an interrupted write leaves nothing behind.

    Columns: those of EasyTPP (dim_process, seq_idx, seq_len, time_since_start, time_since_last_event, type_event),
    split, sequence (the id), t_start, t_end, score_start, censored_start, timestamps (where times are), and in every
    row mark_names, time_unit and time_origin. t_start, t_end and score_start are timestamps where the times are.

    Raises:
        ValueError: the path does not end in .parquet.
    """
    import pyarrow
    import pyarrow.parquet as parquet

    path = Path(path)
    if path.suffix.lower() != ".parquet":
        raise ValueError(f"{path}: the canonical file is Parquet; give a name that ends in .parquet")
    table = pyarrow.concat_tables(_to_table(log, split) for split in log.parts)
    ids = [one for part in log.parts.values() for one in part.ids]
    if any(one is not None for one in ids):
        table = table.append_column("sequence", ids_column(ids))  # one type in all splits
    with whole_or_absent(path) as temporary:
        parquet.write_table(table, temporary, compression="zstd")
    return path


def _to_table(log: EventLog, split: str) -> Any:
    """Return the Arrow table of a split, one row per sequence, without the ids."""
    import pyarrow as pa

    part, clock, names = log.parts[split], log.clock, log.vocabulary.names
    offsets, num_rows = pa.array(part.offsets, pa.int64()), len(part)

    def lists(values: Any) -> Any:
        return pa.LargeListArray.from_arrays(offsets, values)

    columns = {
        "split": pa.array([split] * num_rows).dictionary_encode(),
        "dim_process": np.full(num_rows, log.vocabulary.num_marks),
        "seq_idx": np.arange(num_rows),
        "seq_len": part.lengths,
        "time_since_start": lists(pa.array(clock.times(part.event_times))),
        "time_since_last_event": lists(pa.array(inter_times(part, clock))),
        "type_event": lists(pa.array(log.marks[split])),
        "t_start": _ticks(part.t_start),
        "t_end": _ticks(part.t_end),
        "score_start": _ticks(part.score_start),
        CENSORED: part.is_cut,
        NAMES: _constant(None if names is None else list(names), pa.list_(pa.string()), num_rows),
        UNIT: _constant(clock.unit, pa.string(), num_rows),
        ORIGIN: _constant(log.time_origin, pa.string(), num_rows),
    }
    if clock.has_dates:
        columns[STAMPS] = lists(_ticks(part.event_times))
    return pa.table(columns)


def _ticks(ticks: np.ndarray) -> Any:
    """Return an Arrow array of times: timestamps in UTC or numbers, null where there is none."""
    import pyarrow as pa

    if ticks.dtype.kind == "M":
        return pa.array(ticks).cast(pa.timestamp("ns")).cast(pa.timestamp("ns", "UTC"))
    return pa.array(ticks, from_pandas=True)


def _constant(value: Any, kind: Any, num_rows: int) -> Any:
    import pyarrow as pa

    return (
        pa.nulls(num_rows, kind)
        if value is None
        else pa.array([value], kind).take(pa.array(np.zeros(num_rows, dtype=np.int64)))
    )


_CSEP_COLUMNS = ("lon", "lat", "mag", "time_string", "depth", "catalog_id", "event_id")


def write_csep(
    path: str | Path,
    catalogs: Sequence[EventSequence],
    *,
    origin: str,
    unit: str,
    magnitudes: Sequence[float],
    longitude: float | None = None,
    latitude: float | None = None,
    depth: float | None = None,
) -> None:
    """Write simulated catalogues as CSEP's ASCII format: lon,lat,mag,time_string,depth,catalog_id,event_id.

    The catalogue of `catalogs[i]` has the catalog_id i. One without an event leaves a gap, the last one a row of
    nothing but its catalog_id, so that a reader knows how many there are. A place that is None is left blank.

    Args:
        path: of the file; it appears when it is complete.
        catalogs: one for each path, with event times in `unit` since `origin`.
        origin: date of time 0, ISO 8601, UTC.
        unit: of the event times: ns, us, ms, s, min, h or d.
        magnitudes: the magnitude to write for each mark, such as the lower edges of its bins.
        longitude, latitude, depth: of all events.

    Raises:
        ValueError: a unit or date that is not one, or a mark without a magnitude.
    Source: pyCSEP (Savran et al., J. Open Source Softw. 7 (2022)), "Catalog-based forecasts".
    """
    if unit not in NANOSECONDS:
        raise ValueError(f"unit = {unit!r} is unknown; choose one of {', '.join(NANOSECONDS)}")
    start = parse_timestamp(origin, "origin")
    place = ["" if value is None else repr(float(value)) for value in (longitude, latitude, depth)]
    for i, catalog in enumerate(catalogs):
        if len(catalog) and (largest := int(catalog.marks.max())) >= len(magnitudes):
            raise ValueError(
                f"catalogue {i}: has mark {largest}, but magnitudes are given for marks 0..{len(magnitudes) - 1}"
            )
    with whole_or_absent(path, is_synced=True) as temporary, temporary.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(_CSEP_COLUMNS)
        for i, catalog in enumerate(catalogs):
            stamps = start + to_nanoseconds(catalog.event_times.numpy(), NANOSECONDS[unit]).astype("timedelta64[ns]")
            dates = np.datetime_as_string(stamps.astype("datetime64[us]"), unit="us").tolist()
            for number, (date, mark) in enumerate(zip(dates, catalog.marks.tolist(), strict=True)):
                writer.writerow([*place[:2], repr(float(magnitudes[mark])), date, place[2], i, number])
        if catalogs and not len(catalogs[-1]):
            writer.writerow(["", "", "", "", "", len(catalogs) - 1, ""])


def write_easytpp(
    path: str | Path, sequences: Sequence[EventSequence] | Mapping[str, Sequence[EventSequence]], num_marks: int
) -> None:
    """Write sequences as EasyTPP's JSON, one record a line.

    Fields are dim_process, seq_idx, seq_len, time_since_start, time_since_last_event and type_event.

    Times count from the window's start, or from a given first event. Windows that are known are written as t_start (0)
    and t_end beside them, which EasyTPP ignores and this package reads. Numbers keep all their digits.

    Args:
        path: of the file, *.json; it appears when it is complete.
        sequences: the sequences, or a dict of them by split, which becomes a field of every record. EasyTPP wants a
            file for each split.
        num_marks: number of marks, dim_process.

    Raises:
        ValueError: a sequence has given events but its first, which the format does not know; they would be scored.
    Source: EasyTPP (Xue et al., ICLR 2024).
    """
    parts = sequences if isinstance(sequences, Mapping) else {"": sequences}
    every = [(split, sequence) for split, part in parts.items() for sequence in part]
    if any(s.censored_start or (s.score_start or s.window_start) > s.window_start for _, s in every):
        raise ValueError(
            f"{path}: windows begin with events that are given (split_times, window or lookback), and EasyTPP's JSON "
            "cannot say so; write .parquet, or leave the option out"
        )
    has_start = any(not s.first_is_given for _, s in every)
    has_end = any(s.t_end is not None for _, s in every)
    with whole_or_absent(path) as temporary, temporary.open("w", newline="") as file:
        for split, sequence in every:
            start = sequence.window_start
            record: dict[str, Any] = {
                "dim_process": num_marks,
                "seq_idx": sequence.index,
                "seq_len": len(sequence),
                "time_since_start": (sequence.event_times - start).tolist(),
                "time_since_last_event": sequence.inter_times.tolist(),
                "type_event": sequence.marks.tolist(),
            }
            if has_start:
                record["t_start"] = None if sequence.first_is_given else 0.0
            if has_end:
                record["t_end"] = None if sequence.t_end is None else sequence.t_end - start
            if split:
                record["split"] = split
            file.write(json.dumps(record) + "\n")
