"""The choice of a method where the caller leaves it open: fixed rules without a clock.

So a seed gives the same sequences.
"""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import torch
from torch import nn

from tppsd.backends.compile import is_compiled
from tppsd.models.protocol import EventModel
from tppsd.models.resolve import model_device
from tppsd.sampling.options import SamplingOptions
from tppsd.sampling.roles import Models

# Compiled: weights of a target from which a draft was measured to gain (693,000 did, 173,000 did not); a draft must
# have so many times fewer. The length is within a tenth of the best on most data sets, with one thread and with
# several.
_LARGE, _SMALLER = 400_000, 8
_COMPILED_LENGTH = {False: 4, True: 8}
# Eager: layers from which drafts gain with any number of running sequences up to their square, and layers per sequence
# below; lengths with one sequence, with some, and with many.
_DEEP, _LAYERS_PER_ROW = 16, 4
_EAGER_LENGTHS = (16, 8, 4)
_FEW_ROWS = 16  # running sequences that gain by compiled drafts under a target with passes of its own, at any depth


class Choice(NamedTuple):
    """Says what to do, and why.

    Fields:
        options: without anything left open.
        reason: a sentence for people.
    """

    options: SamplingOptions
    reason: str


def choose_default(models: Models, options: SamplingOptions, num_rows: int) -> Choice:
    """Draft with the model that was given, or sample autoregressively where that is the faster way by the rules.

    Args:
        models: as they are run, of which the draft is one.
        options: resolved, for the draft.
        num_rows: running sequences.
    """
    assert models.draft is not None
    length = _draft_length(models, options, num_rows)
    if length:
        reason = f"the draft proposes {length} events per round"
        return Choice(replace(options, draft_length=length), reason)
    how = SamplingOptions("autoregressive", **options.common)
    return Choice(how, f"the draft is not used: {_why_not(models, options)}")


def _draft_length(models: Models, options: SamplingOptions, num_rows: int) -> int:
    """Return how many events to draft per round; 0: none."""
    (target, draft), are_native = models, options.rule == "joint"  # rounds of other rules are Python's
    num_layers = getattr(target, "num_layers", 1)
    if model_device(target).type != "cpu":
        return _EAGER_LENGTHS[1]  # a pass over few events is bound by launches
    if _has_compiled_passes(target):
        return _COMPILED_LENGTH[torch.get_num_threads() > 1] if are_native and _is_large(models) else 0
    bucket = 0 if num_rows == 1 else 1 if num_rows <= num_layers else 2
    if are_native and is_compiled(target) and is_compiled(draft):
        gains = num_rows <= max(_FEW_ROWS, num_layers) or (num_layers >= _DEEP and num_rows <= num_layers**2)
    else:
        gains = num_rows <= max(1, num_layers // _LAYERS_PER_ROW) or (num_layers >= _DEEP and num_rows <= num_layers**2)
    return _EAGER_LENGTHS[bucket] if gains else 0


def _has_compiled_passes(model: EventModel) -> bool:
    """Say whether the model's passes are native code."""
    return is_compiled(model) and hasattr(model, "encoder")


def _is_large(models: Models) -> bool:
    """Say whether the target has so many weights, and the draft so few, that compiled drafts gain."""
    target, draft = (num_weights(model) for model in models)
    return target >= _LARGE and target >= _SMALLER * draft and _has_compiled_passes(models.draft or models.target)


def _why_not(models: Models, options: SamplingOptions) -> str:
    if not _has_compiled_passes(models.target):
        return "with so many running sequences an eager pass over drafts costs more than it saves"
    if options.rule != "joint":
        return f"compiled, an event of the target costs less than its share of a round of the rule {options.rule!r}"
    sizes = " and ".join(f"{num_weights(model):,}" for model in models)
    return (
        f"compiled, an event of a target this small costs less than drafting it ({sizes} weights; drafts gain from "
        f"{_LARGE:,} on, and {_SMALLER} times the draft's)"
    )


def num_weights(model: EventModel | None) -> int:
    """Count the numbers in a model's parameters."""
    if isinstance(model, nn.Module):
        return sum(parameter.numel() for parameter in model.parameters())
    return getattr(model, "num_weights", 0)
