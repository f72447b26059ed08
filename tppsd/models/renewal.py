"""The best history-free model, g(tau) f(k | tau): the yardstick that shows whether a target has learnt its history."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from tppsd.data.sequences import EventBatch, EventSequence
from tppsd.data.statistics import DataStatistics
from tppsd.models.decoder import NextEventDecoder
from tppsd.models.law import NextEventLaw
from tppsd.models.likelihood import LikelihoodModel

_CONTEXT_DIM = 32


class RenewalTPP(LikelihoodModel):
    """The decoder of TransformerTPP on one learnt, constant context.

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

    def forward(self, batch: EventBatch) -> NextEventLaw:
        """The same law at every position: batch shape (batch, length + 1)."""
        shape = (batch.mask.shape[0], batch.mask.shape[1] + 1, _CONTEXT_DIM)
        law = self.decoder(self.context, self.statistics.log_mean, self.statistics.log_std)
        return law[None, None].expand(shape[:2])


def fit_renewal(
    sequences: Sequence[EventSequence], statistics: DataStatistics, num_steps: int = 300, batch_events: int = 8192, seed: int = 0
) -> RenewalTPP:
    """Fit a RenewalTPP by maximum window likelihood on the training split; about ten seconds on one core.

    Args:
        sequences: training split.
        statistics: of the same split.
        num_steps: Adam steps, on batches of about `batch_events` events.
        seed: of initialisation and batch order; the global RNG is left as it was.
    """
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)  # the one that was forked; torch.manual_seed would reseed every device
        model = RenewalTPP(statistics.num_marks)
        model.statistics = statistics
        optimizer = torch.optim.Adam(model.parameters(), lr=2e-2)
        scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=2e-2, total_steps=num_steps)
        mean_length = max(1.0, sum(len(s) for s in sequences) / len(sequences))
        rows = max(1, min(len(sequences), int(batch_events / mean_length)))
        for _ in range(num_steps):
            chosen = torch.randperm(len(sequences))[:rows].tolist()
            batch = EventBatch.from_sequences([sequences[i] for i in chosen])
            loss = -model.log_likelihood(batch).sum() / batch.mask.sum().clamp_min(1)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            scheduler.step()
    return model.eval()
