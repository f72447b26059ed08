"""Drafting without a draft model: the target's own recent laws, held fixed for a round (after Bilos et al., arXiv
2510.20031)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from tppsd.sampling.drafters import Draft, nothing_drafted
from tppsd.sampling.recent_laws import RecentLaws
from tppsd.sampling.rows import ModelRows, Request, Rows, last_marks
from tppsd.sampling.tree import Tree


class SelfDrafter:
    """Each event is drafted from the target's law that followed the latest event of the same mark as the event before
    it.

    Where marks alternate, the law after the previous event is a poor guess and the one after the last event of the same
    mark a good one. No law for that mark yet: the latest law. No law at all, or a first event given silence: nothing is
    drafted. Drafting costs one vectorised draw and no model pass.

    Args:
        target: model rows of the target, which know the laws after the events of a history.
        num_rows: rows in flight.
        tree: drafted in a round; None = a chain.
        stops_at_end: drafts nothing beyond the end of each row.
    """

    def __init__(self, target: ModelRows, num_rows: int, tree: Tree | None = None, stops_at_end: bool = False) -> None:
        self.target, self.stops_at_end = target, stops_at_end
        self.num_marks = target.model.num_marks
        self.tree = tree
        self.recent = RecentLaws(num_rows, self.num_marks, target.histories.lengths.device)

    def admit(self, rows: Tensor, requests: list[Request], state: Rows) -> None:
        self.recent.take_over(self.target.recent_laws(), self.target.encoded(requests), rows)

    def propose(self, state: Rows, uniforms: Tensor) -> Draft:
        if self.recent.table is None or uniforms.shape[1] == 0:
            return nothing_drafted(uniforms)
        laws, tree = self.recent.after_marks(), self.tree or Tree.chain(uniforms.shape[1])
        # what every law would draft at every position; following the marks through it is cheaper than drawing step by
        # step
        every_tau, every_mark = laws.unsqueeze(1).sample(uniforms.unsqueeze(2)[..., :3])
        newest = last_marks(state, self.num_marks).clamp_min(0)
        before, marks = (
            follow_marks(every_mark, newest) if self.tree is None else follow_branches(every_mark, newest, tree)
        )
        inter_times = every_tau.gather(2, before.unsqueeze(2)).squeeze(2)
        times = state.last_times.unsqueeze(1) + tree.path_sums(inter_times)
        draft = Draft(inter_times, times, marks, laws.at(before), self.lengths(tree.depth, state))
        return draft.needed(state) if self.stops_at_end else draft

    def lengths(self, depth: int, state: Rows) -> Tensor:
        """int64 (rows,): steps that each row drafts."""
        drafts = self.recent.is_known[:, -1]
        return depth * (drafts & (state.elapsed == 0) if state.is_truncated_start else drafts).long()

    def commit(self, draft: Draft, num_accepted: Tensor, state: Rows, laws: Any, seen_marks: Tensor) -> None:
        self.recent.update(laws, seen_marks, num_accepted + 1)

    def keep_rows(self, rows: Tensor) -> None:
        self.recent.keep_rows(rows)


def follow_marks(every_mark: Tensor, first: Tensor) -> tuple[Tensor, Tensor]:
    """(mark before, mark of) each drafted event, int64 (rows, n), where event j has mark every_mark[:, j, mark before
    it].

    The maps are composed in log2(n) steps (Hillis and Steele, CACM 29, 1986).

    Args:
        every_mark: int64 (rows, n, num_marks).
        first: int64 (rows,), the mark before the first.
    """
    composed, step = every_mark, 1
    while step < every_mark.shape[1]:
        composed = torch.cat([composed[:, :step], composed[:, step:].gather(2, composed[:, :-step])], 1)
        step *= 2
    marks = composed.gather(2, first.view(-1, 1, 1).expand(-1, composed.shape[1], 1)).squeeze(2)
    return torch.cat([first.unsqueeze(1), marks[:, :-1]], 1), marks


def follow_branches(every_mark: Tensor, first: Tensor, tree: Tree) -> tuple[Tensor, Tensor]:
    """The same for the nodes of a tree: a node has mark every_mark[:, node, mark of its parent]."""
    before, marks = [], [first.unsqueeze(1)]  # by level: marks of the nodes' parents, and their own
    for depth, num_children in enumerate(tree.candidates):
        before.append(marks[-1] if num_children == 1 else marks[-1].repeat_interleave(num_children, 1))
        marks.append(every_mark[:, tree.level(depth)].gather(2, before[-1].unsqueeze(2)).squeeze(2))
    return torch.cat(before, 1), torch.cat(marks[1:], 1)
