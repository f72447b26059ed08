"""The job of a sampling call: resolved models and options, run by the engine, from requests to sequences."""

from __future__ import annotations

import logging
import time
import warnings
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, cast

import torch

from tppsd.backends.compile import Compile, content_hash, is_compiled, runnable
from tppsd.models.protocol import check_starts
from tppsd.models.resolve import model_device, resolve_model
from tppsd.progress import progress as bar
from tppsd.sampling.autoregressive import ModelRunner
from tppsd.sampling.checks import mark_indices, whole_number
from tppsd.sampling.draft_length import DRAFT_LENGTHS, AutoDraftLength, DraftLength
from tppsd.sampling.engine import Engine, Finished, NotANumberError
from tppsd.sampling.long_history import LONG_HISTORY
from tppsd.sampling.method import Batch, Models, build_engine, check_fit, largest_weight
from tppsd.sampling.options import DRAFTER_NAMES, SamplingOptions
from tppsd.sampling.requests import FROM_SCRATCH, RequestPlan, Wanted, plan_requests
from tppsd.sampling.results import SampledSequences
from tppsd.sampling.stats import SamplingStats

if TYPE_CHECKING:
    from tppsd.sampling.drafters.base import Drafter
    from tppsd.sampling.recorder import Recorder
    from tppsd.sampling.rules import Rule

DEFAULT_ROWS, MANY_ROWS = 64, 256  # running sequences; the second in large compiled jobs without drafts
MOST_ROWS, NEAR = 1024, 2**25  # of those that continue histories, if the caches they begin with take so few bytes
_LOG = logging.getLogger("tppsd")


class SamplingJob:
    """Holds resolved models and options, and runs the engine on them.

    Args:
        target, draft, options, batch_size, seed, max_events: as of `tppsd.sample`.
        overrides: single options.
        recorder: of more than the events.
        num_chunks: how many jobs like this one there will be, for the trial of method = "auto".
        rule, drafter: instead of those that the options name.
    """

    def __init__(
        self,
        target: Any,
        draft: Any,
        options: SamplingOptions | None,
        overrides: dict[str, Any],
        batch_size: int | None,
        seed: int,
        max_events: int,
        recorder: Recorder | None = None,
        num_chunks: int = 1,
        rule: Rule | None = None,
        drafter: Callable[[ModelRunner], Drafter] | None = None,
    ) -> None:
        if options is not None and not isinstance(options, SamplingOptions):
            raise TypeError(
                f"options is a {type(options).__name__}; give SamplingOptions, or single options as keywords"
            )
        self.batch_size = None if batch_size is None else whole_number("batch_size", batch_size, 1)
        self.seed = whole_number("seed", seed, -(2**63), 2**63 - 1)
        self.target = resolve_model(target, "target")
        options = (options or SamplingOptions()).with_overrides(**overrides)
        is_name = isinstance(draft, str) and draft in DRAFTER_NAMES
        named: Any = draft if is_name else None if draft is None else "model"
        self.options = options.resolved(named)
        self.leaves_choice = named == "model" and options.leaves_method
        # a model that will not be used is neither loaded nor recorded
        may_draft = named == "model" and (self.options.drafter == "model" or self.options.method == "auto")
        self.draft = resolve_model(draft, "draft", DRAFTER_NAMES) if may_draft else None
        self.max_events, self.recorder, self.num_chunks = max_events, recorder, num_chunks
        self.rule, self.drafter = rule, drafter
        self.stats = SamplingStats.of(self.options)
        self.chosen_lengths: DraftLength | None = None

    def plan(self, wanted: Wanted) -> RequestPlan:
        """Return what to sample; models are compiled, and what the options leave open is chosen."""
        if self.draft is not None:
            check_fit(self.target, self.draft)
        if (default := torch.get_default_device()).type == "meta":
            raise ValueError(
                f"torch's default device is {default}, on which nothing has a value; "
                "sample outside of `with torch.device(...)`, or after torch.set_default_device('cpu')"
            )
        plan = plan_requests(wanted, self.target, self.max_events, self.seed)
        if self.options.forbid_marks is not None and self.recorder is not None and self.recorder.returns_columns:
            raise ValueError(
                f"forbid_marks = {list(self.options.forbid_marks)} samples another process than the target, of which "
                "no distributions and densities are returned; leave out return_distributions and return_log_probs"
            )
        longest = int(plan.histories.lengths.max()) - 1
        if longest > LONG_HISTORY and getattr(self.target, "max_context", 0) is None:
            warnings.warn(
                f"a history has {longest:,} events, of which each looks at all before it: the time until the first "
                "event is drawn grows with the square of that number. A model with max_context looks at so many only; "
                "a window that begins later (lookback) gives it fewer",
                stacklevel=3,
            )
        plan = plan._replace(stop_marks=self._marks("stop_marks"), forbid_marks=self._marks("forbid_marks"))
        for model in (self.target, self.draft):
            check_starts(model, (source.window_start for source in plan.sources))
        self.models = Models(self._runnable(self.target, "target"), self._runnable(self.draft, "draft"))
        self.hashes = [_content_hash(*pair) for pair in zip(self.models, (self.target, self.draft), strict=True)]
        with torch.inference_mode():
            self._choose(plan)
        return plan

    def _runnable(self, model: Any, role: str) -> Any:
        if model is None:
            return None
        compile = cast(Compile, self.options.compile)
        return runnable(model, role, compile, self.options.dtype or "float32")

    def _marks(self, name: str) -> torch.Tensor | None:
        """Return the marks that an option names, bool (num_marks,); None where it names none."""
        marks, num_marks = getattr(self.options, name), self.target.num_marks
        if marks is None:
            return None
        names = getattr(getattr(self.target, "statistics", None), "mark_names", None)
        is_one = torch.zeros(num_marks, dtype=torch.bool, device=model_device(self.target))
        is_one[mark_indices(name, marks, num_marks, names)] = True
        return is_one

    def _choose(self, plan: RequestPlan) -> None:
        """Choose what the options leave open; a draft model that is not to draft is let go."""
        if self.options.method != "auto" and not self.leaves_choice:
            return
        from tppsd.sampling.auto import choose, choose_default

        if self.options.method == "auto":
            started = time.perf_counter()
            chosen = choose(self._batch(plan), self.options, self.num_chunks)
            seconds = time.perf_counter() - started
        else:
            chosen, seconds = choose_default(self.models, self.options, self._num_rows(plan)), 0.0
            if chosen.options.drafter != "model":
                _LOG.info(chosen.reason)
        self.options, reason, self.chosen_lengths = chosen
        if self.options.drafter != "model":
            self.draft, self.models, self.hashes[1] = None, Models(self.models.target, None), None
        self.stats = SamplingStats.of(self.options)
        self.stats.choice, self.stats.trial_seconds = reason, seconds

    def _batch(self, plan: RequestPlan) -> Batch:
        return Batch(self.models, plan, self._num_rows(plan), self.seed, self.recorder)

    def _num_rows(self, plan: RequestPlan) -> int:
        """Return the number of running sequences."""
        num = len(plan.requests)
        is_plain = self.options.method == "autoregressive" and is_compiled(self.models.target)
        if self.batch_size or not is_plain or num < 4 * MANY_ROWS:
            return min(self.batch_size or DEFAULT_ROWS, num)
        if not plan.continues_histories:
            return MANY_ROWS
        # paths are short, so that what a step costs whatever the number of rows decides
        begun: torch.Tensor = self.models.target.new_cache(1, 1).tensors[0]
        return max(MANY_ROWS, min(MOST_ROWS, num // 4, NEAR // (begun.numel() * begun.element_size())))

    def sampled(self, plan: RequestPlan, progress: bool = False) -> SampledSequences:
        """Sample all requests and return them in index order."""
        with torch.inference_mode():
            done = Finished.cat(list(self.run(plan, progress)))
            done = done.select(done.which.argsort())
        return self.assemble(plan, slice(None), done)

    def run(self, plan: RequestPlan, progress: bool) -> Iterator[Finished]:
        """Yield finished requests, those of one step together, under inference mode.

        Counters and seconds accumulate in `stats`.
        """
        with bar(None, "sampling", len(plan.requests), progress) as advance:
            engine = self._start(plan)
            steps = engine.run()
            while True:
                started = time.perf_counter()
                try:
                    finished = next(steps, None)
                except NotANumberError as error:
                    raise RuntimeError(f"{error}{largest_weight(self.target)}") from None
                self.stats.seconds += time.perf_counter() - started
                self.stats.take(engine.counters)
                if finished is None:
                    if isinstance(self.chosen_lengths, AutoDraftLength):
                        DRAFT_LENGTHS.remember(self.target, self.draft, self.options, self.chosen_lengths)
                    return
                self.stats.num_events += int(finished.counts.sum())
                advance(len(finished))
                yield finished

    def _start(self, plan: RequestPlan) -> Engine:
        """Return the engine, which goes on from what the trial, or earlier jobs, have learnt of draft lengths."""
        if self.chosen_lengths is None and self.options.draft_length == "auto":
            compiled = is_compiled(self.models.target)
            self.chosen_lengths = DRAFT_LENGTHS.recall(self.target, self.draft, self.options, compiled)
        return build_engine(self._batch(plan), self.options, self.chosen_lengths, self.rule, self.drafter)

    @property
    def replayable_options(self) -> SamplingOptions:
        """The options, with the draft lengths that were chosen by the clock and the dtype of models given compiled."""
        found = self.options
        if isinstance(self.chosen_lengths, AutoDraftLength) and self.chosen_lengths.history:
            found = found.with_overrides(draft_length=self.chosen_lengths.history)
        if found.dtype is None and all(_is_in_bfloat16(model) for model in self.models if model is not None):
            found = found.with_overrides(dtype="bfloat16", compile=found.compile or "auto")
        return found

    def assemble(self, plan: RequestPlan, which: slice, finished: Finished) -> SampledSequences:
        """Return the finished requests `which` in ragged storage, on the data's own clock."""
        requests, counts, by_count = plan.requests[which], finished.counts, finished.ended_by_count
        stopped = finished.stopped
        of_events = requests.history.repeat_interleave(counts)
        starts, observed = plan.window_starts[of_events], plan.window_ends[of_events]
        inter_times, times, marks, *log_probs = finished.columns.unbind(0)
        times = torch.minimum(torch.maximum(starts + times, observed), requests.end.repeat_interleave(counts))
        is_short = counts < requests.limit  # its last candidates were of forbidden marks
        at_bound = (requests.is_bounded | is_short) & by_count & ~stopped
        if at_bound.any():
            warnings.warn(
                f"{int(at_bound.sum())} of {len(finished)} sequences reached max_events = {self.max_events} before "
                "their end; they are marked in `truncated`",
                stacklevel=3,
            )
        distributions = None
        if finished.distributions is not None:
            from tppsd.sampling.recorder import after_elapsed

            elapsed = plan.histories.elapsed[requests.history].tolist()
            distributions = [after_elapsed(own, gap) for own, gap in zip(finished.distributions, elapsed, strict=True)]
        return SampledSequences(
            flat_event_times=times,
            flat_inter_times=inter_times.clone(),
            flat_marks=marks.long(),
            flat_log_probs=log_probs[0].clone() if log_probs else None,
            offsets=torch.nn.functional.pad(counts.cumsum(0), (1, 0)),
            index=requests.number,
            history_index=requests.history_index,
            path_index=torch.where(requests.history_index == FROM_SCRATCH, 0, requests.path_index),
            truncated=at_bound,
            stopped=stopped,
            ends=torch.where(by_count | stopped | torch.isinf(requests.end), torch.nan, requests.end),
            histories=[plan.sources[h] for h in requests.history.tolist()],
            options=self.replayable_options,
            seed=self.seed,
            batch_size=self._num_rows(plan),
            stats=self.stats.copy(),
            num_marks=self.target.num_marks,
            **{
                name: getattr(getattr(self.target, "statistics", None), name, None)
                for name in ("mark_names", "time_unit", "time_origin")
            },
            target_hash=self.hashes[0],
            draft_hash=self.hashes[1],
            distributions=distributions,
        )


def _is_in_bfloat16(model: Any) -> bool:
    return is_compiled(model) and model.dtype == torch.bfloat16


def _content_hash(model: Any, source: Any) -> str | None:
    """Return the content hash of a model as it is run: a compiled one knows that of its source."""
    found: str | None = model.content_hash() if is_compiled(model) else content_hash(source)
    return found
