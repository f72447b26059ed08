"""Sampling a next-event distribution from given uniforms: the time first, then the mark by inversion."""

from __future__ import annotations

import torch
from scipy import stats
from small_models import random_batch, small_model

from tppsd.models.distribution import sample_mark


def test_equally_spaced_uniforms_meet_each_mark_as_often_as_its_probability_says() -> None:
    probabilities = torch.tensor([[0.5, 0.25, 0.0, 0.2, 0.05], [0.0, 0.0, 1.0, 0.0, 0.0]], dtype=torch.float64)
    uniforms = ((torch.arange(10_000, dtype=torch.float64) + 0.5) / 10_000).unsqueeze(1)
    marks = sample_mark(probabilities.log(), uniforms)
    frequencies = torch.nn.functional.one_hot(marks, 5).double().mean(0)
    torch.testing.assert_close(frequencies, probabilities, rtol=0, atol=1e-4)


def test_marks_are_the_inverse_of_the_cumulative_probabilities() -> None:
    log_probs = torch.log_softmax(torch.randn(20, dtype=torch.float64), -1)
    cumulative = log_probs.exp().cumsum(-1)
    for mark in range(20):
        below = cumulative[mark - 1] if mark else cumulative.new_zeros(())
        for inside in (below + 1e-12, 0.5 * (below + cumulative[mark]), cumulative[mark] - 1e-12):
            assert sample_mark(log_probs, inside) == mark


def test_the_extreme_uniforms_never_pick_an_impossible_mark() -> None:
    """Float32 probabilities sum to 1 +- 1e-7, and the last of them may be 0."""
    log_probs = torch.log_softmax(torch.tensor([-200.0, *torch.randn(50).tolist(), -200.0]), -1)
    smallest, largest = torch.tensor([2.0**-54, 1 - 2.0**-53], dtype=torch.float64)
    assert 0 < sample_mark(log_probs, smallest) < 51
    assert 0 < sample_mark(log_probs, largest) < 51


def test_samples_have_the_distribution_of_the_time_and_of_the_mark_given_the_time() -> None:
    distribution = small_model()(random_batch([3]))[0, -1]
    inter_times, marks = distribution.sample(torch.rand(40_000, 3, dtype=torch.float64))
    assert inter_times.dtype == torch.float64 and marks.dtype == torch.int64
    assert stats.kstest(distribution.inter_time.cdf(inter_times).detach().numpy(), "uniform").pvalue > 1e-3
    probabilities = distribution.mark_log_probs(inter_times).exp().detach()
    late = inter_times > distribution.inter_time.median
    for group in (late, ~late):  # the marks depend on the time: each half must have its own frequencies
        counts = torch.bincount(marks[group], minlength=3).numpy()
        expected = probabilities[group].sum(0).numpy()
        assert stats.chisquare(counts, expected * counts.sum() / expected.sum()).pvalue > 1e-3


def test_the_mark_is_drawn_at_the_sampled_time() -> None:
    distribution = small_model()(random_batch([3]))[0, -1]
    uniforms = torch.rand(100, 3, dtype=torch.float64)
    inter_times, marks = distribution.sample(uniforms)
    assert torch.equal(inter_times, distribution.inter_time.sample(uniforms[:, :2]))
    assert torch.equal(marks, sample_mark(distribution.mark_log_probs(inter_times), uniforms[:, 2]))
