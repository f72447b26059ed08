"""Drafters of candidate trees: those of chains, with several events per step.

Siblings have different times, so that positions follow the depth and times follow the path.
"""

from __future__ import annotations

import torch
from torch import Tensor

from tppsd.data.statistics import DataStatistics
from tppsd.models.protocol import EventDistribution, EventModel, EventTokens
from tppsd.sampling.autoregressive import ModelRunner
from tppsd.sampling.drafters.base import Draft
from tppsd.sampling.drafters.model import ModelDrafter, joined
from tppsd.sampling.drafters.own import SelfDrafter
from tppsd.sampling.drafters.poisson import PoissonDrafter
from tppsd.sampling.requests import Histories
from tppsd.sampling.state import BatchState
from tppsd.sampling.tree.shape import Tree


class TreeModelDrafter(ModelDrafter):
    """Drafts a tree by a draft model, one pass per level."""

    def __init__(self, model: EventModel, num_rows: int, histories: Histories, tree: Tree) -> None:
        super().__init__(model, num_rows, histories)
        self.tree = tree

    def propose(self, state: BatchState, uniforms: Tensor) -> Draft:
        """Draft level by level; the candidates of a node are i.i.d. from the draft's distribution after it."""
        backlog, tree = self.backlog.begin(state.last_token), self.tree
        distribution, time = self._first(state, backlog, tree.num_nodes), state.last_times.unsqueeze(1)
        steps: list[tuple[Tensor, Tensor, Tensor, EventDistribution]] = []
        for depth, num_children in enumerate(tree.candidates):
            if steps:
                tau, time, mark, _ = steps[-1]
                distribution = self.runner.extend(EventTokens(mark + 1, time, tau), tree.parents[tree.level(depth - 1)])
            if num_children > 1:
                parents = tree.repeated(depth, time.device)
                distribution, time = distribution[:, parents], time[:, parents]
            tau, mark = distribution.sample(uniforms[:, tree.level(depth), :3])
            time = time + tau
            steps.append((tau, time, mark, distribution))
        self._num_cached = tree.depth - 1
        return Draft(*joined(steps), parents=tree.pass_parents)


class TreeSelfDrafter(SelfDrafter):
    """Drafts a tree from the target's own recent distributions."""

    def __init__(self, target: ModelRunner, num_rows: int, tree: Tree) -> None:
        super().__init__(target, num_rows)
        self.tree = tree

    def propose(self, state: BatchState, uniforms: Tensor) -> Draft:
        """Draft what every distribution would draw at every node, then follow the marks down the branches."""
        if self.recent.table is None:
            return Draft.nothing(uniforms)
        distributions, newest, every_tau, every_mark = self.draw(state, uniforms)
        before, marks = follow_branches(every_mark, newest, self.tree)
        inter_times = every_tau.gather(2, before.unsqueeze(2)).squeeze(2)
        times = state.last_times.unsqueeze(1) + self.tree.path_sums(inter_times)
        lengths = self.lengths(self.tree.depth, state)
        return Draft(inter_times, times, marks, distributions.at(before), lengths, self.tree.pass_parents)


class TreePoissonDrafter(PoissonDrafter):
    """Drafts a tree from a Poisson process."""

    def __init__(self, statistics: DataStatistics | None, device: torch.device, tree: Tree) -> None:
        super().__init__(statistics, device)
        self.tree = tree

    def propose(self, state: BatchState, uniforms: Tensor) -> Draft:
        """Draft every node from the same process, the first level given the elapsed time."""
        inter_times, marks, distributions = self.draw(state, uniforms, first=self.tree.candidates[0])
        times = state.last_times.unsqueeze(1) + self.tree.path_sums(inter_times)
        return Draft(inter_times, times, marks, distributions, parents=self.tree.pass_parents)


def follow_branches(every_mark: Tensor, first: Tensor, tree: Tree) -> tuple[Tensor, Tensor]:
    """Return the mark before and the mark of each node, int64 (rows, num_nodes).

    A node has mark every_mark[:, node, mark of its parent].

    Args:
        every_mark: int64 (rows, num_nodes, num_marks).
        first: int64 (rows,), the mark before the first level.
        tree: whose nodes they are.
    """
    before, marks = [], [first.unsqueeze(1)]  # by level: marks of the nodes' parents, and their own
    for depth, num_children in enumerate(tree.candidates):
        before.append(marks[-1] if num_children == 1 else marks[-1].repeat_interleave(num_children, 1))
        marks.append(every_mark[:, tree.level(depth)].gather(2, before[-1].unsqueeze(2)).squeeze(2))
    return torch.cat(before, 1), torch.cat(marks[1:], 1)
