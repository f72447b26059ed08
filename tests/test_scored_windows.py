"""Windows that are scored in part: what is given is never scored, and the parts of a window add up to the whole."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import replace

import pytest
import torch
from small_models import ENCODERS, random_sequence, small_model
from windows import OF_BATCHES, OF_SEQUENCES, cut_in_two, places_to_cut, tiled

from tppsd.data.batch import EventBatch
from tppsd.data.sequences import EventSequence
from tppsd.data.statistics import DataStatistics
from tppsd.metrics.functional import (
    carry_over,
    distribution_residuals,
    model_residuals,
)
from tppsd.models.likelihood import LikelihoodModel
from tppsd.models.renewal import RenewalTPP
from tppsd.processes import PRESETS, Hawkes, Process

ASYMMETRIC = Hawkes(mu=(0.3, 0.2), alpha=((0.5, 0.9), (0.1, 0.3)), beta=((2.0, 3.0), (1.5, 0.8)))
PROCESSES = {name: preset.process for name, preset in PRESETS.items()} | {"asymmetric_hawkes": ASYMMETRIC}
every_process = pytest.mark.parametrize("process", PROCESSES.values(), ids=PROCESSES.keys())

TIED = EventSequence.of([2.5, 3.0, 3.0, 3.0, 4.5], [0, 1, 2, 0, 1], t_start=2.0, t_end=6.0, index=4)
WINDOWS = {
    "window": random_sequence(6),
    "given first event": random_sequence(6, seed=1, given=True),
    "without an end": replace(random_sequence(6, seed=2), t_end=None),
    "one event": random_sequence(1, seed=3),
    "ties": TIED,
    "scored in part already": replace(random_sequence(9, seed=4), score_start=3.0),
}


def renewal_model() -> RenewalTPP:
    """A renewal model away from its start, in float64."""
    model = RenewalTPP(3, num_components=5)
    model.context.data.normal_(generator=torch.Generator().manual_seed(3))
    model.statistics = DataStatistics(3, log_mean=-0.4, log_std=1.3, time_scale=0.8)
    return model.double().eval()


def models() -> dict[str, Callable[[], LikelihoodModel]]:
    made: dict[str, Callable[[], LikelihoodModel]] = {"renewal": renewal_model}
    for encoder in ENCODERS:
        for decoder in ("time_conditional", "independent"):
            made[f"{encoder}, {decoder}"] = lambda e=encoder, d=decoder: small_model(e, mark_decoder=d)
    made["attnhp, bounded context"] = lambda: small_model("attnhp", max_context=3)
    made["thp, unmarked"] = lambda: small_model("thp", num_marks=1)
    return made


@torch.no_grad()
def log_likelihoods(model: LikelihoodModel, sequences: Sequence[EventSequence]) -> torch.Tensor:
    """log L and the number of scored events, said by the model and by the batch: (num_sequences, 3)."""
    unmarked = [replace(s, marks=torch.zeros_like(s.marks)) for s in sequences]
    batch = EventBatch.from_sequences(sequences if model.statistics.num_marks > 1 else unmarked)
    return torch.stack([model.log_likelihood(batch), model.num_scored(batch).double(), batch.num_scored.double()], 1)


def disagreement(model: LikelihoodModel, sequence: EventSequence) -> float:
    """Largest difference of the sums over two parts and the whole, over all places to cut."""
    (whole,) = log_likelihoods(model, [sequence])
    places = places_to_cut(sequence)
    places = [s for s in places if sequence.score_start is None or s > sequence.score_start]
    parts = [log_likelihoods(model, cut_in_two(sequence, s)).sum(0) for s in places]
    assert places and torch.isfinite(whole).all()
    return float((torch.stack(parts) - whole).abs().max())


# --- additivity ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("window", WINDOWS)
@pytest.mark.parametrize("name", models())
def test_the_log_likelihoods_of_two_parts_add_up_to_that_of_the_window(name: str, window: str) -> None:
    model = models()[name]()
    if window == "ties":
        model.statistics = replace(model.statistics, min_inter_time=0.05)
    assert disagreement(model, WINDOWS[window]) < 1e-11


@pytest.mark.parametrize("mutant", OF_BATCHES)
@pytest.mark.parametrize("name", ["rotary, time_conditional", "attnhp, independent"])
def test_wrong_ideas_of_what_is_given_do_not_add_up(mutant: str, name: str) -> None:
    with OF_BATCHES[mutant]():
        assert disagreement(models()[name](), WINDOWS["window"]) > 1e-3


@pytest.mark.parametrize("name", ["thp, independent", "renewal"])
def test_many_parts_add_up_and_company_changes_nothing(name: str) -> None:
    """One batch of all parts, the empty ones included: everything before a part is given in it."""
    model, sequence = models()[name](), random_sequence(30, seed=5)
    edges = torch.linspace(2.0, sequence.window_end, 20, dtype=torch.float64).tolist()
    tiles = tiled(sequence, edges)
    assert 0 in [tile.num_scored for tile in tiles]
    total = log_likelihoods(model, tiles)
    torch.testing.assert_close(total.sum(0), log_likelihoods(model, [sequence])[0], rtol=1e-12, atol=1e-11)
    alone = torch.cat([log_likelihoods(model, [tile]) for tile in tiles])
    torch.testing.assert_close(alone, total, rtol=1e-12, atol=1e-11)


@every_process
@pytest.mark.parametrize("given", [False, True], ids=["t_start", "given first event"])
def test_the_parts_of_a_window_add_up_under_a_process(process: Process, given: bool) -> None:
    for sequence in of_process(process, given):
        assert process_disagreement(process, sequence) < 1e-10


@pytest.mark.parametrize("mutant", OF_SEQUENCES)
@pytest.mark.parametrize("name", ["multivariate_hawkes", "self_correcting"])
def test_wrong_ideas_of_what_is_given_do_not_add_up_under_a_process(mutant: str, name: str) -> None:
    with OF_SEQUENCES[mutant]():
        assert max(process_disagreement(PROCESSES[name], s) for s in of_process(PROCESSES[name], False)) > 1e-3


def of_process(process: Process, given: bool) -> list[EventSequence]:
    simulated = process.simulate(3, t_start=1.0, t_end=9.0, seed=5)
    return [EventSequence.of(s.event_times, s.marks, None if given else 1.0, 9.0) for s in simulated if len(s) > 1]


def process_disagreement(process: Process, sequence: EventSequence) -> float:
    """Return the largest disagreement of log-likelihoods, of residuals carried over the cut, and of the compensator."""
    whole, (gaps, leftover) = process.log_likelihood(sequence), process.residuals(sequence)
    worst = 0.0
    for s in places_to_cut(sequence):
        first, second = cut_in_two(sequence, s)
        worst = max(worst, abs(process.log_likelihood(first) + process.log_likelihood(second) - whole))
        (early, until), (late, until_end) = process.residuals(first), process.residuals(second)
        if len(early) != first.num_scored or len(early) + len(late) != len(gaps):
            return math.inf
        if len(late):
            joined = torch.cat([early, late[:1] + until, late[1:]])
            worst = max(worst, float((joined - gaps).abs().max()), abs(until_end - leftover))
        else:
            worst = max(worst, abs(until + until_end - leftover))
        at_events = process.compensator(second)
        assert len(at_events) == second.num_scored + 1
        times = torch.cat([second.event_times[second.num_given :], at_events.new_tensor([second.window_end])])
        torch.testing.assert_close(at_events, process.compensator(sequence, times), rtol=1e-9, atol=1e-9)
    return worst


# --- residuals -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["own distribution", "distribution at hand"])
@pytest.mark.parametrize("window", ["window", "given first event", "scored in part already"])
def test_residuals_that_are_carried_over_a_cut_are_those_of_the_window(kind: str, window: str) -> None:
    assert residual_disagreement(kind, WINDOWS[window]) < 1e-11


WRONG_RESIDUALS = {
    "truncation forgotten": [OF_SEQUENCES["truncation forgotten"], OF_BATCHES["truncation forgotten"]],
    "given events scored": [
        OF_SEQUENCES["given events scored"],
        OF_SEQUENCES["scored from the window's start"],
        OF_BATCHES["truncated after the start token"],  # there, with no event before it
        OF_BATCHES["scored from the window's start"],
    ],
}


@pytest.mark.parametrize("mutant", WRONG_RESIDUALS)
@pytest.mark.parametrize("kind", ["own distribution", "distribution at hand"])
def test_residuals_of_wrong_parts_are_not(kind: str, mutant: str) -> None:
    with ExitStack() as patches:
        for patch in WRONG_RESIDUALS[mutant]:
            patches.enter_context(patch())
        assert residual_disagreement(kind, WINDOWS["window"]) > 1e-3


def residual_disagreement(kind: str, sequence: EventSequence) -> float:
    model = small_model("sahp")

    def residuals(sequences: list[EventSequence]) -> torch.Tensor:
        if kind == "own distribution":
            return carry_over(model_residuals(model, sequences))
        batch = EventBatch.from_sequences(sequences)
        with torch.no_grad():
            return carry_over(distribution_residuals(model(batch), batch))

    whole, worst = residuals([sequence]), 0.0
    for s in places_to_cut(sequence):
        if sequence.score_start is None or s > sequence.score_start:
            parts = residuals(cut_in_two(sequence, s))
            if len(parts) != len(whole):
                return math.inf
            worst = max(worst, float((parts - whole).abs().max()))
    return worst


def test_mark_uniforms_and_forecasts_are_of_scored_events() -> None:
    model, sequence = small_model(), random_sequence(6)
    second = cut_in_two(sequence, 0.5 * float(sequence.event_times[2] + sequence.event_times[3]))[1]
    (whole,), (part,) = model_residuals(model, [sequence]), model_residuals(model, [second])
    assert len(part.mark_uniforms) == len(part.expected_marks) == 3 and len(part.expected_times) == 4
    torch.testing.assert_close(part.expected_marks, whole.expected_marks[3:])
    torch.testing.assert_close(part.expected_times, whole.expected_times[3:])


def test_what_is_said_of_a_history_comes_before_what_the_sequence_says() -> None:
    """`num_given` and `observed_until` of samples, whose histories may have a scored part of their own."""
    model, sequence = small_model(), random_sequence(6)
    partly = replace(sequence, score_start=float(sequence.event_times[4]))
    for said in ({"num_given": [2]}, {"num_given": [2], "observed_until": [float(sequence.event_times[1]) + 0.01]}):
        (a,), (b,) = (model_residuals(model, [s], **said) for s in (sequence, partly))
        assert torch.equal(a.gaps, b.gaps) and len(a.gaps) == 4
