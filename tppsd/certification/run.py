"""One cell, from its models to its p-values.

Everything is read off the sequences by full float64 passes without a cache, or, where samples come with the
distributions that they were drawn from, by these.
"""

from __future__ import annotations

import copy
import hashlib
import math
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from tppsd.backends.compile import content_hash
from tppsd.certification.cells import Cell
from tppsd.certification.models import MEAN_INTER_TIME, OWN_ENCODER, build, event_data, with_own_encoder
from tppsd.certification.without_marks import WithoutMarks
from tppsd.data.batch import EventBatch
from tppsd.data.sequences import EventSequence
from tppsd.metrics.functional import (
    SequenceResiduals,
    carried_forecasts,
    carry_over,
    ks_exponential,
    ks_uniform,
    model_residuals,
    pair_independence,
)
from tppsd.models.distribution import NextEventDistribution
from tppsd.models.transformer_tpp import TransformerTPP
from tppsd.sampling.results import SampledSequences
from tppsd.sampling.sample import sample

_AT_ONCE = 64  # sequences of a pass


class RecordedDistributions:
    """Stands in place of a model for metrics of own distributions.

    Maps an EventBatch to distributions of batch shape (batch, length + 1), for the samples as whole sequences whose
    `index` is their place. Before the first sampled event stands the distribution of that one.
    """

    def __init__(self, samples: SampledSequences) -> None:
        assert samples.distributions is not None
        self._distributions = samples.distributions
        self.num_given = [
            n - h.first_is_given for n, h in zip(samples.num_given, samples.histories, strict=True)
        ]  # and scored

    def __call__(self, batch: EventBatch) -> NextEventDistribution:
        """Return the recorded distributions of a batch of these samples."""
        positions = torch.arange(batch.event_times.shape[1] + 1)
        rows = []
        for i in batch.index.tolist():
            own = self._distributions[i].parameters
            rows.append(own[(positions - self.num_given[i]).clamp(0, len(own) - 1)])
        return self._distributions[0].of(torch.stack(rows))


@torch.inference_mode()
def divergence(target: TransformerTPP, sequences: list[EventSequence], recorded: RecordedDistributions) -> float:
    """Return how far the recorded distributions are from those of the target in float64, in nats per event.

    The mean log-density ratio of the sampled events, by full passes without a cache, estimates their Kullback-Leibler
    divergence.
    """
    double, ratios = copy.deepcopy(target).double().eval(), list[Tensor]()
    for start in range(0, len(sequences), _AT_ONCE):
        part = sequences[start : start + _AT_ONCE]
        batch = EventBatch.from_sequences(part)
        given = torch.tensor([recorded.num_given[sequence.index] for sequence in part]).unsqueeze(1)
        is_sampled = batch.mask & (torch.arange(batch.mask.shape[1]) >= given)
        ratio = recorded(batch)[:, :-1].log_prob(batch.inter_times, batch.marks)
        ratios.append((ratio - double(batch)[:, :-1].log_prob(batch.inter_times, batch.marks))[is_sampled])
    return float(torch.cat(ratios).mean())


FAR = 0.01  # nats per event, from recorded distributions to the target's own
IMPOSSIBLE = 1e-6  # a residual below minus this is no rounding
_POSITIONS = 4  # after the start of a sequence, where a wrong start or a wrong round shows most


def judge(target: Any, samples: SampledSequences) -> dict[str, float]:
    """Return p-values of "these sequences were drawn from the target's distribution", by name of the test.

    Time-rescaling residuals with carry-over are i.i.d. Exp(1), randomised mark PITs i.i.d. U(0, 1): Kolmogorov-Smirnov
    tests of both, and contingency tests of their independence: of one another, of the event before, and of what the
    target forecasts given the whole history, where a sampler that looked at another history shows first. Where
    sequences end by their number of events, the first events are also tested by themselves (nothing censors them
    there).

    Recorded distributions are those of a sampler in reduced precision, for which the target's own are but near: how
    near is judged, too, or a sampler with a wrong cache would certify itself.

    Where an event stops its sequence, the next one begins there, and residuals are as they are: the stop is a stopping
    time. That sequences stop where they must is not a matter of chance. Without some marks, the intensity of those
    that are left is what is integrated.
    """
    if not stops_as_it_must(samples):
        return {"the first event of a stop mark is the last event": 0.0}
    sequences = [replace(sequence, index=i) for i, sequence in enumerate(samples.with_history())]
    forbidden = samples.options.forbid_marks
    model: Any = target if forbidden is None else WithoutMarks(target, cast("tuple[int, ...]", forbidden))
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


def stops_as_it_must(samples: SampledSequences) -> bool:
    """Say whether events of stop marks are the last events of stopped sequences, of each of them, and no others."""
    if samples.options.stop_marks is None:
        return not samples.stopped.any()
    is_stop = torch.isin(samples.flat_marks, torch.tensor(samples.options.stop_marks))
    ends_it = torch.zeros_like(is_stop)
    stopped, num_events = samples.stopped, samples.offsets.diff()
    if bool((num_events[stopped] == 0).any()):
        return False
    ends_it[samples.offsets[1:][stopped] - 1] = True
    return torch.equal(is_stop, ends_it) and bool(samples.ends[stopped].isnan().all())


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


_ROWS = 512  # in flight
_LENGTH, _UNTIL_STOP = 40, 8  # events per sequence, about, and at most where it may stop at a mark
_PILOT = 1280, 0.01  # at least so many events, and this share of those wanted
_MARGIN = 1.1  # so that a little fewer events per sequence than in the pilot are still enough


def run_cell(
    cell: Cell, num_events: int, seed: int, models: Path, compiled: bool | str = False, dtype: str = "float32"
) -> dict[str, Any]:
    """Sample `num_events` events in a cell, judge them, and return plain values, fit for JSON.

    Passes are as in SamplingOptions.
    """
    started = time.perf_counter()
    target, draft = build(cell, models)
    if compiled == OWN_ENCODER:
        target = with_own_encoder(target)
    samples = draw(cell, target, draft, num_events, seed, compiled, dtype)
    sampled = time.perf_counter()
    p_values = judge(target, samples)
    stats = samples.stats
    return {
        "cell": asdict(cell),
        "p_value": combined(p_values),
        "p_values": p_values,
        "num_events": stats.num_events,
        "num_sequences": len(samples),
        "step_acceptance": None if stats.step_acceptance != stats.step_acceptance else stats.step_acceptance,
        "seed": seed,
        "target_hash": content_hash(target) or content_hash(getattr(target, "model", None)),
        "seconds": {"sampling": sampled - started, "judging": time.perf_counter() - sampled},
    }


def draw(
    cell: Cell,
    target: Any,
    draft: Any,
    num_events: int,
    seed: int,
    compiled: bool | str = False,
    dtype: str = "float32",
) -> SampledSequences:
    """Sample at least `num_events` events, bar a freak pilot, in sequences of about 40, or until a stop mark.

    How many sequences that takes is learnt from a pilot with another seed, whose samples are thrown away: a number of
    sequences that depended on the samples themselves would bias them.
    """

    def sequences(num_paths: int, purpose: str) -> SampledSequences:
        """Sample so many sequences, with a seed of this cell and purpose."""
        # a seed of its own for every cell: two cells of one target must not share their noise
        own_seed = int.from_bytes(hashlib.sha256(f"{seed}/{purpose}/{cell.name}".encode()).digest()[:4], "big")
        return sample(
            target, draft, history=histories, num_sequences=num_paths, seed=own_seed, batch_size=_ROWS, **end, **options
        )

    unit = 1.0 if cell.encoder == "closed form" else MEAN_INTER_TIME
    histories = None if cell.start == "from scratch" else _histories(cell, unit)
    length = _UNTIL_STOP if cell.stop_marks else _LENGTH
    end: dict[str, Any] = {"num_events": length} if cell.end == "number of events" else {"horizon": length * unit}
    options: dict[str, Any] = {"method": "autoregressive", "forbid_marks": cell.forbidden}
    if cell.method == "fixed point":
        options = {"method": "fixed_point", "draft_length": cell.draft_length}
    elif cell.drafts:
        options = {"method": "speculative", "rule": cell.method}
        options |= {"draft_passes": 2 if cell.draft == "in two passes" else None}
        options |= {"candidates": cell.tree} if cell.candidates else {"draft_length": cell.draft_length}
    options |= {
        "compile": "auto" if compiled == OWN_ENCODER else compiled,
        "dtype": dtype,
        "stop_marks": cell.stop_marks,
        "return_distributions": dtype != "float32",
    }
    pilot_paths = int(max(_PILOT[0], _PILOT[1] * num_events) / length) // (len(histories) if histories else 1)
    pilot = sequences(pilot_paths, "pilot")
    return sequences(math.ceil(_MARGIN * num_events * pilot_paths / max(1, pilot.stats.num_events)), "samples")


def _histories(cell: Cell, unit: float) -> list[EventSequence]:
    """Return eight beginnings of 0 to 14 events; with a silence, of up to five mean inter-times, in every one."""
    histories = []
    for i, whole in enumerate(event_data(cell.num_marks, 8, seed=1)):
        times = whole.event_times[: 2 * i] * (unit / MEAN_INTER_TIME)
        last = float(times[-1]) if len(times) else 0.0
        silence = unit * 5.0 * (i + 1) / 8 if cell.start == "silence" else 0.0
        # every second one begins with a given first event
        t_start = None if i % 2 and len(times) else 0.0
        histories.append(EventSequence(times, whole.marks[: 2 * i].clone(), t_start, last + silence, i))
    return histories
