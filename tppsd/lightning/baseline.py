"""The yardstick on the progress bar: a homogeneous Poisson process with the training split's rate and mark frequencies."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from tppsd.data.sequences import EventBatch
from tppsd.data.statistics import DataStatistics


def poisson_log_likelihood(batch: EventBatch, statistics: DataStatistics) -> Tensor:
    """N log rate - rate (t_end - t_start) + sum_i log f(k_i), per sequence (batch,), in nats, `window` convention.

    rate = num_events / duration of the training split; f(k) = (count_k + 1) / (num_events + num_marks), so that a mark that
    the training split lacks costs much, but not everything.
    """
    rate = statistics.num_events / statistics.duration
    counts = torch.tensor(statistics.mark_counts, dtype=torch.float64, device=batch.marks.device) + 1
    mark_log_probs = torch.where(batch.mask, (counts / counts.sum()).log()[batch.marks], 0.0)
    return batch.lengths.double() * math.log(rate) - rate * (batch.t_end - batch.t_start) + mark_log_probs.sum(1)
