"""The limits of the machine, measured: float32 matrix products, and copies in main memory."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import NamedTuple

import torch

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
