"""What the machine can do at most, measured at start: matrix products, copying, and one operator after another."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

_SIDE = 1024  # of the matrices: large enough for the full rate, small enough for a tenth of a second
_NUM_COPIED = 32 * 1024 * 1024  # float32 numbers, 128 MiB: more than any cache holds
_NUM_SMALL = 2000
_REPEATS = 7


@dataclass(frozen=True)
class Machine:
    """Attributes: flops per second of float32 matrix products; bytes per second read and written by a large copy;
    seconds of one operator on one number, which is what calling it costs."""

    flops: float
    bytes: float
    operator: float

    @classmethod
    def measured(cls, device: torch.device) -> Machine:
        """With torch's present number of threads."""
        a = torch.ones(_SIDE, _SIDE, device=device)
        large, copy = torch.ones(2, _NUM_COPIED, device=device)
        small = torch.ones(1, device=device)

        def operators() -> None:
            for _ in range(_NUM_SMALL):
                torch.neg(small)

        with torch.inference_mode():
            return cls(
                flops=2 * _SIDE**3 / _seconds(lambda: torch.mm(a, a), device),
                bytes=2 * large.nbytes / _seconds(lambda: copy.copy_(large), device),
                operator=_seconds(operators, device) / _NUM_SMALL,
            )


def synchronize(device: torch.device) -> None:
    """Wait for the device, whose work runs ahead of Python."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _seconds(work: Callable[[], object], device: torch.device) -> float:
    """Median of a few runs after a warm-up."""
    runs = []
    for _ in range(1 + _REPEATS):
        synchronize(device)
        started = time.perf_counter()
        work()
        synchronize(device)
        runs.append(time.perf_counter() - started)
    return statistics.median(runs[1:])
