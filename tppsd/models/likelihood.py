"""Log-likelihoods of event batches under a model, in two named conventions."""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from tppsd.data.batch import NO_MARK, EventBatch
from tppsd.data.statistics import DataStatistics
from tppsd.models.distribution import NextEventDistribution, pick_mark

Convention = Literal["window", "benchmark"]


class LikelihoodParts(NamedTuple):
    """Holds the summands of a log-likelihood, each (batch,), in nats; time densities are per original unit of time.

    Fields:
        time: log-densities of the inter-times of the scored events.
        mark: log-probabilities of their marks.
        survival: log S(t_end - t_N | h_N) - log S(score_start - t_c | h_c).
    """

    time: Tensor
    mark: Tensor
    survival: Tensor


class LikelihoodModel(nn.Module):
    """Is a module with `statistics` whose forward gives distributions of batch shape (batch, length + 1)."""

    statistics: DataStatistics

    def log_likelihood_parts(self, batch: EventBatch, convention: Convention = "window") -> LikelihoodParts:
        """Return the three summands of the log-likelihood of each sequence.

        They are sum_i log g(tau_i | h_{i-1}) and sum_i log f(k_i | h_{i-1}, tau_i) over the scored events i, and

            log S(t_end - t_N | h_N) - log S(score_start - t_c | h_c)

        with t_N the last event and t_c the last given one (`t_start` where there is none). The first scored inter-time
        is left-truncated at `score_start`, where it is known that nothing has happened since t_c; it enters f at its
        full length. The sum is the log-likelihood of what follows, given all events before `score_start`.

        Inter-times below the declared floor `statistics.min_inter_time` are scored at the floor.

        Args:
            batch: B sequences.
            convention: "window" scores every event that is not given and the survival terms; "benchmark" scores them
                without truncation and survival terms and, where no event is given, leaves out the first (EasyTPP, Xue
                et al. 2024).
        """
        return likelihood_parts(self(batch), batch, self.statistics.min_inter_time, convention)

    def log_likelihood(self, batch: EventBatch, convention: Convention = "window") -> Tensor:
        """Return the log-likelihood per sequence (batch,), in nats; see `log_likelihood_parts`."""
        parts = self.log_likelihood_parts(batch, convention)
        return parts.time + parts.mark + parts.survival

    def num_scored(self, batch: EventBatch, convention: Convention = "window") -> Tensor:
        """Count the events with a likelihood term, int64 (batch,): the denominator of a per-event figure."""
        return scored_events(batch, convention).sum(1)


def likelihood_parts(
    distribution: NextEventDistribution,
    batch: EventBatch,
    min_inter_time: float = 0.0,
    convention: Convention = "window",
) -> LikelihoodParts:
    """Return `LikelihoodModel.log_likelihood_parts` for distributions at hand, of batch shape (batch, length + 1)."""
    inter_times = batch.inter_times.clamp_min(min_inter_time) if min_inter_time > 0 else batch.inter_times
    scored = scored_events(batch, convention)
    before = distribution[..., :-1]
    time = torch.where(scored, before.inter_time.log_prob(inter_times), 0.0).sum(1)
    mark = torch.zeros_like(time)
    if before.mark_features is not None:
        mark = torch.where(scored, pick_mark(before.mark_log_probs(inter_times), batch.marks), 0.0).sum(1)
    if convention == "benchmark":
        return LikelihoodParts(time, mark, torch.zeros_like(time))
    until_end = distribution.at(batch.lengths).log_survival(batch.t_end - batch.last_times)
    until_start = distribution.at(batch.num_given).log_survival(batch.scored_from - batch.last_given_times)
    return LikelihoodParts(time, mark, until_end - until_start)


def scored_events(batch: EventBatch, convention: Convention = "window") -> Tensor:
    """Mark the events that have a likelihood term under the convention, bool (batch, length).

    Raises:
        ValueError: the convention is unknown.
    """
    if convention not in ("window", "benchmark"):
        raise ValueError(f"convention = {convention!r} is unknown; choose 'window' or 'benchmark'")
    if convention == "window" or batch.mask.shape[1] == 0:
        return batch.scored
    # where an event is given, all scored ones are among events 2..N; a given first event is not in the batch
    first = torch.arange(batch.mask.shape[1], device=batch.mask.device) == 0
    return batch.scored & ~(first & (batch.start_marks == NO_MARK).unsqueeze(1))
