"""Sampled events have exactly the target's distribution, whatever the draft: chi-square tests against quadrature and
against model PITs.

Every `judge` is a p-value that holds all of its tests together; seeds are fixed, and a correct sampler would fail a
test here for one seed in 10^4.
"""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import pytest
import torch
from draft_lengths import LengthOfThePast, auto_without_a_clock
from goodness import (
    distribution_after,
    judge,
    judge_long,
    judge_paths,
    overlap_factorised,
    overlap_joint,
    silence_after,
)
from sampling import sample_with
from small_models import ENCODERS
from stubs import StubTPP, lively_transformer
from torch import Tensor

from tppsd.data.sequences import EventSequence
from tppsd.sampling.autoregressive import ModelRunner
from tppsd.sampling.job import SamplingJob
from tppsd.sampling.requests import Wanted
from tppsd.sampling.sample import sample

FALSE_ALARM = 1e-4
RULES = ("joint", "factorised", "block")
SILENT = EventSequence.of([0.5, 1.2], [1, 2], t_start=0.0, t_end=1.6)
GIVEN = EventSequence.of([3.0, 3.5, 5.0], [2, 0, 1])


def one_round(
    target: Any, draft: Any, history: EventSequence, rule: str, draft_length: int, num_rows: int, chunk: int = 20_000
) -> tuple[Tensor, Tensor, Tensor]:
    """(inter_times, marks (num_rows, draft_length + 1), number of events (num_rows,)) of the first round after
    `history`."""
    parts = []
    for first in range(0, num_rows, chunk):
        options = {"rule": rule, "draft_length": draft_length}
        job = SamplingJob(target, draft, None, options, chunk, 11, 10**6)
        engine = job._start(job.plan(Wanted(history, chunk, num_events=1000, first_index=first)))
        with torch.inference_mode():
            engine.schedule()
            engine.step()
        inter_times, _, marks = engine.state.events.values[:, :, : draft_length + 1]
        parts.append((inter_times, marks.long(), engine.state.counts))
    inter_times, marks, counts = (torch.cat(part) for part in zip(*parts, strict=True))
    return inter_times, marks, counts


@pytest.mark.parametrize("rule", RULES)
def test_every_position_of_a_round_has_the_targets_distribution(rule: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """100,000 rounds of a draft that lacks a third of the target's mass: positions 1, 2, 3 and the bonus event. An
    event exists if those before it were accepted, which says nothing about itself."""
    monkeypatch.setattr(ModelRunner, "FIRST_CAPACITY", 4)
    target = StubTPP.random(4, seed=0)
    draft = target.moved(3, times=0.5, marks=1.0)
    distributions = distribution_after(target, SILENT), distribution_after(draft, SILENT)
    overlap = (
        overlap_joint(*distributions, elapsed=silence_after(SILENT))
        if rule == "joint"
        else overlap_factorised(*distributions)
    )
    assert overlap < 0.8
    inter_times, marks, lengths = one_round(target, draft, SILENT, rule, 3, 100_000)
    assert [int((lengths > i).sum()) > 15_000 for i in range(4)] == [True] * 4
    assert judge_paths(target, SILENT, inter_times, marks, lengths) > FALSE_ALARM
    assert judge_paths(draft, SILENT, inter_times, marks, lengths) < 1e-50


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("num_marks", [1, 5])
@pytest.mark.parametrize("encoder", ENCODERS)
def test_paths_of_a_transformer_have_its_distribution(encoder: str, num_marks: int, rule: Any) -> None:
    """Five events in two or three rounds, with rows that finish and are refilled; the draft is another kind of
    model."""
    target = lively_transformer(num_marks, encoder, seed=2)
    other = {"thp": "sahp", "sahp": "attnhp", "attnhp": "rotary", "rotary": "thp"}[encoder]
    draft = lively_transformer(num_marks, other, seed=3, num_layers=1, num_components=2)
    history = EventSequence.of([0.2, 1.0, 1.1], [num_marks - 1, 0, num_marks // 2], t_start=0.0, t_end=1.3)
    distributions = distribution_after(target, history), distribution_after(draft, history)
    assert overlap_joint(*distributions, elapsed=silence_after(history)) < 0.9
    samples = sample(
        target, draft, history=history, num_sequences=4000, num_events=5, draft_length=2, rule=rule, batch_size=1500
    )
    assert judge(target, history, samples) > FALSE_ALARM
    assert judge(draft, history, samples) < 1e-6


CELLS: dict[str, dict[str, Any]] = {
    "rules joint": {"rule": "joint"},
    "rules factorised": {"rule": "factorised"},
    "draft of one event": {"draft_length": 1},
    "long draft": {"draft_length": 12},
    "given first event": {"history": GIVEN},
    "no history": {"history": EventSequence.of([], t_start=2.0)},
    "no history but a silence": {"history": EventSequence.of([], t_start=2.0, t_end=4.0)},
    "long silence": {"history": EventSequence.of([1.0], [3], t_start=0.0, t_end=40.0)},
    "unmarked": {"num_marks": 1, "history": EventSequence.of([1.0], t_start=0.0)},
    "autoregressive": {"method": "autoregressive"},
    "autoregressive after a silence": {"method": "autoregressive", "history": SILENT},
}


@pytest.mark.parametrize("name", CELLS)
def test_paths_have_the_targets_distribution(name: str) -> None:
    """Six events per path of a model whose distributions depend on all of its past; rows leave and are refilled."""
    cell = {"num_marks": 4, "history": EventSequence.of([0.5, 1.2], [1, 2], t_start=0.0), "draft_length": 3} | CELLS[
        name
    ]
    target = StubTPP.swinging(cell.pop("num_marks"), seed=0)
    if cell.get("method") == "autoregressive":
        cell["draft"] = cell.pop("draft_length") and None
    else:
        cell.setdefault("draft", target.moved(3, times=0.5, marks=1.0))
    history = cell["history"]
    samples = sample(target, num_sequences=6000, num_events=6, batch_size=2500, seed=4, **cell)
    assert judge(target, history, samples) > FALSE_ALARM
    assert samples.stats.method == "autoregressive" or 0.1 < samples.stats.step_acceptance < 0.9


@pytest.mark.parametrize(
    ("rule", "hang_on"),
    [("joint", "auto"), ("joint", "past"), ("factorised", "past"), ("block", "past")],
)
def test_draft_lengths_that_hang_on_the_past_leave_the_distribution(rule: Any, hang_on: str) -> None:
    """Rows run one at a time, and their own events decide the next length. See the mutants of such lengths."""
    target = StubTPP.swinging(4, seed=0)
    draft = target.moved(3, times=0.5, marks=1.0)
    history = EventSequence.of([0.5, 1.2], [1, 2], t_start=0.0)
    size = {"num_sequences": 20, "num_events": 40, "batch_size": 1, "seed": 4}
    eight_or_one = LengthOfThePast(after_all=8, after_nothing=1) if hang_on == "past" else None
    with auto_without_a_clock() if hang_on == "auto" else nullcontext():
        samples = sample_with(
            target, draft, history=history, draft_length="auto", rule=rule, own_lengths=eight_or_one, **size
        )
    num_rounds = samples.stats.accepted_counts.sum(1)
    assert int((num_rounds > 0.2 * num_rounds.sum()).sum()) >= 2, "lengths must change"
    assert judge_long(target, history, samples) > FALSE_ALARM
    assert judge_long(draft, history, samples) < 1e-6


def test_a_draft_without_some_of_the_targets_mass_is_corrected() -> None:
    """A mark of probability 1e-7 and a tail that the draft never reaches."""
    target = StubTPP.constant(0.0, 1.0, [0.4, 0.4, 0.2], [1.0, -1.0, 0.0])
    draft = StubTPP.constant(-0.5, 0.25, [0.5, 0.5, 1e-7])
    history = EventSequence.of([], t_start=0.0)
    for rule in RULES:
        samples = sample(
            target,
            draft,
            history=history,
            num_sequences=10_000,
            num_events=2,
            draft_length=2,
            rule=rule,
            batch_size=10_000,
        )
        assert judge(target, history, samples) > FALSE_ALARM
