"""A cache of what jobs have learnt of draft lengths, for later jobs with the same models.

So a short job need not find it out again.
"""

from __future__ import annotations

from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import nn

from tppsd.models.resolve import model_device
from tppsd.sampling.draft_length import AutoDraftLength
from tppsd.sampling.options import SamplingOptions

_Known = dict[tuple[Any, ...], AutoDraftLength]


class DraftLengthCache:
    """Holds draft lengths by target, draft and the way of sampling, as long as both models live."""

    def __init__(self) -> None:
        self._known: WeakKeyDictionary[nn.Module, WeakKeyDictionary[nn.Module, _Known]] = WeakKeyDictionary()

    def recall(self, target: Any, draft: Any, options: SamplingOptions, is_compiled: bool) -> AutoDraftLength:
        """Return what is known, as a copy to go on from: jobs may run side by side."""
        known = self._of(target, draft).get(_way(target, options))
        return AutoDraftLength.of(options, is_compiled) if known is None else known.continued()

    def remember(self, target: Any, draft: Any, options: SamplingOptions, lengths: AutoDraftLength) -> None:
        """Store what a job has learnt in the end."""
        self._of(target, draft)[_way(target, options)] = lengths.continued()

    def _of(self, target: Any, draft: Any) -> _Known:
        """Return what is known of two models; of models that are no modules, such as a process, nothing is kept."""
        models = (target, target if draft is None else draft)
        if not all(isinstance(model, nn.Module) for model in models):
            return {}
        return self._known.setdefault(models[0], WeakKeyDictionary()).setdefault(models[1], {})


def _way(target: Any, options: SamplingOptions) -> tuple[Any, ...]:
    """Return what the costs of drafts depend on besides the models and the running sequences."""
    where = str(model_device(target)), torch.get_num_threads()
    how = options.drafter, options.draft_passes, options.rule, options.tolerance, options.compile, options.dtype
    return *where, options.method, *how


DRAFT_LENGTHS = DraftLengthCache()
