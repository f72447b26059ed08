"""The demo's samples: both methods on the same requests, one sequence at a time, through `Trainer.predict`."""

from __future__ import annotations

import math
import shutil
from typing import TYPE_CHECKING, Any

from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import RichProgressBar
from rich.console import Console

from tppsd.data.datamodule import EventDataModule
from tppsd.lightning.requests import Requests
from tppsd.lightning.sampler import Sampler
from tppsd.lightning.writer import SampleWriter
from tppsd.metrics.functional import carry_over, ks_exponential, ks_uniform
from tppsd.metrics.functional.own_law import own_law_residuals
from tppsd.sampling.options import SamplingOptions
from tppsd.sampling.samples import SampledSequences, SamplingStats

if TYPE_CHECKING:
    from tppsd.commands.demo import Settings

DRAFT_LENGTHS = (3, 5, 8, 12)  # tried briefly, on sequences that are thrown away
METHODS = ("autoregressive", "speculative")


def sample_both_ways(settings: Settings, data: EventDataModule, results: dict[str, Any], console: Console) -> dict[str, Any]:
    """Sample the same requests with both methods and test the samples; keys "autoregressive", "speculative"."""
    draft_length = _best_draft_length(settings, data, results)
    console.print(f"\n[bold]Sampling[/], one sequence at a time; draft length {draft_length} was the fastest of {DRAFT_LENGTHS}")
    options = {"autoregressive": SamplingOptions("autoregressive"), "speculative": SamplingOptions("speculative", draft_length)}
    outcome: dict[str, Any] = {}
    for i, method in enumerate(METHODS):
        folder = settings.output / "samples" / method
        shutil.rmtree(folder, ignore_errors=True)
        requests = _requests(data, settings.num_sequences)
        chunks = _predict(results, data, options[method], requests, settings.seed + i, SampleWriter(folder))
        outcome[method] = _judge(results, data, chunks, settings.seed) | {"folder": folder}
    return outcome


def _requests(data: EventDataModule, num_sequences: int, chunk_size: int = 4) -> Requests:
    """From scratch for a simulated process, else continuations of the first halves of test sequences, until those end."""
    if data.process_object is not None:
        return Requests(num_sequences, chunk_size=chunk_size)
    num_events = sum(len(s) for s in data.sequences("test")[:num_sequences]) / 2
    # short sequences: more of them, so that a test sees at least 2,000 events
    wanted = num_sequences * max(1, math.ceil(2000 / max(1.0, num_events)))
    return Requests(1, "test", max_histories=min(wanted, len(data.sequences("test"))), given_fraction=0.5, chunk_size=chunk_size)


def _predict(
    results: dict[str, Any],
    data: EventDataModule,
    options: SamplingOptions,
    requests: Requests,
    seed: int,
    writer: SampleWriter | None,
) -> list[SampledSequences]:
    draft = results["draft"]["path"] if options.method == "speculative" else None
    sampler = Sampler(results["target"]["path"], draft, options, seed=seed, batch_size=1)
    callbacks: list[Any] = [] if writer is None else [writer, RichProgressBar(leave=True)]
    trainer = Trainer(accelerator="cpu", devices=1, logger=False, callbacks=callbacks, enable_progress_bar=writer is not None,
                      enable_model_summary=False)  # fmt: skip
    chunks: Any = trainer.predict(sampler, requests.loader(data))
    return chunks


def _best_draft_length(settings: Settings, data: EventDataModule, results: dict[str, Any]) -> int:
    """The draft length with the least time per event in a short trial, after a warm-up."""
    trial = _requests(data, 2)
    seconds = {}
    for draft_length in (DRAFT_LENGTHS[0], *DRAFT_LENGTHS):  # the first run warms up
        options = SamplingOptions("speculative", draft_length)
        stats = SamplingStats.total([c.stats for c in _predict(results, data, options, trial, settings.seed + 100, None)])
        seconds[draft_length] = 1 / stats.events_per_second
    return min(seconds, key=lambda length: seconds[length])


def _judge(results: dict[str, Any], data: EventDataModule, chunks: list[SampledSequences], seed: int) -> dict[str, Any]:
    """Counters, and tests of the samples under the target's own law and under the true process."""
    sequences = [s for chunk in chunks for s in chunk.with_history()]
    num_given = [n for chunk in chunks for n in chunk.num_given]
    observed = [w for chunk in chunks for w in chunk.observed_until]
    residuals = own_law_residuals(results["target"]["module"].model, sequences, num_given, observed, seed=seed)
    gaps = carry_over(residuals)
    marks = [r.mark_uniforms for r in residuals if r.mark_uniforms.numel()]
    outcome: dict[str, Any] = {
        "stats": SamplingStats.total([chunk.stats for chunk in chunks]),
        "sequences": sequences,
        "gaps": gaps,
        "own_law_ks": ks_exponential(gaps),
        "mark_pit_ks": _uniform(marks),
        "true_gaps": None,
        "true_process_ks": None,
    }
    process = data.process_object
    if process is not None:
        from tppsd.metrics.functional.time_rescaling import SequenceResiduals

        true = [SequenceResiduals(s.index, *process.residuals(s)) for s in sequences]
        outcome["true_gaps"] = carry_over(true)
        outcome["true_process_ks"] = ks_exponential(outcome["true_gaps"])
    return outcome


def _uniform(parts: list[Any]) -> Any:
    import torch

    return ks_uniform(torch.cat(parts)) if parts else None
