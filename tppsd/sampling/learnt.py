"""What calls have learnt of draft lengths, for later calls with the same models: a short job need not find it out
again."""

from __future__ import annotations

from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import nn

from tppsd.sampling.draft_length import AutoDraftLength
from tppsd.sampling.options import SamplingOptions
from tppsd.sampling.resolve import model_device

_Known = dict[tuple[Any, ...], AutoDraftLength]
_KNOWN: WeakKeyDictionary[nn.Module, WeakKeyDictionary[nn.Module, _Known]] = WeakKeyDictionary()  # by target and draft


def recall(target: Any, draft: Any, options: SamplingOptions) -> AutoDraftLength:
    """To go on from, as a copy: calls may run side by side."""
    known = _of(target, draft).get(_way(target, options))
    return AutoDraftLength.of(options) if known is None else known.continued()


def remember(target: Any, draft: Any, options: SamplingOptions, lengths: AutoDraftLength) -> None:
    """What a call has learnt in the end, as long as both models live."""
    _of(target, draft)[_way(target, options)] = lengths.continued()


def _of(target: Any, draft: Any) -> _Known:
    """Of models that are no modules, such as a process, nothing is kept."""
    models = (target, target if draft is None else draft)
    if not all(isinstance(model, nn.Module) for model in models):
        return {}
    return _KNOWN.setdefault(models[0], WeakKeyDictionary()).setdefault(models[1], {})


def _way(target: Any, options: SamplingOptions) -> tuple[Any, ...]:
    """What the costs of drafts depend on besides the models and the rows in flight: how drafts are made, and on
    what."""
    where = str(model_device(target)), torch.get_num_threads()
    return (
        *where,
        options.method,
        options.drafter,
        options.draft_passes,
        options.rule,
        options.tolerance,
        *options.passes.items(),
    )
