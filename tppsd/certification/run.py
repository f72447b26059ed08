"""One cell, from its models to its p-values."""

from __future__ import annotations

import hashlib
import math
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tppsd.backends.compile import content_hash
from tppsd.certification.cells import Cell
from tppsd.certification.judge import combined, judge
from tppsd.certification.models import MEAN_INTER_TIME, OWN_ENCODER, build, event_data, with_own_encoder
from tppsd.data.sequences import EventSequence
from tppsd.sampling.results import SampledSequences
from tppsd.sampling.sample import sample

_ROWS = 512  # in flight
_LENGTH = 40  # events per sequence, about
_PILOT = 32, 0.01  # at least so many sequences, and this share of those wanted
_MARGIN = 1.1  # so that a little fewer events per sequence than in the pilot are still enough


def run_cell(
    cell: Cell, num_events: int, seed: int, models: Path, compiled: bool | str = False, dtype: str = "float32"
) -> dict[str, Any]:
    """Sample `num_events` events in a cell, judge them, and return plain values, fit for JSON.

    Passes are as in SamplingOptions.
    """
    started = time.perf_counter()
    target, draft = build(cell, models)
    if compiled == OWN_ENCODER:
        target = with_own_encoder(target)
    samples = draw(cell, target, draft, num_events, seed, compiled, dtype)
    sampled = time.perf_counter()
    p_values = judge(target, samples)
    stats = samples.stats
    return {
        "cell": asdict(cell),
        "p_value": combined(p_values),
        "p_values": p_values,
        "num_events": stats.num_events,
        "num_sequences": len(samples),
        "step_acceptance": None if stats.step_acceptance != stats.step_acceptance else stats.step_acceptance,
        "seed": seed,
        "target_hash": content_hash(target) or content_hash(getattr(target, "model", None)),
        "seconds": {"sampling": sampled - started, "judging": time.perf_counter() - sampled},
    }


def draw(
    cell: Cell,
    target: Any,
    draft: Any,
    num_events: int,
    seed: int,
    compiled: bool | str = False,
    dtype: str = "float32",
) -> SampledSequences:
    """Sample at least `num_events` events, bar a freak pilot, in sequences of about 40.

    How many sequences that takes is learnt from a pilot with another seed, whose samples are thrown away: a number of
    sequences that depended on the samples themselves would bias them.
    """

    def sequences(num_paths: int, purpose: str) -> SampledSequences:
        """Sample so many sequences, with a seed of this cell and purpose."""
        # a seed of its own for every cell: two cells of one target must not share their noise
        own_seed = int.from_bytes(hashlib.sha256(f"{seed}/{purpose}/{cell.name}".encode()).digest()[:4], "big")
        return sample(
            target, draft, history=histories, num_sequences=num_paths, seed=own_seed, batch_size=_ROWS, **end, **options
        )

    unit = 1.0 if cell.encoder == "closed form" else MEAN_INTER_TIME
    histories = None if cell.start == "from scratch" else _histories(cell, unit)
    end: dict[str, Any] = {"num_events": _LENGTH} if cell.end == "number of events" else {"horizon": _LENGTH * unit}
    options: dict[str, Any] = {"method": "autoregressive"}
    if cell.method == "fixed point":
        options = {"method": "fixed_point", "draft_length": cell.draft_length}
    elif cell.method != "autoregressive":
        options = {"method": "speculative", "rule": cell.method}
        options |= {"draft_passes": 2 if cell.draft == "in two passes" else None}
        options |= {"candidates": cell.tree} if cell.candidates else {"draft_length": cell.draft_length}
    options |= {
        "compile": "auto" if compiled == OWN_ENCODER else compiled,
        "dtype": dtype,
        "return_distributions": dtype != "float32",
    }
    num_pilots = max(_PILOT[0], int(_PILOT[1] * num_events / _LENGTH))
    pilot_paths = num_pilots // (len(histories) if histories else 1)
    pilot = sequences(pilot_paths, "pilot")
    return sequences(math.ceil(_MARGIN * num_events * pilot_paths / max(1, pilot.stats.num_events)), "samples")


def _histories(cell: Cell, unit: float) -> list[EventSequence]:
    """Return eight beginnings of 0 to 14 events; with a silence, of up to five mean inter-times, in every one."""
    histories = []
    for i, whole in enumerate(event_data(cell.num_marks, 8, seed=1)):
        times = whole.event_times[: 2 * i] * (unit / MEAN_INTER_TIME)
        last = float(times[-1]) if len(times) else 0.0
        silence = unit * 5.0 * (i + 1) / 8 if cell.start == "silence" else 0.0
        # every second one begins with a given first event
        t_start = None if i % 2 and len(times) else 0.0
        histories.append(EventSequence(times, whole.marks[: 2 * i].clone(), t_start, last + silence, i))
    return histories
