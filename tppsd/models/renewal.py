"""The best history-free model, g(tau) f(k | tau).

It is the yardstick that shows whether a target has learnt its history.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from tppsd.data.batch import EventBatch
from tppsd.data.flat_sequences import FlatSequences
from tppsd.data.sequences import EventSequence
from tppsd.data.statistics import DataStatistics
from tppsd.models.cache import RowCache
from tppsd.models.decoder import NextEventDecoder
from tppsd.models.distribution import NextEventDistribution
from tppsd.models.likelihood import LikelihoodModel
from tppsd.models.protocol import EventTokens

NUM_STEPS = 300  # of the optimiser
_CONTEXT_DIM = 32
_CHECK_EVERY = 10  # steps of a fit between looks at the validation split, ...
_MAX_JUDGES = 8  # ... at so many batches of it at most


class RenewalTPP(LikelihoodModel):
    """Applies the decoder of TransformerTPP to one learnt, constant context.

    Args:
        num_marks: number of marks; 1 = unmarked.
        num_components: log-normal components of the mixture.
    """

    def __init__(self, num_marks: int, num_components: int = 32) -> None:
        super().__init__()
        self.num_marks = num_marks
        self.context = nn.Parameter(torch.zeros(_CONTEXT_DIM))
        self.decoder = NextEventDecoder(_CONTEXT_DIM, num_components, num_marks, "time_conditional")
        self.statistics = DataStatistics(num_marks)

    # --- an EventModel (tppsd.models.protocol): the cache only counts --------------------------------------------

    def new_cache(self, batch_size: int, capacity: int) -> RowCache:
        """Return an empty cache; it counts tokens, of which nothing else matters."""
        return RowCache([torch.zeros(batch_size, capacity, 1, device=self.context.device)])

    @torch.no_grad()
    def extend(self, tokens: EventTokens, cache: RowCache, parents: tuple[int, ...] | None = None) -> Tensor:
        """Count q tokens per row; their contexts (batch, q, context_dim) are all the same."""
        num_rows, num_new = tokens.ids.shape
        cache.begin(num_new)
        cache.end(parents)
        return self.context.detach().expand(num_rows, num_new, -1)

    def distribution(self, context: Tensor) -> NextEventDistribution:
        """Return the distribution of the next event after each context (*batch, context_dim), in float64 arithmetic."""
        distribution: NextEventDistribution = self.decoder(
            context, self.statistics.log_mean, self.statistics.log_std, double=True
        )
        return distribution if context.shape[-2] == 1 else distribution.packed()

    def forward(self, batch: EventBatch) -> NextEventDistribution:
        """Return the same distribution at every position: batch shape (batch, length + 1)."""
        shape = (batch.mask.shape[0], batch.mask.shape[1] + 1, _CONTEXT_DIM)
        distribution: NextEventDistribution = self.decoder(
            self.context, self.statistics.log_mean, self.statistics.log_std
        )
        return distribution[None, None].expand(shape[:2])


def fit_renewal(
    sequences: Sequence[EventSequence],
    statistics: DataStatistics,
    num_steps: int = NUM_STEPS,
    batch_events: int = 8192,
    seed: int = 0,
    validation: Sequence[EventSequence] = (),
    advance: Callable[[], object] = lambda: None,
) -> RenewalTPP:
    """Fit a RenewalTPP by maximum window likelihood on the training split; about ten seconds on one core.

    Args:
        sequences: training split; given events matter to no distribution here but as the start of an inter-time.
        statistics: of the same split.
        num_steps: Adam steps, on batches of about `batch_events` events.
        seed: of initialisation and batch order; the global RNG is left as it was.
        validation: split on which the weights kept score best, so that few training events are not learnt by heart;
            without one, the last weights are kept.
        advance: called after every step.
    """
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(
            seed
        )  # the one that was forked; torch.manual_seed would reseed every device
        model = RenewalTPP(statistics.num_marks)
        model.statistics = statistics
        optimizer = torch.optim.Adam(model.parameters(), lr=2e-2)
        scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=2e-2, total_steps=num_steps)
        best = _BestWeights(model, [EventBatch.from_sequences(part) for part in _judges(validation, batch_events)])
        best.look()
        rows = _rows(sequences, batch_events)
        for step in range(1, num_steps + 1):
            chosen = torch.randperm(len(sequences))[:rows].tolist()
            loss = _loss(model, [EventBatch.from_sequences([_without_given(sequences[i]) for i in chosen])])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            scheduler.step()
            if step % _CHECK_EVERY == 0 or step == num_steps:
                best.look()
            advance()
    best.restore()
    return model.eval()


class _BestWeights:
    """Keeps the weights that scored best on `batches` of all looks at a model; without batches, the last."""

    def __init__(self, model: RenewalTPP, batches: list[EventBatch]) -> None:
        self.model, self.batches = model, batches
        self.loss, self.weights = math.inf, copy.deepcopy(model.state_dict())

    def look(self) -> None:
        with torch.no_grad():
            loss = float(_loss(self.model, self.batches)) if self.batches else 0.0
        if loss <= self.loss:  # at equal scores the later weights, which have seen more
            self.loss, self.weights = loss, copy.deepcopy(self.model.state_dict())

    def restore(self) -> None:
        self.model.load_state_dict(self.weights)


def _loss(model: RenewalTPP, batches: list[EventBatch]) -> Tensor:
    """Return the negative log-likelihood per event."""
    total = torch.stack([model.log_likelihood(batch).sum() for batch in batches]).sum()
    return -total / max(1, sum(int(batch.num_scored.sum()) for batch in batches))


def _without_given(sequence: EventSequence) -> EventSequence:
    """Return the same scored part after the last given event: a model without a history needs no earlier ones."""
    if sequence.num_given == 0:
        return sequence
    kept = slice(sequence.num_given - 1, None)
    return EventSequence(
        sequence.event_times[kept],
        sequence.marks[kept],
        None,
        sequence.t_end,
        sequence.index,
        sequence.inter_times[kept],
        sequence.score_start,
    )


def _rows(sequences: Sequence[EventSequence], batch_events: int) -> int:
    """Return how many sequences have about `batch_events` events that are kept."""
    flat = FlatSequences.of(sequences)
    num_kept = int((flat.lengths - (flat.num_given - 1).clamp_min(0)).sum())  # as of _without_given
    mean_length = max(1.0, num_kept / len(sequences))
    return max(1, min(len(sequences), int(batch_events / mean_length)))


def _judges(validation: Sequence[EventSequence], batch_events: int) -> list[list[EventSequence]]:
    """Return what weights are scored on, in batches.

    That is all of a split, but of a large one only as much as does not outlast the training.
    """
    if not validation:
        return []
    rows = _rows(validation, batch_events)
    order = torch.randperm(len(validation), generator=torch.Generator().manual_seed(0)).tolist()  # splits may be sorted
    kept = [_without_given(validation[i]) for i in order[: _MAX_JUDGES * rows]]
    return [kept[i : i + rows] for i in range(0, len(kept), rows)]
