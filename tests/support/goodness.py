"""Judges of samples: exact distributions by quadrature, and chi-square tests of what was drawn against them."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from tppsd.data.batch import NO_MARK, EventBatch
from tppsd.data.sequences import EventSequence
from tppsd.sampling.results import SampledSequences

_KNOTS = 40_001  # of the trapezoidal rule in log tau: errors below 1e-7 for the distributions used here


def distribution_after(model: Any, history: EventSequence) -> Any:
    """The distribution (batch shape ()) of the next event after `history`, ignoring the silence since; from a pass
    without a cache."""
    with torch.inference_mode():
        return model(EventBatch.from_sequences([history]))[0, history.num_scored]


def silence_after(history: EventSequence) -> float:
    last = float(history.event_times[-1]) if len(history) else history.window_start
    return history.window_end - last


def densities(distribution: Any, log_inter_times: Tensor, elapsed: float = 0.0) -> Tensor:
    """Density of (log tau, k), (n, num_marks), of a distribution of batch shape () given tau > elapsed: plain normal
    formulas."""
    m = distribution.inter_time
    stds = m.log_stds.double().exp() * m.scale
    means = m.shift + m.scale * m.means.double()
    z = (log_inter_times.unsqueeze(-1) - means) / stds
    density = (m.log_weights.double().exp() * torch.exp(-0.5 * z**2) / (stds * math.sqrt(2 * math.pi))).sum(-1)
    with torch.inference_mode():
        density = density.unsqueeze(-1) * distribution.mark_log_probs(log_inter_times.exp()).double().exp()
    if elapsed > 0:
        survival = (
            m.log_weights.double().exp() * 0.5 * torch.erfc((math.log(elapsed) - means) / stds / math.sqrt(2))
        ).sum(-1)
        density = torch.where((log_inter_times > math.log(elapsed)).unsqueeze(-1), density / survival, 0.0)
    return density


def grid_over(*distributions: Any, elapsed: float = 0.0) -> Tensor:
    """Knots in log tau that hold all of the mass of `distributions`."""
    spans = []
    for distribution in distributions:
        m = distribution.inter_time
        means, stds = m.shift + m.scale * m.means.double(), m.scale * m.log_stds.double().exp()
        spans += [(means - 9 * stds).min(), (means + 9 * stds).max()]
    low, high = float(min(spans)), float(max(spans))
    if elapsed == 0 or math.log(elapsed) < low:
        return torch.linspace(low, high, _KNOTS, dtype=torch.float64)
    # dense just after the silence, where a truncated tail may hold all of its mass
    return math.log(elapsed) + torch.logspace(
        -12, math.log10(max(high - math.log(elapsed), 1.0)), _KNOTS, dtype=torch.float64
    )


def overlap_joint(target: Any, draft: Any, elapsed: float = 0.0) -> float:
    """1 - TV of two distributions of (tau, k): the acceptance of the rule `joint`."""
    x = grid_over(target, draft, elapsed=elapsed)
    return float(torch.trapezoid(torch.minimum(densities(target, x, elapsed), densities(draft, x, elapsed)).sum(-1), x))


def overlap_factorised(target: Any, draft: Any) -> float:
    """Integral of min(g_T, g_D) sum_k min(f_T, f_D): the acceptance of the rule `factorised`."""
    x = grid_over(target, draft)
    a, b = densities(target, x), densities(draft, x)
    time = torch.minimum(a.sum(-1), b.sum(-1))
    shares = [d / d.sum(-1, keepdim=True).clamp_min(1e-300) for d in (a, b)]
    return float(torch.trapezoid(time * torch.minimum(*shares).sum(-1), x))


def chi_square_p(counts: Tensor, expected: Tensor, num_constraints: int = 1) -> float:
    """p-value of Pearson's chi-square, `num_constraints` sums being those of the data; cells that expect below 5 are
    pooled."""
    from scipy.stats import chi2

    counts, expected = counts.double().flatten(), expected.double().flatten()
    small = expected < 5
    if small.any():
        counts = torch.cat([counts[~small], counts[small].sum().unsqueeze(0)])
        expected = torch.cat([expected[~small], expected[small].sum().unsqueeze(0)])
        if expected[-1] < 1e-3 and counts[-1] > 0:
            return 0.0  # events where the distribution has no mass
        counts, expected = counts[expected >= 1e-3], expected[expected >= 1e-3]
    return float(chi2.sf(float(((counts - expected) ** 2 / expected).sum()), len(counts) - num_constraints))


def one_step_p(
    distribution: Any, inter_times: Tensor, marks: Tensor, elapsed: float = 0.0, num_bins: int = 20
) -> float:
    """Chi-square of (tau bins of equal probability x marks) against the exact probabilities of a distribution of batch
    shape ()."""
    x = grid_over(distribution, elapsed=elapsed)
    cumulative = torch.cumulative_trapezoid(densities(distribution, x, elapsed), x, dim=0)
    cumulative = torch.cat([torch.zeros_like(cumulative[:1]), cumulative])
    assert abs(float(cumulative[-1].sum()) - 1) < 1e-6
    edges = torch.searchsorted(cumulative.sum(-1), torch.arange(1, num_bins, dtype=torch.float64) / num_bins)
    at_edges = torch.cat([cumulative[:1], cumulative[edges], cumulative[-1:]])
    bins = torch.searchsorted(x[edges].contiguous(), inter_times.log().contiguous())
    num_marks = at_edges.shape[1]
    counts = torch.bincount(bins * num_marks + marks, minlength=num_bins * num_marks)
    return chi_square_p(counts, at_edges.diff(dim=0).flatten() * len(marks))


def paths(samples: SampledSequences) -> tuple[Tensor, Tensor]:
    """(inter_times, marks), both (num_sequences, num_events), of sequences that all ended by the same number of
    events."""
    n = int(samples.offsets[1])
    assert torch.equal(samples.offsets.diff(), torch.full((len(samples),), n))
    return samples.flat_inter_times.view(-1, n), samples.flat_marks.view(-1, n)


def model_uniforms(model: Any, history: EventSequence, inter_times: Tensor, marks: Tensor) -> tuple[Tensor, Tensor]:
    """(u, v): PITs of inter-times and randomised PITs of marks of paths (num_sequences, num_events) of one history.
    Under exact sampling all of them are i.i.d. U(0, 1). From a full pass without a cache."""
    (num_paths, n), m, given = inter_times.shape, history.num_scored, int(history.first_is_given)

    def joined(old: Tensor, new: Tensor) -> Tensor:
        return torch.cat([old[given:].expand(num_paths, -1), new], 1)

    start = torch.full((num_paths,), history.window_start, dtype=torch.float64)
    last = float(history.event_times[-1]) if len(history) else history.window_start
    tau, k = joined(history.inter_times, inter_times), joined(history.marks, marks)
    start_marks = torch.full((num_paths,), int(history.marks[0]) if given else NO_MARK)
    times = joined(history.event_times, last + inter_times.cumsum(1))
    is_censored, index = torch.zeros(num_paths, dtype=torch.bool), torch.arange(num_paths)
    every_event = torch.ones_like(k, dtype=torch.bool)
    batch = EventBatch(times, tau, k, every_event, start, start, start_marks, index, start, is_censored)
    with torch.inference_mode():
        distributions = model(batch)[:, m : m + n]
        log_survival = distributions.log_survival(inter_times)
        silence = silence_after(history)
        if silence > 0:
            log_survival[:, 0] -= distributions[:, 0].log_survival(torch.full_like(inter_times[:, 0], silence))
        probs = distributions.mark_log_probs(inter_times).exp()
    width = probs.gather(-1, marks.unsqueeze(-1)).squeeze(-1)
    upper = probs.cumsum(-1).gather(-1, marks.unsqueeze(-1)).squeeze(-1)
    coins = torch.rand(width.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    return -torch.expm1(log_survival), (upper - coins * width).clamp(0, 1)


def _table(first: Tensor, second: Tensor, num_bins: int) -> Tensor:
    """Counts (num_bins, num_bins) of pairs of numbers in [0, 1]."""
    cells = [(x * num_bins).long().clamp(0, num_bins - 1) for x in (first, second)]
    return torch.bincount(cells[0] * num_bins + cells[1], minlength=num_bins**2).view(num_bins, num_bins)


def grid_p(first: Tensor, second: Tensor, num_bins: int = 8) -> float:
    """Chi-square of pairs against the uniform distribution on the unit square."""
    counts = _table(first, second, num_bins)
    return chi_square_p(counts, torch.full_like(counts, len(first) / num_bins**2, dtype=torch.float64))


def given_p(first: Tensor, second: Tensor, num_bins: int = 8) -> float:
    """Chi-square of `second` being U(0, 1) whatever `first` is, which may have any distribution."""
    counts = _table(first, second, num_bins)
    totals = counts.sum(1, keepdim=True)
    counts, totals = counts[totals.squeeze(1) >= 5 * num_bins], totals[totals >= 5 * num_bins]
    return chi_square_p(counts, (totals.unsqueeze(1) / num_bins).expand_as(counts), len(counts))


def judge(model: Any, history: EventSequence, samples: SampledSequences) -> float:
    """One p-value for "these paths of `history` follow the model's distribution"; see `judge_paths`."""
    return judge_paths(model, history, *paths(samples))


def judge_paths(
    model: Any, history: EventSequence, inter_times: Tensor, marks: Tensor, lengths: Tensor | None = None
) -> float:
    """One p-value (Bonferroni) for the first event against its exact distribution, every event's time and mark given
    its own prefix, and their independence from the event before.

    Args:
        inter_times, marks: (num_sequences, num_events).
        lengths: (num_sequences,) >= 1, how many of them count; whether event i exists may depend on the events before
            it only.
    """
    u, v = model_uniforms(model, history, inter_times, marks)
    n = u.shape[1]
    exists = torch.arange(n) < (torch.full(u.shape[:1], n) if lengths is None else lengths).unsqueeze(1)
    if not bool((u[exists] >= 0).all()):
        return 0.0  # an event inside the silence
    p_values = [
        one_step_p(distribution_after(model, history), inter_times[:, 0], marks[:, 0], elapsed=silence_after(history))
    ]
    for i in range(n):
        rows = exists[:, i]
        p_values.append(grid_p(u[rows, i], v[rows, i]))
        if i > 0:
            p_values += [given_p(x[rows, i - 1], y[rows, i]) for x, y in ((u, u), (v, u), (v, v))]
    return min(1.0, len(p_values) * min(p_values))


def judge_long(model: Any, history: EventSequence, samples: SampledSequences, num_bins: int = 3) -> float:
    """One p-value as of `judge` for few but long paths: each test takes the events of all positions together."""
    u, v = model_uniforms(model, history, *paths(samples))
    pairs = ((u, u), (v, u), (v, v))
    p_values = [grid_p(u.flatten(), v.flatten(), num_bins)]
    p_values += [given_p(x[:, :-1].flatten(), y[:, 1:].flatten(), num_bins) for x, y in pairs]
    return min(1.0, len(p_values) * min(p_values))
