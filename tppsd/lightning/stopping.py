"""SIGTERM, answered at a good moment: what clusters and `kill` send before they kill."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any

from lightning.pytorch.utilities.exceptions import SIGTERMException

EXIT_STATUS = 128 + signal.SIGTERM  # as shells have it


class Stopped(SIGTERMException):
    """Says that SIGTERM ended a run before it was done; a SystemExit with a status that is not 0.

    Args:
        message: one sentence that says how to go on.
    """

    def __init__(self, message: str) -> None:
        super().__init__(EXIT_STATUS)
        self.message = message


class TermListener:
    """Notes that SIGTERM has come, and hands it on to the processes that this one has started.

    Attributes:
        is_told: SIGTERM has come.
    """

    def __init__(self) -> None:
        self.is_told = False
        self._hand_on: Callable[[int], None] | None = None
        self._before: Any = None

    def listen(self, hand_on: Callable[[int], None] | None = None) -> None:
        """Take the signal over, in the main thread (others cannot)."""
        if threading.current_thread() is threading.main_thread():
            self._hand_on = hand_on
            self._before = signal.signal(signal.SIGTERM, self._note)

    def _note(self, signum: int, frame: FrameType | None) -> None:
        if not self.is_told and self._hand_on is not None:
            self._hand_on(signum)
        self.is_told = True

    def restore(self) -> None:
        """Give the signal back to whoever had it."""
        if self._before is not None:
            signal.signal(signal.SIGTERM, self._before)
            self._before = None
