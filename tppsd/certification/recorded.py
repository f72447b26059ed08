"""Tests of samples by the distributions that were recorded while they were drawn.

They are for passes whose distributions depend on their shape.
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor

from tppsd.data.sequences import EventBatch, EventSequence
from tppsd.models.distribution import NextEventDistribution
from tppsd.models.transformer_tpp import TransformerTPP
from tppsd.sampling.results import SampledSequences

_AT_ONCE = 64  # sequences of a pass


class RecordedDistributions:
    """Stands in place of a model for metrics of own distributions.

    Maps an EventBatch to distributions of batch shape (batch, length + 1), for the samples as whole sequences whose
    `index` is their place. Before the first sampled event stands the distribution of that one.
    """

    def __init__(self, samples: SampledSequences) -> None:
        assert samples.distributions is not None
        self._distributions = samples.distributions
        self.num_given = [
            n - h.first_is_given for n, h in zip(samples.num_given, samples.histories, strict=True)
        ]  # and scored

    def __call__(self, batch: EventBatch) -> NextEventDistribution:
        """Return the recorded distributions of a batch of these samples."""
        positions = torch.arange(batch.event_times.shape[1] + 1)
        rows = []
        for i in batch.index.tolist():
            own = self._distributions[i].parameters
            rows.append(own[(positions - self.num_given[i]).clamp(0, len(own) - 1)])
        return self._distributions[0].of(torch.stack(rows))


@torch.inference_mode()
def divergence(target: TransformerTPP, sequences: list[EventSequence], recorded: RecordedDistributions) -> float:
    """Return how far the recorded distributions are from those of the target in float64, in nats per event.

    The mean log-density ratio of the sampled events, by full passes without a cache, estimates their Kullback-Leibler
    divergence.
    """
    double, ratios = copy.deepcopy(target).double().eval(), list[Tensor]()
    for start in range(0, len(sequences), _AT_ONCE):
        part = sequences[start : start + _AT_ONCE]
        batch = EventBatch.from_sequences(part)
        given = torch.tensor([recorded.num_given[sequence.index] for sequence in part]).unsqueeze(1)
        is_sampled = batch.mask & (torch.arange(batch.mask.shape[1]) >= given)
        ratio = recorded(batch)[:, :-1].log_prob(batch.inter_times, batch.marks)
        ratios.append((ratio - double(batch)[:, :-1].log_prob(batch.inter_times, batch.marks))[is_sampled])
    return float(torch.cat(ratios).mean())
