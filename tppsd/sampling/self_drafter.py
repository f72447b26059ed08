"""Drafting without a draft model: the target's own recent laws, held fixed for a round (after Bilos et al., arXiv 2510.20031)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from tppsd.sampling.drafters import Draft, nothing_drafted
from tppsd.sampling.rows import Request, Rows, last_marks
from tppsd.sampling.tree import Tree


class SelfDrafter:
    """Each event is drafted from the target's law that followed the latest event of the same mark as the event before it.

    Where marks alternate, the law after the previous event is a poor guess and the one after the last event of the same mark a
    good one. No law for that mark yet: the latest law. No law at all (a row's first round): nothing is drafted. Drafting costs
    one vectorised draw and no model pass.

    Args:
        num_rows: rows in flight.
        num_marks: marks of the target.
        tree: drafted in a round; None = a chain.
    """

    def __init__(self, num_rows: int, num_marks: int, device: torch.device, tree: Tree | None = None) -> None:
        self.num_marks = num_marks
        self.tree = tree
        self.table: Any = None  # laws (rows, num_marks + 1): by mark, and the latest
        self.is_known = torch.zeros(num_rows, num_marks + 1, dtype=torch.bool, device=device)
        self._slots = torch.arange(num_marks + 1, device=device)

    def admit(self, rows: Tensor, requests: list[Request], state: Rows) -> None:
        self.is_known[rows] = False

    def propose(self, state: Rows, uniforms: Tensor) -> Draft:
        if self.table is None or uniforms.shape[1] == 0:
            return nothing_drafted(uniforms)
        laws, tree = self._laws_by_mark(), self.tree or Tree.chain(uniforms.shape[1])
        # what every law would draft at every position; following the marks through it is cheaper than drawing step by step
        every_tau, every_mark = laws.unsqueeze(1).sample(uniforms.unsqueeze(2)[..., :3])
        newest = last_marks(state, self.num_marks).clamp_min(0)
        before, marks = follow_marks(every_mark, newest) if self.tree is None else follow_branches(every_mark, newest, tree)
        inter_times = every_tau.gather(2, before.unsqueeze(2)).squeeze(2)
        times = state.last_times.unsqueeze(1) + tree.path_sums(inter_times)
        return Draft(inter_times, times, marks, laws.at(before), tree.depth * self.is_known[:, -1].long())

    def _laws_by_mark(self) -> Any:
        """(rows, num_marks): to draft from after an event of each mark."""
        return self.table.at(torch.where(self.is_known[:, :-1], self._slots[:-1], self.num_marks))

    def commit(self, draft: Draft, num_accepted: Tensor, state: Rows, laws: Any, seen_marks: Tensor) -> None:
        """Keep the newest law after each mark, of the laws (rows, n) after the tokens with `seen_marks` (rows, n)."""
        positions = torch.arange(seen_marks.shape[1], device=seen_marks.device)
        is_committed = positions <= num_accepted.unsqueeze(1)
        follows = (seen_marks.unsqueeze(2) == self._slots[:-1]) & is_committed.unsqueeze(2)  # (rows, n, marks)
        newest = torch.where(follows, positions.unsqueeze(1), -1).amax(1)
        source = torch.cat([newest, num_accepted.unsqueeze(1)], 1)
        laws = laws.whole()
        if self.table is None:
            self.table = laws.at(source.clamp_min(0))
        else:
            kept = seen_marks.shape[1] + self._slots
            self.table = type(laws).cat([laws, self.table], 1).at(torch.where(source >= 0, source, kept))
        self.is_known = self.is_known | (source >= 0)

    def keep_rows(self, rows: Tensor) -> None:
        self.is_known = self.is_known[rows]
        if self.table is not None:
            self.table = self.table[rows]


def follow_marks(every_mark: Tensor, first: Tensor) -> tuple[Tensor, Tensor]:
    """(mark before, mark of) each drafted event, int64 (rows, n), where event j has mark every_mark[:, j, mark before it].

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
