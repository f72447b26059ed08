"""Wrong samplers of candidate trees; see mutants.py."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple
from unittest.mock import patch

import torch
from sampling import sample_with
from torch import Tensor

from tppsd.models import attention
from tppsd.models.cache import RowCache
from tppsd.models.distribution import sample_with_ratio
from tppsd.models.tree import is_ancestor
from tppsd.sampling.drafters.base import Draft
from tppsd.sampling.noise import Streams
from tppsd.sampling.results import SampledSequences
from tppsd.sampling.rules import Acceptance, Rejected, RoundUniforms, reject_until_kept
from tppsd.sampling.tree import linear
from tppsd.sampling.tree.candidates import RECURSIVE, CandidateRule, Siblings, recursion
from tppsd.sampling.tree.linear import LINEAR
from tppsd.sampling.tree.rule import CANDIDATE_RULES, TreeRule
from tppsd.sampling.tree.shape import Tree

Patch = Callable[[], AbstractContextManager[Any]]


class TreeMutant(NamedTuple):
    """A wrong sampler. Fields: candidates, kind: of the tree rule that is passed in; patch: of anything else."""

    candidates: CandidateRule | None = None
    kind: type[TreeRule] = TreeRule
    patch: Patch = nullcontext

    def samples(self, target: Any, draft: Any, candidates: tuple[int, ...], **arguments: Any) -> SampledSequences:
        """As of `sample_with`."""
        rule = self.candidates or CANDIDATE_RULES[arguments.get("rule", "linear")]
        own = self.kind(Tree(candidates), rule, torch.device("cpu"))
        with self.patch():
            return sample_with(target, draft, own_rule=own, candidates=candidates, **arguments)


class ChildrenReuseTheParentsContext(TreeRule):
    """The target's distribution after a node is that after the node's parent."""

    def accept(self, draft: Draft, target: Any, uniforms: RoundUniforms, running: Tensor, noise: Streams) -> Acceptance:
        assert draft.parents is not None
        of_parents = target[:, torch.tensor(draft.parents).clamp_min(0)]
        return super().accept(draft, of_parents, uniforms, running, noise)


def sibling_attends_to_sibling() -> AbstractContextManager[Any]:
    """A causal mask over the numbers of the nodes, as if the tree were a chain."""
    return patch.object(attention, "is_ancestor", lambda *of: torch.ones_like(is_ancestor(*of)).tril())


def cache_of_another_branch_is_kept() -> AbstractContextManager[Any]:
    """The entries of the leftmost path, whichever was accepted."""
    right = RowCache.keep_path

    def keep_path(self: RowCache, nodes: Tensor, num_kept: Tensor) -> None:
        right(self, nodes.amin(0, keepdim=True).expand_as(nodes), num_kept)

    return patch.object(RowCache, "keep_path", keep_path)


def accepted_path_is_not_gathered() -> AbstractContextManager[Any]:
    """The cache is rolled back by length, as that of a chain."""

    def keep_path(self: RowCache, nodes: Tensor, num_kept: Tensor) -> None:
        self.lengths = self.lengths + num_kept

    return patch.object(RowCache, "keep_path", keep_path)


def pick_by_absolute_weights(siblings: Siblings, uniforms: Tensor) -> Tensor:
    """In proportion to |r_i + 1 - mean of the others|; what follows is right."""

    def unclipped(ratios: Tensor) -> Tensor:
        k = ratios.shape[-1]
        return (ratios + 1 - (ratios.sum(-1, keepdim=True) - ratios) / (k - 1)).abs() / k

    with patch.object(linear, "linear_weights", unclipped):
        return LINEAR.pick(siblings, uniforms)


def resample_plainly(rejected: Rejected, num_candidates: int, noise: Streams) -> tuple[Tensor, Tensor]:
    """norm(max(0, target - draft)) after all candidates were rejected."""
    return reject_until_kept(rejected, noise, sample_with_ratio)


def pick_the_first_that_passes(siblings: Siblings, uniforms: Tensor) -> Tensor:
    """The first with U <= r: the rule of a chain, once more for every sibling."""
    generator = torch.Generator().manual_seed(int(1e6 * uniforms.sum()))
    passes = torch.rand(siblings.ratios.shape, generator=generator, dtype=torch.float64) < siblings.ratios
    return torch.where(passes.any(1), passes.long().argmax(1), siblings.ratios.shape[1])


def resample_with_a_wrong_sign(rejected: Rejected, num_candidates: int, noise: Streams) -> tuple[Tensor, Tensor]:
    """norm(max(0, target - draft / c)) instead of norm(max(0, target - c draft))."""
    scale = recursion(*rejected.distributions(), num_candidates)[0][:, -1]
    return reject_until_kept(rejected, noise, sample_with_ratio, -scale.log())


TREE_MUTANTS = {
    "children_reuse_the_parents_context": TreeMutant(kind=ChildrenReuseTheParentsContext),
    "sibling_attends_to_sibling": TreeMutant(patch=sibling_attends_to_sibling),
    "cache_of_another_branch_is_kept": TreeMutant(patch=cache_of_another_branch_is_kept),
    "accepted_path_is_not_gathered": TreeMutant(patch=accepted_path_is_not_gathered),
    "negative_weights_are_not_clipped": TreeMutant(LINEAR._replace(pick=pick_by_absolute_weights)),
    # picking by the clipped weights is taken for exact
    "what_is_picked_is_accepted": TreeMutant(LINEAR._replace(reject_picks=None)),
    "adjusted_distribution_of_plain_rejection": TreeMutant(LINEAR._replace(resample=resample_plainly)),
    "each_candidate_is_tested_alone": TreeMutant(LINEAR._replace(pick=pick_the_first_that_passes, reject_picks=None)),
}
RRS_WITH_A_WRONG_SIGN = RECURSIVE._replace(resample=resample_with_a_wrong_sign)
