"""One call of `sample`: from what it is given to what comes out."""

from __future__ import annotations

import contextlib
import time
import warnings
from collections.abc import Iterator
from typing import Any

import torch

from tppsd.backends.cpp.compilable import check_compiled_draft, check_passes
from tppsd.models.fast import held
from tppsd.models.protocol import check_starts
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


class Call:
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
            raise TypeError(
                f"options is a {type(options).__name__}; give SamplingOptions, or single options as keywords"
            )
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
        self.options, self.chosen_lengths, reason = choose(
            models, self.options, plan, num_rows, self.seed, self.num_chunks
        )
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
        return build_engine(
            models, self.options, plan, self._num_rows(plan), self.seed, self.recorder, self.chosen_lengths
        )

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
