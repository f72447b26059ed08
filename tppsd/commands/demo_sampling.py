"""The samples of the demo: several samplers on the same requests, one sequence at a time.

They run through `Trainer.predict`.
"""

from __future__ import annotations

import math
import shutil
import time
from dataclasses import replace
from itertools import accumulate
from typing import TYPE_CHECKING, Any

import torch
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import RichProgressBar
from rich.console import Console

from tppsd.backends.compile import check_compiler
from tppsd.benchmark.samplers import Request, reencode
from tppsd.lightning.datamodule import EventDataModule
from tppsd.lightning.requests import Requests
from tppsd.lightning.sampler import Sampler
from tppsd.lightning.writer import SampleWriter
from tppsd.metrics.functional import SequenceResiduals, carry_over, ks_exponential, ks_uniform, model_residuals
from tppsd.models.transformer_tpp import TransformerTPP
from tppsd.sampling.options import SamplingOptions
from tppsd.sampling.results import SampledSequences
from tppsd.sampling.sample import sample
from tppsd.sampling.stats import SamplingStats

if TYPE_CHECKING:
    from tppsd.commands.demo import Settings

MAX_SAMPLED_EVENTS = 8_000  # expected, per sampler: bounds the time
_HALVES = Requests(1, "test", given_fraction=0.5)
MAX_PER_SEQUENCE = 5_000  # of a sequence that explodes
LOOP = "papers_loop"
LOOP_EVENTS = 100  # of the papers' loop, which encodes all events again for each: bounds the time
LABELS = {
    LOOP: "event by event, every event encoded again (the papers' loop)",
    "autoregressive": "event by event, with a cache",
    "speculative": "speculative, draft distilled from the target",
    "speculative_jacobi": "speculative, the target drafts for itself",
}
_NAMES = ("autoregressive", "speculative", "speculative_jacobi")


def is_compiled() -> bool:
    """Say whether this machine compiles samplers."""
    try:
        check_compiler()
    except ValueError:
        return False
    return True


def samplers() -> dict[str, tuple[SamplingOptions, str | None]]:
    """Return how each sampler samples, and its draft.

    The draft is None, "model" for the trained one, or "jacobi" for the target's distributions.
    """
    draft_passes = None if is_compiled() else 2  # drafting event by event is dear in eager PyTorch
    return {
        "autoregressive": (SamplingOptions("autoregressive"), None),
        "speculative": (SamplingOptions("speculative", "auto", draft_passes=draft_passes), "model"),
        "speculative_jacobi": (SamplingOptions("speculative", "auto"), "jacobi"),
    }


def sample_all_ways(
    settings: Settings, data: EventDataModule, results: dict[str, Any], console: Console
) -> dict[str, Any]:
    """Sample the same requests in all ways, and test the samples; one key per sampler."""
    console.print("\n[bold]Sampling[/] one sequence at a time on one thread ...")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # a single sequence is too little work for more: they would only wait for each other
    try:
        return _sample_all_ways(settings, data, results, console)
    finally:
        torch.set_num_threads(threads)


def _sample_all_ways(
    settings: Settings, data: EventDataModule, results: dict[str, Any], console: Console
) -> dict[str, Any]:
    outcome: dict[str, Any] = {}
    for name in samplers():
        console.print(f"  {LABELS[name]}")
        _predict(results, name, _requests(data, 1).loader(data), settings.seed + 100, None)  # warms up
        folder = settings.output / "samples" / name
        shutil.rmtree(folder, ignore_errors=True)
        requests = _requests(data, settings.num_sequences)
        chunks = _predict(
            results, name, requests.loader(data), settings.seed + _NAMES.index(name), SampleWriter(folder)
        )
        outcome[name] = _judge(results, data, chunks, settings.seed) | {"folder": folder}
        if outcome[name]["stats"].num_events == 0:
            raise ValueError(
                f"{data.dataset_name}: no event was sampled until the ends of the test sequences, so there are no "
                "speeds to compare; the demo needs longer test sequences, or more of them"
            )
    console.print(f"  {LABELS[LOOP]}")
    outcome[LOOP] = papers_loop(settings, data, results["target"]["module"].model)
    return outcome


def papers_loop(settings: Settings, data: EventDataModule, target: TransformerTPP) -> dict[str, Any]:
    """Time the loop of the papers, event by event with all events encoded again for each, on one sequence.

    Returns:
        num_events, seconds, events_per_second; cached_events_per_second, of the event-by-event sampler with a cache on
        the same request, so that the two compare.
    """
    request = Request(1, None, None, LOOP_EVENTS)
    if data.process_object is None:
        source = next(s for s, events in zip(data.sequences("test"), _to_come(data), strict=True) if events)
        request = request._replace(histories=[_HALVES.history(source)])
    given = sum(map(len, request.histories or []))
    target.eval()
    with torch.inference_mode():
        started = time.perf_counter()
        (sequence,) = reencode(target, request, settings.seed)
        seconds = time.perf_counter() - started
        options = SamplingOptions("autoregressive")
        for _ in range(2):  # the first warms up
            cached = sample(target, options=options, seed=settings.seed, batch_size=1, **request.arguments()).stats
    number = len(sequence) - given
    return {
        "num_events": number,
        "seconds": seconds,
        "events_per_second": number / seconds,
        "cached_events_per_second": cached.events_per_second,
    }


def _requests(data: EventDataModule, num_sequences: int, chunk_size: int = 4) -> Requests:
    """Return what is sampled: sequences from scratch for a simulated process, else continuations.

    Continued are the first halves of test sequences, until those end.
    """
    if data.process_object is not None:
        mean_length = data.statistics.num_events / len(data.sequences("train"))
        affordable = max(1, round(MAX_SAMPLED_EVENTS / mean_length))
        return Requests(min(num_sequences, affordable), chunk_size=chunk_size)
    to_come = _to_come(data)
    # short sequences: more of them, so that a test sees 2,000 events; long ones: fewer
    wanted = num_sequences * max(1, math.ceil(2000 / max(1, sum(to_come[:num_sequences]))))
    affordable = max(1, sum(total <= MAX_SAMPLED_EVENTS for total in accumulate(to_come)))
    num_histories = min(wanted, affordable, len(to_come))
    return replace(_HALVES, max_histories=num_histories, chunk_size=chunk_size)


def check_histories(data: EventDataModule) -> None:
    """Refuse test sequences that leave nothing to sample, before anything is trained."""
    if data.process_object is None and not any(_to_come(data)):
        raise ValueError(
            f"{data.dataset_name}: no test sequence has an event after its given first half, which the demo would "
            "continue; it needs test sequences of two events or more"
        )


def _to_come(data: EventDataModule) -> list[int]:
    """Return the number of events of each test sequence that are not given."""
    return [len(s) - len(_HALVES.history(s)) for s in data.sequences("test")]


def _predict(
    results: dict[str, Any], name: str, loader: Any, seed: int, writer: SampleWriter | None
) -> list[SampledSequences]:
    """Sample one way through a Trainer, and return the samples in chunks."""
    options, drafter = samplers()[name]
    draft = results["draft"]["path"] if drafter == "model" else drafter
    sampler = Sampler(results["target"]["path"], draft, options, seed=seed, batch_size=1, max_events=MAX_PER_SEQUENCE)
    callbacks: list[Any] = [] if writer is None else [writer, RichProgressBar(leave=False)]
    trainer = Trainer(
        accelerator="cpu",
        devices=1,
        logger=False,
        callbacks=callbacks,
        enable_progress_bar=writer is not None,
        enable_model_summary=False,
    )
    chunks: list[SampledSequences] = trainer.predict(sampler, loader)  # type: ignore[assignment]
    return chunks


def _judge(results: dict[str, Any], data: EventDataModule, chunks: list[SampledSequences], seed: int) -> dict[str, Any]:
    """Return counters, and tests of the samples under the target itself and under the true process."""
    sequences = [s for chunk in chunks for s in chunk.with_history()]
    num_given = [n for chunk in chunks for n in chunk.num_given]
    observed = [w for chunk in chunks for w in chunk.observed_until]
    residuals = model_residuals(results["target"]["module"].model, sequences, num_given, observed, seed=seed)
    gaps = carry_over(residuals)
    marks = torch.cat([r.mark_uniforms for r in residuals])
    outcome: dict[str, Any] = {
        "stats": SamplingStats.total([chunk.stats for chunk in chunks]),
        "sequences": sequences,
        "gaps": gaps,
        "model_ks": ks_exponential(gaps),
        "mark_pit_ks": ks_uniform(marks) if len(marks) else None,
        "true_gaps": None,
        "true_process_ks": None,
    }
    process = data.process_object
    if process is not None:
        true = [SequenceResiduals(s.index, *process.residuals(s)) for s in sequences]
        outcome["true_gaps"] = carry_over(true)
        outcome["true_process_ks"] = ks_exponential(outcome["true_gaps"])
    return outcome
