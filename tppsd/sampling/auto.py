"""The choice of a method where the caller leaves it open: by fixed rules without a clock, or by a short trial.

By the rules a seed gives the same sequences. The trial, of `method="auto"`, tries every way that is at hand and takes
the fastest for the whole job; it samples with a seed of its own and throws everything away, so that no sequence is
chosen by its outcome.
"""

from __future__ import annotations

import time
from dataclasses import replace
from statistics import median
from typing import NamedTuple

import torch
from torch import nn

from tppsd.backends.compile import is_compiled
from tppsd.data.statistics import DataStatistics
from tppsd.models.protocol import EventModel
from tppsd.models.resolve import model_device
from tppsd.sampling.draft_length import AutoDraftLength
from tppsd.sampling.drafters.poisson import training_rate
from tppsd.sampling.method import Batch, Models, build_engine
from tppsd.sampling.options import DrafterName, SamplingOptions
from tppsd.sampling.requests import NO_LIMIT, RequestPlan

# Compiled: weights of a target from which a draft was measured to gain (693,000 did, 173,000 did not); a draft must
# have so many times fewer. The length is within a tenth of the best on most data sets, with one thread and with
# several.
_LARGE, _SMALLER = 400_000, 8
_COMPILED_LENGTH = {False: 4, True: 8}
# Eager: layers from which drafts gain with any number of running sequences up to their square, and layers per sequence
# below; lengths with one sequence, with some, and with many.
_DEEP, _LAYERS_PER_ROW = 16, 4
_EAGER_LENGTHS = (16, 8, 4)
_FEW_ROWS = 16  # running sequences that gain by compiled drafts under a target with passes of its own, at any depth


class Choice(NamedTuple):
    """Says what to do, and why.

    Fields:
        options: without "auto" as method.
        reason: a sentence for people.
        draft_length: one that is left to the clock, with what the trial has learnt.
    """

    options: SamplingOptions
    reason: str
    draft_length: AutoDraftLength | None = None


def choose_default(models: Models, options: SamplingOptions, num_rows: int) -> Choice:
    """Draft with the model that was given, or sample autoregressively where that is the faster way by the rules.

    Args:
        models: as they are run, of which the draft is one.
        options: resolved, for the draft.
        num_rows: running sequences.
    """
    assert models.draft is not None
    length = _draft_length(models, options, num_rows)
    if length:
        reason = f"the draft proposes {length} events per round"
        return Choice(replace(options, draft_length=length), reason)
    how = SamplingOptions("autoregressive", **options.common)
    return Choice(how, f"the draft is not used: {_why_not(models, options)}")


def _draft_length(models: Models, options: SamplingOptions, num_rows: int) -> int:
    """Return how many events to draft per round; 0: none."""
    (target, draft), are_native = models, options.rule == "joint"  # rounds of other rules are Python's
    num_layers = getattr(target, "num_layers", 1)
    if model_device(target).type != "cpu":
        return _EAGER_LENGTHS[1]  # a pass over few events is bound by launches
    if _has_compiled_passes(target):
        return _COMPILED_LENGTH[torch.get_num_threads() > 1] if are_native and _is_large(models) else 0
    bucket = 0 if num_rows == 1 else 1 if num_rows <= num_layers else 2
    if are_native and is_compiled(target) and is_compiled(draft):
        gains = num_rows <= max(_FEW_ROWS, num_layers) or (num_layers >= _DEEP and num_rows <= num_layers**2)
    else:
        gains = num_rows <= max(1, num_layers // _LAYERS_PER_ROW) or (num_layers >= _DEEP and num_rows <= num_layers**2)
    return _EAGER_LENGTHS[bucket] if gains else 0


def _has_compiled_passes(model: EventModel) -> bool:
    """Say whether the model's passes are native code."""
    return is_compiled(model) and hasattr(model, "encoder")


def _is_large(models: Models) -> bool:
    """Say whether the target has so many weights, and the draft so few, that compiled drafts gain."""
    target, draft = (num_weights(model) for model in models)
    return target >= _LARGE and target >= _SMALLER * draft and _has_compiled_passes(models.draft or models.target)


def _why_not(models: Models, options: SamplingOptions) -> str:
    if not _has_compiled_passes(models.target):
        return "with so many running sequences an eager pass over drafts costs more than it saves"
    if options.rule != "joint":
        return f"compiled, an event of the target costs less than its share of a round of the rule {options.rule!r}"
    sizes = " and ".join(f"{num_weights(model):,}" for model in models)
    return (
        f"compiled, an event of a target this small costs less than drafting it ({sizes} weights; drafts gain from "
        f"{_LARGE:,} on, and {_SMALLER} times the draft's)"
    )


def num_weights(model: EventModel | None) -> int:
    """Count the numbers in a model's parameters."""
    if isinstance(model, nn.Module):
        return sum(parameter.numel() for parameter in model.parameters())
    return getattr(model, "num_weights", 0)


_ROUNDS, _SECONDS = (12, 48), 0.4  # of a candidate: at least and at most so many, and no new one after so long
# of the job, in each row, for a round of each candidate, eager or compiled: a trial takes about a tenth of it at most
_EVENTS_PER_ROUND = (500, 5000)
_TRIAL_SEED = 0x7472_6961_6C  # combined with the caller's


def choose(batch: Batch, options: SamplingOptions, num_chunks: int = 1) -> Choice:
    """Return the fastest candidate for a job of `num_chunks` chunks like `batch`.

    Args:
        batch: what is sampled, by models as they are run.
        options: resolved, of method "auto"; what they fix is kept.
        num_chunks: chunks of the job.
    """
    candidates = _candidates(batch.models, options)
    expected = _expected_events(batch.models, batch.plan)
    compiled = is_compiled(batch.models.target)
    num_rounds = min(_ROUNDS[1], int(num_chunks * expected / batch.num_rows / _EVENTS_PER_ROUND[compiled]))
    if num_rounds < _ROUNDS[0]:
        return _without_trial(batch, candidates)
    rates: dict[str, float] = {}
    learnt: dict[str, AutoDraftLength | None] = {}
    _try(batch, candidates["autoregressive"], _ROUNDS[0])  # warms up
    for name, candidate in candidates.items():
        rates[name], learnt[name] = _try(batch, candidate, num_rounds)
    best = max(rates, key=rates.__getitem__)
    rows = "" if batch.num_rows == 1 else f", {batch.num_rows} running sequences"
    order = sorted(rates.items(), key=lambda pair: -pair[1])
    trial = ", ".join(f"{name} {batch.num_rows * rate:.0f}" for name, rate in order)
    return Choice(candidates[best], f"{best}: events/s in a trial{rows}: {trial}", learnt[best])


def _without_trial(batch: Batch, candidates: dict[str, SamplingOptions]) -> Choice:
    """Choose by the fixed rules, where a trial would take too large a part of the job."""
    if "model" not in candidates:
        return Choice(candidates["autoregressive"], "autoregressive: too few events for a trial")
    choice = choose_default(batch.models, candidates["model"], batch.num_rows)
    drafts, fixed = choice.options.method == "speculative", candidates["model"].draft_length
    chosen = candidates["model"] if drafts and fixed != "auto" else choice.options
    name = "model" if drafts else "autoregressive"
    return Choice(chosen, f"{name}: too few events for a trial, and {choice.reason}")


def _candidates(models: Models, options: SamplingOptions) -> dict[str, SamplingOptions]:
    """Return what may be chosen, by name: compiled, only a draft model and recent distributions come near."""
    length, rule = options.draft_length, options.rule or "joint"
    passes = options.common
    is_there: dict[DrafterName, bool] = {
        "model": models.draft is not None,
        "jacobi": rule != "block" or options.drafter == "jacobi",
        "self": True,
        "poisson": _rate(models) is not None and not is_compiled(models.target),
    }
    if options.drafter == "poisson":
        training_rate(_statistics(models))  # says so where there is none
        is_there["poisson"] = True
    found = {"autoregressive": SamplingOptions("autoregressive", **passes)}
    for name in is_there:
        if is_there[name] and options.drafter in (None, name):
            found[name] = SamplingOptions("speculative", length, rule, name, **passes)
    if options.tolerance is not None:
        found["fixed_point"] = SamplingOptions("fixed_point", length, tolerance=options.tolerance, **passes)
    return found


def _rate(models: Models) -> float | None:
    """Return events per unit of time in the target's training split, where it has one."""
    statistics = _statistics(models)
    return None if statistics is None else statistics.rate


def _statistics(models: Models) -> DataStatistics | None:
    return getattr(models.target, "statistics", None)


def _try(batch: Batch, options: SamplingOptions, num_rounds: int) -> tuple[float, AutoDraftLength | None]:
    """Measure `num_rounds` rounds, fewer where they take long, that ignore where sequences end.

    Returns:
        Events per second and row, and what was learnt of the draft length.
    """
    lengths = None
    if options.draft_length == "auto":
        lengths = AutoDraftLength.of(options, is_compiled(batch.models.target))
    own = batch.plan.requests
    requests = replace(own, end=torch.full_like(own.end, torch.inf), limit=torch.full_like(own.limit, NO_LIMIT))
    endless = batch._replace(
        plan=batch.plan._replace(requests=requests, stop_marks=None), seed=batch.seed ^ _TRIAL_SEED, recorder=None
    )
    engine = build_engine(endless, options, lengths)
    seconds: list[float] = []
    engine.schedule()
    before = engine.state.counts.sum()
    started = time.perf_counter()
    while len(seconds) < _ROUNDS[0] or (len(seconds) < num_rounds and time.perf_counter() - started < _SECONDS):
        step_started = time.perf_counter()
        engine.step()
        seconds.append(time.perf_counter() - step_started)
    if lengths is not None:
        return lengths.best()[1], lengths.continued()
    events_per_round = float(engine.state.counts.sum() - before) / len(seconds) / batch.num_rows
    return events_per_round / median(seconds), None


def _expected_events(models: Models, plan: RequestPlan) -> float:
    """Estimate the events of all requests: by their numbers of events, or by the rate of the training split."""
    rate = _rate(models)
    own = plan.requests
    if rate is None:
        return float(own.limit.double().sum())
    durations = own.end - plan.window_ends[own.history]
    return float(torch.minimum(own.limit.double(), rate * durations).sum())
