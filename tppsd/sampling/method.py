"""The way from resolved options to the engine that does what they say.

What the options do not name is not imported.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import nn

from tppsd.backends.compile import is_compiled
from tppsd.models.protocol import EventModel
from tppsd.models.resolve import model_device
from tppsd.sampling import autoregressive
from tppsd.sampling.autoregressive import Autoregressive, ModelRunner
from tppsd.sampling.draft_length import DraftLength, FixedDraftLength, RecordedDraftLength
from tppsd.sampling.drafters.base import Drafter
from tppsd.sampling.drafters.model import ModelDrafter
from tppsd.sampling.engine import Counters, Engine
from tppsd.sampling.noise import RowNoise
from tppsd.sampling.options import SamplingOptions
from tppsd.sampling.requests import RequestPlan
from tppsd.sampling.rules import FactorisedRule, JointRule, Rule
from tppsd.sampling.speculative import Speculative
from tppsd.sampling.state import BatchState

if TYPE_CHECKING:
    from tppsd.sampling.recorder import Recorder

_FIRST_CAPACITY = 16


class Models(NamedTuple):
    """Holds the model that is sampled and, where there is one, the model that drafts."""

    target: EventModel
    draft: EventModel | None


def largest_weight(model: EventModel) -> str:
    """Return the name and the size of the parameter with the largest weight, in words; "" of a model without any."""
    weights = dict(model.named_parameters()) if isinstance(model, nn.Module) else {}
    sizes = {name: float(weight.detach().abs().max()) for name, weight in weights.items() if weight.numel()}
    if not sizes:
        return ""
    name = max(sizes, key=sizes.__getitem__)
    return f" (its largest weight is {sizes[name]:.3g}, in the parameter {name})"


def check_fit(target: EventModel, draft: EventModel) -> None:
    """Refuse a draft that does not fit its target, whatever its weights.

    Raises:
        ValueError: the sentence says in what.
    """
    if model_device(draft) != model_device(target):
        raise ValueError(
            f"the draft is on {model_device(draft)}, the target on {model_device(target)}; move them to one device"
        )
    if draft.num_marks != target.num_marks:
        raise ValueError(f"draft has num_marks = {draft.num_marks}, the target {target.num_marks}; they must agree")


class Batch(NamedTuple):
    """Says what a method is built for: models, plan, number of running sequences, seed and, if any, recorder."""

    models: Models
    plan: RequestPlan
    num_rows: int
    seed: int
    recorder: Recorder | None = None


def build_engine(
    batch: Batch,
    options: SamplingOptions,
    draft_length: DraftLength | None = None,
    rule: Rule | None = None,
    drafter: Callable[[ModelRunner], Drafter] | None = None,
) -> Engine:
    """Return an engine for a batch.

    Args:
        batch: what is sampled.
        options: resolved, of any method but "auto".
        draft_length: what chooses it where that is left to the clock; it may have learnt already.
        rule, drafter: instead of those that the options name.
    """
    models, plan, num_rows, seed, recorder = batch
    device = model_device(models.target)
    keeps_distributions = recorder is not None and recorder.wants_distributions
    with torch.inference_mode():
        state = BatchState(num_rows, device, plan.stop_marks)
        # where all begin with a start token alone nothing is gained, and every row would read it as a history
        draws_first = options.method == "autoregressive" and plan.forbid_marks is None
        encodes_newest = draws_first and plan.continues_histories
        target = ModelRunner(models.target, num_rows, _FIRST_CAPACITY, plan.histories, encodes_newest)
        if options.method == "autoregressive":
            noise, counters = RowNoise(seed, autoregressive.ADDRESSES, num_rows, device), Counters(0, 0, device)
            method = Autoregressive(target, noise, keeps_distributions)
            if plan.forbid_marks is not None:
                from tppsd.sampling.autoregressive import WithoutMarks

                method = WithoutMarks(target, noise, plan.forbid_marks, plan.max_events)
            return Engine(method, state, noise, plan.requests, plan.histories, counters, recorder)
        rule = rule or build_rule(options, device)
        lengths = draft_length or given_draft_length(options)
        proposes = build_drafter(batch, options, target) if drafter is None else drafter(target)
        noise = RowNoise(seed, rule.addresses, num_rows, device)
        counters = Counters(options.longest_draft, rule.num_nodes, device)
        kind = Speculative
        if is_compiled(models.target) and not keeps_distributions:
            from tppsd.sampling.compiled import CompiledSpeculative, can_speculate

            kind = CompiledSpeculative if can_speculate(proposes, rule) else Speculative
        speculative = kind(target, proposes, rule, noise, lengths)
        return Engine(speculative, state, noise, plan.requests, plan.histories, counters, recorder, lengths)


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
        return TreeModelDrafter(models.draft, num_rows, _FIRST_CAPACITY, plan.histories, tree)
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

        return ParallelDrafter(models.draft, target, num_rows, _FIRST_CAPACITY, options.draft_passes)
    return ModelDrafter(models.draft, num_rows, _FIRST_CAPACITY, plan.histories, stops_at_end)
