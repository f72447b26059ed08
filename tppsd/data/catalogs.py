"""Catalogue forecasts: the samples that `tppsd predict` has written, as files of CSEP."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tppsd.data.interchange import write_csep
from tppsd.data.paths import for_arrow
from tppsd.data.sequences import EventSequence
from tppsd.data.units import Clock

if TYPE_CHECKING:
    import pandas as pd

_COLUMNS = (
    "history_index",
    "path_index",
    "time_since_start",
    "type_event",
    "t_start",
    "t_end",
    "time_unit",
    "time_origin",
)


def write_catalogs(samples: str | Path, output: str | Path, magnitudes: Sequence[float]) -> list[Path]:
    """Write continuations of histories as catalogue forecasts of CSEP, one file for each history.

    A file holds the paths of its history, path i as the catalogue of catalog_id i, and is named by when they begin:
    OUTPUT/2016-01-01T00-00-00.csv.

    Args:
        samples: folder of `tppsd predict` with --requests.continue_split, or one of its files.
        output: folder for the files.
        magnitudes: the magnitude to write for each mark, such as the lower edges of its bins.

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
    written = []
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
            path = Path(output) / f"{_start(own.iloc[0], shard)}.csv"
            if path in written:
                raise ValueError(
                    f"{shard}: history {history} begins when another does, and their forecasts would have one name, "
                    f"{path.name}; give the files of one stream"
                )
            written.append(_write_one(own.sort_values("path_index"), path, magnitudes))
    return written


def _start(row: Any, shard: Path) -> str:
    """Return when a path begins, as the name of a file."""
    import pandas as pd

    unit, origin = (None if pd.isna(value) else str(value) for value in row[["time_unit", "time_origin"]])
    clock = Clock.stored(unit, origin)
    if not clock.has_dates:
        raise ValueError(f"{shard}: its times have no dates, which CSEP's catalogues need")
    start = np.datetime_as_string(clock.stamps(np.array([row["t_start"]])), unit="s")[0]
    return str(start).replace(":", "-")


def _write_one(paths: pd.DataFrame, path: Path, magnitudes: Sequence[float]) -> Path:
    """Write the paths of one history."""
    unit, origin = paths.iloc[0][["time_unit", "time_origin"]]
    path.parent.mkdir(parents=True, exist_ok=True)
    write_csep(path, list(map(_catalog, paths.itertuples())), origin=origin, unit=unit, magnitudes=magnitudes)
    return path


def _catalog(row: Any) -> EventSequence:
    return EventSequence.of(list(row.time_since_start), list(row.type_event), row.t_start, row.t_end)
