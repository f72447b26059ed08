"""Log-likelihoods as reported numbers."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from tppsd.data.batch import EventBatch
from tppsd.data.sequences import EventSequence
from tppsd.models.likelihood import Convention, LikelihoodModel

_AT_ONCE = 16  # sequences in memory
_MIN_HISTORY_WORTH = 0.01  # nats per event; below it, a share of it says nothing


def nll_per_event(log_likelihoods: Tensor, num_events: Tensor) -> Tensor:
    """Return - sum_s L_s / sum_s N_s in nats per event, float64 (); NaN without events.

    A ratio of sums over all sequences, never a mean of per-sequence ratios. Always say the convention (`window` or
    `benchmark`) next to the number.

    Args:
        log_likelihoods: (num_sequences,), L_s.
        num_events: (num_sequences,), N_s, number of events with a term in L_s.

    Example:
        >>> nll_per_event(torch.tensor([-10.0, -20.0]), torch.tensor([5, 15]))
        tensor(1.5000, dtype=torch.float64)
    """
    total = num_events.double().sum()
    return torch.where(total > 0, -log_likelihoods.double().sum() / total, torch.nan)


@torch.inference_mode()
def model_nll(model: LikelihoodModel, sequences: Sequence[EventSequence], convention: Convention = "window") -> float:
    """Return `nll_per_event` of a model on sequences, however many they are.

    Example:
        >>> from tppsd.models.renewal import RenewalTPP
        >>> sequences = [EventSequence.of([1.0, 2.0], t_start=0.0, t_end=3.0)]
        >>> model_nll(RenewalTPP(num_marks=1), sequences) > 0
        True
    """
    parts = []
    for start in range(0, len(sequences), _AT_ONCE):
        batch = EventBatch.from_sequences(list(sequences[start : start + _AT_ONCE]))
        parts.append((model.log_likelihood(batch, convention), model.num_scored(batch, convention)))
    return float(nll_per_event(*map(torch.cat, zip(*parts, strict=True)))) if parts else math.nan


def process_nll(process: Any, sequences: Iterable[EventSequence]) -> float:
    """Return `nll_per_event` under a ground-truth process (tppsd.processes.Process), `window` convention.

    Example:
        >>> from tppsd.processes import Hawkes
        >>> poisson = Hawkes(mu=2.0, alpha=0.0, beta=1.0)  # log L = 2 log 2 - 2 * 3
        >>> round(process_nll(poisson, [EventSequence.of([1.0, 2.0], t_start=0.0, t_end=3.0)]), 4)
        2.3069
    """
    num_events, total = 0, 0.0
    for sequence in sequences:
        num_events += sequence.num_scored
        total += process.log_likelihood(sequence)
    return -total / num_events if num_events else math.nan


def nll_by_time(
    nll: Callable[[Sequence[EventSequence]], float], sequences: Sequence[EventSequence], edges: Sequence[float]
) -> list[float]:
    """Return the NLL per event of each stretch of the window, given all before it (`window` convention).

    Stretches run from the window's start to edges[0], from there to edges[1] and so on.

    log L of a stretch is that of the window until its end minus that of the window until its start.

    Args:
        nll: NLL per event of sequences, such as `partial(model_nll, model)` or `partial(process_nll, process)`.
        sequences: with known windows, that last until the latest edge at least.
        edges: ascending, in the sequences' unit; some event comes before each, and between any two.

    Raises:
        ValueError: edges do not ascend, a sequence ends before the latest, or a stretch has no event.

    Example:
        >>> from functools import partial
        >>> from tppsd.processes import Hawkes
        >>> poisson = Hawkes(mu=2.0, alpha=0.0, beta=1.0)
        >>> sequence = EventSequence.of([1.0, 2.0, 6.0], t_start=0.0, t_end=8.0)
        >>> [round(nll, 3) for nll in nll_by_time(partial(process_nll, poisson), [sequence], [4.0, 8.0])]
        [3.307, 7.307]
    """
    if any(later <= earlier for earlier, later in pairwise(edges)):
        raise ValueError(f"edges = {list(edges)} must ascend")
    if (shortest := min(sequence.window_end for sequence in sequences)) < edges[-1]:
        raise ValueError(f"the latest edge is {edges[-1]:g}, but a sequence is observed until {shortest:g} only")
    before, num_before, result = 0.0, 0, []
    for edge in edges:
        until = [sequence.prefix(int((sequence.event_times <= edge).sum()), t_end=edge) for sequence in sequences]
        num_events = sum(sequence.num_scored for sequence in until)
        if num_events == num_before:
            raise ValueError(f"no event comes in the stretch that ends at {edge:g}: choose fewer edges")
        total = nll(until) * num_events
        result.append((total - before) / (num_events - num_before))
        before, num_before = total, num_events
    return result


def history_share(nll: float, renewal_nll: float, true_nll: float) -> float:
    """Return (renewal - model) / (renewal - truth).

    It is 0 for the best model without a history, 1 for the true process, and NaN where the history is worth less than
    0.01 nats per event.

    Example:
        >>> round(history_share(nll=0.52, renewal_nll=0.59, true_nll=0.50), 2)
        0.78
    """
    worth = renewal_nll - true_nll
    return math.nan if worth < _MIN_HISTORY_WORTH else (renewal_nll - nll) / worth


def likelihood_discrepancy(first: Tensor, second: Tensor) -> float:
    """Return |mean_s L_s over `first` - mean_s L_s over `second|`, nats per sequence.

    Args:
        first, second: (num_sequences,), log-likelihoods of two samples under one model (or of one sample under two
            models).
    Source: TPP-SD (arXiv 2507.09252), section 5.1.

    Example:
        >>> likelihood_discrepancy(torch.tensor([-10.0, -12.0]), torch.tensor([-11.0, -14.0]))
        1.5
    """
    return float((first.double().mean() - second.double().mean()).abs())
