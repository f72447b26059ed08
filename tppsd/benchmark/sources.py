"""The data of a cell: a simulated process or a data set, and what its samplers are asked for."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch

from tppsd.benchmark.plan import Plan
from tppsd.data.sequences import EventBatch, EventSequence
from tppsd.data.shortening import shorten
from tppsd.lightning.datamodule import EventDataModule
from tppsd.processes.presets import PRESETS

DEFAULT_NUM_EVENTS = 200  # of a sequence of models of unknown data
DEFAULT_CONTINUATIONS = 8  # of one run on real data, whose sequences are short
MAX_EVENTS = 5_000  # of one sampled sequence: a badly trained model may explode


class Request(NamedTuple):
    """Holds what one run samples: sequences from scratch (`histories` is None), or a continuation of each history.

    Fields: num_sequences; histories; t_end, a list with one end per sequence or None; num_events, new events or None.
    """

    num_sequences: int
    histories: list[EventSequence] | None
    t_end: list[float] | None
    num_events: int | None

    def arguments(self) -> dict[str, Any]:
        """Return the keywords of `tppsd.sample`."""
        ends = {"t_end": self.t_end, "num_events": self.num_events}
        given = {name: end for name, end in ends.items() if end is not None}
        if self.histories is None:
            return {"num_sequences": self.num_sequences, **given}
        return {"history": EventBatch.from_sequences(self.histories), **given}


def open_data(plan: Plan, name: str) -> EventDataModule:
    """Return the data module of a preset or a data set, its validation split cut to what the plan affords.

    Raises:
        FileNotFoundError, ValueError: it cannot be read; the sentence says why.
    """
    training = plan.training
    if name in PRESETS:
        data = EventDataModule(process=name, num_sequences=training.num_sequences)
    else:
        local = None if plan.data_root is None else Path(plan.data_root) / Path(name).name
        data = EventDataModule(path=str(local) if local is not None and local.is_dir() else name)
    splits = dict(data.dataset.splits)
    if "validation" in splits:
        splits["validation"], _ = shorten(splits["validation"], max_events=training.max_scored_events)
    data.dataset = replace(data.dataset, splits=splits)
    return data


def request(plan: Plan, data: EventDataModule | None, run: int, num_sequences: int) -> Request:
    """Return what run number `run` samples: other histories in every run, from the first test sequence on."""
    if data is None:
        return Request(num_sequences, None, None, plan.num_events or DEFAULT_NUM_EVENTS)
    if data.preset is not None:
        t_end = None if plan.num_events is not None else [data.preset.t_end] * num_sequences
        return Request(num_sequences, None, t_end, plan.num_events)
    test = data.sequences("test")
    sources = [test[i % len(test)] for i in range(run * num_sequences, (run + 1) * num_sequences)]
    histories = [history(plan, source) for source in sources]
    ends = None if plan.num_events is not None else [source.window_end for source in sources]
    return Request(num_sequences, histories, ends, plan.num_events)


def history(plan: Plan, source: EventSequence) -> EventSequence:
    """Return the first `given_events` events, or the first half where the sequence is not twice as long."""
    return source.prefix(max(1, min(plan.given_events, len(source) // 2)))


def sequences_on(device: torch.device, sequences: list[EventSequence]) -> EventBatch:
    """Return a padded batch of `sequences` on `device`."""
    return EventBatch.from_sequences(sequences).to(device)
