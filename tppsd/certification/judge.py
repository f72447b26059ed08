"""Samples in, p-values out. Everything is read off the sequences by full float64 passes without a cache."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch

from tppsd.metrics.functional import carry_over, ks_exponential, ks_uniform, own_law_residuals, pair_independence
from tppsd.sampling.samples import SampledSequences

_POSITIONS = 4  # after the start of a sequence, where a wrong start or a wrong round shows most


def judge(target: Any, samples: SampledSequences) -> dict[str, float]:
    """p-values of "these sequences were drawn from the target's law", by name of the test.

    Time-rescaling residuals with carry-over are i.i.d. Exp(1), randomised mark PITs i.i.d. U(0, 1): Kolmogorov-Smirnov tests of
    both, and contingency tests of their independence, of one another and of the event before. Where sequences end by their number
    of events, the first events are also tested by themselves (nothing censors them there).
    """
    sequences = [replace(sequence, index=i) for i, sequence in enumerate(samples.with_history())]
    num_given = [len(history) for history in samples.histories]
    residuals = own_law_residuals(target, sequences, num_given, [history.window_end for history in samples.histories])
    gaps = carry_over(residuals)
    times = -torch.expm1(-gaps)
    p_values = {"times": ks_exponential(gaps).p_value, "time, next time": pair_independence(times[:-1], times[1:]).p_value}
    marks = torch.cat([row.mark_uniforms for row in residuals])
    if len(marks):
        p_values["marks"] = ks_uniform(marks).p_value
        p_values["time, mark"] = pair_independence(times, marks).p_value
        p_values["mark, next time"] = pair_independence(marks[:-1], times[1:]).p_value
        p_values["mark, next mark"] = pair_independence(marks[:-1], marks[1:]).p_value
    if bool(torch.isnan(samples.ends).all()):
        for position in range(min(_POSITIONS, min(len(row.gaps) for row in residuals))):
            p_values[f"time {position + 1}"] = ks_exponential(torch.stack([row.gaps[position] for row in residuals])).p_value
            if len(marks):
                uniforms = torch.stack([row.mark_uniforms[position] for row in residuals])
                p_values[f"mark {position + 1}"] = ks_uniform(uniforms).p_value
    return p_values


def combined(p_values: dict[str, float]) -> float:
    """One p-value for all tests together (Bonferroni), valid however they depend on one another."""
    return min(1.0, len(p_values) * min(p_values.values()))


def holm(p_values: dict[str, float], level: float = 0.01) -> dict[str, bool]:
    """Name -> rejected, with a chance of at most `level` that any true hypothesis is among the rejected.

    Source: Holm, Scand. J. Statist. 6 (1979).
    """
    rejected = dict.fromkeys(p_values, False)
    for rank, name in enumerate(sorted(p_values, key=p_values.__getitem__)):
        if p_values[name] > level / (len(p_values) - rank):
            break
        rejected[name] = True
    return rejected
