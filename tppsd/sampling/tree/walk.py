"""The walk down a tree of drafted events, from its root: at every node the rule picks a child, or none and it ends."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor

from tppsd.models.protocol import EventDistribution
from tppsd.sampling.drafters.base import Draft
from tppsd.sampling.rules import log_ratio
from tppsd.sampling.tree.candidates import CandidateRule, Siblings, Step, bounded_exp
from tppsd.sampling.tree.shape import Tree


class Walk(NamedTuple):
    """Says where the walks of all rows went.

    Fields:
        nodes: int64 (rows, depth), one per level, any from where a row's walk ended.
        num_picked: int64 (rows,), how many of them it led to.
        steps: of all rows alike: where a row's walk has ended, its candidates have infinite odds.
    """

    nodes: Tensor
    num_picked: Tensor
    steps: list[Step]


@dataclass(frozen=True)
class TreeWalk:
    """Walks down trees by a rule for several candidates per step.

    Attributes:
        tree: the tree.
        rule: picks among the candidates of a node.
        device: where the sequences are.
    """

    tree: Tree
    rule: CandidateRule
    device: torch.device

    @cached_property
    def parents(self) -> Tensor:
        """Place of the distribution of each node among the target's, int64 (num_nodes,)."""
        return torch.tensor(self.tree.parents, device=self.device) + 1

    @cached_property
    def widths(self) -> Tensor:
        """Number of candidates at each depth, int64 (depth,)."""
        return torch.tensor(self.tree.candidates, device=self.device)

    @cached_property
    def _leftmost(self) -> Tensor:
        return torch.tensor(self.tree.starts[:-1], device=self.device)

    def __call__(self, distributions: EventDistribution, draft: Draft, is_walking: Tensor, uniforms: Tensor) -> Walk:
        """Walk down in the rows `is_walking` bool (rows,).

        Args:
            distributions: the target's (rows, 1 + num_nodes), after the root and each node.
            draft: the tree.
            is_walking: rows that drafted something.
            uniforms: float64 (rows, num_uniforms, 2), those of the levels behind one another.
        """
        ratios = bounded_exp(log_ratio(draft, distributions[:, self.parents]))
        num_picked, everyone = torch.zeros_like(draft.marks[:, 0]), torch.arange(len(ratios), device=ratios.device)
        nodes, reached = self._leftmost.repeat(len(ratios), 1), torch.full_like(num_picked, -1)
        steps: list[Step] = []
        for depth, num_children in enumerate(self.tree.candidates):
            if not is_walking.any():
                break
            first = self.tree.first_child(depth, reached)
            own = ratios.gather(1, first.unsqueeze(1) + torch.arange(num_children, device=first.device))
            own = torch.where(is_walking.unsqueeze(1), own, torch.inf)
            siblings = Siblings(
                everyone,
                torch.full_like(everyone, depth),
                own,
                (distributions, reached + 1),
                (draft.drafted_distributions, first),
            )
            own_uniforms = uniforms[:, self._uniforms_of(depth)].flatten(1)
            steps.append(Step(siblings, own_uniforms, self.rule.pick(siblings, own_uniforms)))
            is_walking = is_walking & (steps[-1].picked < num_children)
            reached = first + torch.where(is_walking, steps[-1].picked, 0)
            nodes[:, depth] = reached
            num_picked = num_picked + is_walking
        return Walk(nodes, num_picked, steps)

    def _uniforms_of(self, depth: int) -> slice:
        """Return where the uniforms of a level lie among those of a round."""
        first = sum(self.rule.num_uniforms(width) for width in self.tree.candidates[:depth])
        return slice(first, first + self.rule.num_uniforms(self.tree.candidates[depth]))
