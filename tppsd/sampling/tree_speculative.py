"""Speculative sampling of a tree (Multi-Candidate Speculative Decoding, MCSD, Yang et al., arXiv 2401.06706).

The round is that of a chain: draft, verify, judge, correct, commit. Several candidates are drafted at every step and verified in
one target pass with tree attention; the judgement walks down from the root and leaves the path it took, of which the rest of the
round knows no more than of a chain.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from tppsd.sampling.candidates import LINEAR, MEAN, Siblings, Step, bounded_exp
from tppsd.sampling.draft_length import FixedDraftLength
from tppsd.sampling.drafters import Draft, Drafter
from tppsd.sampling.noise import Purpose, RowNoise, address
from tppsd.sampling.recorder import Recorder
from tppsd.sampling.recursive import RECURSIVE
from tppsd.sampling.rows import ModelRows, Rows
from tppsd.sampling.rules import Attempts, Corrected, Rejected, Verdict, log_ratio
from tppsd.sampling.speculative import RoundNoise, Speculative
from tppsd.sampling.tree import Tree

TREE_RULES = {"linear": LINEAR, "mean": MEAN, "rrs": RECURSIVE}


class TreeSpeculative(Speculative):
    """Draft-verify rounds with several candidates per step.

    Args:
        target, drafter, noise, recorder: as for a chain; the drafter drafts `tree`.
        tree: at least one of its levels has several candidates.
        rule: "linear", "mean" or "rrs".
    """

    def __init__(self, target: ModelRows, drafter: Drafter, tree: Tree, rule: str, noise: RowNoise, recorder: Recorder) -> None:
        super().__init__(target, drafter, FixedDraftLength(tree.depth), tree.depth, "joint", noise, recorder)
        self.tree, self.rule = tree, TREE_RULES[rule]
        self.parents = (-1, *(parent + 1 for parent in tree.parents))
        self.adjusted = self._adjusted
        self._parents = torch.tensor(self.parents[1:], device=noise.keys.device)
        self._leftmost = torch.tensor(tree.starts[:-1], device=noise.keys.device)
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
        """Walk down from the root: at every node the rule picks a child, or none and the walk ends; then doubt the picks."""
        num_accepted = torch.zeros_like(rows.counts)
        verdict = Verdict(num_accepted, num_accepted.bool())
        if draft.marks.shape[1] == 0:
            return draft._replace(nodes=draft.marks), laws, verdict
        ratios = bounded_exp(log_ratio(draft, laws[:, self._parents]))
        nodes = self._leftmost.repeat(len(rows), 1)
        where = (rows.active & (draft.num_drafted > 0)).nonzero().squeeze(1)
        reached = torch.full_like(where, -1)
        steps: list[Step] = []
        for depth, num_children in enumerate(self.tree.candidates):
            first = self.tree.first_child(depth, reached)
            own = ratios[where.unsqueeze(1), first.unsqueeze(1) + torch.arange(num_children, device=first.device)]
            siblings = Siblings(where, torch.full_like(where, depth), own, (laws, reached + 1), (draft.laws, first))
            own_coins = noise.coins[where, self._coins(depth)].flatten(1)
            steps.append(Step(siblings, own_coins, self.rule.pick(siblings, own_coins)))
            is_picked = steps[-1].picked < num_children
            nodes[where, depth] = first + torch.where(is_picked, steps[-1].picked, 0)
            where = where[is_picked]
            reached = nodes[where, depth]
            num_accepted[where] += 1
            if len(where) == 0:
                break
        if self.rule.doubt is not None and steps:
            doubted, positions = self.rule.doubt(steps, self.noise)
            num_accepted.scatter_reduce_(0, doubted, positions, "amin")
        is_accepted = torch.arange(self.tree.depth, device=nodes.device) < num_accepted.unsqueeze(1)
        self.node_counts += torch.bincount(nodes[is_accepted], minlength=self.tree.num_nodes)
        return draft.along(nodes), laws.at(torch.nn.functional.pad(nodes + 1, (1, 0))), verdict

    def _coins(self, depth: int) -> slice:
        """Where the coins of a level lie among those of a round."""
        first = sum(self.rule.num_coins(width) for width in self.tree.candidates[:depth])
        return slice(first, first + self.rule.num_coins(self.tree.candidates[depth]))

    def _adjusted(self, rejected: Rejected, verdict: Verdict, attempts: Attempts) -> Corrected:
        """The rule's adjusted law, for all positions with the same number of candidates together."""
        inter_times, marks = (values.clone() for values in rejected.events())
        widths = torch.tensor(self.tree.candidates, device=rejected.positions.device)[rejected.positions]
        for width in set(self.tree.candidates):
            which = (widths == width).nonzero().squeeze(1)
            if len(which):
                inter_times[which], marks[which] = self.rule.adjusted(rejected.select(which), width, self.noise)
        return Corrected(rejected.positions, inter_times, marks)

    def roll_back(self, draft: Draft, num_accepted: Tensor) -> None:
        """The target's cache keeps the newest event of before and the accepted path, gathered into place."""
        assert draft.nodes is not None
        self.target.cache.keep_path(torch.nn.functional.pad(draft.nodes + 1, (1, 0)), num_accepted + 1)


def tree_addresses(tree: Tree, rule: str) -> list[int]:
    """What one round needs: three uniforms per node, the coins of each level, three uniforms for the bonus event."""
    drafts = [int(address(node, Purpose.DRAFT, draw)) for node in range(tree.num_nodes) for draw in range(2)]
    num_coins = TREE_RULES[rule].num_coins
    coins = [
        int(address(depth, Purpose.TEST, draw)) for depth, width in enumerate(tree.candidates) for draw in range(num_coins(width))
    ]
    return drafts + coins + [int(address(tree.depth, Purpose.TARGET, draw)) for draw in range(2)]
