"""The processes of a distributed run: how long they wait for each other, and what is said when one does not come."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from datetime import timedelta
from typing import Any

from lightning.fabric.plugins.collectives.torch_collective import default_pg_timeout  # type: ignore[attr-defined]
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import distributed

_LONGEST = timedelta(days=1)  # that shares of a sampling job may differ; who dies meanwhile is noticed at once
_POLL = 0.05  # seconds


class StartTogether(Callback):
    """Lets the processes of a run wait for each other at the start for `seconds`, not for the backend's 30 minutes.

    Afterwards the backend's own time holds again: processes may well take minutes for different work, and one that
    dies then closes its connections, which the others notice at once.

    Args:
        seconds: that a process waits for the last one to come.
    """

    def __init__(self, seconds: float = 60.0) -> None:
        if not 0 < seconds < timedelta.max.total_seconds():
            raise ValueError(f"start_timeout = {seconds} must be a positive number of seconds")
        self.seconds = seconds
        self._is_ours = False

    def arrange(self, trainer: Trainer) -> None:
        """Set the time of a strategy that has the default; it must come before the run begins."""
        if getattr(trainer.strategy, "_timeout", None) == default_pg_timeout:
            # the seam that DDPStrategy has
            trainer.strategy._timeout = timedelta(seconds=self.seconds)  # type: ignore[attr-defined]
            self._is_ours = True

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Give the backend its own time back."""
        if self._is_ours and distributed.is_initialized():
            distributed.distributed_c10d._set_pg_timeout(default_pg_timeout)

    def explain(self, trainer: Trainer, error: RuntimeError) -> ValueError | None:
        """Return one sentence for what a backend says in many lines; None for an error of another kind."""
        kinds = (distributed.DistNetworkError, distributed.DistStoreError, distributed.DistBackendError)
        if trainer.world_size == 1 or not (isinstance(error, kinds) or "gloo" in str(error)):
            return None
        who = f"process {trainer.global_rank} of {trainer.world_size}"
        if distributed.is_initialized():
            return ValueError(f"{who} lost another one, which has ended or cannot be reached; see what that one says")
        where = f"{os.environ.get('MASTER_ADDR')}:{os.environ.get('MASTER_PORT')}"
        return ValueError(
            f"{who} waited {self.seconds:g} seconds for the others at {where}, and not all of them came; see what they "
            "say, or wait longer with --start_timeout"
        )


class Meeting:
    """Is a point that the processes of a run reach at very different times, through a group of its own."""

    def __init__(self) -> None:
        self._group: Any = None
        self._arrival: Any = None

    def arrange(self) -> None:
        """Make the group; all processes do so together. Without a distributed run nobody waits."""
        self._arrival = None
        if distributed.is_initialized() and distributed.get_world_size() > 1:
            self._group = distributed.new_group(backend="gloo", timeout=_LONGEST)

    def wait(self, seconds: float | None = None, is_over: Callable[[], bool] = lambda: False) -> bool:
        """Wait until all processes have come.

        Args:
            seconds: at most so long; None = as long as they live.
            is_over: asked often; ends the waiting.

        Returns:
            Whether all have come.
        """
        if self._group is None:
            return True
        started = time.monotonic()
        if self._arrival is None:
            self._arrival = distributed.barrier(group=self._group, async_op=True)
        while not self._arrival.is_completed():
            if is_over() or (seconds is not None and time.monotonic() - started > seconds):
                return False
            time.sleep(_POLL)
        try:
            self._arrival.wait()
        except RuntimeError:
            if seconds is not None:  # nobody depends on it
                return False
            raise
        return True
