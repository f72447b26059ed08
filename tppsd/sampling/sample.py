"""`sample`: the one entry to every sampler, and the job that it runs, from what it is given to what comes out."""

from __future__ import annotations

import logging
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor

from tppsd.backends.compile import Compile, content_hash, is_compiled, runnable
from tppsd.data.sequences import EventBatch, EventSequence
from tppsd.models.protocol import check_starts
from tppsd.models.resolve import model_device, resolve_model
from tppsd.sampling.autoregressive import ModelRunner
from tppsd.sampling.checks import mark_indices, whole_number
from tppsd.sampling.draft_length import DRAFT_LENGTHS, AutoDraftLength, DraftLength
from tppsd.sampling.drafters.base import Drafter
from tppsd.sampling.engine import Engine, Finished, NotANumberError
from tppsd.sampling.long_history import LONG_HISTORY
from tppsd.sampling.method import Batch, Models, build_engine, check_fit, choose_draft_length, largest_weight
from tppsd.sampling.options import DRAFTER_NAMES, SamplingOptions
from tppsd.sampling.requests import FROM_SCRATCH, RequestPlan, Wanted, plan_requests
from tppsd.sampling.results import SampledSequences
from tppsd.sampling.rules import Rule
from tppsd.sampling.stats import SamplingStats

if TYPE_CHECKING:
    from tppsd.sampling.recorder import Recorder

DEFAULT_ROWS, MANY_ROWS = 64, 256  # running sequences; the second in large compiled jobs without drafts
_LOG = logging.getLogger("tppsd")


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
    return_distributions: bool = False,
    progress: bool = False,
    **option_overrides: Any,
) -> SampledSequences:
    """Sample event sequences from the target's distribution, from the start of a window or continuing histories.

    Args:
        target: an EventModel, a LightningModule or a checkpoint path.
        draft: likewise, or the name of a drafter that needs no model: "self" (the target's own recent distributions;
            what None means for method = "speculative"), "jacobi" (its distributions of the round before) or "poisson"
            (rate and mark frequencies of the training split). It changes the speed, never the distribution. Where no
            option says how to sample, fixed rules decide whether a draft model pays (`stats.choice`).
        history: sequence(s) to continue; a history's `t_end` is the time until which it was observed: the first new
            event is later than it. Also a table with mark names and timestamps (tppsd.read_histories).
        num_sequences: paths per history, or sequences from scratch.
        t_start: start of from-scratch windows (default 0).
        t_end, horizon, num_events: where sequences end, whichever comes first: an absolute time, a time after the start
            (or after "observed until"), a number of new events; one value or one per sequence.
        options: SamplingOptions; single options may be given as keywords instead (`method="autoregressive"`).
            `stop_marks={3}` or `stop_marks={"failure"}` ends each sequence with its first event of such a mark.
        batch_size: running sequences (default 64; 256 in compiled jobs of 1,024 or more without drafts); changes speed
            and memory, and no result of a fixed draft length.
        seed: of the counter-based noise. With equal options and seed, sequence `index` is the same in every call,
            whatever the batch size, device count or order, up to floating-point reduction order. So calls with one seed
            are not independent: `for h in histories: sample(target, history=h)` draws all histories with the same
            noise, and their paths move together. Give one call with a list, `sample(target, history=histories)`, or a
            seed per call. Where the clock
            chooses draft lengths ("auto"), the same distribution; the same sequences come from the recorded `options`
            and `batch_size`.
        first_index: index of the first sequence (or history) of this call; lets many calls share one numbering.
        max_events: safety bound per sequence; reaching it sets `truncated` and warns.
        return_log_probs: also return the target's log-density of each event.
        return_distributions: also return the distribution that each event has been drawn from, as it was worked out for
            it; after a silence the first is given that silence.
        progress: show a progress bar.

    Returns:
        SampledSequences, in index order.

    Raises:
        ValueError, TypeError, FileNotFoundError: an argument is wrong; the sentence names it and its value.

    Example:
        >>> from tppsd.processes import Hawkes
        >>> target = Hawkes(mu=1.0, alpha=0.5, beta=2.0)  # a Transformer that was trained is sampled in the same way
        >>> samples = sample(target, num_sequences=3, t_end=10.0, seed=1)
        >>> len(samples), samples[0].t_end
        (3, 10.0)
        >>> history = EventSequence.of([1.0, 2.5], t_start=0.0, t_end=3.0)  # observed until 3
        >>> paths = sample(target, history=history, num_sequences=100, horizon=2.0)
        >>> bool((paths.flat_event_times > 3.0).all())
        True
        >>> drafted = sample(target, Hawkes(1.2, 0.3, 2.0), num_sequences=3, t_end=10.0, method='speculative')
        >>> drafted.stats.step_acceptance > 0.8
        True
    """
    job, plan = _begun(
        target, draft, options, batch_size, seed, max_events, return_log_probs, return_distributions,
        history=history, num_sequences=num_sequences, t_start=t_start, t_end=t_end, horizon=horizon,
        num_events=num_events, first_index=first_index, **option_overrides,
    )  # fmt: skip
    return job.sampled(plan, progress)


def sample_stream(
    target: Any, draft: Any = None, *, chunk_size: int = 256, progress: bool = False, **arguments: Any
) -> Iterator[SampledSequences]:
    """Like `sample`, but yields chunks of `chunk_size` sequences in index order as soon as they are complete.

    Each chunk's `stats` are those of the whole call so far. The models' weights must not change before the last chunk.

    Args:
        target, draft, progress: as of `sample`.
        chunk_size: sequences of a chunk.
        arguments: all others of `sample`.
    """
    chunk_size = whole_number("chunk_size", chunk_size, 1)
    job, plan = _begun(target, draft, **arguments)
    steps, total = job.run(plan, progress), len(plan.requests)
    waiting: list[Finished] = []  # of which every number but those of earlier chunks may be one
    for start in range(0, total, chunk_size):
        stop = min(total, start + chunk_size)
        with torch.inference_mode():
            num_there = sum(int((part.which < stop).sum()) for part in waiting)
            while num_there < stop - start:
                waiting.append(next(steps))
                num_there += int((waiting[-1].which < stop).sum())
            if stop == total:
                next(steps, None)  # runs to its end, where it keeps what was learnt
            done = Finished.cat(waiting)
            chunk = done.select(done.which.argsort()[: stop - start])
            waiting = [done.select((done.which >= stop).nonzero().squeeze(1))]
        yield job.assemble(plan, slice(start, stop), chunk)


def _begun(
    target: Any,
    draft: Any,
    options: SamplingOptions | None = None,
    batch_size: int | None = None,
    seed: int = 0,
    max_events: int = 1_000_000,
    return_log_probs: bool = False,
    return_distributions: bool = False,
    **others: Any,
) -> tuple[SamplingJob, RequestPlan]:
    """Return the job and the plan of arguments of `sample`; `others` are fields of Wanted, and single options."""
    recorder = None
    if return_log_probs or return_distributions:
        from tppsd.sampling.recorder import Recorder

        recorder = Recorder(return_log_probs, return_distributions)
    wanted = Wanted(**{name: others.pop(name) for name in Wanted._fields if name in others})
    job = SamplingJob(target, draft, options, others, batch_size, seed, max_events, recorder)
    return job, job.plan(wanted)


def _bar(total: int, is_shown: bool) -> AbstractContextManager[Callable[..., None]]:
    if not is_shown:
        return nullcontext(lambda num: None)
    from tppsd.progress import progress

    return progress(None, "sampling", total)


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
            (self.options, self.chosen_lengths, reason), seconds = chosen, time.perf_counter() - started
        else:
            (self.options, reason), seconds = choose_default(self.models, self.options, self._num_rows(plan)), 0.0
            if self.options.drafter != "model":
                _LOG.info(reason)
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
        default = MANY_ROWS if is_plain and num >= 4 * MANY_ROWS else DEFAULT_ROWS
        return min(self.batch_size or default, num)

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
        with _bar(len(plan.requests), progress) as advance:
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
        if self.chosen_lengths is None and self.options.method != "autoregressive":
            if self.options.draft_length == "auto":
                compiled = is_compiled(self.models.target)
                self.chosen_lengths = DRAFT_LENGTHS.recall(self.target, self.draft, self.options, compiled)
            else:
                self.chosen_lengths = choose_draft_length(self.options)
        return build_engine(self._batch(plan), self.options, self.chosen_lengths, self.rule, self.drafter)

    @property
    def replayable_options(self) -> SamplingOptions:
        """The options, with the draft lengths that were chosen by the clock."""
        if not isinstance(self.chosen_lengths, AutoDraftLength) or not self.chosen_lengths.history:
            return self.options
        return self.options.with_overrides(draft_length=self.chosen_lengths.history)

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


def _content_hash(model: Any, source: Any) -> str | None:
    """Return the content hash of a model as it is run: a compiled one knows that of its source."""
    found: str | None = model.content_hash() if is_compiled(model) else content_hash(source)
    return found
