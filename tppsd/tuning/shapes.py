"""Expected speed of every chain and tree, from what was measured, and the best of them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from tppsd.sampling.tree import Tree

WIDTHS = (1, 2, 3, 4, 6, 8, 12, 16)
LONGEST_CHAIN, DEEPEST, MOST_NODES = 24, 8, 64


@dataclass(frozen=True)
class Acceptance:
    """P(a candidate is accepted) at every step, for any number of candidates.

    Attributes:
        by_depth: of one candidate, at depths 0, 1, ...; the last one stands for all deeper ones.
        rejection: K -> P(all K candidates are rejected) / P(one candidate is rejected), averaged over depths; 1 at K =
            1.
    """

    by_depth: tuple[float, ...]
    rejection: dict[int, float]

    def at(self, depth: int, num_candidates: int) -> float:
        """Between measured K, log K and the logarithm of the ratio are interpolated linearly; beyond, the last ratio
        stands."""
        known = sorted(self.rejection)
        below = max(k for k in known if k <= num_candidates)
        above = min((k for k in known if k >= num_candidates), default=below)
        share = 0.0 if below == above else math.log(num_candidates / below) / math.log(above / below)
        log_ratio = (1 - share) * _log(self.rejection[below]) + share * _log(self.rejection[above])
        return 1 - math.exp(log_ratio) * (1 - self.by_depth[min(depth, len(self.by_depth) - 1)])

    def events_per_round(self, tree: Tree) -> float:
        """One event, and one more for every depth that is reached."""
        reached, events = 1.0, 1.0
        for depth, width in enumerate(tree.candidates):
            reached *= self.at(depth, width)
            events += reached
        return events


def _log(ratio: float) -> float:
    return math.log(max(ratio, 1e-6))


@dataclass(frozen=True)
class Costs:
    """Seconds of the parts of a round.

    Attributes:
        target, draft: tokens per row -> seconds of a pass, at the batch size in question; a drafter without a model
            costs 0.
        chain, tree: all else in a round; tree_step: of judging one depth of a tree, on top.
        share: what passes take within a round of a chain, of what they take one by one; below 1 where rounds are one
            call.
    """

    target: Callable[[int], float]
    draft: Callable[[int], float]
    chain: float
    tree: float
    tree_step: float
    share: float = 1.0

    def passes(self, tree: Tree) -> float:
        """Of drafting level by level and verifying at once: the draft sees all levels but the last."""
        drafted = [1] + [tree.starts[d + 1] - tree.starts[d] for d in range(tree.depth - 1)]
        return self.target(1 + tree.num_nodes) + sum(self.draft(num_tokens) for num_tokens in drafted)

    def round(self, tree: Tree) -> float:
        if tree.is_chain:
            return self.share * self.passes(tree) + max(0.0, self.chain)
        return self.passes(tree) + max(0.0, self.tree + self.tree_step * tree.depth)


def shapes() -> Iterator[Tree]:
    """Chains, and trees that do not widen with depth."""
    yield from (Tree.chain(length) for length in range(1, LONGEST_CHAIN + 1))

    def grow(widths: tuple[int, ...]) -> Iterator[Tree]:
        for width in WIDTHS:
            tree = Tree((*widths, width))
            if (not widths or width <= widths[-1]) and tree.num_nodes <= MOST_NODES and not tree.is_chain:
                yield tree
                if tree.depth < DEEPEST:
                    yield from grow(tree.candidates)

    yield from grow(())


def best(acceptance: Acceptance, costs: Costs, num_chains: int, num_trees: int) -> list[tuple[Tree, float]]:
    """(shape, expected events per second and row) of the fastest chains and trees, fastest first."""
    speeds = [(tree, acceptance.events_per_round(tree) / costs.round(tree)) for tree in shapes()]
    speeds.sort(key=lambda pair: -pair[1])
    chains = [pair for pair in speeds if pair[0].is_chain][:num_chains]
    trees = [pair for pair in speeds if not pair[0].is_chain][:num_trees]
    return sorted(chains + trees, key=lambda pair: -pair[1])
