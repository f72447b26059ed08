"""What is kept of the events of a call beside the events themselves: densities, and the laws that they were drawn
from."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from tppsd.models.fast import copied
from tppsd.models.law import NextEventLaw
from tppsd.sampling.rows import Events


class Recorder:
    """Adds columns to events as they are committed, and takes them off the finished ones.

    Args:
        log_probs: record log-densities.
        laws: record the parameters of laws.
    """

    def __init__(self, log_probs: bool = False, laws: bool = False) -> None:
        self.log_probs, self.laws = log_probs, laws
        self._example: NextEventLaw | None = None

    @property
    def wants_laws(self) -> bool:
        """Is the law of every event of use?"""
        return self.log_probs or self.laws

    def add(self, events: Events, laws: Any) -> Events:
        """`events` (rows, n) with what is to be kept of them, from the target's laws of them (rows, n)."""
        if not self.wants_laws:
            return events
        columns = [events.columns]
        if self.log_probs:
            columns.append(laws.log_prob(events.inter_times, events.marks).unsqueeze(0))
        if self.laws:
            if not isinstance(laws, NextEventLaw):
                raise TypeError(
                    f"return_laws = True needs a target whose laws are NextEventLaw; these are {type(laws).__name__}"
                )
            if self._example is None:
                self._example = _apart(laws)
            columns.append(laws.parameters.movedim(-1, 0))
        return Events(torch.cat(columns))

    def take(self, columns: Tensor, num_events: int, ended_by_count: bool) -> tuple[Tensor | None, NextEventLaw | None]:
        """(log-densities, laws) of a finished row with columns (num_columns, at least num_events + 1): the law of the
        event that came too late is one of them."""
        log_probs = columns[3, :num_events].clone() if self.log_probs else None
        if self._example is None:
            return log_probs, None
        own = columns[3 + self.log_probs :, : num_events + (not ended_by_count)]
        with torch.inference_mode(False):  # they may serve a later backward
            return log_probs, self._example.of(own.t().clone(memory_format=torch.contiguous_format))


def _apart(law: NextEventLaw) -> NextEventLaw:
    """An ordinary law on the CPU that has nothing in common with its model, which may change or be gone."""
    decoder = law.mark_decoder
    if isinstance(decoder, nn.Module):
        with torch.inference_mode(False):
            decoder = copied(decoder).cpu().requires_grad_(False)
    return law.with_parts(mark_decoder=decoder)


def after_silence(laws: NextEventLaw | None, silence: float) -> NextEventLaw:
    """Of the events of a sequence (n,), the first given that nothing happened for `silence` since the event before."""
    assert laws is not None
    if silence == 0:
        return laws
    elapsed = torch.zeros(laws.batch_shape, dtype=torch.float64)
    elapsed[0] = silence
    return laws.truncated(elapsed)
