"""Draft lengths that hang on the past as strongly as they can and on no real clock, of calls with
draft_length="auto"."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

from torch import Tensor

from tppsd.sampling import draft_length, engine, speculative
from tppsd.sampling.autoregressive import ModelRunner
from tppsd.sampling.draft_length import FixedDraftLength


class LengthOfThePast(FixedDraftLength):
    """`after_all` behind a round that accepted all of its draft, `after_nothing` behind one that accepted nothing, else
    two."""

    def __init__(self, after_all: int = 2, after_nothing: int = 0) -> None:
        super().__init__(2)
        self.after_all, self.after_nothing = after_all, after_nothing

    def record(
        self, num_drafted: int, num_accepted: Tensor, is_counted: Tensor, seconds: float, num_rounds: int = 1
    ) -> None:
        accepted = int(num_accepted.min())
        self.draft_length = self.after_all if accepted == num_drafted else 2 if accepted else self.after_nothing


@contextmanager
def auto_without_a_clock() -> Iterator[None]:
    """AutoDraftLength, deciding anew in every round by the last few of them, on a machine on which a pass takes a
    second and a round eight more."""
    seconds = 0.0

    def taking(duration: float, right: Any) -> Any:
        def timed(*arguments: Any) -> Any:
            nonlocal seconds
            seconds += duration
            return right(*arguments)

        return timed

    with (
        patch.object(draft_length, "_MEMORY", 8.0),
        patch.object(draft_length, "_DECIDE", 1.0),
        patch.object(ModelRunner, "extend", taking(1.0, ModelRunner.extend)),
        patch.object(speculative, "speculative_round", taking(8.0, speculative.speculative_round)),
        patch.object(speculative, "autoregressive_step", taking(8.0, speculative.autoregressive_step)),
        patch.object(engine, "time", SimpleNamespace(perf_counter=lambda: seconds)),
    ):
        yield
