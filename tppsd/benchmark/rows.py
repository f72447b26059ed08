"""The lines of the table: a sampler in a cell, as plain values; and tests of the distribution of its samples.

The tests are the columns of the TPP-SD paper, and the model test.
"""

from __future__ import annotations

import statistics
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor

from tppsd.benchmark.measuring import Samples, Timed
from tppsd.benchmark.plan import PAPER_KEYS, Plan
from tppsd.benchmark.samplers import Request, Sampler, history, is_compiled_in
from tppsd.data.batch import EventBatch
from tppsd.data.sequences import EventSequence
from tppsd.lightning.datamodule import EventDataModule
from tppsd.metrics.functional import (
    SequenceResiduals,
    acceptance_by_position,
    carry_over,
    earth_movers_distance,
    ks_band,
    ks_exponential,
    ks_uniform,
    likelihood_discrepancy,
    model_residuals,
    wasserstein_distance,
)
from tppsd.models.resolve import model_device
from tppsd.models.transformer_tpp import TransformerTPP
from tppsd.processes.base import Process
from tppsd.sampling.stats import SamplingStats

_REFERENCE_SEED, _DRAW_SEED = 1_000_000, 2_000_000  # apart from those of the timed runs
_ROWS = 64  # in flight where time does not count


@dataclass
class Fidelity:
    """Holds numbers, named as the columns of the table, and what the figures show.

    Attributes:
        gaps: model residuals (num_events,); true_gaps: residuals under the true process, or None.
        mark_counts: new events of each mark, (num_marks,).
    """

    numbers: dict[str, float | None]
    gaps: Tensor
    true_gaps: Tensor | None
    mark_counts: Tensor


class Judge:
    """Judges the samplers of one cell.

    They are tested against the model that they sample, the true process or, on real data, the autoregressive sampler.
    """

    def __init__(
        self, plan: Plan, data: EventDataModule | None, autoregressive: Sampler, requests: list[Request], seed: int
    ):
        self.plan, self.data, self.autoregressive, self.seed = plan, data, autoregressive, seed
        self.process: Process | None = None if data is None else data.process_object
        self.is_real = data is not None and data.preset is None
        self.reference: Samples | None = None
        self.next_events: tuple[Tensor, Tensor] | None = None
        if self.is_real:
            self.reference = self._reference(requests)
            self.next_events = self._draw_next_events(autoregressive, _REFERENCE_SEED)

    def __call__(self, timed: Timed) -> Fidelity:
        """Test all timed samples of a sampler."""
        samples, model = timed.samples, timed.sampler.model
        residuals = model_residuals(model, samples.sequences, samples.num_given, samples.observed_until, seed=self.seed)
        gaps, marks = carry_over(residuals), torch.cat([r.mark_uniforms for r in residuals])
        numbers: dict[str, float | None] = {
            "model_p_value": ks_exponential(gaps).p_value,
            "mark_p_value": ks_uniform(marks).p_value if len(marks) else None,
        }
        true_gaps = None
        if self.process is not None:
            true_gaps = carry_over(SequenceResiduals(s.index, *self.process.residuals(s)) for s in samples.sequences)
            numbers |= {"ks_statistic": ks_exponential(true_gaps).statistic, "ks_band": ks_band(len(true_gaps))}
            truth = torch.tensor([self.process.log_likelihood(s) for s in samples.sequences], dtype=torch.float64)
            numbers["likelihood_discrepancy"] = likelihood_discrepancy(
                truth, _log_likelihoods(model, samples.sequences)
            )
        if self.reference is not None:
            target = self.autoregressive.model
            both = [_log_likelihoods(target, sampled.sequences) for sampled in (samples, self.reference)]
            numbers["likelihood_discrepancy"] = likelihood_discrepancy(*both)
        numbers |= self._next_event_distances(timed.sampler)
        return Fidelity(numbers, gaps, true_gaps, _mark_counts(samples, model.num_marks))

    def _reference(self, requests: list[Request]) -> Samples:
        """Sample the requests of all runs once more, autoregressively, with other seeds."""
        reference = Samples()
        for i, one in enumerate(requests):
            reference.add(self.autoregressive.run(one, _REFERENCE_SEED + 1000 * self.seed + i, _ROWS), one)
        return reference

    def _draw_next_events(self, sampler: Sampler, seed: int) -> tuple[Tensor, Tensor]:
        """Draw the event that follows each of the first test histories.

        Returns inter-times and marks, (histories, draws) each.
        """
        assert self.data is not None
        sources = self.data.sequences("test")[: self.plan.next_event_histories]
        histories = [history(self.plan, source) for source in sources for _ in range(self.plan.next_event_draws)]
        asked = Request(len(histories), histories, None, 1)
        drawn = Samples()
        drawn.add(sampler.run(asked, seed + 1000 * self.seed, _ROWS), asked)
        inter_times, marks = (
            torch.stack([getattr(s, name)[-1] for s in drawn.sequences]) for name in ("inter_times", "marks")
        )
        return inter_times.view(len(sources), -1), marks.view(len(sources), -1)

    def _next_event_distances(self, sampler: Sampler) -> dict[str, float | None]:
        """Return distances of next events between this sampler and the autoregressive one, means over histories.

        A sampler without a cache has none.
        """
        if self.next_events is None or sampler.method == "reencode":
            return {}
        inter_times, marks = self._draw_next_events(sampler, _DRAW_SEED)
        times = [wasserstein_distance(*pair) for pair in zip(inter_times, self.next_events[0], strict=True)]
        kinds = [earth_movers_distance(*pair) for pair in zip(marks, self.next_events[1], strict=True)]
        return {"wasserstein_time": sum(times) / len(times), "wasserstein_mark": sum(kinds) / len(kinds)}


def _log_likelihoods(model: TransformerTPP, sequences: list[EventSequence]) -> Tensor:
    """Return log-likelihoods of whole sequences, `window` convention, float64 (num_sequences,)."""
    parts = []
    with torch.inference_mode():
        for i in range(0, len(sequences), 8):
            batch = EventBatch.from_sequences(sequences[i : i + 8]).to(model_device(model))
            parts.append(model.log_likelihood(batch).double().cpu())
    return torch.cat(parts)


def _mark_counts(samples: Samples, num_marks: int) -> Tensor:
    """Count the marks of the new events, int64 (num_marks,)."""
    new = [s.marks[n:] for s, n in zip(samples.sequences, samples.num_given, strict=True)]
    return torch.bincount(torch.cat(new), minlength=num_marks)


@dataclass(frozen=True)
class Row:
    """Holds medians over the counted runs; None does not apply, or cannot be measured.

    Attributes:
        sampler: name, unique within data, encoder, batch size and seed; method: "autoregressive", "speculative",
            "draft" (a draft on its own), "reencode" (the target without a cache, one sequence at a time), "eager"
            (autoregressive, where the others are compiled), "fixed_point" or "auto".
        draft_length: events drafted per round, "auto", or the depth of the tree of `candidates`.
        target: heads x layers; draft: heads x layers, a checkpoint, "self" or "poisson".
        num_events: new events of all counted runs; num_sequences: sequences of one run.
        seconds: wall-clock time of a run per sequence.
        milliseconds_per_event: median over runs; low and high are the smallest and the largest of them.
        speedup: median over runs of (autoregressive seconds per event / this sampler's), paired by run; speedup_low and
            speedup_high are the smallest and the largest of them. speedup_over_reencode: the same against the sampler
            without a cache, which is what papers report.
        acceptance_rate: alpha, accepted / drafted; step_acceptance: accepted / tested; events_per_round: per target
            pass.
        likelihood_discrepancy: |mean L_truth - mean L_model| of the samples under the true process and the sampled
            model, or, on real data, |mean L| of the samples and of an independent autoregressive run under the target;
            nats per sequence.
        ks_statistic: D_KS of the samples time-rescaled under the true process; ks_band: its 95 % quantile for exact
            samples.
        wasserstein_time, wasserstein_mark: 1-Wasserstein and earth mover's distance of next events from autoregressive
            ones.
        model_p_value, mark_p_value: of the times and marks under the very model that was sampled; uniform if sampling
            is exact (with dtype = bfloat16 nearly: full passes give other distributions, by some 1e-4 nats per event).
            Cells share the noise of a seed, so that one sampler's p-values resemble each other over cells.
        peak_memory_mib: largest over runs, beyond what was held before.
        choice: what "auto" took in the first counted run, and why.
        acceptance_by_position: P(accepted | tested) of the first, second, ... drafted event.
        paper: what the paper reports, by the names above.
    """

    sampler: str
    method: str
    data: str | None
    encoder: str
    target: str
    draft: str | None
    draft_length: int | str | None
    rule: str | None
    batch_size: int
    seed: int
    repeats: int
    num_sequences: int
    num_events: int
    seconds: float
    milliseconds_per_event: float
    low: float
    high: float
    speedup: float
    speedup_low: float
    speedup_high: float
    events_per_second: float
    speedup_over_reencode: float | None = None
    acceptance_rate: float | None = None
    step_acceptance: float | None = None
    events_per_round: float | None = None
    likelihood_discrepancy: float | None = None
    ks_statistic: float | None = None
    ks_band: float | None = None
    wasserstein_time: float | None = None
    wasserstein_mark: float | None = None
    model_p_value: float | None = None
    mark_p_value: float | None = None
    peak_memory_mib: float | None = None
    acceptance_by_position: list[float | None] | None = None
    candidates: tuple[int, ...] | None = None
    draft_passes: int | None = None
    choice: str | None = None
    paper: dict[str, float] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Return the row as plain values."""
        return asdict(self)


@dataclass(frozen=True)
class Measurement:
    """Holds a row, and what the page shows beside it.

    These are residuals, mark counts, rounds by (drafted, accepted) where there are any, and whether the model that is
    sampled is compiled.
    """

    row: Row
    fidelity: Fidelity
    accepted_counts: Tensor | None
    is_compiled: bool


def measurement(timed: Timed, others: list[Timed], fidelity: Fidelity, cell: dict[str, Any], plan: Plan) -> Measurement:
    """Return the row of `timed`; `others` are all samplers of its cell and `cell` the fields that they share."""
    sampler, own = timed.sampler, timed.seconds_per_event
    baselines = {
        other.sampler.method: other for other in others if other.sampler.method in ("autoregressive", "reencode")
    }
    speedups = _speedups(timed, baselines["autoregressive"])
    over_reencode = _speedups(timed, baselines["reencode"]) if "reencode" in baselines else None
    peaks = [peak for peak in timed.peak_bytes if peak is not None]
    values: dict[str, Any] = cell | {
        "sampler": sampler.name, "method": sampler.method, "draft": sampler.draft, "draft_length": sampler.draft_length,
        "rule": sampler.rule, "candidates": sampler.candidates, "draft_passes": sampler.draft_passes,
        "repeats": len(own), "num_events": sum(timed.num_events),
        "seconds": statistics.median(timed.seconds) / cell["num_sequences"],
        "milliseconds_per_event": 1e3 * statistics.median(own), "low": 1e3 * min(own), "high": 1e3 * max(own),
        "speedup": statistics.median(speedups), "speedup_low": min(speedups), "speedup_high": max(speedups),
        "speedup_over_reencode": None if over_reencode is None else statistics.median(over_reencode),
        "events_per_second": 1 / statistics.median(own), "peak_memory_mib": max(peaks) / 2**20 if peaks else None,
        "choice": timed.samples.stats[0].choice if timed.samples.stats else None,
        **fidelity.numbers,
    }  # fmt: skip
    counts = None
    if sampler.method in ("speculative", "fixed_point"):
        stats = SamplingStats.total(timed.samples.stats)
        counts = stats.accepted_counts
        values |= {name: stats[name] for name in ("acceptance_rate", "step_acceptance", "events_per_round")}
        values["acceptance_by_position"] = [None if p != p else p for p in acceptance_by_position(counts).tolist()]
    values = {name: None if value != value else value for name, value in values.items()}  # JSON has no NaN
    row = Row(**values, paper=_reported(values, plan.paper))
    return Measurement(row, fidelity, counts, is_compiled_in(plan, sampler))


def _speedups(timed: Timed, baseline: Timed) -> list[float]:
    """Return how many times as fast as the baseline a sampler is per event, run by run."""
    return [base / own for base, own in zip(baseline.seconds_per_event, timed.seconds_per_event, strict=True)]


def _reported(values: dict[str, Any], paper: tuple[dict[str, Any], ...]) -> dict[str, float]:
    """Return the numbers of the paper's entries that describe this row."""
    found: dict[str, float] = {}
    for entry in paper:
        if all(values[key] == entry[key] for key in PAPER_KEYS if key in entry):
            found |= {name: number for name, number in entry.items() if name not in PAPER_KEYS}
    return found
