"""Forecasts of many histories, for `Trainer.predict`: shared out in chunks, each a file of table rows."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

from tppsd.data.arrow import ids_column
from tppsd.data.catalogs import CatalogFormat
from tppsd.data.sequences import EventSequence, sequences_hash
from tppsd.forecasting.anchors import BEYOND, anchored
from tppsd.forecasting.forecast import Forecast, forecast
from tppsd.forecasting.questions import Marks, items_per_chunk
from tppsd.lightning.chunks import Chunk, ItemChunks
from tppsd.lightning.job_kinds import FORECAST
from tppsd.lightning.job_module import JobModule, hashes, resolve_draft

if TYPE_CHECKING:
    import pyarrow
    from matplotlib.figure import Figure

_KINDS = {"quantity": "string", "mark": "string", "note": "string", "estimator": "string", "history": "int64"}


class Forecasted(NamedTuple):
    """Is the forecast of a chunk.

    Fields: table: of tppsd.forecasting.tables; catalogs: the paths of each history by the name of its file; empty where
    none is written.
    """

    table: pyarrow.Table
    catalogs: dict[str, Sequence[EventSequence]]


class Forecaster(JobModule):
    """Forecasts chunks of histories; a prediction is the Forecasted of one.

    A forecast depends on the index of its history and the seed, not on the number of processes. The chunk it is in
    changes no more than the order of floating-point sums.

    Args:
        target: the model.
        histories: what is continued.
        horizon, num_paths, marks, bins, draft, stop_marks, seed: as of `tppsd.forecast`.
        observed: sequences as long as the histories with their continuations, to be drawn, or None.
        max_events: as of `tppsd.forecast`.
        history_lookback: likewise, in units of time.
        catalogs: how the paths are written as catalogue forecasts; None = they are not.
    """

    needs_cpu = True

    def __init__(
        self,
        target: Any,
        histories: Sequence[EventSequence],
        horizon: float,
        num_paths: int = 1000,
        marks: Sequence[Marks] | Mapping[str, Marks] | None = None,
        bins: int | None = None,
        draft: Any = None,
        stop_marks: Marks | None = None,
        seed: int = 0,
        observed: Sequence[EventSequence] | None = None,
        max_events: int = 1_000_000,
        history_lookback: float | None = None,
        catalogs: CatalogFormat | None = None,
    ) -> None:
        super().__init__()
        if catalogs is not None and stop_marks is not None:
            raise ValueError(
                "--stop_marks ends paths before the horizon, and a catalogue of --format csep has all events until "
                "then; leave one of them out"
            )
        self.catalogs = catalogs
        self._names = [] if catalogs is None else catalogs.names(one.window_end for one in histories)
        self.target = target
        self.draft = resolve_draft(draft)
        self.histories, self.observed = histories, observed
        self._questions: dict[str, Any] = {"horizon": horizon, "num_paths": num_paths, "marks": marks, "bins": bins}
        self._questions |= {"stop_marks": stop_marks, "seed": seed, "max_events": max_events}
        self._questions |= {"history_lookback": history_lookback}
        self.example = self._forecast(slice(0, 1))  # checks all of them, before the writer begins
        statistics = getattr(self.example.target, "statistics", None)
        anchored(histories, statistics, self.example.horizon, history_lookback)  # warns once, of all of them
        self._lookback = history_lookback

    def chunks(self, chunk_size: int | None = None) -> ItemChunks:
        """Return the chunks of the histories; None: with about 20,000 paths each."""
        return ItemChunks(len(self.histories), items_per_chunk(chunk_size, self.example.num_paths), {})

    def job(self) -> dict[str, Any]:
        """Return what the forecasts and the page depend on, as plain values."""
        asked = self.example
        return {
            "command": FORECAST.command,
            **hashes(self.target, self.draft),
            "horizon": asked.horizon,
            "num_paths": asked.num_paths,
            "marks": [[one.label, list(one.marks)] for one in asked.sets],
            "bins": asked.edges.tolist(),
            "stop_marks": None if asked.stop_marks is None else list(asked.stop_marks),
            "seed": asked.seed,
            "max_events": asked.max_events,
            **({} if self._lookback is None else {"history_lookback": str(self._lookback)}),
            **({} if self.catalogs is None else {"format": "csep", "magnitudes": list(self.catalogs.magnitudes)}),
            "histories": sequences_hash(self.histories),
            "observed": None if self.observed is None else sequences_hash(self.observed),
        }

    def predict_step(self, batch: Chunk, batch_idx: int) -> Forecasted | None:
        """Return the forecast of a chunk; None: it is in the writer's folder."""
        if batch.chunk in self.finished_chunks:
            return None
        found = self._forecast(batch.items)
        return Forecasted(self._table(found), self._paths(found))

    def figures(self, which: Iterable[int]) -> list[Figure]:
        """Return the figures of some histories, which are forecast again: the same paths."""
        observed = self.observed
        return [self._forecast(slice(i, i + 1)).plot(None if observed is None else observed[i : i + 1]) for i in which]

    def _forecast(self, which: slice) -> Forecast:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", BEYOND)  # said of all chunks together
            return forecast(
                self.target, self.histories[which], draft=self.draft, first_index=which.start, **self._questions
            )

    def _table(self, found: Forecast) -> pyarrow.Table:
        """Return the rows in the order of the histories; every chunk has the same types."""
        import pyarrow as pa

        frame = found.to_pandas().sort_values("history", kind="stable")
        clock = pa.from_numpy_dtype(frame["from"].dtype)
        types = {"id": self._id_type, **dict.fromkeys(("from", "to", "at"), clock)}
        types |= {name: getattr(pa, kind)() for name, kind in _KINDS.items()}
        if types["id"] == pa.string():
            frame["id"] = [None if one is None else str(one) for one in frame["id"]]
        schema = pa.schema([(name, types.get(name, pa.float64())) for name in frame.columns])
        return pa.Table.from_pandas(frame, schema, preserve_index=False)

    def _paths(self, found: Forecast) -> dict[str, Sequence[EventSequence]]:
        """Return the paths that a forecast rests on, those of each history by the name of its file."""
        if self.catalogs is None:
            return {}
        every, num = found.paths.flat(), found.num_paths
        names = self._names[found.first_index : found.first_index + len(found.histories)]
        return {name: every.part(num * i, num * i + num) for i, name in enumerate(names)}

    @cached_property
    def _id_type(self) -> Any:
        """The Arrow type of the ids of all histories; text where they have none."""
        import pyarrow as pa

        found = ids_column([history.id for history in self.histories]).type
        return pa.string() if found == pa.null() else found
