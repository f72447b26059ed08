"""Candidate trees as rules over the speculative round.

Several candidates are drafted at every step and verified in one target pass with tree attention. To accept is to walk
down from the root; what comes of it is the path that was taken, of which the rest of the round knows no more than of a
chain. Source: Multi-Candidate Speculative Decoding (MCSD, Yang et al., arXiv 2401.06706).
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import NamedTuple

import torch
from torch import Tensor

from tppsd.models.cache import RowCache
from tppsd.models.protocol import EventDistribution
from tppsd.sampling.drafters.base import Draft
from tppsd.sampling.noise import Purpose, RowNoise, Streams, address
from tppsd.sampling.rules import Acceptance, Recovered, Rejected, RoundUniforms, log_ratio
from tppsd.sampling.tree.candidates import MEAN, RECURSIVE, CandidateRule, Siblings, Step, bounded_exp
from tppsd.sampling.tree.linear import LINEAR
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


CANDIDATE_RULES: dict[str, CandidateRule] = {"linear": LINEAR, "mean": MEAN, "rrs": RECURSIVE}


@dataclass(frozen=True, eq=False)
class PathDraft(Draft):
    """Is a path through a tree of drafted events, one node per level."""

    @classmethod
    def of(cls, draft: Draft, nodes: Tensor) -> PathDraft:
        """Return the path through `nodes` int64 (rows, depth) of a drafted tree."""
        rows = torch.arange(len(nodes), device=nodes.device).unsqueeze(1)
        inter_times, times, marks = (field.gather(1, nodes) for field in (draft.inter_times, draft.times, draft.marks))
        return cls(inter_times, times, marks, draft.drafted_distributions[rows, nodes], draft.lengths, None, nodes)

    def keep_in(self, cache: RowCache, num_kept: Tensor, num_cached: int, num_before: int) -> None:
        """Gather the accepted part of the path into place (`Draft.keep_in`)."""
        assert self.nodes is not None
        depth = self.draft_length if num_before else self.draft_length - 1  # a draft has not seen its last level
        nodes = torch.nn.functional.pad(self.nodes[:, :depth] + num_before, (num_before, 0))
        cache.keep_path(nodes, num_kept + num_before)


class TreeRule:
    """Makes one of the rules for several candidates per step the rule of a round.

    Args:
        tree: what every round drafts; at least one of its levels has several candidates.
        candidates: how one of several candidates is picked, and what follows when all are rejected.
        device: where the sequences are.
    """

    def __init__(self, tree: Tree, candidates: CandidateRule, device: torch.device) -> None:
        self.tree, self.candidates = tree, candidates
        self._parents = torch.tensor(tree.parents, device=device) + 1  # of the nodes, among the target's distributions
        self._widths = torch.tensor(tree.candidates, device=device)
        self._leftmost = torch.tensor(tree.starts[:-1], device=device)
        ends = list(accumulate((candidates.num_uniforms(width) for width in tree.candidates), initial=0))
        self._uniforms_of = [slice(*edges) for edges in pairwise(ends)]  # of each level, among those of a round
        self.addresses, self.num_nodes = tree_addresses(tree, candidates), tree.num_nodes

    def uniforms(self, noise: RowNoise, draft_length: int) -> RoundUniforms:
        """Return the uniforms of the nodes, of the levels and of the bonus event."""
        window, n = noise.window(1)[:, 0], 4 * self.tree.num_nodes
        target = window[:, -4:-1].unsqueeze(1).expand(-1, draft_length + 1, -1)
        return RoundUniforms(window[:, :n].unflatten(1, (-1, 4)), window[:, n:-4].unflatten(1, (-1, 2)), target)

    def consume(self, noise: RowNoise, num_events: Tensor, draft_length: int) -> None:
        """Use up all of it: what one round looks at is not used again."""
        noise.advance(1, 1)

    def accept(
        self, draft: Draft, target: EventDistribution, uniforms: RoundUniforms, running: Tensor, noise: Streams
    ) -> Acceptance:
        """Walk down the tree, but for picks that are rejected by their Bernoulli factories."""
        nodes, num_accepted, steps = self.walk(target, draft, running & (draft.num_drafted > 0), uniforms.accept)
        if self.candidates.reject_picks is not None and steps:
            rows, positions = self.candidates.reject_picks(steps, noise)
            num_accepted.scatter_reduce_(0, rows, positions, "amin")
        # of the distributions after the root and all nodes, those along the path
        along = target.at(torch.nn.functional.pad(nodes + 1, (1, 0)))
        return Acceptance(PathDraft.of(draft, nodes), along, num_accepted)

    def walk(self, distributions: EventDistribution, draft: Draft, is_walking: Tensor, uniforms: Tensor) -> Walk:
        """Walk down in the rows `is_walking` bool (rows,).

        Args:
            distributions: the target's (rows, 1 + num_nodes), after the root and each node.
            draft: the tree.
            is_walking: rows that drafted something.
            uniforms: float64 (rows, num_uniforms, 2), those of the levels behind one another.
        """
        ratios = bounded_exp(log_ratio(draft, distributions[:, self._parents]))
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
            own_uniforms = uniforms[:, self._uniforms_of[depth]].flatten(1)
            steps.append(Step(siblings, own_uniforms, self.candidates.pick(siblings, own_uniforms)))
            is_walking = is_walking & (steps[-1].picked < num_children)
            reached = first + torch.where(is_walking, steps[-1].picked, 0)
            nodes[:, depth] = reached
            num_picked = num_picked + is_walking
        return Walk(nodes, num_picked, steps)

    def resample(self, rejected: Rejected, accepted: Acceptance, uniforms: RoundUniforms, noise: Streams) -> Recovered:
        """Draw from the rule's adjusted distribution, for all positions with the same number of candidates together."""
        inter_times, marks = (values.clone() for values in rejected.events())
        widths = self._widths[rejected.positions]
        for width in set(self.tree.candidates):
            which = (widths == width).nonzero().squeeze(1)
            if len(which):
                drawn = self.candidates.resample(rejected.select(which), width, noise)
                inter_times[which], marks[which] = drawn
        return Recovered(rejected.positions, inter_times, marks)


def tree_addresses(tree: Tree, candidates: CandidateRule) -> list[int]:
    """Return what one round needs of the noise.

    It is three uniforms per node, those of each level, and three for the bonus event.
    """
    drafts = [int(address(node, Purpose.DRAFT, draw)) for node in range(tree.num_nodes) for draw in range(2)]
    levels = [
        int(address(depth, Purpose.TEST, draw))
        for depth, width in enumerate(tree.candidates)
        for draw in range(candidates.num_uniforms(width))
    ]
    return drafts + levels + [int(address(tree.depth, Purpose.TARGET, draw)) for draw in range(2)]
