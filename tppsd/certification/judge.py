"""The way from samples to p-values.

Everything is read off the sequences by full float64 passes without a cache, or, where samples come with the
distributions that they were drawn from, by these.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from tppsd.certification.recorded import RecordedDistributions, divergence
from tppsd.metrics.functional import (
    SequenceResiduals,
    carried_forecasts,
    carry_over,
    ks_exponential,
    ks_uniform,
    model_residuals,
    pair_independence,
)
from tppsd.sampling.results import SampledSequences

FAR = 0.01  # nats per event, from recorded distributions to the target's own
IMPOSSIBLE = 1e-6  # a residual below minus this is no rounding
_POSITIONS = 4  # after the start of a sequence, where a wrong start or a wrong round shows most


def judge(target: Any, samples: SampledSequences) -> dict[str, float]:
    """Return p-values of "these sequences were drawn from the target's distribution", by name of the test.

    Time-rescaling residuals with carry-over are i.i.d. Exp(1), randomised mark PITs i.i.d. U(0, 1): Kolmogorov-Smirnov
    tests of
    both, and contingency tests of their independence: of one another, of the event before, and of what the target
    forecasts given the whole history, where a sampler that looked at another history shows first. Where sequences end
    by their number of events, the first events are also tested by themselves (nothing censors them there).

    Recorded distributions are those of a sampler in reduced precision, for which the target's own are but near: how
    near is judged, too, or a sampler with a wrong cache would certify itself.
    """
    sequences = [replace(sequence, index=i) for i, sequence in enumerate(samples.with_history())]
    model = target
    if samples.distributions is not None:
        model = RecordedDistributions(samples)
        if not divergence(target, sequences, model) < FAR:
            return {"distributions near the target's": 0.0}
    residuals = model_residuals(model, sequences, samples.num_given, samples.observed_until)
    if any(bool((row.gaps < -IMPOSSIBLE).any()) for row in residuals):
        return {"no event where the distribution has none": 0.0}  # within the silence, say
    gaps = carry_over(residuals)
    times, marks = -torch.expm1(-gaps), torch.cat([row.mark_uniforms for row in residuals])
    p_values = {
        "times": ks_exponential(gaps).p_value,
        "time, next time": pair_independence(times[:-1], times[1:]).p_value,
        "expected time, time": pair_independence(_ranks(carried_forecasts(residuals)), times).p_value,
    }
    if len(marks):
        p_values["marks"] = ks_uniform(marks).p_value
        p_values["time, mark"] = pair_independence(times, marks).p_value
        p_values["mark, next time"] = pair_independence(marks[:-1], times[1:]).p_value
        p_values["mark, next mark"] = pair_independence(marks[:-1], marks[1:]).p_value
        expected = torch.cat([row.expected_marks for row in residuals])
        p_values["expected mark, mark"] = pair_independence(_ranks(expected), marks).p_value
    return p_values | (_first_events(residuals) if bool(torch.isnan(samples.ends).all()) else {})


def _first_events(residuals: list[SequenceResiduals]) -> dict[str, float]:
    """Test the 1st, 2nd, ... event after the start of every sequence."""
    p_values = {}
    for i in range(min(_POSITIONS, min(len(row.gaps) for row in residuals))):
        p_values[f"time {i + 1}"] = ks_exponential(torch.stack([row.gaps[i] for row in residuals])).p_value
        if len(residuals[0].mark_uniforms):
            p_values[f"mark {i + 1}"] = ks_uniform(torch.stack([row.mark_uniforms[i] for row in residuals])).p_value
    return p_values


def _ranks(values: Tensor) -> Tensor:
    """Return numbers in (0, 1) in the order of `values`, equal values by their place."""
    ranks = torch.empty(len(values), dtype=torch.float64)
    ranks[values.argsort(stable=True)] = torch.arange(len(values), dtype=torch.float64)
    return (ranks + 0.5) / len(values)


def combined(p_values: dict[str, float]) -> float:
    """Return one p-value for all tests together (Bonferroni), valid however they depend on one another."""
    return min(1.0, len(p_values) * min(p_values.values()))


def holm(p_values: dict[str, float], level: float = 0.01) -> dict[str, bool]:
    """Return by name whether a hypothesis is rejected.

    The chance that any true one is among the rejected is at most `level`.

    Source: Holm, Scand. J. Statist. 6 (1979).
    """
    rejected = dict.fromkeys(p_values, False)
    for rank, name in enumerate(sorted(p_values, key=p_values.__getitem__)):
        if p_values[name] > level / (len(p_values) - rank):
            break
        rejected[name] = True
    return rejected
