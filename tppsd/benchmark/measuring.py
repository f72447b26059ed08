"""The clock and the machine: samplers of a cell run in turn, so that a drift of the machine's speed meets all alike."""

from __future__ import annotations

import ctypes
import re
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import torch

from tppsd.benchmark.samplers import Request, Sampler
from tppsd.data.sequences import EventSequence
from tppsd.models.resolve import model_device
from tppsd.sampling.results import SampledSequences
from tppsd.sampling.stats import SamplingStats

_SIDE = 1024  # of the matrices: large enough for the full rate, small enough for a tenth of a second
_NUM_COPIED = 32 * 1024 * 1024  # float32 numbers, 128 MiB: more than any cache holds
_REPEATS = 7


class Machine(NamedTuple):
    """Holds the measured limits of a device, with the number of threads that torch had.

    Fields: flops, floating-point operations per second of float32 matrix products; bytes, bytes per second read and
    written by a large copy.
    """

    flops: float
    bytes: float

    @classmethod
    def measured(cls, device: torch.device | str = "cpu") -> Machine:
        """Measure both limits on `device`, as medians of seven runs after a warm-up; takes about half a second."""
        device = torch.device(device)
        a = torch.ones(_SIDE, _SIDE, device=device)
        large, copy = torch.ones(2, _NUM_COPIED, device=device)
        with torch.inference_mode():
            return cls(
                flops=2 * _SIDE**3 / _seconds(lambda: torch.mm(a, a), device),
                bytes=2 * large.nbytes / _seconds(lambda: copy.copy_(large), device),
            )

    def __str__(self) -> str:
        """Say both limits in the units in which data sheets give them."""
        return f"{self.flops / 1e9:.0f} GFLOP/s in float32 matrix products, {self.bytes / 1e9:.1f} GB/s copied"


def _seconds(work: Callable[[], object], device: torch.device) -> float:
    """Return the median time of a few runs of `work` after a warm-up, in seconds."""
    runs = []
    for _ in range(1 + _REPEATS):
        started = time.perf_counter()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        runs.append(time.perf_counter() - started)
    return statistics.median(runs[1:])


_STATUS, _RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")


class PeakMemory:
    """Measures peak memory: `with PeakMemory(device) as peak: ...`, then `peak.bytes`.

    None where the system does not say.

    On CUDA the tensors of this process. On Linux the resident memory: memory that the allocator keeps though it is free
    is returned first, so that work is charged for what it takes and not for what earlier work left behind.
    """

    def __init__(self, device: torch.device | str = "cpu") -> None:
        self.device = torch.device(device)
        self.bytes: int | None = None

    def __enter__(self) -> PeakMemory:
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
            self._before: int | None = torch.cuda.memory_allocated(self.device)
        else:
            self._before = _resident("VmRSS") if _reset_peak() else None
        return self

    def __exit__(self, *_: object) -> None:
        if self._before is None:
            return
        peak = torch.cuda.max_memory_allocated(self.device) if self.device.type == "cuda" else _resident("VmHWM")
        self.bytes = None if peak is None else max(0, peak - self._before)


def _reset_peak() -> bool:
    """Let VmHWM begin anew at the present size, and return False where that cannot be done."""
    if not sys.platform.startswith("linux"):
        return False
    try:
        ctypes.CDLL(None).malloc_trim(0)
    except (AttributeError, OSError):  # not glibc
        return False
    try:
        _RESET.write_text("5")
    except OSError:
        return False
    return True


def _resident(name: str) -> int | None:
    """Return VmRSS or VmHWM of this process in bytes."""
    found = re.search(rf"^{name}:\s+(\d+) kB", _STATUS.read_text(), re.MULTILINE)
    return None if found is None else 1024 * int(found[1])


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
