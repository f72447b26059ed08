"""Requests of a `predict` run: chunks of (index, history, end).

They are from scratch or continue a split of the data.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, NamedTuple

import torch
from torch.utils.data import DataLoader

from tppsd.data.batch import EventBatch
from tppsd.data.flat_sequences import FlatSequences
from tppsd.data.lookback import Windows
from tppsd.data.sequences import EventSequence, sequences_hash
from tppsd.data.units import Clock
from tppsd.lightning.chunks import ChunkDataset, chunk_loader
from tppsd.sampling.checks import whole_number
from tppsd.sampling.requests import check_memory

SHARE = 100  # files of a job, where nobody says how many
SMALLEST = 256  # sequences of a file
LARGEST = 2**20  # events of a file: about 20 MB
SOME_EVENTS = 100  # of a sequence, where nothing tells how many it will have


@dataclass(frozen=True)
class Requests:
    """Says which sequences to sample.

    Attributes:
        num_sequences: sequences from scratch, or continuations of each history.
        continue_split: the histories are beginnings of the sequences of this split; None = from scratch.
        max_histories: at most so many of them, from the first on; None = all.
        given_events: a history is the first so many events (the whole sequence where it is shorter).
        given_fraction: a history is this share of the events, rounded down.
        given_until: a history is what happened in this time since the window's start, and was observed until then.
        t_start: start of from-scratch windows.
        t_end, horizon, num_events: where sequences end, whichever comes first: a time, a time after the start (or after
            the history), a number of new events. All None: a history's sequence ends where its window in the data does,
            a sequence from scratch after the median length of the training split's windows.
        chunk_size: sequences per predict batch and written file; the continuations of one history stay together. None =
            a hundredth of all, at least SMALLEST and at most with some LARGEST events: an interrupted job loses a
            hundredth, and files of a large job have 10 to 40 MB.
        history_lookback: how much of each history the model sees, in units of time or as 28d. None = all of it; but of
            a history that is longer than the windows of the model's training data only as much as their lookback (half
            a window without one).
    """

    num_sequences: int = 1
    continue_split: Literal["train", "validation", "test"] | None = None
    max_histories: int | None = None
    given_events: int | None = None
    given_fraction: float | None = None
    given_until: float | None = None
    t_start: float = 0.0
    t_end: float | None = None
    horizon: float | None = None
    num_events: int | None = None
    chunk_size: int | None = None
    history_lookback: float | str | None = None

    def __post_init__(self) -> None:
        for name, least in (("num_sequences", 1), ("chunk_size", 1), ("max_histories", 1), ("given_events", 0)):
            most = 2**62 if name == "num_sequences" else None
            if getattr(self, name) is not None:
                object.__setattr__(self, name, whole_number(name, getattr(self, name), least, most))
        if self.given_until is not None and not self.given_until >= 0:
            raise ValueError(
                f"given_until = {self.given_until} must not be negative: it is a time since the window's start"
            )
        given = [name for name in ("given_events", "given_fraction", "given_until") if getattr(self, name) is not None]
        others = [name for name in ("max_histories", "history_lookback") if getattr(self, name) is not None]
        if self.continue_split is None and (given or others):
            raise ValueError(f"{(given + others)[0]} describes histories; say which with continue_split")
        if self.continue_split is not None and len(given) != 1:
            raise ValueError(
                f"continue_split = {self.continue_split!r} needs one of given_events, given_fraction, given_until"
            )
        if self.given_fraction is not None and not 0 <= self.given_fraction <= 1:
            raise ValueError(f"given_fraction = {self.given_fraction} must lie between 0 and 1")

    def history(self, sequence: EventSequence) -> EventSequence:
        """Return the beginning of `sequence` that is given; a first event without a time of its own always is."""
        fewest, until = int(sequence.first_is_given), None
        if self.given_until is not None:
            until = min(sequence.window_start + self.given_until, sequence.window_end)
            num_given = int((sequence.event_times <= until).sum())
        elif self.given_fraction is not None:
            num_given = math.floor(self.given_fraction * len(sequence))
        else:
            num_given = min(self.given_events or 0, len(sequence))
        return sequence.prefix(max(fewest, num_given), until)

    def loader(self, data: Any = None) -> DataLoader[RequestChunk]:
        """Return a loader of chunks in index order for `Trainer.predict(sampler, loader)`.

        A distributed run shares them out, each exactly once.

        Args:
            data: an EventDataModule; needed to continue a split and for the default end.
        """
        return chunk_loader(RequestDataset(self, data))


class RequestChunk(NamedTuple):
    """Is one predict batch.

    Fields:
        chunk, num_chunks: its number, and how many there are.
        first_index: index of its first sequence.
        num_sequences: sequences from scratch, or continuations of each history.
        history: the histories to continue; None = from scratch.
        arguments: further keywords of `tppsd.sample`.
        ids: of the histories, or None.
    """

    chunk: int
    num_chunks: int
    first_index: int
    num_sequences: int
    history: EventBatch | None
    arguments: dict[str, Any]
    ids: tuple[Any, ...] | None = None

    def to_come(self, num_processes: int) -> range:
        """Return this chunk and those after it that the same process has (tppsd.lightning.chunks.ShareSampler)."""
        return range(self.chunk, self.num_chunks, num_processes)


class RequestDataset(ChunkDataset[RequestChunk]):
    """Holds chunks in index order.

    Each can be sampled anywhere: its sequences depend on their index and the seed alone.
    """

    def __init__(self, requests: Requests, data: Any = None) -> None:
        self.requests = requests
        self.sequences: list[EventSequence] = []
        self.mark_names: tuple[str, ...] | None = None  # of the histories
        if requests.continue_split is not None:
            if data is None:
                raise ValueError(
                    f"continue_split = {requests.continue_split!r} needs the data to continue (--data.path)"
                )
            self.sequences = data.sequences(requests.continue_split)[: requests.max_histories]
            self.mark_names = data.dataset.mark_names
        ends = {"t_end": requests.t_end, "horizon": requests.horizon, "num_events": requests.num_events}
        self.ends: dict[str, Any] = {name: end for name, end in ends.items() if end is not None}
        self.reach: dict[str, float] = {}  # how much of each history the model sees, where that is said
        if requests.history_lookback is not None:
            clock = Clock(data.dataset.time_unit)
            self.reach["history_lookback"] = float(clock.duration(requests.history_lookback, "history_lookback"))
        if not self.ends and requests.continue_split is None:
            if data is None:
                raise ValueError(
                    "sampling needs an end: give t_end, horizon or num_events, or data whose windows to imitate"
                )
            self.ends["horizon"] = median_window(data.sequences("train"))
        self.paths = self.per_item = 1 if requests.continue_split is None else requests.num_sequences
        self.num_items = requests.num_sequences if requests.continue_split is None else len(self.sequences)
        chunk_size = requests.chunk_size
        if chunk_size is None:
            chunk_size = default_chunk_size(self.num_items * self.paths, self._expected_events(data))
        self.items_per_chunk = max(1, chunk_size // self.paths)
        check_memory(self.paths, min(self.items_per_chunk, max(1, self.num_items)))  # of a chunk
        self.check_number("num_sequences" if requests.continue_split is None else "histories")
        asked = asdict(requests)
        del asked["history_lookback"]  # without one the record is that of before there was one
        self.job = (
            asked
            | self.ends
            | self.reach
            | {"histories": sequences_hash(self.sequences) if self.sequences else None, "chunk_size": chunk_size}
        )

    def outgrow(self, windows: Windows) -> bool:
        """Say whether a history is longer than any of these windows, and nothing else says how much of it is taken."""
        longer = filter(windows.are_outgrown_by, self.sequences)  # others begin with no longer ones
        return not self.reach and any(windows.are_outgrown_by(self.requests.history(one)) for one in longer)

    def _expected_events(self, data: Any) -> float:
        """Return about how many events a sequence will have: as many as are asked for, or as those of the data."""
        if self.requests.num_events is not None:
            return self.requests.num_events
        sequences = self.sequences if self.sequences or data is None else data.sequences("train")
        return float(FlatSequences.of(sequences).lengths.double().mean()) if sequences else SOME_EVENTS

    def __getitem__(self, chunk: int) -> RequestChunk:
        first = chunk * self.items_per_chunk
        items = range(first, min(first + self.items_per_chunk, self.num_items))
        if self.requests.continue_split is None:
            arguments = self.ends | {"t_start": self.requests.t_start}
            return RequestChunk(chunk, len(self), first, len(items), None, arguments)
        sources = [self.sequences[i] for i in items]
        window_ends = torch.tensor([s.window_end for s in sources], dtype=torch.float64).repeat_interleave(self.paths)
        history = EventBatch.from_sequences(self.requests.history(s) for s in sources)
        ids = None if all(s.id is None for s in sources) else tuple(s.id for s in sources)
        arguments = (self.ends or {"t_end": window_ends}) | self.reach
        return RequestChunk(chunk, len(self), first, self.paths, history, arguments, ids)


def default_chunk_size(num_sequences: int, num_events: float) -> int:
    """Return how many of all sequences a file holds, where one has about `num_events` events.

    It depends on the request and its data only, so that an interrupted job finds its files.
    """
    most = max(SMALLEST, int(LARGEST / max(1.0, num_events)))
    return min(most, max(SMALLEST, math.ceil(num_sequences / SHARE)))


def median_window(sequences: Sequence[EventSequence]) -> float:
    """Return the median length of the windows."""
    flat = FlatSequences.of(sequences)
    return float((flat.window_end - flat.window_start).median())
