"""Tests of whether samples have the right distribution: the columns of the TPP-SD paper, and the model test."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from tppsd.benchmark.measuring import Samples, Timed
from tppsd.benchmark.plan import Plan
from tppsd.benchmark.samplers import Sampler
from tppsd.benchmark.sources import Request, history, sequences_on
from tppsd.data.sequences import EventSequence
from tppsd.lightning.datamodule import EventDataModule
from tppsd.metrics.functional import (
    SequenceResiduals,
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
            batch = sequences_on(model_device(model), sequences[i : i + 8])
            parts.append(model.log_likelihood(batch).double().cpu())
    return torch.cat(parts)


def _mark_counts(samples: Samples, num_marks: int) -> Tensor:
    """Count the marks of the new events, int64 (num_marks,)."""
    new = [s.marks[n:] for s, n in zip(samples.sequences, samples.num_given, strict=True)]
    return torch.bincount(torch.cat(new), minlength=num_marks)
