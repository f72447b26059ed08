"""Rounds on a GPU: event by event those of the same methods elsewhere, in few launches and with one wait.

The host is told all that it must know of a round at once, before anything is committed. Where proposals were not enough
for some row (judgement.py), the round is judged again as elsewhere, and waits more often.
"""

from __future__ import annotations

import time
from typing import Any

import torch
from torch import Tensor

from tppsd.backends.cpp.active import stand_in
from tppsd.backends.cpp.captured import CapturedModel
from tppsd.models.law import NextEventLaw
from tppsd.sampling import judgement
from tppsd.sampling.drafters import Draft, ModelDrafter
from tppsd.sampling.fixed_point import FixedPoint
from tppsd.sampling.judgement import Given, Judge, Judgement, Outcome
from tppsd.sampling.rows import Events, Rows
from tppsd.sampling.rules import Verdict
from tppsd.sampling.speculative import RoundNoise, Speculative
from tppsd.sampling.tree_speculative import TreeSpeculative, laws_along


class DeviceRounds(Speculative):
    """What the rounds of all methods have in common."""

    judge_at_once: Judge

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
            draft, laws, verdict = self.judge(rows, draft, laws, noise)
            verdict, *new = self.correct(rows, draft, laws, verdict, noise)
            judged = judgement.judged(given, draft, verdict.num_accepted, *new)
            told = self.tell(rows, judged)
        else:
            draft, laws = self.judged_path(draft, laws, judged)
        verdict = Verdict(judged.num_accepted, torch.ones_like(rows.active))
        self.commit(rows, draft, laws, verdict, Events(judged.columns))
        self.use_up(verdict, noise.target.shape[1])
        seconds = time.perf_counter() - started
        self.draft_length.record(draft.marks.shape[1], told.num_used, told.is_counted, seconds)
        return told.reached_end

    def given(self, rows: Rows, draft: Draft, noise: RoundNoise) -> Given:
        n = draft.marks.shape[1]
        return self.given_of(rows, draft, draft.num_drafted, noise.coins[:, :n], noise.target[:, : n + 1])

    def given_of(self, rows: Rows, draft: Draft, lengths: Tensor, coins: Tensor, uniforms: Tensor) -> Given:
        drafted = Events.of(draft.inter_times, draft.times, draft.marks).columns
        streams = self.noise.keys, self.noise.cursors
        return Given(drafted, lengths, coins, uniforms, *streams, rows.last_times, *rows.progress)

    def judged(self, laws: Any, draft_laws: Any, given: Given) -> Judgement:
        """What becomes of the draft, by a graph where the laws come from such."""
        judge = self.judge_at_once if given.drafted.shape[2] else judgement.judge_nothing
        if judge is judgement.judge_nothing or isinstance(judge, judgement.FixedPointJudge):
            draft_laws = None
        target: Any = stand_in(self.target.model)
        own, others = example(self.target.model, laws), example(self.drafting_model(), draft_laws)
        if own is None or (others is None) != (draft_laws is None):
            return judge(laws, draft_laws, given)

        def work(*tensors: Tensor) -> Tensor:
            given, parameters = Given(*tensors[: len(Given._fields)]), tensors[len(Given._fields) :]
            return judge(own.of(parameters[0]), None if others is None else others.of(parameters[1]), given).joined()

        parameters = [law.parameters for law in (laws, draft_laws) if law is not None]
        kind = "judgement" if given.drafted.shape[2] else "judgement of nothing"
        joined = target.replayed((kind, judge, id(others)), work, *given, *parameters)  # `work` keeps `others` alive
        return Judgement.of(joined, given.num_steps)

    def judged_path(self, draft: Draft, laws: Any, judged: Judgement) -> tuple[Draft, Any]:
        """The steps that the judgement is about, as `judge` gives them: the chain itself."""
        return draft, laws

    def drafting_model(self) -> Any:
        """Whose laws drafts are drawn from, where a model's are."""
        return self.drafter.rows.model if isinstance(self.drafter, ModelDrafter) else self.target.model

    def tell(self, rows: Rows, judged: Judgement) -> Outcome:
        """Wait for the device, and tell bounds to all who would have to."""
        bounded = [self.noise.offsets, *(cache.lengths for cache in self.caches)]
        told = torch.cat([judged.outcome, torch.stack(bounded).double()]).cpu()
        outcome, most = judgement.read(told[: -len(bounded)]), told[-len(bounded) :].amax(1).long().tolist()
        rows.tell(int(outcome.counts.max()))
        self.noise.tell(most[0])
        for cache, longest in zip(self.caches, most[1:], strict=True):
            cache.tell(longest)
        if isinstance(self.drafter, ModelDrafter):
            self.drafter.unseen.tell(int(outcome.num_accepted.max()))
        return outcome


class DeviceSpeculative(DeviceRounds):
    """Of a chain."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.judge_at_once = judgement.ChainJudge(self.chain_rule)


class DeviceTreeSpeculative(DeviceRounds, TreeSpeculative):
    """Of a tree, by a rule that need not ask how often something must be tried."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.judge_at_once = judgement.TreeJudge(self.walk)

    def given(self, rows: Rows, draft: Draft, noise: RoundNoise) -> Given:
        depth = self.tree.depth if draft.marks.shape[1] else 0
        lengths = draft.num_drafted.clamp_max(depth)  # of a tree of which all is drafted, nodes
        return self.given_of(rows, draft, lengths, noise.coins, noise.target[:, : depth + 1])

    def judged_path(self, draft: Draft, laws: Any, judged: Judgement) -> tuple[Draft, Any]:
        if judged.nodes is None:
            return draft._replace(nodes=draft.marks), laws
        nodes = judged.nodes.long()
        return draft.along(nodes), laws_along(laws, nodes)


class DeviceFixedPoint(DeviceRounds, FixedPoint):
    """Of iteration to a fixed point."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.judge_at_once = judgement.FixedPointJudge(self.tolerance)


def example(model: Any, law: Any) -> NextEventLaw | None:
    """What graphs make the model's laws of, if it has graphs and `law` is a whole one of its laws."""
    own = stand_in(model)
    if not isinstance(own, CapturedModel) or not isinstance(law, NextEventLaw) or law.elapsed is not None:
        return None
    return own.example if law.mark_decoder is own.example.mark_decoder else None
