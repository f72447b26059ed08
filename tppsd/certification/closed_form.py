"""Event models of known distributions: closed forms of the history, and another model's, changed in a known way."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from tppsd.data.batch import EventBatch
from tppsd.models.cache import RowCache, extend_states
from tppsd.models.distribution import MarkDecoder, NextEventDistribution
from tppsd.models.mixture import LogNormalMixture
from tppsd.models.protocol import EventModel, EventTokens


class ClosedFormMarks(NamedTuple):
    """Gives marks by log f(k | features, tau) = log softmax_k(level_k + slope_k tanh(log tau)).

    features: (..., 2 num_marks), levels before slopes.
    """

    def log_probs(self, features: Tensor, log_inter_times: Tensor) -> Tensor:
        """Return log-probabilities of all marks at these inter-times, (..., num_marks)."""
        level, slope = features.chunk(2, -1)
        return torch.log_softmax(level + slope * torch.tanh(log_inter_times), -1)

    def in_double(self) -> ClosedFormMarks:
        """Return itself: it has no weights of another precision."""
        return self


@dataclass(frozen=True)
class ClosedFormTPP:
    """Gives a mixture of log-normals and marks whose parameters are linear in a state of the history.

    The state is s_i = memory * s_{i-1} + token features.

    The cache holds s after every token, and the next s is computed from the newest live entry, so that a wrong length,
    a wrong row or a stale entry changes every later distribution. `__call__` computes the same distributions from the
    whole sequence, without a cache.

    Attributes:
        log_weights (components,), means (components,), log_stds (components,): of the mixture at s = 0.
        levels, slopes: (num_marks,) of the marks at s = 0.
        from_state: (components + num_marks, num_marks + 2): how s moves the means and the levels.
        memory: 0 forgets all but the newest token.
    """

    log_weights: Tensor
    means: Tensor
    log_stds: Tensor
    levels: Tensor
    slopes: Tensor
    from_state: Tensor
    memory: float = 0.5

    @classmethod
    def random(
        cls, num_marks: int, seed: int, num_components: int = 2, strength: float = 0.5, memory: float = 0.5
    ) -> ClosedFormTPP:
        """Draw parameters from a private generator; `strength` is that of the history's influence."""
        generator = torch.Generator().manual_seed(seed)

        def normal(*shape: int) -> Tensor:
            return torch.randn(*shape, generator=generator, dtype=torch.float64)

        return cls(
            torch.log_softmax(0.5 * normal(num_components), -1),
            0.6 * normal(num_components),
            -0.5 + 0.3 * normal(num_components),
            0.8 * normal(num_marks),
            0.8 * normal(num_marks),
            strength * normal(num_components + num_marks, num_marks + 2),
            memory,
        )

    @classmethod
    def swinging(cls, num_marks: int, seed: int) -> ClosedFormTPP:
        """Return a model in which low marks lengthen the intervals to come and high marks shorten them.

        They do so for a long time: the state of another row, or of another length, gives quite another distribution.
        """
        model = cls.random(num_marks, seed, strength=0.3, memory=0.8)
        model.from_state[: len(model.means), :num_marks] = torch.linspace(1.0, -1.0, num_marks, dtype=torch.float64)
        return model

    def moved(self, seed: int, times: float = 0.0, marks: float = 0.0) -> ClosedFormTPP:
        """Return a draft: this model with its mixture means and its mark levels moved by that many random units."""
        generator = torch.Generator().manual_seed(seed)

        def noise(values: Tensor) -> Tensor:
            return torch.randn(values.shape, generator=generator, dtype=torch.float64)

        return replace(
            self, means=self.means + times * noise(self.means), levels=self.levels + marks * noise(self.levels)
        )

    @property
    def num_marks(self) -> int:
        """Number of marks."""
        return len(self.levels)

    def new_cache(self, batch_size: int, capacity: int) -> RowCache:
        """Return an empty cache of states."""
        return RowCache([torch.zeros(batch_size, capacity, self.num_marks + 2, dtype=torch.float64)])

    def extend(self, tokens: EventTokens, cache: RowCache, parents: tuple[int, ...] | None = None) -> Tensor:
        """Append tokens to the cache, and return the states after them, (batch, q, num_marks + 2)."""
        start = torch.zeros(len(cache.lengths), self.num_marks + 2, dtype=torch.float64)
        return extend_states(cache, tokens, parents, start, self._states)

    def _states(self, tokens: EventTokens, before: Tensor) -> Tensor:
        """Return the states after each token, (batch, q, num_marks + 2), from those before, (batch, num_marks + 2)."""
        marks = torch.nn.functional.one_hot((tokens.ids - 1) % self.num_marks, self.num_marks).double()
        is_event = tokens.inter_times > 0
        squashed = torch.tanh(torch.where(is_event, tokens.inter_times, 1.0).log())
        is_start = torch.stack([squashed, (tokens.ids == 0).double()], -1)
        features = torch.cat([torch.where((tokens.ids > 0).unsqueeze(-1), marks, 0.0), is_start], -1)
        states = []
        for feature in features.unbind(1):
            before = self.memory * before + feature
            states.append(before)
        return torch.stack(states, 1)

    def distribution(self, context: Tensor) -> NextEventDistribution:
        """Return the distribution of the next event after states."""
        moves = torch.tanh(context @ self.from_state.T)
        means = self.means + moves[..., : len(self.means)]
        features = torch.cat(
            [self.levels + moves[..., len(self.means) :], self.slopes.expand(*moves.shape[:-1], -1)], -1
        )
        mixture = LogNormalMixture(self.log_weights.expand_as(means), means, self.log_stds.expand_as(means))
        return (
            NextEventDistribution(mixture)
            if self.num_marks == 1
            else NextEventDistribution(mixture, features, ClosedFormMarks())
        )

    def __call__(self, batch: EventBatch) -> NextEventDistribution:
        """Return the distributions of batch shape (batch, length + 1), from the whole sequences."""
        tokens = EventTokens.from_batch(batch, self.num_marks)
        return self.distribution(
            self._states(tokens, torch.zeros(len(tokens.ids), self.num_marks + 2, dtype=torch.float64))
        )


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

    def change(distribution: NextEventDistribution) -> NextEventDistribution:
        assert distribution.mark_decoder is not None  # one mark is not rare
        return distribution.with_parts(mark_decoder=RareMark(distribution.mark_decoder, mark))

    return change


# by standard deviations of log tau, which are about 1
DISTORTIONS: dict[str, Callable[[NextEventDistribution], NextEventDistribution]] = {
    "shifted": _of_times(lambda mixture: replace(mixture, means=mixture.means + 0.6)),
    "nearly disjoint": _of_times(lambda mixture: replace(mixture, means=mixture.means + 12.0)),
    "missing modes": _of_times(_without_heaviest),
    "light tails": _of_times(lambda mixture: replace(mixture, log_stds=mixture.log_stds - 0.8)),
    "rare marks": rare_mark(1),
}
