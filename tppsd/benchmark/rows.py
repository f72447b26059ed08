"""The lines of the table: a sampler in a cell, as plain values."""

from __future__ import annotations

import statistics
from dataclasses import asdict, dataclass, field
from typing import Any

from torch import Tensor

from tppsd.benchmark.fidelity import Fidelity
from tppsd.benchmark.measuring import Timed
from tppsd.benchmark.plan import PAPER_KEYS
from tppsd.metrics.functional import acceptance_by_position
from tppsd.sampling.stats import SamplingStats


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
    """Holds a row, and what the figures show of it.

    These are residuals, mark counts, and rounds by (drafted, accepted) where there are any.
    """

    row: Row
    fidelity: Fidelity
    accepted_counts: Tensor | None


def measurement(
    timed: Timed, others: list[Timed], fidelity: Fidelity, cell: dict[str, Any], paper: tuple[dict[str, Any], ...]
) -> Measurement:
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
    return Measurement(Row(**values, paper=_reported(values, paper)), fidelity, counts)


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
