"""The parts of speculative sampling that options name: a rule, a drafter, and what chooses how many events to draft.

What the options do not name is not imported.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch

from tppsd.backends.compile import is_compiled
from tppsd.models.resolve import model_device
from tppsd.sampling.autoregressive import ModelRunner
from tppsd.sampling.draft_length import DraftLength, FixedDraftLength, RecordedDraftLength
from tppsd.sampling.drafters.base import Drafter
from tppsd.sampling.drafters.model import ModelDrafter
from tppsd.sampling.noise import RowNoise
from tppsd.sampling.options import SamplingOptions
from tppsd.sampling.rules import FactorisedRule, JointRule, Rule
from tppsd.sampling.speculative import Speculative

if TYPE_CHECKING:
    from tppsd.sampling.method import Batch


def build_speculative(
    batch: Batch,
    options: SamplingOptions,
    target: ModelRunner,
    draft_length: DraftLength | None,
    rule: Rule | None,
    drafter: Callable[[ModelRunner], Drafter] | None,
) -> Speculative:
    """Return the method of a batch whose options name drafts.

    Args:
        batch: what is sampled.
        options: resolved, of the methods "speculative" and "fixed_point".
        target: runs the target.
        draft_length, rule, drafter: as of `build_engine`.
    """
    device = model_device(batch.models.target)
    rule = rule or build_rule(options, device)
    proposes = build_drafter(batch, options, target) if drafter is None else drafter(target)
    noise = RowNoise(batch.seed, rule.addresses, batch.num_rows, device)
    kind = Speculative
    if is_compiled(batch.models.target) and not batch.keeps_distributions:
        from tppsd.sampling.compiled import CompiledSpeculative, can_speculate

        kind = CompiledSpeculative if can_speculate(proposes, rule) else Speculative
    return kind(target, proposes, rule, noise, draft_length or given_draft_length(options))


def build_rule(options: SamplingOptions, device: torch.device) -> Rule:
    """Return the rule that the options name."""
    if options.method == "fixed_point":
        from tppsd.sampling.fixed_point import UnchangedRule

        assert options.tolerance is not None
        return UnchangedRule(options.tolerance)
    if (tree := options.tree) is not None and not tree.is_chain:
        from tppsd.sampling.tree.rule import CANDIDATE_RULES, TreeRule

        return TreeRule(tree, CANDIDATE_RULES[options.rule or "linear"], device)
    if options.rule == "block":
        from tppsd.sampling.block import BlockRule

        return BlockRule()
    return FactorisedRule() if options.rule == "factorised" else JointRule()  # also of one candidate per step


def given_draft_length(options: SamplingOptions) -> DraftLength:
    """Return what a `draft_length` that is not "auto", or the depth of a tree, stands for."""
    if options.tree is not None:
        return FixedDraftLength(options.tree.depth)
    if isinstance(options.draft_length, int):
        return FixedDraftLength(options.draft_length)
    assert isinstance(options.draft_length, tuple)
    return RecordedDraftLength(options.draft_length)


def build_drafter(batch: Batch, options: SamplingOptions, target: ModelRunner) -> Drafter:
    """Return the drafter that the options name."""
    models, plan, num_rows = batch[:3]
    device, statistics = model_device(models.target), getattr(models.target, "statistics", None)
    if options.method == "fixed_point" or options.drafter == "jacobi":
        from tppsd.sampling.drafters.own import JacobiDrafter

        return JacobiDrafter(target, num_rows)
    if (tree := options.tree) is not None and not tree.is_chain:
        from tppsd.sampling.tree.drafters import TreeModelDrafter, TreePoissonDrafter, TreeSelfDrafter

        if options.drafter == "self":
            return TreeSelfDrafter(target, num_rows, tree)
        if options.drafter == "poisson":
            return TreePoissonDrafter(statistics, device, tree)
        assert models.draft is not None
        return TreeModelDrafter(models.draft, num_rows, plan.histories, tree)
    # block verification looks at the whole draft; to ask a device for the rows' ends takes longer than to draft on
    stops_at_end = options.rule != "block" and device.type == "cpu"
    if options.drafter == "self":
        from tppsd.sampling.drafters.own import SelfDrafter

        return SelfDrafter(target, num_rows, stops_at_end)
    if options.drafter == "poisson":
        from tppsd.sampling.drafters.poisson import PoissonDrafter

        return PoissonDrafter(statistics, device)
    assert models.draft is not None
    if options.draft_passes is not None:
        from tppsd.sampling.drafters.parallel import ParallelDrafter

        return ParallelDrafter(models.draft, target, num_rows, options.draft_passes)
    return ModelDrafter(models.draft, num_rows, plan.histories, stops_at_end)
