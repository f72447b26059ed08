"""Speculative rounds as single calls of compiled code (native/rounds.h)."""

from __future__ import annotations

import ctypes
from typing import NamedTuple

import torch
from torch import Tensor

from tppsd.models.cache import KVCache
from tppsd.models.protocol import EventTokens
from tppsd.models.stand_ins.compiled import CompiledModel
from tppsd.models.stand_ins.structures import Model, Rounds, Work


class Speculated(NamedTuple):
    """What rounds have made of every row.

    Fields: inter_times, times float64 and marks int64 (rows, room), of which the first num_events int64 (rows,) count;
    num_drafted, num_accepted int64 (rows, room), of each of the num_rounds int64 (rows,) rounds; num_unseen int64 (rows,): how
    many of the newest events the draft has not seen.
    """

    inter_times: Tensor
    times: Tensor
    marks: Tensor
    num_drafted: Tensor
    num_accepted: Tensor
    num_events: Tensor
    num_rounds: Tensor
    num_unseen: Tensor


def speculate(
    models: tuple[CompiledModel, CompiledModel], caches: tuple[KVCache, KVCache], unseen: EventTokens, num_unseen: Tensor,
    keys: Tensor, cursors: Tensor, elapsed: Tensor, ends: Tensor, limits: Tensor, draft_length: int, room: int,
    most_rounds: int | None = None,
) -> Speculated:  # fmt: skip
    """Rounds of a draft model and the rule `joint`, of each row until it wants no more.

    Args:
        models, caches: of target and draft.
        unseen, num_unseen: tokens (rows, n), of which the draft has not seen the first (rows,); the last of these is the target's
            next one.
        keys, cursors: of the rows' noise.
        elapsed: float64 (rows,), the silence before the next event.
        ends, limits: float64 and int64 (rows,): a row wants no more once it is past its end or has so many events; none of a
            limit of 0, which gives one event of no meaning.
        draft_length: events drafted per round, at least one.
        room: events of a row, at least draft_length + 1: rounds end before there may be more.
        most_rounds: all rows draw as many rounds, so many at most, and none after one that was the last of some row; None =
            each row draws as many as it wants.

    Raises:
        RuntimeError: no proposal was kept.
    """
    rows, width = unseen.ids.shape
    depth = torch.arange(max(draft_length + 1, width))
    lengths, passes = [], []
    for model, cache, most_new in zip(models, caches, (room + draft_length, room + draft_length + width), strict=True):
        cache.announce(most_new)
        lengths += [cache.lengths.clone(), cache.num_tokens.clone()]
        passes.append(model.pass_of(cache, 1, None, None, None, None, *lengths[-2:], depth, None))
    inter_times, times = torch.zeros(2, rows, room, dtype=torch.float64).unbind(0)
    marks, drafted, accepted = torch.zeros(3, rows, room, dtype=torch.int64).unbind(0)
    num_events, num_rounds = (limits <= 0).long(), torch.zeros_like(cursors)
    made = Speculated(inter_times, times, marks, drafted, accepted, num_events, num_rounds, num_unseen.clone())
    given = tuple(tensor.contiguous() for tensor in (*unseen, keys, cursors, elapsed, ends, limits))
    pointers = (tensor.data_ptr() for tensor in (*made, *given))
    rounds = Rounds(*pointers, room, width, draft_length, most_rounds or room, most_rounds is not None)
    both = [
        Model(*map(ctypes.addressof, (model.encoder, model.decoder, one_pass)))
        for model, one_pass in zip(models, passes, strict=True)
    ]
    num_failed = models[0].library.speculate(*map(ctypes.byref, (*both, rounds)))
    if num_failed:
        raise RuntimeError(f"no proposal was kept for {num_failed} rows: target and draft laws are not densities")
    for cache, newest in zip(caches, lengths[::2], strict=True):
        cache.lengths = newest
    return made


def work(models: tuple[CompiledModel, CompiledModel], caches: tuple[KVCache, KVCache], made: Speculated) -> Work:
    """Of what `speculate` has done, about: caches count as long as they became, and of proposals there is one per event."""
    (target, draft), parts = models, []
    lengths = zip(*(cache.lengths.clamp_max(cache.max_context or cache.capacity).tolist() for cache in caches), strict=True)
    for row, (target_length, draft_length) in enumerate(lengths):
        for num_drafted in made.num_drafted[row, : int(made.num_rounds[row])].tolist():
            num = num_drafted + 1
            parts += num_drafted * [draft.work_of_pass(1, 1, draft_length)]
            parts += [target.work_of_pass(num, num, target_length), target.work_of_laws(num), target.work_of_draws(2 * num)]
            parts += [draft.work_of_laws(num_drafted), draft.work_of_draws(3 * num_drafted)]
    return Work.total(parts) if parts else Work(0, 0)
