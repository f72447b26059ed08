"""`sample` and `sample_stream`: the entries to every sampler."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from tppsd.data.batch import EventBatch
from tppsd.data.sequences import EventSequence
from tppsd.sampling.checks import whole_number
from tppsd.sampling.engine import Finished
from tppsd.sampling.job import SamplingJob
from tppsd.sampling.options import SamplingOptions
from tppsd.sampling.requests import RequestPlan, Wanted
from tppsd.sampling.results import SampledSequences


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
    history_lookback: float | str | None = None,
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
        batch_size: running sequences (default 64; in compiled jobs of 1,024 or more without drafts 256, or up to 1,024
            paths of histories where the model is small); changes speed and memory, and no result of a fixed draft
            length.
        seed: of the counter-based noise. With equal options and seed, sequence `index` is the same in every call,
            whatever the batch size, device count or order, up to floating-point reduction order. So calls with one seed
            are not independent: `for h in histories: sample(target, history=h)` draws all histories with the same
            noise, and their paths move together. Give one call with a list, `sample(target, history=histories)`, or a
            seed per call. Where the clock chooses draft lengths ("auto"), equal calls have the same distribution; the
            same sequences come from the recorded `options` and `batch_size`.
        first_index: index of the first sequence (or history) of this call; lets many calls share one numbering.
        max_events: safety bound per sequence; reaching it sets `truncated` and warns.
        return_log_probs: also return the target's log-density of each event.
        return_distributions: also return the distribution that each event has been drawn from, as it was worked out for
            it; after a silence the first is given that silence.
        progress: show a progress bar.
        history_lookback: how much of each history the model sees, in units of time or as "28d". None = all of it; but
            where the model's data were cut into windows, of a history that is longer than these only as much as their
            `lookback` (half a window without one), as times enter a model since the start of a window.

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
        num_events=num_events, first_index=first_index, history_lookback=history_lookback, **option_overrides,
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
