"""Peak memory of a piece of work: what it needs beyond what the process or the device held before it."""

from __future__ import annotations

import ctypes
import re
import sys
from pathlib import Path

import torch

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
