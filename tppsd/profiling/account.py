"""Seconds of a sampling run by step of the round: what is timed is the sampler itself, its steps wrapped for the
while."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from typing import Any

import torch

from tppsd.backends.cpp.operated import OperatedModel
from tppsd.models.cache import KVCache, RowCache
from tppsd.profiling.machine import synchronize
from tppsd.sampling import autoregressive, compiled_speculative
from tppsd.sampling.autoregressive import Autoregressive
from tppsd.sampling.compiled_speculative import CompiledSpeculative
from tppsd.sampling.drafters import ModelDrafter
from tppsd.sampling.engine import Engine
from tppsd.sampling.fixed_point import FixedPoint
from tppsd.sampling.jacobi_drafter import JacobiDrafter
from tppsd.sampling.noise import RowNoise
from tppsd.sampling.parallel_drafter import ParallelDrafter
from tppsd.sampling.poisson_drafter import PoissonDrafter
from tppsd.sampling.rows import ModelRows, Rows
from tppsd.sampling.self_drafter import SelfDrafter
from tppsd.sampling.speculative import Speculative
from tppsd.sampling.tree_speculative import TreeSpeculative

DRAFT, TARGET, CACHE, ACCEPT = "draft", "target pass", "cache writes", "acceptance"
CORRECT, COMMIT, NOISE, BETWEEN = "drawing what follows", "commit", "noise", "between"
ROUNDS = "compiled rounds"  # drafts, laws and draws in one call, and passes where they are compiled
STEPS = (DRAFT, TARGET, CACHE, ACCEPT, CORRECT, ROUNDS, COMMIT, NOISE, BETWEEN)

_DRAFTERS = (ModelDrafter, ParallelDrafter, SelfDrafter, JacobiDrafter, PoissonDrafter)
_PARTS: list[tuple[Any, str, str]] = [
    *((drafter, "propose", DRAFT) for drafter in _DRAFTERS),
    *((drafter, "commit", COMMIT) for drafter in _DRAFTERS),
    (ModelRows, "extend", TARGET), (ModelRows, "follow", TARGET),
    (RowCache, "write", CACHE), (KVCache, "write_layer", CACHE),
    (compiled_speculative, "speculate", ROUNDS),
    (compiled_speculative, "speculate_by_operators", ROUNDS), (OperatedModel, "follow", ROUNDS),
    (OperatedModel, "extend", TARGET),
    (Speculative, "judge", ACCEPT), (TreeSpeculative, "judge", ACCEPT),
    (Speculative, "correct", CORRECT), (FixedPoint, "correct", CORRECT), (autoregressive, "draw_event", CORRECT),
    (Speculative, "commit", COMMIT), (Rows, "commit", COMMIT),
    (RowNoise, "window", NOISE), (RowNoise, "loop", NOISE),
]  # fmt: skip
# the loop over rounds: what none of the parts takes
_ROUNDS = [(Speculative, "round"), (CompiledSpeculative, "round"), (Autoregressive, "round"), (Engine, "refill")]


class Account:
    """Attributes: seconds of every step of STEPS, without those of the steps within it."""

    def __init__(self, device: torch.device) -> None:
        self.seconds = dict.fromkeys(STEPS, 0.0)
        self._device = device
        self._open: list[str] = []
        self._since = 0.0

    @contextlib.contextmanager
    def watching(self) -> Iterator[None]:
        """Time the steps of all samplers that run meanwhile."""
        with contextlib.ExitStack() as stack:
            for owner, name, step in [*_PARTS, *((owner, name, BETWEEN) for owner, name in _ROUNDS)]:
                if (right := vars(owner).get(name)) is not None:  # an inherited step is wrapped where it is defined
                    stack.callback(setattr, owner, name, right)
                    setattr(owner, name, self._timed(right, step))
            yield

    def _timed(self, step: Callable[..., Any], name: str) -> Callable[..., Any]:
        def timed(*args: Any, **kwargs: Any) -> Any:
            # a pass of the draft model is a part of drafting
            self._turn(DRAFT if name == TARGET and DRAFT in self._open else name)
            try:
                return step(*args, **kwargs)
            finally:
                self._turn(None)

        return timed

    def _turn(self, opened: str | None) -> None:
        """The step that has run until now ends or is interrupted; `opened` begins, or the one before goes on."""
        synchronize(self._device)
        now = time.perf_counter()
        if self._open:
            self.seconds[self._open[-1]] += now - self._since
        if opened is None:
            self._open.pop()
        else:
            self._open.append(opened)
        self._since = time.perf_counter()
