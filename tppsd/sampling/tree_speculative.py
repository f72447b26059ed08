"""Speculative sampling of a tree (Multi-Candidate Speculative Decoding, MCSD, Yang et al., arXiv 2401.06706).

The round is that of a chain: draft, verify, judge, correct, commit. Several candidates are drafted at every step and
verified in one target pass with tree attention; the judgement walks down from the root and leaves the path it took, of
which the rest of the round knows no more than of a chain.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from tppsd.sampling.candidates import MEAN
from tppsd.sampling.draft_length import FixedDraftLength
from tppsd.sampling.drafters import Draft, Drafter
from tppsd.sampling.linear import LINEAR
from tppsd.sampling.noise import Purpose, RowNoise, address
from tppsd.sampling.recorder import Recorder
from tppsd.sampling.recursive import RECURSIVE
from tppsd.sampling.rows import Events, ModelRows, Rows
from tppsd.sampling.rules import Corrected, Rejected, Verdict
from tppsd.sampling.speculative import RoundNoise, Speculative
from tppsd.sampling.tree import Tree
from tppsd.sampling.tree_walk import TreeWalk

TREE_RULES = {"linear": LINEAR, "mean": MEAN, "rrs": RECURSIVE}


class TreeSpeculative(Speculative):
    """Draft-verify rounds with several candidates per step.

    Args:
        target, drafter, noise, recorder: as for a chain; the drafter drafts `tree`.
        tree: at least one of its levels has several candidates.
        rule: "linear", "mean" or "rrs".
    """

    def __init__(
        self, target: ModelRows, drafter: Drafter, tree: Tree, rule: str, noise: RowNoise, recorder: Recorder
    ) -> None:
        super().__init__(target, drafter, FixedDraftLength(tree.depth), tree.depth, "joint", noise, recorder)
        self.walk = TreeWalk(tree, TREE_RULES[rule], noise.keys.device)
        self.tree, self.rule = tree, self.walk.rule
        self.parents = (-1, *(parent + 1 for parent in tree.parents))
        self.node_counts = noise.keys.new_zeros(tree.num_nodes)

    def draw(self, draft_length: int) -> RoundNoise:
        """Noise of the nodes and the levels: what one round looks at is not used again."""
        noise, n = self.noise.window(1)[:, 0], 4 * self.tree.num_nodes
        target = noise[:, -4:-1].unsqueeze(1).expand(-1, draft_length + 1, -1)
        return RoundNoise(noise[:, :n].unflatten(1, (-1, 4)), noise[:, n:-4].unflatten(1, (-1, 2)), target)

    def use_up(self, verdict: Verdict, longest: int) -> None:
        """All of it."""
        self.noise.advance(1, 1)

    def judge(self, rows: Rows, draft: Draft, laws: Any, noise: RoundNoise) -> tuple[Draft, Any, Verdict]:
        """Where the walk down the tree led to, but for picks that are doubted."""
        if draft.marks.shape[1] == 0:
            nothing = torch.zeros_like(rows.counts)
            return draft._replace(nodes=draft.marks), laws, Verdict(nothing, nothing.bool())
        nodes, num_accepted, steps = self.walk(laws, draft, rows.active & (draft.num_drafted > 0), noise.coins)
        if self.rule.doubt is not None and steps:
            doubted, positions = self.rule.doubt(steps, self.noise)
            num_accepted.scatter_reduce_(0, doubted, positions, "amin")
        return draft.along(nodes), laws_along(laws, nodes), Verdict(num_accepted, num_accepted.bool())

    def adjusted(self, rejected: Rejected, verdict: Verdict) -> Corrected:
        """The rule's adjusted law, for all positions with the same number of candidates together."""
        inter_times, marks = (values.clone() for values in rejected.events())
        widths = self.walk.widths[rejected.positions]
        for width in set(self.tree.candidates):
            which = (widths == width).nonzero().squeeze(1)
            if len(which):
                inter_times[which], marks[which] = self.rule.adjusted(rejected.select(which), width, self.noise)
        return Corrected(rejected.positions, inter_times, marks)

    def commit(self, rows: Rows, draft: Draft, laws: Any, verdict: Verdict, events: Events) -> Tensor:
        assert draft.nodes is not None
        is_accepted = torch.arange(draft.nodes.shape[1], device=draft.nodes.device) < verdict.num_accepted.unsqueeze(1)
        is_counted = (is_accepted & rows.active.unsqueeze(1)).long()
        self.node_counts.index_add_(0, draft.nodes.flatten(), is_counted.flatten())
        return super().commit(rows, draft, laws, verdict, events)

    def roll_back(self, draft: Draft, num_accepted: Tensor) -> None:
        """The target's cache keeps the newest event of before and the accepted path, gathered into place."""
        assert draft.nodes is not None
        self.target.cache.keep_path(torch.nn.functional.pad(draft.nodes + 1, (1, 0)), num_accepted + 1)


def laws_along(laws: Any, nodes: Tensor) -> Any:
    """Of laws after the root and all nodes, those after the root and the `nodes` int64 (rows, depth) of a path."""
    return laws.at(torch.nn.functional.pad(nodes + 1, (1, 0)))


def tree_addresses(tree: Tree, rule: str) -> list[int]:
    """What one round needs: three uniforms per node, the coins of each level, three uniforms for the bonus event."""
    drafts = [int(address(node, Purpose.DRAFT, draw)) for node in range(tree.num_nodes) for draw in range(2)]
    num_coins = TREE_RULES[rule].num_coins
    coins = [
        int(address(depth, Purpose.TEST, draw))
        for depth, width in enumerate(tree.candidates)
        for draw in range(num_coins(width))
    ]
    return drafts + coins + [int(address(tree.depth, Purpose.TARGET, draw)) for draw in range(2)]
