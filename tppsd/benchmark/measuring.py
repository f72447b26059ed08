"""The clock: samplers of a cell run in turn, so that a drift of the machine's speed meets all alike."""

from __future__ import annotations

import time
from dataclasses import dataclass, field, replace
from typing import Any

from tppsd.benchmark.memory import PeakMemory
from tppsd.benchmark.samplers import Sampler
from tppsd.benchmark.sources import Request
from tppsd.data.sequences import EventSequence
from tppsd.models.resolve import model_device
from tppsd.sampling.results import SampledSequences
from tppsd.sampling.stats import SamplingStats

_WARM_UP_SEED = 10_000  # of a run that is thrown away


@dataclass
class Samples:
    """Holds sequences of one or several runs, history first, renumbered, with what is needed to score them."""

    sequences: list[EventSequence] = field(default_factory=list)
    num_given: list[int] = field(default_factory=list)
    observed_until: list[float] = field(default_factory=list)
    stats: list[SamplingStats] = field(default_factory=list)

    def add(self, sampled: SampledSequences | list[EventSequence], request: Request) -> int:
        """Append the samples of a run, and return how many new events they have."""
        if isinstance(sampled, SampledSequences):
            sequences, given, until = sampled.with_history(), sampled.num_given, sampled.observed_until
            self.stats.append(sampled.stats)
        else:
            sequences = sampled
            given = [0] * len(sampled) if request.histories is None else [len(history) for history in request.histories]
            until = [
                s.window_start if n == 0 else float(s.event_times[n - 1]) for s, n in zip(sampled, given, strict=True)
            ]
        first = len(self.sequences)
        self.sequences += [replace(sequence, index=first + i) for i, sequence in enumerate(sequences)]
        self.num_given += given
        self.observed_until += until
        return sum(len(s) - n for s, n in zip(sequences, given, strict=True))


@dataclass
class Timed:
    """Holds the counted runs of a sampler.

    Attributes:
        seconds: wall-clock time of each run.
        num_events: new events of each run.
        peak_bytes: peak memory of each run, None where it cannot be measured.
        samples: all runs together.
    """

    sampler: Sampler
    seconds: list[float] = field(default_factory=list)
    num_events: list[int] = field(default_factory=list)
    peak_bytes: list[int | None] = field(default_factory=list)
    samples: Samples = field(default_factory=Samples)

    @property
    def seconds_per_event(self) -> list[float]:
        """Seconds per event of each run; a run without events counts as one event."""
        return [s / max(1, n) for s, n in zip(self.seconds, self.num_events, strict=True)]


def alternate(
    samplers: list[Sampler], requests: list[Request], batch_size: int, seed: int, advance: Any
) -> list[Timed]:
    """Time every sampler on every request in turn; a first run of each warms up.

    Run r has seed `seed` + r for all of them.

    Args:
        requests: one per repeat.
        advance: called after each run.
    """
    for sampler in samplers:
        sampler.run(requests[0], _WARM_UP_SEED, batch_size)
        advance()
    timed = [Timed(sampler) for sampler in samplers]
    for repeat, request in enumerate(requests):
        for own in timed:
            with PeakMemory(model_device(own.sampler.model)) as peak:
                started = time.perf_counter()
                sampled = own.sampler.run(request, seed + repeat, batch_size)
                elapsed = time.perf_counter() - started
            trial = sampled.stats.trial_seconds if isinstance(sampled, SampledSequences) else 0.0
            own.seconds.append(elapsed - trial)
            own.peak_bytes.append(peak.bytes)
            own.num_events.append(own.samples.add(sampled, request))
            advance()
    return timed
