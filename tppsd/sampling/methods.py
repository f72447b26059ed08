"""From resolved options to the engine that does what they say."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch

from tppsd.models.protocol import EventModel
from tppsd.sampling import autoregressive, speculative
from tppsd.sampling.autoregressive import Autoregressive
from tppsd.sampling.compiled_speculative import CompiledSpeculative, are_compiled
from tppsd.sampling.device_speculative import DeviceFixedPoint, DeviceSpeculative, DeviceTreeSpeculative
from tppsd.sampling.draft_length import DraftLength, FixedDraftLength, RecordedDraftLength
from tppsd.sampling.drafters import Drafter, ModelDrafter
from tppsd.sampling.engine import Engine, Method
from tppsd.sampling.fixed_point import FixedPoint
from tppsd.sampling.jacobi_drafter import JacobiDrafter
from tppsd.sampling.learnt import recall
from tppsd.sampling.noise import RowNoise
from tppsd.sampling.options import SamplingOptions
from tppsd.sampling.parallel_drafter import ParallelDrafter
from tppsd.sampling.poisson_drafter import PoissonDrafter
from tppsd.sampling.recorder import Recorder
from tppsd.sampling.requests import Plan
from tppsd.sampling.resolve import model_device
from tppsd.sampling.rows import ModelRows, Rows
from tppsd.sampling.self_drafter import SelfDrafter
from tppsd.sampling.speculative import Speculative
from tppsd.sampling.tree import Tree
from tppsd.sampling.tree_speculative import TREE_RULES, TreeSpeculative, tree_addresses

_FIRST_CAPACITY = 64  # doubled as needed: short runs of entries with long gaps between them are read slowly


class Models(NamedTuple):
    """Who is sampled and, where there is one, the model that drafts."""

    target: EventModel
    draft: EventModel | None


def build_engine(
    models: Models, options: SamplingOptions, plan: Plan, num_rows: int, seed: int, recorder: Recorder,
    draft_length: DraftLength | None = None,
) -> Engine:  # fmt: skip
    """An engine for `plan` with `num_rows` rows in flight.

    Args:
        options: resolved, of any method but "auto".
        draft_length: instead of the one that the options name; it may have learnt already.
    """
    device = model_device(models.target)
    with torch.inference_mode():
        rows = Rows(num_rows, device)
        capacity = _FIRST_CAPACITY + int(plan.histories.lengths.max())
        target = ModelRows(models.target, num_rows, capacity, plan.histories)
        tree = None if options.tree is None or options.tree.is_chain else options.tree
        noise = RowNoise(seed, addresses(options, tree), num_rows, device)
        if options.method == "autoregressive":
            return Engine(Autoregressive(target, noise, recorder), recorder, rows, noise, plan.requests, plan.histories)
        lengths = draft_length or choose_draft_length(models, options)
        method: Method
        if options.method == "fixed_point":
            assert options.tolerance is not None
            iterated = DeviceFixedPoint if device.type == "cuda" else FixedPoint
            drafter = JacobiDrafter(target, num_rows)
            method = iterated(target, drafter, lengths, options.longest_draft, options.tolerance, noise, recorder)
        else:
            drafts = build_drafter(models, options, target, num_rows, capacity, tree)
            if tree is not None:
                method = of_tree(options, device)(target, drafts, tree, options.rule, noise, recorder)
            else:
                rule = "joint" if options.candidates else options.rule  # one candidate per step is a chain
                kind = of_chain(models, rule, drafts, recorder, device)
                method = kind(target, drafts, lengths, options.longest_draft, rule, noise, recorder)
        return Engine(method, recorder, rows, noise, plan.requests, plan.histories)


def of_tree(options: SamplingOptions, device: torch.device) -> Callable[..., TreeSpeculative]:
    """Where rounds of a tree are judged."""
    asks = TREE_RULES[options.rule or ""].adjusted_at_once is None
    return TreeSpeculative if asks or device.type != "cuda" else DeviceTreeSpeculative


def of_chain(
    models: Models, rule: str | None, drafter: Drafter, recorder: Recorder, device: torch.device
) -> Callable[..., Speculative]:
    """Where rounds of a chain run."""
    is_compiled = are_compiled(*models) and rule == "joint" and type(drafter) is ModelDrafter
    if is_compiled and not recorder.wants_laws:
        return CompiledSpeculative
    return DeviceSpeculative if device.type == "cuda" else Speculative


def addresses(options: SamplingOptions, tree: Tree | None) -> list[int]:
    """What the noise is for."""
    if options.method == "autoregressive":
        return autoregressive.ADDRESSES
    return speculative.ADDRESSES if tree is None else tree_addresses(tree, options.rule or "")


def choose_draft_length(models: Models, options: SamplingOptions) -> DraftLength:
    """What `draft_length`, or the depth of a tree, stands for."""
    if options.tree is not None:
        return FixedDraftLength(options.tree.depth)
    if options.draft_length == "auto":
        return recall(models.target, models.draft, options)
    if isinstance(options.draft_length, int):
        return FixedDraftLength(options.draft_length)
    assert isinstance(options.draft_length, tuple)
    return RecordedDraftLength(options.draft_length)


def build_drafter(
    models: Models, options: SamplingOptions, target: ModelRows, num_rows: int, capacity: int, tree: Tree | None
) -> Drafter:
    """What `drafter` stands for."""
    # whether a row has reached its end must be asked of the device; block verification looks at the whole draft; and
    # what operators round in bfloat16 depends on how many events a pass verifies, which must not be decided by these
    # events
    is_on_device = model_device(models.target).type != "cpu"
    stops_at_end = not (tree or options.rule == "block" or is_on_device or (options.dtype and not options.compile))
    if options.drafter == "self":
        return SelfDrafter(target, num_rows, tree, stops_at_end)
    if options.drafter == "jacobi":
        return JacobiDrafter(target, num_rows)
    if options.drafter == "poisson":
        return PoissonDrafter(getattr(models.target, "statistics", None), model_device(models.target), tree)
    assert models.draft is not None
    if options.draft_passes is not None:
        return ParallelDrafter(models.draft, target, num_rows, capacity, options.draft_passes)
    return ModelDrafter(models.draft, num_rows, capacity, target.histories, tree, stops_at_end)
