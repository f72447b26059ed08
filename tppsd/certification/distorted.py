"""A model whose distributions are another model's, changed in a known way.

It gives drafts of any quality, whatever the encoder.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from tppsd.data.sequences import EventBatch
from tppsd.models.distribution import MarkDecoder, NextEventDistribution
from tppsd.models.mixture import LogNormalMixture
from tppsd.models.protocol import EventModel, EventTokens

RARE = 1e-7


class DistortedTPP(nn.Module):
    """Gives every distribution of `model`, passed through `change`."""

    def __init__(self, model: EventModel, change: Callable[[NextEventDistribution], NextEventDistribution]) -> None:
        super().__init__()
        self.model, self.change = model, change
        self.num_marks = model.num_marks
        self.statistics = getattr(model, "statistics", None)

    def new_cache(self, batch_size: int, capacity: int) -> Any:
        """Return an empty cache of the model."""
        return self.model.new_cache(batch_size, capacity)

    def extend(self, tokens: EventTokens, cache: Any, parents: tuple[int, ...] | None = None) -> Any:
        """Append tokens to the cache, and return the contexts after them."""
        return self.model.extend(tokens, cache, parents)

    def distribution(self, context: Any) -> NextEventDistribution:
        """Return the changed distribution of the next event."""
        distribution = self.model.distribution(context)
        assert isinstance(distribution, NextEventDistribution)
        return self.change(distribution)

    def forward(self, batch: EventBatch) -> NextEventDistribution:
        """Return the changed distributions of whole sequences."""
        return self.change(self.model(batch))  # type: ignore[operator]


def _of_times(
    change: Callable[[LogNormalMixture], LogNormalMixture],
) -> Callable[[NextEventDistribution], NextEventDistribution]:
    """Return a change of a distribution that changes the mixture of its inter-times."""
    return lambda distribution: distribution.with_parts(inter_time=change(distribution.inter_time))


def _without_heaviest(mixture: LogNormalMixture) -> LogNormalMixture:
    """Leave a mixture's heaviest component a thousandth of its weight.

    The density ratio then has no bound worth the name.
    """
    heaviest = torch.nn.functional.one_hot(mixture.log_weights.argmax(-1), mixture.log_weights.shape[-1])
    log_weights = mixture.log_weights + math.log(1e-3) * heaviest
    return replace(mixture, log_weights=log_weights - log_weights.logsumexp(-1, keepdim=True))


class RareMark(NamedTuple):
    """Decodes marks so that `mark` has the probability 1e-7 and the others keep their odds."""

    decoder: MarkDecoder
    mark: int

    def log_probs(self, features: Tensor, log_inter_times: Tensor) -> Tensor:
        """Return log-probabilities of all marks at these inter-times, (..., num_marks)."""
        log_probs = self.decoder.log_probs(features, log_inter_times)
        is_rare = torch.arange(log_probs.shape[-1], device=log_probs.device) == self.mark
        others = torch.where(is_rare, -torch.inf, log_probs).logsumexp(-1, keepdim=True)
        return torch.where(is_rare, math.log(RARE), log_probs - others + math.log1p(-RARE))

    def in_double(self) -> MarkDecoder:
        """Return the same decoder in float64."""
        return RareMark(self.decoder.in_double(), self.mark)


def rare_mark(mark: int) -> Callable[[NextEventDistribution], NextEventDistribution]:
    """Return a change of a distribution by which mark `mark` has probability 1e-7 after every history."""
    return lambda distribution: (
        distribution
        if distribution.mark_decoder is None
        else distribution.with_parts(mark_decoder=RareMark(distribution.mark_decoder, mark))
    )


# by standard deviations of log tau, which are about 1
DISTORTIONS: dict[str, Callable[[NextEventDistribution], NextEventDistribution]] = {
    "shifted": _of_times(lambda mixture: replace(mixture, means=mixture.means + 0.6)),
    "nearly disjoint": _of_times(lambda mixture: replace(mixture, means=mixture.means + 12.0)),
    "missing modes": _of_times(_without_heaviest),
    "light tails": _of_times(lambda mixture: replace(mixture, log_stds=mixture.log_stds - 0.8)),
    "rare marks": rare_mark(1),
}
