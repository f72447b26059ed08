"""`method="auto"`: a short trial of every way to sample that is at hand, then the fastest for the whole job.

The trial samples with a seed of its own and throws everything away, so that no sequence is chosen by its outcome.
"""

from __future__ import annotations

import math
import sys
import time
from dataclasses import replace
from statistics import median
from typing import NamedTuple

from torch import nn

from tppsd.backends.cpp.compilable import has_compilable_laws, why_not_compilable
from tppsd.data.statistics import DataStatistics
from tppsd.models.fast import kept
from tppsd.models.protocol import EventModel
from tppsd.sampling.draft_length import AutoDraftLength
from tppsd.sampling.methods import Models, build_engine
from tppsd.sampling.options import DrafterName, SamplingOptions
from tppsd.sampling.poisson_drafter import training_rate
from tppsd.sampling.recorder import Recorder
from tppsd.sampling.requests import Plan
from tppsd.sampling.resolve import model_device, reading_both

_ROUNDS, _SECONDS = (12, 48), 0.4  # of a candidate: at least and at most so many, and no new one after so long
# of the job, in each row, for a round of each candidate, of few events or many: a trial takes about a tenth of it at
# most
_EVENTS_PER_ROUND = (500, 5000)
_SHORT = 100  # events of a sequence in which no draft length can be learnt
_SHORT_DRAFTS = (16, 8, 4)  # the lengths that they get, with one row in flight, some, or many
_LITTLE_WORK = (
    128  # events of a sequence, times layers: below, what surrounds the passes may cost more than drafts save
)
_LAYERS_PER_ROW = (
    4  # of a target: with more rows in flight, its pass over drafts and what surrounds it cost more than they save
)
_DEEP = 16  # layers from which that is not so
_MIDDLING = 8  # layers from which it is not so in long sequences:
_WORK_PER_ROW = 240  # where layers times events are at least so many for every row in flight
_LONG = 300  # events of a sequence that count for that: longer ones were not measured
_FEW_ROWS = 16  # in flight, that gain by compiled drafts under targets of any depth
_PASSES = 2  # in which a draft model is tried, besides one per event
_IN_PASSES = f"model in {_PASSES} passes"
_COMPILED_DRAFT = (
    4  # events that a draft model drafts where passes are compiled: within a tenth of the best on most data sets
)
# weights of a target from which a compiled draft is taken to gain (173,000 were measured not to, 693,000 to); a draft
# has so many times fewer
_LARGE, _SMALLER = 400_000, 8
_TRIAL_SEED = 0x7472_6961_6C  # combined with the caller's


class Choice(NamedTuple):
    """What to do: options without "auto" as method, the draft length with what the trial has learnt, and why."""

    options: SamplingOptions
    draft_length: AutoDraftLength | None
    reason: str


def choose(
    models: Models, options: SamplingOptions, plan: Plan, num_rows: int, seed: int, num_chunks: int = 1
) -> Choice:
    """The fastest candidate for a job of `num_chunks` chunks like `plan`, with `num_rows` rows in flight.

    Args:
        options: resolved, of method "auto"; what they fix is kept.
    """
    candidates = _candidates(models, options)
    expected = _expected_events(models, plan)
    # rounds of compiled drafts come many at a time, where their length is not to be chosen
    are_long = options.compile is True or (_are_drafts_cheap(models, candidates) and options.draft_length != "auto")
    num_rounds = min(_ROUNDS[1], int(num_chunks * expected / num_rows / _EVENTS_PER_ROUND[are_long]))
    if num_rounds < _ROUNDS[0]:
        return _without_trial(models, candidates, expected / len(plan.requests), num_rows)
    rates: dict[str, float] = {}
    learnt: dict[str, AutoDraftLength | None] = {}
    with reading_both(*models, options):
        _try(models, candidates["autoregressive"], plan, num_rows, seed, _ROUNDS[0])  # warms up
        for name, candidate in candidates.items():
            rates[name], learnt[name] = _try(models, candidate, plan, num_rows, seed, num_rounds)
    best = max(rates, key=rates.__getitem__)
    rows = "" if num_rows == 1 else f", {num_rows} rows in flight"
    trial = ", ".join(
        f"{name} {num_rows * rate:.0f}" for name, rate in sorted(rates.items(), key=lambda pair: -pair[1])
    )
    return Choice(candidates[best], learnt[best], f"{best}: events/s in a trial{rows}: {trial}")


def _without_trial(models: Models, candidates: dict[str, SamplingOptions], num_events: float, num_rows: int) -> Choice:
    """What was fastest on most data sets (README). No drafts where a sequence is little work, nor with several rows in
    flight unless the target is deep. For sequences of `num_events` that are too few to learn a length from, the
    target's recent laws, which no second model has to read the histories for; for long ones, and with many rows, a
    draft model: in few passes with one row or few, else event by event and shorter. Where a CPU has compiled passes an
    event costs so little that only a draft model gains, under a target of many more weights; where it has compiled
    drafts alone, a single event of the target's costs so much more than these that all targets gain with few rows."""
    num_layers = getattr(models.target, "num_layers", 1)
    is_short, are_few = num_events < _SHORT, num_rows <= _few_rows(num_layers, num_events)
    are_cheap = _are_drafts_cheap(models, candidates)
    are_some = are_few or num_rows <= (max(_FEW_ROWS, num_layers) if are_cheap else num_layers)
    is_worth_it = are_few or (num_layers >= _DEEP and num_rows <= num_layers**2)
    if _is_cheap(models, candidates["autoregressive"]):
        is_compiled = (
            "model" in candidates and candidates["model"].rule == "joint"
        )  # others draw round by round in Python
        num_weights = _num_weights(models.target) if is_compiled else 0
        is_large = num_weights >= _LARGE and num_weights >= _SMALLER * _num_weights(models.draft)
        wanted = ["model"] if is_large else ["autoregressive"]
    elif are_cheap:
        wanted = ["model"] if are_some or is_worth_it else ["autoregressive"]
    elif num_layers * num_events < _LITTLE_WORK or not is_worth_it:
        wanted = ["autoregressive"]
    elif is_short and are_some:
        wanted = ["self", "jacobi", "model"]
    elif are_some:
        wanted = [_IN_PASSES if are_few else "model", "jacobi", "self"]
    else:
        wanted = ["model", "autoregressive"]
    named = next((name for name in (*wanted, "poisson") if name in candidates), "autoregressive")
    chosen = candidates[named]
    if chosen.draft_length == "auto" and is_short:
        chosen = replace(chosen, draft_length=_SHORT_DRAFTS[0 if num_rows == 1 else 1 if are_some else 2])
    return Choice(chosen, None, f"{named}: too few events for a trial")


def _is_cheap(models: Models, options: SamplingOptions) -> bool:
    """Are the target's passes calls of compiled code?"""
    return options.compile is True and model_device(models.target).type == "cpu"


def _are_drafts_cheap(models: Models, candidates: dict[str, SamplingOptions]) -> bool:
    """Are drafts, and what becomes of them, compiled code under a target by operators?"""
    options = candidates.get("model")
    if options is None or options.compile != "draft" or options.rule != "joint":
        return False
    return has_compilable_laws(models.target) and why_not_compilable(models.draft) is None


def _num_weights(model: EventModel | None) -> int:
    return kept(model).num_weights if isinstance(model, nn.Module) else 0


def _few_rows(num_layers: int, num_events: float) -> int:
    """Up to how many rows gain by drafts: more in long sequences, where attention makes a pass over one event dear."""
    in_long = int(num_layers * min(num_events, _LONG) / _WORK_PER_ROW) if num_layers >= _MIDDLING else 0
    return max(1, num_layers // _LAYERS_PER_ROW, in_long)


def _candidates(models: Models, options: SamplingOptions) -> dict[str, SamplingOptions]:
    """What may be chosen, by name."""
    length, rule = options.draft_length, options.rule or "joint"
    is_there: dict[DrafterName, bool] = {
        "model": models.draft is not None, "jacobi": rule != "block" or options.drafter == "jacobi", "self": True,
        "poisson": _rate(models) is not None,
    }  # fmt: skip
    if options.drafter == "poisson":
        training_rate(_statistics(models))  # says so where there is none
    found = {"autoregressive": SamplingOptions("autoregressive", **options.passes)}
    for name in is_there:
        if is_there[name] and options.drafter in (None, name):
            found[name] = SamplingOptions("speculative", length, rule, name, **options.passes)
    if "model" in found:
        found[_IN_PASSES] = replace(found["model"], draft_passes=_PASSES)
        if length == "auto" and rule == "joint" and _is_cheap(models, found["model"]):
            found["model"] = replace(found["model"], draft_length=_COMPILED_DRAFT)
    if options.tolerance is not None:
        found["fixed_point"] = SamplingOptions("fixed_point", length, tolerance=options.tolerance, **options.passes)
    return found


def _rate(models: Models) -> float | None:
    """Events per unit of time in the target's training split, where it has one."""
    statistics = _statistics(models)
    return None if statistics is None else statistics.rate


def _statistics(models: Models) -> DataStatistics | None:
    return getattr(models.target, "statistics", None)


def _try(
    models: Models, options: SamplingOptions, plan: Plan, num_rows: int, seed: int, num_rounds: int
) -> tuple[float, AutoDraftLength | None]:
    """(events per second and row, what was learnt of the draft length) of `num_rounds` rounds, fewer where they take
    long, that ignore where sequences end."""
    lengths = AutoDraftLength.of(options) if options.draft_length == "auto" else None
    endless = plan._replace(requests=[request._replace(end=math.inf, limit=sys.maxsize) for request in plan.requests])
    engine = build_engine(models, options, endless, num_rows, seed ^ _TRIAL_SEED, Recorder(), lengths)
    seconds: list[float] = []
    engine.refill()
    before = engine.rows.counts.sum()
    started = time.perf_counter()
    while len(seconds) < _ROUNDS[0] or (len(seconds) < num_rounds and time.perf_counter() - started < _SECONDS):
        round_started = time.perf_counter()
        engine.method.round(engine.rows)
        seconds.append(time.perf_counter() - round_started)
    if lengths is not None:
        return lengths.best()[1], lengths.continued()
    events_per_round = float(engine.rows.counts.sum() - before) / len(seconds) / num_rows
    return events_per_round / median(seconds), None


def _expected_events(models: Models, plan: Plan) -> float:
    """Of all requests: by their numbers of events, or by the rate of the training split where it is known."""
    rate = _rate(models)
    durations = [request.end - plan.sources[request.history].window_end for request in plan.requests]
    limits = [request.limit for request in plan.requests]
    return sum(limits if rate is None else (min(limit, rate * d) for limit, d in zip(limits, durations, strict=True)))
