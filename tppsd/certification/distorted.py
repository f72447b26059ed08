"""A model whose laws are another model's, changed in a known way: drafts of any quality, whatever the encoder."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from tppsd.data.sequences import EventBatch
from tppsd.models.law import MarkDecoder, NextEventLaw
from tppsd.models.mixture import LogNormalMixture
from tppsd.models.protocol import EventModel, EventTokens

RARE = 1e-7


class DistortedTPP(nn.Module):
    """`model` with every law passed through `change`."""

    def __init__(self, model: EventModel, change: Callable[[NextEventLaw], NextEventLaw]) -> None:
        super().__init__()
        self.model, self.change = model, change
        self.num_marks = model.num_marks
        self.statistics = getattr(model, "statistics", None)

    def new_cache(self, batch_size: int, capacity: int) -> Any:
        return self.model.new_cache(batch_size, capacity)

    def extend(self, tokens: EventTokens, cache: Any, parents: tuple[int, ...] | None = None) -> Any:
        return self.model.extend(tokens, cache, parents)

    def law(self, context: Any) -> NextEventLaw:
        return self.change(self.model.law(context))

    def forward(self, batch: EventBatch) -> NextEventLaw:
        return self.change(self.model(batch))  # type: ignore[operator]


def _of_times(change: Callable[[LogNormalMixture], LogNormalMixture]) -> Callable[[NextEventLaw], NextEventLaw]:
    return lambda law: law.with_parts(inter_time=change(law.inter_time))


def _without_heaviest(mixture: LogNormalMixture) -> LogNormalMixture:
    """Its heaviest component keeps a thousandth of its weight, so that the density ratio has no bound worth the
    name."""
    heaviest = torch.nn.functional.one_hot(mixture.log_weights.argmax(-1), mixture.log_weights.shape[-1])
    log_weights = mixture.log_weights + math.log(1e-3) * heaviest
    return replace(mixture, log_weights=log_weights - log_weights.logsumexp(-1, keepdim=True))


class RareMark(NamedTuple):
    """A mark decoder that gives `mark` the probability 1e-7 and keeps the odds of the others."""

    decoder: MarkDecoder
    mark: int

    def log_probs(self, features: Tensor, log_inter_times: Tensor) -> Tensor:
        log_probs = self.decoder.log_probs(features, log_inter_times)
        is_rare = torch.arange(log_probs.shape[-1], device=log_probs.device) == self.mark
        others = torch.where(is_rare, -torch.inf, log_probs).logsumexp(-1, keepdim=True)
        return torch.where(is_rare, math.log(RARE), log_probs - others + math.log1p(-RARE))

    def in_double(self) -> MarkDecoder:
        return RareMark(self.decoder.in_double(), self.mark)


def rare_mark(mark: int) -> Callable[[NextEventLaw], NextEventLaw]:
    """Mark `mark` has probability 1e-7 after every history."""
    return lambda law: (
        law if law.mark_decoder is None else law.with_parts(mark_decoder=RareMark(law.mark_decoder, mark))
    )


# by standard deviations of log tau, which are about 1
DISTORTIONS: dict[str, Callable[[NextEventLaw], NextEventLaw]] = {
    "shifted": _of_times(lambda mixture: replace(mixture, means=mixture.means + 0.6)),
    "nearly disjoint": _of_times(lambda mixture: replace(mixture, means=mixture.means + 12.0)),
    "missing modes": _of_times(_without_heaviest),
    "light tails": _of_times(lambda mixture: replace(mixture, log_stds=mixture.log_stds - 0.8)),
    "rare marks": rare_mark(1),
}
