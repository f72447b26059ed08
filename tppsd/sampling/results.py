"""The results of sampling: many sequences in ragged storage, with what is needed to reproduce and to judge them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

import torch
from torch import Tensor

from tppsd.data.sequences import EventSequence
from tppsd.models.distribution import NextEventDistribution
from tppsd.sampling.options import SamplingOptions
from tppsd.sampling.stats import SamplingStats

if TYPE_CHECKING:
    from tppsd.data.flat_sequences import FlatSequences


@dataclass(frozen=True, eq=False)
class SampledSequences:
    """Holds sequences sampled in one call, in index order.

    Attributes:
        flat_event_times, flat_inter_times float64, flat_marks int64, flat_log_probs float64 or None: all sampled
            events, one sequence after the other.
        offsets: int64 (num_sequences + 1,): sequence i owns flat[offsets[i] : offsets[i + 1]].
        index, history_index, path_index: int64 (num_sequences,); history_index is -1 from scratch.
        truncated: bool (num_sequences,): `max_events` was reached before the sequence's own end.
        stopped: bool (num_sequences,): the last event is of one of the `stop_marks`, and ended the sequence.
        ends: float64 (num_sequences,): end of the window, nan where the sequence ended with an event: by its number of
            events, or by one of the `stop_marks`.
        histories: what each sequence continues, as far as the model saw it (`history_lookback` of `tppsd.sample`): an
            empty window from scratch, or the drawn first event where the first is given.
        options, seed, batch_size, stats: how they were made, with `batch_size` running sequences; recorded draft
            lengths give the same sequences again with as many.
        num_marks, mark_names: marks of the target, and their names in its data where they had some.
        time_unit, time_origin: unit of its times, and the timestamp that is time 0; None where its data have none.
        target_hash, draft_hash: of the models that have one.
        distributions: None unless asked for; per sequence the target's distribution of each sampled event, a drawn
            first event aside, of batch shape (num_events,), and after them that of the silence until its end,
            (num_events + 1,), where it ended by its window. They are as they were worked out for the events, by the
            passes of the call: of inter-times since the event before, the first given the silence until which its
                history was observed.
    """

    flat_event_times: Tensor
    flat_inter_times: Tensor
    flat_marks: Tensor
    flat_log_probs: Tensor | None
    offsets: Tensor
    index: Tensor
    history_index: Tensor
    path_index: Tensor
    truncated: Tensor
    stopped: Tensor
    ends: Tensor
    histories: Sequence[EventSequence]
    options: SamplingOptions
    seed: int
    batch_size: int
    stats: SamplingStats
    num_marks: int
    mark_names: tuple[str, ...] | None = None
    target_hash: str | None = None
    draft_hash: str | None = None
    distributions: list[NextEventDistribution] | None = None
    time_unit: str | None = None
    time_origin: str | None = None

    def __len__(self) -> int:
        return len(self.index)

    def __repr__(self) -> str:
        how = f"{self.options}, seed={self.seed}, batch_size={self.batch_size}"
        return f"SampledSequences({len(self)} sequences, {self.stats.num_events} events, {how})"

    def _own(self, flat: Tensor, i: int) -> Tensor:
        return flat[self.offsets[i] : self.offsets[i + 1]]

    @overload
    def __getitem__(self, i: int) -> EventSequence: ...

    @overload
    def __getitem__(self, i: slice) -> list[EventSequence]: ...

    def __getitem__(self, i: int | slice) -> EventSequence | list[EventSequence]:
        """Return the new events of sequence i (of several, for a slice), from "observed until" to its end.

        Where the model's data have no `t_start`, a from-scratch sequence begins with its drawn first event, which is
        given.
        """
        return self._flat[i]

    def __iter__(self) -> Iterator[EventSequence]:
        return iter(self._flat)

    @property
    def event_times(self) -> list[Tensor]:
        """Times of the new events per sequence, float64: those of `[i]`."""
        return [sequence.event_times for sequence in self]

    @property
    def marks(self) -> list[Tensor]:
        """Marks of the new events per sequence, int64: those of `[i]`."""
        return [sequence.marks for sequence in self]

    @property
    def log_probs(self) -> list[Tensor] | None:
        """The target's log-density of each new event per sequence, a drawn first event aside; None unless asked for."""
        if self.flat_log_probs is None:
            return None
        return [self._own(self.flat_log_probs, i) for i in range(len(self))]

    @property
    def num_given(self) -> list[int]:
        """How many leading events of each sequence of `with_history()` were given."""
        return [len(history) for history in self.histories]

    @property
    def observed_until(self) -> list[float]:
        """The time up to which the history of each sequence was observed."""
        return [history.window_end for history in self.histories]

    def with_history(self) -> list[EventSequence]:
        """Return each sequence with the events it continues, on the whole window."""
        return [self._joined(i) for i in range(len(self))]

    def _joined(self, i: int) -> EventSequence:
        history, end = self.histories[i], float(self.ends[i])
        new = [self._own(f, i) for f in (self.flat_event_times, self.flat_marks, self.flat_inter_times)]
        old = [history.event_times, history.marks, history.inter_times]
        times, marks, inter_times = (torch.cat(pair) for pair in zip(old, new, strict=True))
        t_end = None if end != end else end
        is_cut = history.censored_start  # its first inter-time is none
        return EventSequence(
            times, marks, history.t_start, t_end, int(self.index[i]), inter_times, censored_start=is_cut
        )

    def to_columns(self) -> dict[str, list[Any]]:
        """Return one row per sequence of new events.

        Columns: dim_process, seq_idx, seq_len, time_since_start, time_since_last_event, type_event (EasyTPP; times on
        the data's own clock); mark_names (of marks 0, 1, ...; null where the target's data had numbers); t_start and
        t_end (null where the first event is given, or where the sequence ended with an event); history_index,
        path_index, truncated, stopped, target_hash, draft_hash, seed, options (JSON), batch_size (running sequences:
        together with the options it gives the same sequences again); choice (what method = "auto" chose and why; null
        for others); time_unit and time_origin (null where the target's data have none); history_id (the id of what is
        continued, as text, or null).
        """
        from tppsd.sampling.columns import to_table

        columns: dict[str, list[Any]] = to_table(self).to_pydict()
        return columns

    def flat(self) -> FlatSequences:
        """Return the sequences of `[i]` in flat storage, without building each."""
        return self._flat

    @cached_property
    def _flat(self) -> FlatSequences:
        from tppsd.data.flat_sequences import FlatSequences

        if any(
            i < 0 and one.first_is_given for i, one in zip(self.history_index.tolist(), self.histories, strict=True)
        ):
            return FlatSequences.of(self.with_history())
        distinct = {id(history): history for history in self.histories}  # paths share their history
        edges = {
            key: (own.window_end, own.window_end - (float(own.event_times[-1]) if len(own) else own.window_start))
            for key, own in distinct.items()
        }
        starts, silences = torch.tensor([edges[id(one)] for one in self.histories], dtype=torch.float64).view(-1, 2).T
        has_events = self.offsets.diff() > 0
        inter_times = self.flat_inter_times.clone()  # the windows start later than the inter-time of their first event
        inter_times[self.offsets[:-1][has_events]] -= silences[has_events]
        return FlatSequences(
            self.flat_event_times,
            inter_times,
            self.flat_marks,
            self.offsets,
            starts,
            self.ends,
            torch.full_like(starts, torch.nan),
            torch.zeros(len(self), dtype=torch.bool),
            self.index,
        )

    def to_dataset(self) -> Any:
        """Return a `datasets.Dataset` in the EasyTPP columns plus window and provenance (`to_columns`)."""
        from datasets import Dataset

        return Dataset.from_dict(self.to_columns())

    def to_pandas(self) -> Any:
        """Return a `pandas.DataFrame` with one row per event of every `[i]`.

        Its columns are index, history_index, path_index, time, inter_time, mark, mark_name where marks have names,
        timestamp (UTC) where the target's data have some, history_id where histories have ids, and log_prob if asked
        for (nan for a drawn first event). A sequence without events has no row: `counts()` has one
        for each.
        """
        import pandas as pd

        from tppsd.data.units import Clock

        flat = self.flat()
        repeats = flat.lengths
        names = ("index", "history_index", "path_index")
        frame = {name: getattr(self, name).repeat_interleave(repeats).numpy() for name in names}
        frame["time"], frame["inter_time"] = flat.event_times.numpy(), flat.inter_times.numpy()
        frame["mark"] = flat.marks.numpy()
        if self.mark_names is not None:
            frame["mark_name"] = pd.Categorical.from_codes(frame["mark"], self.mark_names)
        clock = Clock.stored(self.time_unit, self.time_origin)
        if clock.has_dates:
            frame["timestamp"] = clock.stamps(frame["time"])
        if any(history.id is not None for history in self.histories):
            ids = pd.Series([history.id for history in self.histories], dtype=object)
            frame["history_id"] = ids.repeat(repeats.numpy()).to_numpy()
        if self.log_probs is not None:
            missing = [
                torch.full((num - len(own),), torch.nan)
                for num, own in zip(repeats.tolist(), self.log_probs, strict=True)
            ]
            columns = [part for pair in zip(missing, self.log_probs, strict=True) for part in pair]
            frame["log_prob"] = torch.cat(columns).numpy()
        return pd.DataFrame(frame)

    def counts(self) -> Any:
        """Return a `pandas.DataFrame` with one row per sequence, those without events included.

        Its columns are index, history_index, path_index, history_id where histories have ids, num_events, and the
        number of new events of each mark, in a column by its name or number. `to_pandas()` has no row for a sequence
        without events, so that means over its groups leave those out.
        """
        import pandas as pd

        flat = self.flat()
        frame: dict[Any, Any] = {name: getattr(self, name).numpy() for name in ("index", "history_index", "path_index")}
        if any(history.id is not None for history in self.histories):
            frame["history_id"] = pd.Series([history.id for history in self.histories], dtype=object)
        frame["num_events"] = flat.lengths.numpy()
        places = torch.arange(len(self)).repeat_interleave(flat.lengths) * self.num_marks + flat.marks
        own = torch.bincount(places, minlength=len(self) * self.num_marks).view(-1, self.num_marks)
        names = range(self.num_marks) if self.mark_names is None else self.mark_names
        return pd.DataFrame(frame | {name: own[:, mark].numpy() for mark, name in enumerate(names)})

    def to_parquet(self, path: str | Path) -> Path:
        """Write one row per sequence in the EasyTPP columns; an interrupted write leaves nothing behind."""
        from tppsd.sampling.columns import to_table, write_durably

        return write_durably(to_table(self), path)
