"""Wrong samplers of candidate trees; see mutants.py."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor
from tppsd.sampling.rows import Rows
from tppsd.sampling.tree_speculative import TreeSpeculative

from tppsd.models import attention
from tppsd.models.cache import RowCache
from tppsd.models.tree import is_ancestor
from tppsd.sampling import linear, tree_speculative
from tppsd.sampling.drafters import Draft
from tppsd.sampling.noise import Streams
from tppsd.sampling.rules import Rejected, adjusted_joint
from tppsd.sampling.tree.candidates import Siblings
from tppsd.sampling.tree.linear import LINEAR

Patch = Any  # a context manager


def children_reuse_the_parents_context() -> Patch:
    """The target's law after a node is that after the node's parent."""
    right = TreeSpeculative.verify

    def verify(self: TreeSpeculative, rows: Rows, draft: Draft) -> Any:
        assert self.parents is not None
        return right(self, rows, draft)[:, torch.tensor(self.parents).clamp_min(0)]

    return patch.object(TreeSpeculative, "verify", verify)


def sibling_attends_to_sibling() -> Patch:
    """A causal mask over the numbers of the nodes, as if the tree were a chain."""
    return patch.object(attention, "is_ancestor", lambda *of: torch.ones_like(is_ancestor(*of)).tril())


def cache_of_another_branch_is_kept() -> Patch:
    """The entries of the leftmost path, whichever was accepted."""
    right = RowCache.keep_path

    def keep_path(self: RowCache, nodes: Tensor, num_kept: Tensor) -> None:
        right(self, nodes.amin(0, keepdim=True).expand_as(nodes), num_kept)

    return patch.object(RowCache, "keep_path", keep_path)


def accepted_path_is_not_gathered() -> Patch:
    """The cache is rolled back by length, as that of a chain."""

    def keep_path(self: RowCache, nodes: Tensor, num_kept: Tensor) -> None:
        self.lengths = self.lengths + num_kept

    return patch.object(RowCache, "keep_path", keep_path)


def with_linear(**wrong: Any) -> Patch:
    return patch.dict(tree_speculative.TREE_RULES, {"linear": LINEAR._replace(**wrong)})


def negative_weights_are_not_clipped() -> Patch:
    """The candidate is picked in proportion to |r_i + 1 - mean of the others|; what follows is right."""

    def unclipped(ratios: Tensor) -> Tensor:
        k = ratios.shape[-1]
        return (ratios + 1 - (ratios.sum(-1, keepdim=True) - ratios) / (k - 1)).abs() / k

    def pick(siblings: Siblings, coins: Tensor) -> Tensor:
        with patch.object(linear, "linear_weights", unclipped):
            return LINEAR.pick(siblings, coins)

    return with_linear(pick=pick)


def what_is_picked_is_accepted() -> Patch:
    """Picking by the clipped weights is taken for exact."""
    return with_linear(doubt=None)


def adjusted_law_of_plain_rejection() -> Patch:
    """norm(max(0, target - draft)) after all candidates were rejected."""

    def adjusted(rejected: Rejected, num_candidates: int, noise: Streams) -> tuple[Tensor, Tensor]:
        return adjusted_joint(rejected, None, noise.attempts)[1:]  # type: ignore[arg-type]

    return with_linear(adjusted=adjusted)


def each_candidate_is_tested_alone() -> Patch:
    """The first with U <= r: the rule of a chain, once more for every sibling."""

    def pick(siblings: Siblings, coins: Tensor) -> Tensor:
        generator = torch.Generator().manual_seed(int(1e6 * coins.sum()))
        passes = torch.rand(siblings.ratios.shape, generator=generator, dtype=torch.float64) < siblings.ratios
        return torch.where(passes.any(1), passes.long().argmax(1), siblings.ratios.shape[1])

    return with_linear(pick=pick, doubt=None)


TREE_MUTANTS = {
    mutant.__name__: mutant
    for mutant in (
        children_reuse_the_parents_context,
        sibling_attends_to_sibling,
        cache_of_another_branch_is_kept,
        accepted_path_is_not_gathered,
        negative_weights_are_not_clipped,
        what_is_picked_is_accepted,
        adjusted_law_of_plain_rejection,
        each_candidate_is_tested_alone,
    )
}


@contextmanager
def tree_mutant(name: str) -> Iterator[None]:
    with TREE_MUTANTS[name]():
        yield
