"""`sample`: the one entry to every sampler."""

from __future__ import annotations

import contextlib
import time
import warnings
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from tppsd.data.sequences import EventBatch, EventSequence
from tppsd.models.fast import held
from tppsd.models.protocol import check_starts
from tppsd.models.stand_ins.compilable import check_compiled_draft, check_passes
from tppsd.progress import progress as progress_bar
from tppsd.sampling.auto import choose
from tppsd.sampling.checks import whole_number
from tppsd.sampling.draft_length import AutoDraftLength, DraftLength
from tppsd.sampling.engine import Engine, Finished
from tppsd.sampling.learnt import remember
from tppsd.sampling.methods import Models, build_engine, choose_draft_length
from tppsd.sampling.options import SamplingOptions
from tppsd.sampling.recorder import Recorder, after_silence
from tppsd.sampling.requests import FROM_SCRATCH, Plan, plan_requests
from tppsd.sampling.resolve import DRAFTER_NAMES, check_fit, content_hash, model_device, reading_both, resolve_model
from tppsd.sampling.samples import SampledSequences
from tppsd.sampling.speculative import Speculative
from tppsd.sampling.stats import SamplingStats
from tppsd.sampling.tree_speculative import TreeSpeculative

DEFAULT_ROWS = 64  # in flight


def sample(
    target: Any,
    draft: Any = None,
    *,
    history: EventSequence | Sequence[EventSequence] | EventBatch | None = None,
    num_sequences: int = 1,
    t_start: float | Sequence[float] | Tensor | None = None,
    t_end: float | Sequence[float] | Tensor | None = None,
    horizon: float | Sequence[float] | Tensor | None = None,
    num_events: int | Sequence[int] | Tensor | None = None,
    options: SamplingOptions | None = None,
    batch_size: int | None = None,
    seed: int = 0,
    first_index: int = 0,
    max_events: int = 1_000_000,
    return_log_probs: bool = False,
    return_laws: bool = False,
    progress: bool = False,
    **option_overrides: Any,
) -> SampledSequences:
    """Sample event sequences from the target's law, from the start of a window or continuing histories.

    Args:
        target: an EventModel, a LightningModule or a checkpoint path.
        draft: likewise, or the name of a drafter that needs no model: "self" (the target's own recent laws; what None means for
            method = "speculative"), "jacobi" (its laws of the round before) or "poisson" (rate and mark frequencies of the
            training split). It changes the speed, never the law.
        history: sequence(s) to continue; a history's `t_end` is the time until which it was observed: the first new event is
            later than it.
        num_sequences: paths per history, or sequences from scratch.
        t_start: start of from-scratch windows (default 0).
        t_end, horizon, num_events: where sequences end, whichever comes first: an absolute time, a time after the start (or after
            "observed until"), a number of new events; one value or one per sequence.
        options: SamplingOptions; single options may be given as keywords instead (`method="autoregressive"`).
        batch_size: rows in flight (default 64); changes speed and memory, and no result of a fixed draft length.
        seed: of the counter-based noise. With equal options and seed, sequence `index` is the same in every call, whatever the
            batch size, device count or order, up to floating-point reduction order. Where the clock chooses draft lengths
            ("auto"), the same law; the same sequences come from the recorded `options` and `batch_size`.
        first_index: index of the first sequence (or history) of this call; lets many calls share one numbering.
        max_events: safety bound per sequence; reaching it sets `truncated` and warns.
        return_log_probs: also return the target's log-density of each event.
        return_laws: also return the law that each event has been drawn from, as it was worked out for it; after a silence the
            first is given that silence.
        progress: show a progress bar.

    Returns:
        SampledSequences, in index order.

    Raises:
        ValueError, TypeError, FileNotFoundError: an argument is wrong; the sentence names it and its value.
    """
    call = _Call(target, draft, options, option_overrides, batch_size, seed, max_events, Recorder(return_log_probs, return_laws))
    with call.planned(history, num_sequences, t_start, t_end, horizon, num_events, first_index) as plan:
        return call.assemble(plan, range(len(plan.requests)), call.finished(plan, progress))


def sample_chunk(
    target: Any,
    draft: Any,
    num_chunks: int,
    options: SamplingOptions | None,
    batch_size: int | None,
    seed: int,
    max_events: int,
    **requested: Any,
) -> SampledSequences:
    """`sample`, of a job of `num_chunks` chunks like this one: for all of them method = "auto" decides whether to try.

    Args:
        requested: history, numbers, ends and first_index, as of `sample`.
    """
    call = _Call(target, draft, options, {}, batch_size, seed, max_events, Recorder(), num_chunks)
    with call.planned(**requested) as plan:
        return call.assemble(plan, range(len(plan.requests)), call.finished(plan))


def sample_stream(
    target: Any,
    draft: Any = None,
    *,
    chunk_size: int = 256,
    history: EventSequence | Sequence[EventSequence] | EventBatch | None = None,
    num_sequences: int = 1,
    t_start: float | Sequence[float] | Tensor | None = None,
    t_end: float | Sequence[float] | Tensor | None = None,
    horizon: float | Sequence[float] | Tensor | None = None,
    num_events: int | Sequence[int] | Tensor | None = None,
    options: SamplingOptions | None = None,
    batch_size: int | None = None,
    seed: int = 0,
    first_index: int = 0,
    max_events: int = 1_000_000,
    return_log_probs: bool = False,
    return_laws: bool = False,
    progress: bool = False,
    **option_overrides: Any,
) -> Iterator[SampledSequences]:
    """Like `sample`, but yields chunks of `chunk_size` sequences in index order as soon as they are complete.

    Each chunk's `stats` are those of the whole call so far. The models' weights must not change before the last chunk.
    """
    chunk_size = whole_number("chunk_size", chunk_size, 1)
    call = _Call(target, draft, options, option_overrides, batch_size, seed, max_events, Recorder(return_log_probs, return_laws))
    plan = call.plan(history, num_sequences, t_start, t_end, horizon, num_events, first_index)
    finished: dict[int, Finished] = {}
    passes, total = call.run(plan, progress), len(plan.requests)
    for start in range(0, total, chunk_size):
        chunk = range(start, min(total, start + chunk_size))
        with call.reading():  # between chunks they are ordinary modules again
            while not all(i in finished for i in chunk):
                done = next(passes)
                finished[done.which] = done
            if chunk.stop == total:
                next(passes, None)  # runs to its end, where it keeps what was learnt
        yield call.assemble(plan, chunk, [finished.pop(i) for i in chunk])


class _Call:
    """One call: resolved models and options, and the engine that runs them."""

    def __init__(
        self,
        target: Any,
        draft: Any,
        options: SamplingOptions | None,
        overrides: dict[str, Any],
        batch_size: int | None,
        seed: int,
        max_events: int,
        recorder: Recorder,
        num_chunks: int = 1,
    ) -> None:
        if options is not None and not isinstance(options, SamplingOptions):
            raise TypeError(f"options is a {type(options).__name__}; give SamplingOptions, or single options as keywords")
        self.batch_size = None if batch_size is None else whole_number("batch_size", batch_size, 1)
        self.seed = whole_number("seed", seed, -(2**63), 2**63 - 1)
        self.target = resolve_model(target, "target")
        options = (options or SamplingOptions()).with_overrides(**overrides)
        named: Any = draft if isinstance(draft, str) and draft in DRAFTER_NAMES else None if draft is None else "model"
        self.options = options.resolved(named)
        # a model that will not be used is neither loaded nor recorded
        may_draft = named == "model" and (self.options.drafter == "model" or self.options.method == "auto")
        self.draft = resolve_model(draft, "draft") if may_draft else None
        self.max_events, self.recorder, self.num_chunks = max_events, recorder, num_chunks
        self.device = model_device(self.target)
        self.stats = SamplingStats.of(self.options)
        self.chosen_lengths: DraftLength | None = None

    @contextlib.contextmanager
    def planned(self, *requested: Any, **by_name: Any) -> Iterator[Plan]:
        """`plan`; meanwhile both models are held, so that their weights are compared once."""
        with held(self.target):
            plan = self.plan(*requested, **by_name)
            with held(self.draft):
                yield plan

    def plan(
        self,
        history: Any = None,
        num_sequences: int = 1,
        t_start: Any = None,
        t_end: Any = None,
        horizon: Any = None,
        num_events: Any = None,
        first_index: int = 0,
    ) -> Plan:
        """What to sample, and how: the method of "auto" is chosen."""
        check_passes(self.target, **self.options.target_passes)
        if self.draft is not None:
            check_fit(self.target, self.draft)
            if self.options.compile == "draft":
                check_compiled_draft(self.draft)
        plan = plan_requests(
            history, num_sequences, t_start, t_end, horizon, num_events, self.max_events, self.target.num_marks,
            getattr(self.target, "statistics", None), self.seed, first_index, self.device,
        )  # fmt: skip
        for model in (self.target, self.draft):
            check_starts(model, (source.window_start for source in plan.sources))
        if self.options.method == "auto":
            self._choose(plan)
        return plan

    def _choose(self, plan: Plan) -> None:
        """What "auto" stands for; a draft model that is not to draft is let go before the call reads it."""
        started = time.perf_counter()
        models = Models(self.target, self.draft)
        num_rows = self._num_rows(plan)
        self.options, self.chosen_lengths, reason = choose(models, self.options, plan, num_rows, self.seed, self.num_chunks)
        if self.options.drafter != "model":
            self.draft = None
        self.stats = SamplingStats.of(self.options)
        self.stats.choice, self.stats.trial_seconds = reason, time.perf_counter() - started

    def _num_rows(self, plan: Plan) -> int:
        """In flight."""
        return min(self.batch_size or DEFAULT_ROWS, len(plan.requests))

    def reading(self) -> contextlib.AbstractContextManager[None]:
        """In which `run` goes on."""
        return reading_both(self.target, self.draft, self.options)

    def finished(self, plan: Plan, progress: bool = False) -> list[Finished]:
        """All of them, in index order."""
        with self.reading():
            return sorted(self.run(plan, progress), key=lambda done: done.which)

    def run(self, plan: Plan, progress: bool) -> Iterator[Finished]:
        """Yield finished requests, within `reading`; counters and seconds accumulate in `stats`."""
        with progress_bar(None, "sampling", len(plan.requests), progress) as advance:
            engine = self._start(plan)
            passes = engine.run()
            while True:
                started = time.perf_counter()
                finished = next(passes, [])
                self.stats.seconds += time.perf_counter() - started
                self.stats.num_rounds, self.stats.num_target_passes = engine.num_rounds, engine.num_passes
                if isinstance(engine.method, Speculative):
                    self.stats.accepted_counts = engine.method.accepted_counts.cpu()
                if isinstance(engine.method, TreeSpeculative):
                    self.stats.node_counts = engine.method.node_counts.cpu()
                if not finished:
                    if isinstance(self.chosen_lengths, AutoDraftLength):
                        remember(self.target, self.draft, self.options, self.chosen_lengths)
                    return
                self.stats.num_events += sum(len(done.times) for done in finished)
                advance(len(finished))
                yield from finished

    def _start(self, plan: Plan) -> Engine:
        """The engine, which goes on from what the trial, or earlier calls, have learnt of draft lengths."""
        models = Models(self.target, self.draft)
        if self.chosen_lengths is None and self.options.method != "autoregressive":
            self.chosen_lengths = choose_draft_length(models, self.options)
        return build_engine(models, self.options, plan, self._num_rows(plan), self.seed, self.recorder, self.chosen_lengths)

    @property
    def replayable_options(self) -> SamplingOptions:
        """The options, with the draft lengths that were chosen by the clock."""
        if not isinstance(self.chosen_lengths, AutoDraftLength) or not self.chosen_lengths.history:
            return self.options
        return self.options.with_overrides(draft_length=self.chosen_lengths.history)

    def assemble(self, plan: Plan, which: range, finished: list[Finished]) -> SampledSequences:
        """Ragged storage of the finished requests `which`, on the data's own clock."""
        requests = [plan.requests[i] for i in which]
        sources = [plan.sources[r.history] for r in requests]
        times = [
            (source.window_start + done.times).clamp(min=source.window_end, max=request.end)
            for source, done, request in zip(sources, finished, requests, strict=True)
        ]
        by_count = torch.tensor([done.ended_by_count for done in finished])
        at_bound = torch.tensor([request.is_bounded for request in requests]) & by_count
        if at_bound.any():
            warnings.warn(
                f"{int(at_bound.sum())} of {len(finished)} sequences reached max_events = {self.max_events} before their end; "
                "they are marked in `truncated`",
                stacklevel=3,
            )
        ends = torch.tensor([r.end for r in requests], dtype=torch.float64)
        log_probs = [done.log_probs for done in finished if done.log_probs is not None]
        laws = None
        if self.recorder.laws:
            silences = plan.histories.elapsed[[request.history for request in requests]].tolist()
            laws = [after_silence(done.laws, silence) for done, silence in zip(finished, silences, strict=True)]
        lengths = torch.tensor([0] + [len(done.times) for done in finished])
        return SampledSequences(
            flat_event_times=torch.cat(times),
            flat_inter_times=torch.cat([done.inter_times for done in finished]),
            flat_marks=torch.cat([done.marks for done in finished]),
            flat_log_probs=torch.cat(log_probs) if log_probs else None,
            offsets=lengths.cumsum(0),
            index=torch.tensor([r.number for r in requests]),
            history_index=torch.tensor([r.history_index for r in requests]),
            path_index=torch.tensor([0 if r.history_index == FROM_SCRATCH else r.path_index for r in requests]),
            truncated=at_bound,
            ends=torch.where(by_count | torch.isinf(ends), torch.nan, ends),
            histories=sources,
            options=self.replayable_options,
            seed=self.seed,
            batch_size=self._num_rows(plan),
            stats=self.stats.copy(),
            num_marks=self.target.num_marks,
            mark_names=getattr(getattr(self.target, "statistics", None), "mark_names", None),
            target_hash=content_hash(self.target),
            draft_hash=content_hash(self.draft),
            laws=laws,
        )
