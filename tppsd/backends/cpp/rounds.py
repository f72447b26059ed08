"""Speculative rounds as single calls of compiled code (native/rounds.h)."""

from __future__ import annotations

import ctypes
from typing import Any, NamedTuple

import torch
from torch import Tensor

from tppsd.backends.cpp.model import CompiledHeadTPP, CompiledTPP
from tppsd.backends.cpp.structures import HeadPasses, Model, Pointer, Rounds
from tppsd.models.cache import KVCache
from tppsd.models.protocol import EventTokens


class Speculated(NamedTuple):
    """Holds what rounds have made of every row.

    Fields:
        inter_times, times: float64 (rows, room), of which the first num_events count.
        marks: int64 (rows, room).
        num_drafted, num_accepted: int64 (rows, room), of each of the num_rounds rounds.
        num_events, num_rounds: int64 (rows,).
        num_backlog: int64 (rows,), how many of the newest events the draft has not seen.
    """

    inter_times: Tensor
    times: Tensor
    marks: Tensor
    num_drafted: Tensor
    num_accepted: Tensor
    num_events: Tensor
    num_rounds: Tensor
    num_backlog: Tensor


class RoundInputs(NamedTuple):
    """Holds what rounds begin with, and what is wanted of them.

    Fields:
        backlog, num_backlog: tokens (rows, n), of which the draft has not seen the first (rows,); the last of these is
            the target's next one.
        keys, cursors: of the rows' noise.
        elapsed: float64 (rows,), time since the last event that is known to be without an event.
        ends, limits: float64 and int64 (rows,): a row wants no more once it is past its end or has so many events. A
            row with a limit of 0 wants none, and gets one event of no meaning.
        stops: bool (num_marks,), a row wants no more after an event of one of these marks; None = there are none.
        draft_length: events drafted per round, at least one.
        room: events of a row, at least draft_length + 1: rounds end before there may be more.
        most_rounds: all rows draw as many rounds, so many at most, and none after one that was the last of some row;
            None = each row draws as many as it wants.
    """

    backlog: EventTokens
    num_backlog: Tensor
    keys: Tensor
    cursors: Tensor
    elapsed: Tensor
    ends: Tensor
    limits: Tensor
    stops: Tensor | None
    draft_length: int
    room: int
    most_rounds: int | None = None

    def begun(self) -> tuple[Speculated, Rounds, Any]:
        """Return an empty result, the structure that writes it, and what else that structure points to."""
        rows, width = self.backlog.ids.shape
        inter_times, times = torch.zeros(2, rows, self.room, dtype=torch.float64).unbind(0)
        marks, drafted, accepted = torch.zeros(3, rows, self.room, dtype=torch.int64).unbind(0)
        num_events, num_rounds = (self.limits <= 0).long(), torch.zeros_like(self.cursors)
        made = Speculated(
            inter_times, times, marks, drafted, accepted, num_events, num_rounds, self.num_backlog.clone()
        )
        fields = (*self.backlog, self.keys, self.cursors, self.elapsed, self.ends, self.limits, self.stops)
        given = [None if tensor is None else tensor.contiguous() for tensor in fields]
        pointers = (None if tensor is None else tensor.data_ptr() for tensor in (*made, *given))
        in_step = self.most_rounds is not None
        return (
            made,
            Rounds(*pointers, self.room, width, self.draft_length, self.most_rounds or self.room, in_step),
            given,
        )


class _CacheInRounds:
    """Lets native rounds fill the cache of a compiled model.

    Args:
        model: compiled.
        cache: of the model.
        inputs: what rounds begin with.
        most_new: tokens that may join the cache of a row.
    """

    def __init__(self, model: CompiledTPP, cache: KVCache, inputs: RoundInputs, most_new: int) -> None:
        cache.announce(most_new)
        self._cache, self._lengths, self._num_tokens = cache, cache.lengths.clone(), cache.num_tokens.clone()
        self._depth = torch.arange(max(inputs.draft_length + 1, inputs.backlog.ids.shape[1]))
        self._pass = model.pass_of(cache, 1, None, None, None, None, self._lengths, self._num_tokens, self._depth, None)
        self.structure = Model(*map(ctypes.addressof, (model.encoder, model.decoder, self._pass)))

    def end(self) -> None:
        """Give the cache the lengths that rounds have left."""
        self._cache.lengths = self._lengths


def speculate(
    target: CompiledTPP | CompiledHeadTPP, draft: CompiledTPP, caches: tuple[KVCache, KVCache], inputs: RoundInputs
) -> Speculated:
    """Run many rounds of a draft model and the rule `joint` in one call.

    Each row draws until it wants no more; where the target's passes are its own, all rows draw in step until one wants
    no more.

    Args:
        target, draft: compiled.
        caches: of target and draft.
        inputs: what rounds begin with.

    Raises:
        RuntimeError: no proposal was kept.
    """
    if isinstance(target, CompiledHeadTPP):
        return _speculate_in_step(target, draft, caches, inputs)
    speculated, rounds, _given = inputs.begun()
    most_new = inputs.room + inputs.draft_length
    of_target = _CacheInRounds(target, caches[0], inputs, most_new)
    of_draft = _CacheInRounds(draft, caches[1], inputs, most_new + inputs.backlog.ids.shape[1])
    num_failed = target.library.speculate(*map(ctypes.byref, (of_target.structure, of_draft.structure, rounds)))
    _check(num_failed)
    of_target.end()
    of_draft.end()
    return speculated


def _speculate_in_step(
    target: CompiledHeadTPP, draft: CompiledTPP, caches: tuple[KVCache, KVCache], inputs: RoundInputs
) -> Speculated:
    cache, draft_cache = caches
    (speculated, rounds, _given), library = inputs.begun(), draft.library
    of_draft = _CacheInRounds(
        draft, draft_cache, inputs, inputs.room + inputs.draft_length + inputs.backlog.ids.shape[1]
    )
    num_rows, most = len(cache.lengths), inputs.draft_length + 1
    ids = torch.zeros(num_rows, most, dtype=torch.int64)
    num_new, num_kept = torch.zeros(2, num_rows, dtype=torch.int64)
    times, inter_times = torch.zeros(2, num_rows, most, dtype=torch.float64)
    pointers = (tensor.data_ptr() for tensor in (ids, times, inter_times, num_new, num_kept))
    passes = HeadPasses(ctypes.addressof(target.decoder), *pointers, most)
    handle = Pointer(library.begin_rounds(*map(ctypes.byref, (passes, of_draft.structure, rounds))))
    try:
        for _ in range(inputs.most_rounds or inputs.room):
            num = library.propose(handle)
            # copies: the target may keep its tokens
            tokens = EventTokens(*(field[:, :num].clone() for field in (ids, times, inter_times)))
            contexts = target.extend(tokens, cache)
            num_failed = library.conclude(handle, Pointer(contexts.data_ptr()))
            cache.roll_back(num - num_kept)
            if num_failed >= 0:
                _check(num_failed)
                break
    finally:
        library.end_rounds(handle)
    of_draft.end()
    return speculated


def _check(num_failed: int) -> None:
    if num_failed:
        raise RuntimeError(
            f"no proposal was kept for {num_failed} rows: target and draft distributions are not densities"
        )
