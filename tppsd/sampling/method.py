"""The way from resolved options to the engine that does what they say."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import nn

from tppsd.models.protocol import EventModel
from tppsd.models.resolve import model_device
from tppsd.sampling.autoregressive import ADDRESSES, Autoregressive, ModelRunner, WithoutMarks
from tppsd.sampling.engine import Counters, Engine
from tppsd.sampling.noise import RowNoise
from tppsd.sampling.options import SamplingOptions
from tppsd.sampling.requests import RequestPlan
from tppsd.sampling.state import BatchState

if TYPE_CHECKING:
    from tppsd.sampling.draft_length import DraftLength
    from tppsd.sampling.drafters.base import Drafter
    from tppsd.sampling.recorder import Recorder
    from tppsd.sampling.rules import Rule


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

    @property
    def keeps_distributions(self) -> bool:
        """Whether the distribution of every event is of use."""
        return self.recorder is not None and self.recorder.wants_distributions


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
    with torch.inference_mode():
        state = BatchState(num_rows, device, plan.stop_marks)
        # where all begin with a start token alone nothing is gained, and every row would read it as a history
        draws_first = options.method == "autoregressive" and plan.forbid_marks is None
        encodes_newest = draws_first and plan.continues_histories
        target = ModelRunner(models.target, num_rows, plan.histories, encodes_newest)
        common = plan.requests, plan.histories
        if options.method != "autoregressive":
            from tppsd.sampling.drafting import build_speculative  # which a request without drafts can do without

            drafts = build_speculative(batch, options, target, draft_length, rule, drafter)
            counters = Counters(options.longest_draft, drafts.rule.num_nodes, device)
            return Engine(drafts, state, drafts.noise, *common, counters, recorder, drafts.draft_length)
        noise = RowNoise(seed, ADDRESSES, num_rows, device)
        method = Autoregressive(target, noise, batch.keeps_distributions)
        if plan.forbid_marks is not None:
            method = WithoutMarks(target, noise, plan.forbid_marks, plan.max_events)
        return Engine(method, state, noise, *common, Counters(0, 0, device), recorder)
