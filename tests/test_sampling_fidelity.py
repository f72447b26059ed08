"""Whole windows: autoregressive and speculative samples have the target's distribution, judged from the returned
sequences alone.

Residuals come from full float64 passes without a cache, and what the end of a window censors is carried over; two
samples are compared by whole sequences. Seeds are fixed; a right sampler fails a test of residuals here for one seed in
10^4, and one of the permutation tests for one in 2,000.
"""

from __future__ import annotations

from functools import cache

import pytest
import torch
from stubs import lively_transformer

from tppsd.metrics.functional import (
    carry_over,
    event_counts,
    ks_exponential,
    ks_uniform,
    lag1_independence,
    mark_totals,
    model_residuals,
    permutation_test,
    time_counts,
)
from tppsd.sampling.results import SampledSequences
from tppsd.sampling.sample import sample

FALSE_ALARM = 1e-4
NUM_MARKS, T_END, NUM_SEQUENCES = 4, 30.0, 1200
METHODS = ("autoregressive", "joint", "factorised", "block")
TARGET = lively_transformer(NUM_MARKS, "thp", seed=4).float()
DRAFT = lively_transformer(NUM_MARKS, "sahp", seed=5, num_layers=1).float()


@cache
def windows(method: str) -> SampledSequences:
    """In float32, as models are used; seeds differ from method to method."""
    options = (
        {"method": "autoregressive"}
        if method == "autoregressive"
        else {"rule": method, "draft_length": 4, "draft": DRAFT}
    )
    return sample(
        TARGET, num_sequences=NUM_SEQUENCES, t_end=T_END, batch_size=250, seed=METHODS.index(method), **options
    )


@pytest.mark.parametrize("method", METHODS)
def test_model_residuals_are_independent_exponentials(method: str) -> None:
    samples = windows(method)
    assert samples.stats.method == "autoregressive" or 0.2 < samples.stats.step_acceptance < 0.9
    residuals = model_residuals(TARGET, list(samples))
    gaps = carry_over(residuals)
    assert len(gaps) >= 20_000
    assert ks_exponential(gaps).p_value > FALSE_ALARM
    assert ks_uniform(torch.cat([r.mark_uniforms for r in residuals])).p_value > FALSE_ALARM
    assert lag1_independence(-torch.expm1(-gaps)).p_value > FALSE_ALARM
    assert lag1_independence(torch.cat([r.mark_uniforms for r in residuals])).p_value > FALSE_ALARM


def test_the_residuals_tell_the_target_from_the_draft() -> None:
    gaps = carry_over(model_residuals(DRAFT, list(windows("joint"))))
    assert ks_exponential(gaps).p_value < 1e-20


@pytest.mark.parametrize("rule", ["joint", "factorised", "block"])
def test_speculative_and_autoregressive_samples_are_exchangeable(rule: str) -> None:
    """Counts, mark totals and times, by permutation of whole sequences."""
    pair = [list(windows(method)) for method in ("autoregressive", rule)]
    statistics = [
        [event_counts(sequences) for sequences in pair],
        [mark_totals(sequences, NUM_MARKS) for sequences in pair],
        [time_counts(sequences, torch.linspace(0, T_END, 8)) for sequences in pair],
    ]
    for first, second in statistics:
        assert permutation_test(first, second, num_permutations=1999).p_value > 1 / 2000
