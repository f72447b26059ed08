"""What becomes of a draft, as one function of tensors that neither asks nor tells the host anything: graphs can record
it.

It is what speculative.py, tree_speculative.py and fixed_point.py do at the end of a round, for all rows alike. How many
proposals
an event takes that follows a rejection is not known: some are made for every row, those included whose drafts were
    accepted.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from tppsd.sampling.drafters import Draft
from tppsd.sampling.fixed_point import num_unchanged
from tppsd.sampling.noise import Streams
from tppsd.sampling.rows import Progress
from tppsd.sampling.rules import Rejected, Rule
from tppsd.sampling.speculative import at_positions, new_events
from tppsd.sampling.tree_speculative import laws_along
from tppsd.sampling.tree_walk import TreeWalk

_AT_ONCE, _FEWEST, _MOST = 32_768, 16, 256  # proposals: of all rows together, and of each


class Given(NamedTuple):
    """What is judged, beside laws. Fields: drafted (3, rows, n), columns of Events: of a chain, or all nodes of a tree;
    lengths
    int64 (rows,): how many steps each row has drafted; coins, uniforms (rows, steps + 1, 3): as in RoundNoise; keys,
    cursors: as in Streams; last_times float64 (rows,); then those of Progress."""

    drafted: Tensor
    lengths: Tensor
    coins: Tensor
    uniforms: Tensor
    keys: Tensor
    cursors: Tensor
    last_times: Tensor
    counts: Tensor
    limit: Tensor
    end: Tensor
    active: Tensor

    @property
    def progress(self) -> Progress:
        return Progress(self.counts, self.limit, self.end, self.active)

    @property
    def num_steps(self) -> int:
        """That a row can have drafted."""
        return self.uniforms.shape[1] - 1

    @property
    def streams(self) -> Streams:
        return Streams(self.keys, self.cursors)

    def draft(self, laws: Any) -> Draft:
        """That was drawn from `laws`."""
        inter_times, times, marks = self.drafted.unbind(0)
        return Draft(inter_times, times, marks.long(), laws, self.lengths)


class Outcome(NamedTuple):
    """What a round comes to, of each row. Fields: num_accepted, num_used (see Progress.used), counts (after it) int64
    (rows,);
    is_counted: it has drafted as many as others, is_short: its proposals were not enough, reached_end bool (rows,)."""

    num_accepted: Tensor
    num_used: Tensor
    counts: Tensor
    is_counted: Tensor
    is_short: Tensor
    reached_end: Tensor


class Judgement(NamedTuple):
    """Fields: outcome float64 (6, rows): those of Outcome; columns float64 (3, rows, steps + 1): of `new_events`; nodes
    float64
    (rows, steps): of the path through a tree, else None."""

    outcome: Tensor
    columns: Tensor
    nodes: Tensor | None = None

    def joined(self) -> Tensor:
        """In one tensor (rows, ...): graphs give one."""
        parts = [self.outcome.t(), self.columns.movedim(1, 0).flatten(1)]
        return torch.cat(parts if self.nodes is None else [*parts, self.nodes], 1)

    @classmethod
    def of(cls, joined: Tensor, num_steps: int) -> Judgement:
        sizes = [len(Outcome._fields), 3 * (num_steps + 1)]
        outcome, columns, nodes = joined.split([*sizes, joined.shape[1] - sum(sizes)], 1)
        return cls(outcome.t(), columns.unflatten(1, (3, -1)).movedim(1, 0), nodes if nodes.shape[1] else None)

    @property
    def num_accepted(self) -> Tensor:
        """int64 (rows,)."""
        return self.outcome[0].long()


class Judge(Protocol):
    """By the target's laws (rows, 1 + drafted events) and those that these were drafted from (rows, drafted events).
    Two of the same kind are equal."""

    def __call__(self, laws: Any, draft_laws: Any, given: Given) -> Judgement: ...


def read(outcome: Tensor) -> Outcome:
    """On the CPU."""
    num_accepted, num_used, counts = outcome[:3].long()
    is_counted, is_short, reached_end = outcome[3:] > 0
    return Outcome(num_accepted, num_used, counts, is_counted, is_short, reached_end)


def judge_nothing(laws: Any, draft_laws: Any, given: Given) -> Judgement:
    """No event was drafted."""
    return judged(given, given.draft(None), given.lengths, *_bonus(laws, given))


@dataclass(frozen=True)
class ChainJudge:
    """Of a rule for one candidate per step."""

    rule: Rule

    def __call__(self, laws: Any, draft_laws: Any, given: Given) -> Judgement:
        draft, num = given.draft(draft_laws), given.num_steps
        verdict = self.rule.accept(draft, laws[:, :-1], given.coins)
        num_accepted = torch.minimum(verdict.num_accepted, given.lengths)
        is_rejected = given.active & (num_accepted < given.lengths)
        rejected = Rejected(_everyone(given), num_accepted.clamp_max(num - 1), draft, laws)
        found, corrected = self.rule.adjusted_at_once(rejected, verdict, given.streams.attempts, _num_proposals(given))
        bonus = num_accepted, *_bonus(laws, given)
        num_accepted, inter_times, marks = (
            torch.where(is_rejected, *pair) for pair in zip(corrected, bonus, strict=True)
        )
        return judged(given, draft, num_accepted, inter_times, marks, is_rejected & ~found)


@dataclass(frozen=True)
class TreeJudge:
    """Of a rule for several candidates per step that need not ask."""

    walk: TreeWalk

    def __call__(self, laws: Any, draft_laws: Any, given: Given) -> Judgement:
        tree, rule, num = self.walk.tree, self.walk.rule, _num_proposals(given)
        draft, is_walking = given.draft(draft_laws), given.active & (given.lengths > 0)
        nodes, num_accepted, steps = self.walk(laws, draft, is_walking, given.coins)
        is_short = torch.zeros_like(given.active)
        if rule.doubt_at_once is not None:
            is_over, first_doubted = rule.doubt_at_once(steps, given.streams, num)
            num_accepted, is_short = torch.minimum(num_accepted, first_doubted), ~is_over
        path, laws = draft.along(nodes), laws_along(laws, nodes)
        is_rejected = given.active & (num_accepted < given.lengths)
        rejected = Rejected(_everyone(given), num_accepted.clamp_max(tree.depth - 1), path, laws)
        inter_times, marks = _bonus(laws, given)
        assert rule.adjusted_at_once is not None
        for width in set(tree.candidates):
            is_own = is_rejected & (self.walk.widths[rejected.positions] == width)
            found, new_inter_times, new_marks = rule.adjusted_at_once(rejected, width, given.streams, num)
            inter_times, marks = (
                torch.where(is_own, new_inter_times, inter_times),
                torch.where(is_own, new_marks, marks),
            )
            is_short = is_short | (is_own & ~found)
        return judged(given, path, num_accepted, inter_times, marks, is_short)


@dataclass(frozen=True)
class FixedPointJudge:
    """Of iteration to a fixed point; what is drafted has no laws."""

    tolerance: float

    def __call__(self, laws: Any, draft_laws: Any, given: Given) -> Judgement:
        draft = given.draft(None)
        unchanged = num_unchanged(draft, laws[:, :-1], given.uniforms[:, :-1], self.tolerance)
        num_accepted = torch.minimum(unchanged, given.lengths)
        new = laws.at(num_accepted).sample(at_positions(given.uniforms, num_accepted))
        return judged(given, draft, num_accepted, *new)


def judged(
    given: Given, draft: Draft, num_accepted: Tensor, inter_times: Tensor, marks: Tensor, is_short: Tensor | None = None
) -> Judgement:
    """What it comes to that so many events of a chain or path are accepted, and one more event follows them,
    (rows,)."""
    events = new_events(given.last_times, draft, num_accepted, inter_times, marks)
    counts, reached_end = given.progress.after(events.times, num_accepted + 1)
    num_used, is_counted = (
        given.progress.used(num_accepted, counts),
        given.active & (given.lengths == draft.marks.shape[1]),
    )
    is_short = torch.zeros_like(given.active) if is_short is None else is_short
    outcome = Outcome(num_accepted, num_used, counts, is_counted, is_short, reached_end)
    nodes = None if draft.nodes is None else draft.nodes.double()
    return Judgement(torch.stack([field.double() for field in outcome]), events.columns, nodes)


def _bonus(laws: Any, given: Given) -> tuple[Tensor, Tensor]:
    """The target's own event (rows,) after each row's whole draft."""
    return laws.at(given.lengths).sample(at_positions(given.uniforms, given.lengths))


def _everyone(given: Given) -> Tensor:
    return torch.arange(len(given.lengths), device=given.lengths.device)


def _num_proposals(given: Given) -> int:
    """Of each row, before the host is told whether they are enough."""
    return max(_FEWEST, min(_MOST, _AT_ONCE // len(given.lengths)))
