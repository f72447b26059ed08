"""Drafting without a draft model: the target's own recent laws, held fixed for a round (after Bilos et al., arXiv 2510.20031)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from tppsd.sampling.drafters import Draft
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
        num_rows = len(uniforms)
        if self.table is None:
            empty = uniforms.new_zeros(num_rows, 0)
            return Draft(empty, empty, empty.long(), None, self.is_known.new_zeros(num_rows, dtype=torch.int64))
        slots = torch.where(self.is_known[:, :-1], self._slots[:-1], self.num_marks)
        laws = self.table.at(slots)
        # what every law would draft at every position; following the marks through it is cheaper than drawing step by step
        every_tau, every_mark = laws.unsqueeze(1).sample(uniforms.unsqueeze(2)[..., :3])
        previous = last_marks(state, self.num_marks).clamp_min(0).unsqueeze(1)
        tree = self.tree or Tree.chain(uniforms.shape[1])
        after, marks = [], [previous]  # by level: marks of the nodes' parents, and their own
        for depth, num_children in enumerate(tree.candidates):
            after.append(marks[-1] if num_children == 1 else marks[-1].repeat_interleave(num_children, 1))
            marks.append(every_mark[:, tree.level(depth)].gather(2, after[-1].unsqueeze(2)).squeeze(2))
        which = torch.cat(after, 1)
        inter_times = every_tau.gather(2, which.unsqueeze(2)).squeeze(2)
        times = state.last_times.unsqueeze(1) + tree.path_sums(inter_times)
        lengths = tree.depth * self.is_known[:, -1].long()
        return Draft(inter_times, times, torch.cat(marks[1:], 1), laws.at(which), lengths)

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
