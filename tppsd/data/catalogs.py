"""Catalogue forecasts: sampled continuations as files of CSEP, one for each history."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from tppsd.data.interchange import write_csep
from tppsd.data.marks import lower_edges
from tppsd.data.paths import for_arrow
from tppsd.data.sequences import EventSequence
from tppsd.data.units import Clock

if TYPE_CHECKING:
    import pandas as pd

    from tppsd.data.statistics import DataStatistics

_COLUMNS = (
    "history_index",
    "path_index",
    "time_since_start",
    "type_event",
    "mark_names",
    "t_start",
    "t_end",
    "time_unit",
    "time_origin",
)


def check_format(name: str | None) -> None:
    """Refuse a format of catalogues that is not written; None: none is asked for."""
    if name not in (None, "csep"):
        raise ValueError(f"--format {name} is unknown; there is csep alone")


class CatalogFormat(NamedTuple):
    """Says how events become rows of a catalogue.

    Fields: unit, origin: of their times; magnitudes: of each mark.
    """

    unit: str
    origin: str
    magnitudes: tuple[float, ...]

    @classmethod
    def of(cls, statistics: DataStatistics, magnitudes: Sequence[float] | None) -> CatalogFormat:
        """Return how the events of a model are written.

        Args:
            statistics: of the model's data.
            magnitudes: of each mark; None = the lower edges of the bins that the marks are (`mark_bins`).

        Raises:
            ValueError: its times have no dates, or there are not as many magnitudes as marks.
        """
        if statistics.time_unit is None or statistics.time_origin is None:
            raise ValueError(
                "--format csep writes dates, and the times of the model's data are numbers; leave it out, or train on "
                "timestamps"
            )
        found = _magnitudes(magnitudes, statistics.mark_names, statistics.num_marks)
        if len(found) != statistics.num_marks:
            raise ValueError(
                f"--magnitudes {list(found)} must have one value for each of the model's {statistics.num_marks} marks"
            )
        return cls(statistics.time_unit, statistics.time_origin, found)

    def names(self, starts: Iterable[float]) -> list[str]:
        """Return the names of the files of histories, by the times when their forecasts begin: 2016-01-01T00-00-00.csv.

        Raises:
            ValueError: two of them begin in the same second.
        """
        clock, names = Clock.stored(self.unit, self.origin), dict[str, int]()
        for i, start in enumerate(starts):
            stamp = np.datetime_as_string(clock.stamps(np.array([start])), unit="s")[0]
            name = f"{stamp}.csv".replace(":", "-")
            if name in names:
                raise ValueError(
                    f"history {i} ends in the same second as history {names[name]}, and their catalogue forecasts "
                    f"would have one name, {name}; --format csep is for the histories of one stream"
                )
            names[name] = i
        return list(names)

    def write(self, path: Path, catalogs: Sequence[EventSequence]) -> Path:
        """Write the paths of one history, path i as the catalogue of catalog_id i, and return the file's path."""
        write_csep(path, catalogs, origin=self.origin, unit=self.unit, magnitudes=self.magnitudes)
        return path


def write_catalogs(samples: str | Path, output: str | Path, magnitudes: Sequence[float] | None = None) -> list[Path]:
    """Write continuations of histories as catalogue forecasts of CSEP, one file for each history.

    A file holds the paths of its history, path i as the catalogue of catalog_id i, and is named by when they begin:
    OUTPUT/2016-01-01T00-00-00.csv.

    Args:
        samples: folder of `tppsd predict` with --requests.continue_split, or one of its files.
        output: folder for the files.
        magnitudes: the magnitude to write for each mark, such as the lower edges of its bins; None = these, where the
            marks are bins (`mark_bins`).

    Returns:
        The paths of the files, in the order of the histories.

    Raises:
        FileNotFoundError: there are no samples.
        ValueError: the samples continue no histories or have no dates, two of them begin together, or a mark has no
            magnitude.
    """
    import pyarrow
    import pyarrow.parquet as parquet

    source = Path(samples)
    shards = sorted(source.glob("*.parquet")) if source.is_dir() else [source]
    if not shards or not shards[0].is_file():
        raise FileNotFoundError(f"{source}: there are no samples of `tppsd predict`")
    written: list[Path] = []
    for shard in shards:
        try:
            schema = parquet.read_schema(for_arrow(shard))
        except (OSError, pyarrow.ArrowException) as error:
            raise ValueError(
                f"{shard}: is no Parquet file ({' '.join(str(error).split())[:120]}); give samples of `tppsd predict`"
            ) from error
        if missing := [name for name in _COLUMNS if name not in schema.names]:
            raise ValueError(f"{shard}: has no column {missing[0]}; give samples of `tppsd predict`")
        table = parquet.read_table(for_arrow(shard), columns=list(_COLUMNS)).to_pandas()
        for history, own in table.groupby("history_index"):
            if history < 0:
                raise ValueError(f"{shard}: its sequences continue nothing; sample with --requests.continue_split")
            how = _format(own.iloc[0], shard, magnitudes)
            path = Path(output) / how.names([own.iloc[0]["t_start"]])[0]
            if path in written:
                raise ValueError(
                    f"{shard}: history {history} begins when another does, and their forecasts would have one name, "
                    f"{path.name}; give the files of one stream"
                )
            written.append(how.write(path, _catalogs(own.sort_values("path_index"))))
    return written


def _format(row: Any, shard: Path, magnitudes: Sequence[float] | None) -> CatalogFormat:
    """Return how the events of a file of samples are written, by one of its rows."""
    import pandas as pd

    unit, origin = (None if pd.isna(value) else str(value) for value in row[["time_unit", "time_origin"]])
    if unit is None or origin is None:
        raise ValueError(f"{shard}: its times have no dates, which CSEP's catalogues need")
    names = None if row["mark_names"] is None else tuple(row["mark_names"])
    return CatalogFormat(unit, origin, _magnitudes(magnitudes, names))


def _magnitudes(given: Sequence[float] | None, names: tuple[str, ...] | None, num_marks: int = 0) -> tuple[float, ...]:
    """Return the magnitude of each mark: what is given, or the lower edge of its bin."""
    if given is None:
        found = lower_edges(names)
        if found is None:
            which = ", ".join((names or tuple(map(str, range(num_marks))))[:6])
            raise ValueError(
                f"--format csep needs the magnitude of each mark, and the marks{which and f' ({which})'} are no bins "
                "of mark_bins; give --magnitudes, such as '[1, 1.5, 2]'"
            )
        return found
    if not all(map(math.isfinite, given)):
        raise ValueError(f"--magnitudes {list(given)} must be numbers")
    return tuple(map(float, given))


def _catalogs(paths: pd.DataFrame) -> list[EventSequence]:
    return [
        EventSequence.of(list(row.time_since_start), list(row.type_event), row.t_start, row.t_end)
        for row in paths.itertuples()
    ]
