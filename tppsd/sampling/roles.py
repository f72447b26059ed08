"""Checks of a pair of target and draft that a job is to run."""

from __future__ import annotations

from typing import NamedTuple

from torch import nn

from tppsd.backends.snapshots import snapshot
from tppsd.models.protocol import EventModel
from tppsd.models.resolve import model_device

DRAFTER_NAMES = ("self", "jacobi", "poisson")  # drafters that need no model of their own


class Models(NamedTuple):
    """Holds the model that is sampled and, where there is one, the model that drafts."""

    target: EventModel
    draft: EventModel | None


def check_finite(target: EventModel, draft: EventModel | None) -> None:
    """Refuse weights that are not finite.

    Raises:
        ValueError: the sentence names the model and the parameter.
    """
    for role, model in (("target", target), ("draft", draft)):
        if isinstance(model, nn.Module) and (name := snapshot(model).not_finite) is not None:
            raise ValueError(f"{role}: parameter {name} has values that are not finite; the checkpoint is damaged")


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
