"""Negative log-likelihood per event over all batches and ranks."""

from __future__ import annotations

import torch
from torch import Tensor
from torchmetrics import Metric

from tppsd.metrics.functional.likelihood import nll_per_event


class NegativeLogLikelihood(Metric):
    """Computes - sum_s L_s / sum_s N_s, nats per event, over every sequence of every batch and rank.

    Also for one part of the log-likelihood (time, mark, survival), with the same counts. See
    `functional.nll_per_event`.
    """

    full_state_update = False
    higher_is_better = False
    log_likelihood: Tensor
    num_events: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.add_state("log_likelihood", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("num_events", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, log_likelihoods: Tensor, num_events: Tensor) -> None:
        """Add sequences: log-likelihoods and numbers of events with a term in them, both (batch,)."""
        self.log_likelihood = self.log_likelihood + log_likelihoods.detach().double().sum()
        self.num_events = self.num_events + num_events.sum()

    def compute(self) -> Tensor:
        """Return nats per event, float64 ()."""
        return nll_per_event(self.log_likelihood, self.num_events)
