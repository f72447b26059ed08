"""Speculative rounds on a GPU: event by event those of speculative.py, in few launches and with one wait.

The host is told all that it must know of a round at once, before anything is committed. Where proposals were not enough for some
row (judgement.py), the round waits again.
"""

from __future__ import annotations

import time
from typing import Any

import torch
from torch import Tensor

from tppsd.models.law import NextEventLaw
from tppsd.models.stand_ins.active import stand_in
from tppsd.models.stand_ins.captured import CapturedModel
from tppsd.sampling.drafters import Draft, ModelDrafter
from tppsd.sampling.judgement import Given, Judgement, Outcome, judge, judge_on, read
from tppsd.sampling.rows import Events, Rows
from tppsd.sampling.rules import Verdict
from tppsd.sampling.speculative import RoundNoise, Speculative


class DeviceSpeculative(Speculative):
    """Rounds of the rule "joint" along a chain."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        drafting = [self.drafter.rows] if isinstance(self.drafter, ModelDrafter) else []
        self.caches = [model_rows.cache for model_rows in (self.target, *drafting)]
        for cache in self.caches:
            cache.is_read_late = True

    def one_round(self, rows: Rows, draft_length: int, started: float) -> Tensor:
        noise = self.draw(draft_length)
        draft = self.drafter.propose(rows, noise.draft)
        laws, given = self.verify(rows, draft), self.given(rows, draft, noise)
        judged = self.judged(laws, draft.laws, given)
        told = self.tell(rows, judged)
        if told.is_short.any():
            judged = judge_on(laws, draft.laws, given, judged, told.is_short.nonzero().squeeze(1).to(rows.device))
            told = self.tell(rows, judged)
        verdict = Verdict(judged.num_accepted, torch.ones_like(rows.active))
        self.commit(rows, draft, laws, verdict, Events(judged.columns))
        self.use_up(verdict, noise.target.shape[1])
        seconds = time.perf_counter() - started
        self.draft_length.record(draft.marks.shape[1], told.num_used, told.is_counted, seconds)
        return told.reached_end

    def given(self, rows: Rows, draft: Draft, noise: RoundNoise) -> Given:
        drafted, n = Events.of(draft.inter_times, draft.times, draft.marks).columns, draft.marks.shape[1]
        coins, uniforms = noise.coins[:, :n], noise.target[:, : n + 1]
        streams = self.noise.keys, self.noise.cursors
        return Given(drafted, draft.num_drafted, coins, uniforms, *streams, rows.last_times, *rows.progress)

    def judged(self, laws: Any, draft_laws: Any, given: Given) -> Judgement:
        """`judge`, by a graph where the laws come from such."""
        target: Any = stand_in(self.target.model)
        own, others = example(self.target.model, laws), example(self.drafting_model(), draft_laws)
        if own is None or (others is None) != (draft_laws is None):
            return judge(laws, draft_laws, given)

        def work(*tensors: Tensor) -> Tensor:
            given, parameters = Given(*tensors[: len(Given._fields)]), tensors[len(Given._fields) :]
            return judge(own.of(parameters[0]), None if others is None else others.of(parameters[1]), given).joined()

        parameters = [law.parameters for law in (laws, draft_laws) if law is not None]
        name = ("judgement of nothing",) if others is None else ("judgement", id(others))  # which `work` keeps alive
        return Judgement.of(target.replayed(name, work, *given, *parameters))

    def drafting_model(self) -> Any:
        """Whose laws drafts are drawn from, where a model's are."""
        return self.drafter.rows.model if isinstance(self.drafter, ModelDrafter) else self.target.model

    def tell(self, rows: Rows, judged: Judgement) -> Outcome:
        """Wait for the device, and tell bounds to all who would have to."""
        bounded = [self.noise.offsets, *(cache.lengths for cache in self.caches)]
        told = torch.cat([judged.outcome, torch.stack(bounded).double()]).cpu()
        outcome, most = read(told[: -len(bounded)]), told[-len(bounded) :].amax(1).long().tolist()
        rows.tell(int(outcome.counts.max()))
        self.noise.tell(most[0])
        for cache, longest in zip(self.caches, most[1:], strict=True):
            cache.tell(longest)
        return outcome


def example(model: Any, law: Any) -> NextEventLaw | None:
    """What graphs make the model's laws of, if it has graphs and `law` is a whole one of its laws."""
    own = stand_in(model)
    if not isinstance(own, CapturedModel) or not isinstance(law, NextEventLaw) or law.elapsed is not None:
        return None
    return own.example if law.mark_decoder is own.example.mark_decoder else None
