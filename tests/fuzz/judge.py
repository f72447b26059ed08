"""What every case must end in: a result or one sentence, in time."""

from __future__ import annotations

import random
import resource
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tppsd.cli import meant_for_the_user

LONGEST_MESSAGE = 2_000
LONGEST_SECONDS = 10  # of processor time: other processes may be at work
LONGEST_WAIT = 60
MOST_MEMORY = 4 * 2**30  # bytes
ODD_VALUES: list[Any] = [
    None,
    True,
    "",
    "x" * 1_000_000,
    "1e309",
    float("nan"),
    float("inf"),
    0,
    -1,
    10**9,
    2**70,
    1e300,
    -1e308,
    1e-320,
    [1, 2],
    [0.5, True, 2.0],
    {"a": 1},
    "2024-02-30",
    "0000-01-01",
    "\x00",
    "naïve ☃",
]


@contextmanager
def time_limit() -> Iterator[None]:
    """Raise in this thread when the block takes longer than ten seconds of processor time, or waits for a minute."""

    def late(*_: Any) -> None:
        raise AssertionError("still at it after the time that a case may take")

    clocks = {signal.SIGPROF: (signal.ITIMER_PROF, LONGEST_SECONDS), signal.SIGALRM: (signal.ITIMER_REAL, LONGEST_WAIT)}
    before = {number: signal.signal(number, late) for number in clocks}
    for clock, seconds in clocks.values():
        signal.setitimer(clock, seconds)
    try:
        yield
    finally:
        for number, (clock, _) in clocks.items():
            signal.setitimer(clock, 0)
            signal.signal(number, before[number])


@contextmanager
def memory_limit() -> Iterator[None]:
    """Let whatever asks for more address space than MOST_MEMORY on top of what is in use fail, where that is known."""
    status = Path("/proc/self/statm")
    if not status.exists():
        yield
        return
    limit, hard = resource.getrlimit(resource.RLIMIT_AS)
    most = int(status.read_text().split()[0]) * resource.getpagesize() + MOST_MEMORY
    resource.setrlimit(resource.RLIMIT_AS, (most if limit == resource.RLIM_INFINITY else min(most, limit), hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (limit, hard))


def sentence_of(act: Callable[[], Any], named: str | None) -> str | None:
    """Do something and return the sentence that it ended in; None if it was done.

    Args:
        act: what is tried.
        named: must be in the sentence, such as the path of a file; None = nothing must.

    Raises:
        AssertionError: it ended in an error that is no user's, in no time, or in a sentence that is none.
    """
    try:
        with time_limit():
            act()
    except (OSError, TypeError, ValueError) as error:
        message = str(error)
        if not meant_for_the_user(error):
            raise AssertionError(f"is a traceback: {error!r:.300}") from error
    except AssertionError:
        raise
    except Exception as error:
        raise AssertionError(f"is a traceback: {error!r:.300}") from error
    else:
        return None
    assert named is None or named in message, f"the sentence does not name {named}: {message[:300]}"
    assert len(message) < LONGEST_MESSAGE, f"the sentence has {len(message):,} characters: {message[:300]}"
    return message


def damaged(data: bytes, rng: random.Random) -> bytes:
    """Return the bytes with one kind of damage, or none."""
    kind, at = rng.randrange(8), rng.randrange(max(1, len(data)))
    if kind == 0:
        return data[:at]
    if kind == 1:
        return data[:at] + bytes([rng.randrange(256)]) + data[at + 1 :]
    if kind == 2:
        return data[:at] + data[at:] * 2
    if kind == 3:
        return data[:at] + rng.choice([b"\x00", b"\xff\xfe", b"\n\n", b",,,", b'"', b"[" * 3_000, b"1e400"]) + data[at:]
    if kind == 4:
        return bytes(rng.randrange(256) for _ in range(200))
    if kind == 5:  # what is not UTF-8, in the first line more often than elsewhere
        at = rng.randrange(20) if rng.random() < 0.5 else at
        return data[:at] + b"\xe9" + data[at:]
    return data
