"""`ForecastWriter`: the shards of forecasts, and the table and the page that are made of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tppsd.data.paths import for_arrow
from tppsd.lightning.chunks import ChunkDataset, ItemChunks
from tppsd.lightning.forecast_job import Forecasted, Forecaster
from tppsd.lightning.job_kinds import FORECAST
from tppsd.lightning.job_module import JobModule
from tppsd.lightning.shard_writer import ShardWriter
from tppsd.lightning.shards import file_hash, whole_file

if TYPE_CHECKING:
    import pyarrow

    from tppsd.plots.page import Page

_SHOWN = 12  # histories with a figure of their own on the page
_ALIVE = 0.1  # a probability of any event below which a page has little to show
_LISTED = 1000  # histories in the table on the page
_FINE = ("ms", "us", "ns")  # units whose timestamps need all digits in the CSV file


class ForecastWriter(ShardWriter):
    """Writes each chunk of a Forecaster to `output_dir`/.shards, and at the end forecast.parquet, .csv and .html.

    Where the Forecaster says so, the paths of each history become a catalogue forecast in `output_dir`/csep along with
    the chunk.

    Args:
        output_dir: a new folder, or that of the same job, interrupted.
        name: of the data, for the page.
    """

    kind = FORECAST

    def __init__(self, output_dir: str | Path, name: str) -> None:
        super().__init__(output_dir)
        self.name = name
        self.paths: list[Path] = []  # of the results, once they are there

    def to_table(self, prediction: Forecasted) -> pyarrow.Table:
        """Return the rows of the table."""
        return prediction.table

    def write_attached(self, prediction: Forecasted, module: JobModule) -> dict[str, str]:
        """Write the paths of each history as a catalogue forecast."""
        assert isinstance(module, Forecaster)
        written = {}
        for file, paths in prediction.catalogs.items():
            assert module.catalogs is not None
            name = self.kind.attached + file
            written[name] = file_hash(module.catalogs.write(self.output_dir / name, paths))
        return written

    def make_results(self, module: JobModule, chunks: ChunkDataset[Any]) -> None:
        """Join the shards and draw the page; each file is there as a whole or not at all."""
        assert isinstance(module, Forecaster) and isinstance(chunks, ItemChunks)
        shards = [for_arrow(self.output_dir / shard.name) for shard in self._shards]
        parquet, csv, html = (self.output_dir / name for name in self.kind.results)
        is_fine = getattr(getattr(module.target, "statistics", None), "time_unit", None) in _FINE
        _join(shards, parquet, csv, is_fine)
        page = _page(module, chunks, shards, self.name)
        with whole_file(html) as file:
            file.write_text(page.html(), encoding="utf-8")
        self.paths = [parquet, csv, html]
        if module.catalogs is not None:
            self.paths.append(self.output_dir / self.kind.attached)


def _join(shards: Sequence[Path], parquet: Path, csv: Path, is_fine: bool) -> None:
    """Write the rows of all shards to one Parquet and then to one CSV file, a shard at a time.

    Timestamps in the CSV file have milliseconds, which spreadsheets read, unless they are finer than that.
    """
    import pyarrow as pa
    import pyarrow.csv
    import pyarrow.parquet as pq

    schema = pq.read_schema(shards[0])
    schema = schema.with_metadata({key: value for key, value in schema.metadata.items() if key == b"pandas"})
    short = [pa.field(f.name, pa.timestamp("ms")) if pa.types.is_timestamp(f.type) else f for f in schema]
    plain = schema if is_fine else pa.schema(short)
    options = pyarrow.csv.WriteOptions(quoting_style="needed")
    with whole_file(parquet) as file, pq.ParquetWriter(file, schema, compression="zstd") as table:
        for path in shards:
            table.write_table(pq.ParquetFile(path).read().replace_schema_metadata(schema.metadata))
    with whole_file(csv) as file, pyarrow.csv.CSVWriter(file, plain, write_options=options) as text:
        for path in shards:
            text.write_table(pq.ParquetFile(path).read().replace_schema_metadata(schema.metadata).cast(plain, False))


def _page(module: Forecaster, chunks: ItemChunks, shards: Sequence[Path], name: str) -> Page:
    from tppsd.plots.page import Page

    asked, num = module.example, len(module.histories)
    unit = getattr(getattr(module.target, "statistics", None), "time_unit", None)
    page = Page(f"{name}: forecast over {asked.horizon:g}{f' {unit}' if unit else ''}")
    what_came = "." if module.observed is None else ", the line in steps is what happened."
    page.paragraph(
        f"{num:,} {'history' if num == 1 else 'histories'}, {asked.num_paths:,} paths each. Bands hold 50, 80 and 95 % "
        f"of the paths, the smooth line is their mean{what_came}"
    )
    shown, likeliest = _most_alive(shards)
    if num > _SHOWN:
        page.paragraph(f"The figures are of the {_SHOWN} histories after which an event is the most probable.")
    if likeliest < _ALIVE:
        page.paragraph(
            f"After none of them is an event until the horizon likelier than {100 * likeliest:.0f} %. If they had "
            "ended before the log did, a forecast as of an earlier time says more: --given_until DATE, or "
            "--given_fraction 0.5."
        )
    for figure in module.figures(shown):
        page.figure(figure)
    _next_times(page, module, shards, f" {unit}" if unit else "")
    page.heading("Probabilities of at least one event")
    rows, estimators = zip(*islice(_probabilities(module, shards), _LISTED), strict=True)
    rest = f" These are the first {_LISTED:,} histories; the files have all." if num > _LISTED else ""
    page.paragraph(f"Until the horizon, in per cent, with standard errors ({estimators[0]}).{rest}")
    page.table(["history", *(one.label for one in asked.sets)], rows)
    return page


def _most_alive(shards: Sequence[Path]) -> tuple[list[int], float]:
    """Return the histories after which an event until the horizon is the most probable, the most probable first.

    Where many have ended long ago, the first ones would have nothing to show. Probabilities that are equal to the
    hundredth count as the same, and the first histories come first.

    Returns:
        Their numbers, and the largest of the probabilities.
    """
    import numpy as np
    import pyarrow.parquet as pq

    chances: list[float] = []
    for path in shards:
        frame = pq.ParquetFile(path).read(["history", "quantity", "estimate"]).to_pandas()
        last = frame[frame["quantity"] == "probability"].groupby("history").tail(1)  # of any mark, in all bins
        chances += last["estimate"].tolist()
    order = np.argsort(-np.round(chances, 2), kind="stable")[:_SHOWN]
    return order.tolist(), max(chances)


def _next_times(page: Page, module: Forecaster, shards: Sequence[Path], unit: str) -> None:
    """Add the table of the times until the next event, and say where their means are capped."""
    rows, notes = zip(*islice(_times(module, shards), _LISTED), strict=True)
    said = [note for note in notes if note]
    is_unusable = [note.startswith("not usable") for note in said]
    page.heading("Time until the next event")
    sentence = (
        f"Since the end of each history{f', in{unit}' if unit else ''}, of any mark; closed forms, without paths."
    )
    if said:
        cap = f"{module.example.next_time().mean_cap:.4g}{unit}"
        sentence += f" Means count whatever lies beyond {cap}, where the training data end, as {cap}."
    if any(is_unusable):
        sentence += (
            f" More than half of the mean lies beyond that for {sum(is_unusable):,} of {len(rows):,} histories: these "
            "means are not usable, and the median is to be taken."
        )
    page.paragraph(sentence)
    page.table(["history", "median", "5 % to 95 %", "mean"], rows)


def _times(module: Forecaster, shards: Sequence[Path]) -> Iterator[tuple[list[str], str | None]]:
    """Yield of every history its name, quantiles and mean of the time until the next event, and a note on the mean."""
    import pyarrow.parquet as pq

    from tppsd.plots.style import short_number

    columns = ["history", "quantity", "level", "estimate", "note"]
    for path in shards:
        frame = pq.ParquetFile(path).read(columns).to_pandas()
        times = frame[frame["quantity"] == "next_time"].pivot(index="history", columns="level", values="estimate")
        means = frame[frame["quantity"] == "next_time_mean"].set_index("history")
        for history in means.index:
            low, middle, high = (times.loc[history, level] for level in (0.05, 0.5, 0.95))
            note = means.loc[history, "note"]
            mean = short_number(means.loc[history, "estimate"])
            mean += " (not usable)" if note and note.startswith("not usable") else ""
            interval = f"{short_number(low)} to {short_number(high)}"
            yield [_name(module, history), short_number(middle), interval, mean], note


def _name(module: Forecaster, history: int) -> str:
    """Return what a history is called on the page."""
    name = module.histories[int(history)].id
    return str(history) if name is None else str(name)


def _probabilities(module: Forecaster, shards: Sequence[Path]) -> Iterator[tuple[list[str], str]]:
    """Yield of every history its name and the probabilities until the horizon, and how they were estimated."""
    import pyarrow.parquet as pq

    sets = len(module.example.sets)
    columns = ["history", "quantity", "estimate", "standard_error", "estimator"]
    for path in shards:
        frame = pq.ParquetFile(path).read(columns).to_pandas()
        frame = frame[frame["quantity"] == "probability"].groupby("history").tail(sets)  # of the last bin's end
        for history, own in frame.groupby("history"):
            pairs = zip(own["estimate"], own["standard_error"], strict=True)
            cells = [f"{100 * min(max(value, 0.0), 1.0):.1f} ± {100 * error:.1f}" for value, error in pairs]
            yield [_name(module, history), *cells], str(own["estimator"].iloc[0])
