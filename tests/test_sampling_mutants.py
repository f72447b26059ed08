"""The tests of the distribution are tests: each wrong sampler of `mutants` is rejected by them at p < 1e-6, and the
right one is not.

One cell per mutant, chosen for its power: the distributions of target and draft lie at least 0.1 apart in total
variation, those of the marks too, and the mutant differs in distribution there. The p-values hold all tests of a cell
together (Bonferroni); a right sampler fails a cell for one seed in 10^4.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import cache
from typing import Any

import pytest
import torch
from draft_lengths import LengthOfThePast, auto_without_a_clock
from goodness import densities, distribution_after, grid_over, judge, judge_long, overlap_joint, silence_after
from mutants import MUTANTS, Mutant
from stubs import StubTPP

from tppsd.data.sequences import EventSequence
from tppsd.metrics.functional import carry_over, ks_exponential, model_residuals
from tppsd.sampling.draft_length import DraftLength
from tppsd.sampling.results import SampledSequences

REJECTED, FALSE_ALARM = 1e-6, 1e-4
RIGHT = Mutant()
HISTORY = EventSequence.of([0.5, 1.2], [1, 2], t_start=0.0)


@dataclass(frozen=True)
class Cell:
    """What is sampled: paths of `history` from `target`, with `draft` and the arguments of `sample`, under `lengths`
    and `clock`; and what the samples are judged by."""

    target: StubTPP
    draft: StubTPP
    arguments: dict[str, Any]
    history: EventSequence = HISTORY
    lengths: Callable[[], DraftLength] | None = None
    clock: Callable[[], AbstractContextManager[None]] = nullcontext
    judged_by: Callable[..., float] = judge

    def samples(self, mutant: Mutant) -> SampledSequences:
        draft = None if self.arguments.get("method") == "autoregressive" else self.draft
        lengths = None if self.lengths is None else self.lengths()
        with self.clock():
            return mutant.samples(self.target, draft, own_lengths=lengths, history=self.history, **self.arguments)

    def p_value(self, mutant: Mutant = RIGHT) -> float:
        return self.judged_by(self.target, self.history, self.samples(mutant))


CHAIN = StubTPP.random(4, seed=0)
SWINGING = StubTPP.swinging(4, seed=3)
TIMED_MARKS = StubTPP.constant(0.0, 1.0, [0.25] * 4, [2.0, -2.0, 1.0, -1.0])
A_THIRD_IN_ONE_MARK = StubTPP.constant(0.0, 1.0, [0.34, 0.22, 0.22, 0.22])
NEARLY_ALL_IN_IT = StubTPP.constant(0.2, 1.0, [0.97, 0.01, 0.01, 0.01])
ROUNDS_OF_TWO = {"num_sequences": 5000, "num_events": 4, "draft_length": 2, "batch_size": 5000}
ROUNDS_OF_ONE = {"num_sequences": 6000, "num_events": 7, "draft_length": 1, "batch_size": 6000}
ROW_BY_ROW = {
    "num_events": 50,
    "draft_length": "auto",
    "batch_size": 1,
}  # lengths hang on the past of one row, not of many
CELLS = {
    "joint": Cell(CHAIN, CHAIN.moved(3, times=0.5, marks=1.0), ROUNDS_OF_TWO | {"rule": "joint"}),
    "factorised": Cell(CHAIN, CHAIN.moved(3, times=0.5, marks=1.0), ROUNDS_OF_TWO | {"rule": "factorised"}),
    "block": Cell(
        CHAIN,
        CHAIN.moved(3, times=0.5, marks=1.0),
        {"num_sequences": 6000, "num_events": 5, "draft_length": 3, "batch_size": 6000, "rule": "block"},
    ),
    "timed marks": Cell(
        TIMED_MARKS,
        StubTPP.constant(0.8, 1.0, [0.4, 0.3, 0.2, 0.1], [2.0, -2.0, 1.0, -1.0]),
        ROUNDS_OF_TWO | {"rule": "factorised"},
    ),
    "memory": Cell(SWINGING, SWINGING.moved(3, times=0.8, marks=1.5), ROUNDS_OF_ONE),
    "silence": Cell(
        CHAIN,
        CHAIN.moved(3, times=0.5, marks=1.0),
        ROUNDS_OF_TWO,
        EventSequence.of([0.5, 1.2], [1, 2], t_start=0.0, t_end=2.2),
    ),
    "lengths of the past": Cell(
        A_THIRD_IN_ONE_MARK,
        NEARLY_ALL_IN_IT,
        ROW_BY_ROW | {"num_sequences": 60},
        lengths=LengthOfThePast,
        judged_by=judge_long,
    ),
    "auto": Cell(
        A_THIRD_IN_ONE_MARK,
        NEARLY_ALL_IN_IT,
        ROW_BY_ROW | {"num_sequences": 8},
        clock=auto_without_a_clock,
        judged_by=judge_long,
    ),
    "autoregressive": Cell(
        SWINGING, SWINGING, {"num_sequences": 5000, "num_events": 5, "batch_size": 5000, "method": "autoregressive"}
    ),
}
CELL_OF = {
    "marks_untested_joint": "joint",
    "marks_untested_factorised": "factorised",
    "one_coin_for_time_and_mark": "factorised",
    "accepts_beyond_the_first_rejection": "joint",
    "adjusted_is_target_joint": "joint",
    "adjusted_is_target_factorised": "factorised",
    "mark_from_adjusted_after_time_was_rejected": "factorised",
    "mark_kept_after_time_was_rejected": "timed marks",
    "both_redrawn_from_adjusted": "factorised",
    "time_redrawn_after_mark_was_rejected": "factorised",
    "loop_with_a_cap": "joint",
    "loop_coin_is_the_proposal": "joint",
    "block_probs_above_one": "block",
    "block_corrects_as_joint_does": "block",
    "block_of_the_next_prefix": "block",
    "adjusted_distribution_of_the_next_position": "joint",
    "bonus_from_the_draft": "joint",
    "length_cut_by_the_verdict": "auto",
    "length_chosen_by_coins_to_come": "lengths of the past",
    "distribution_of_the_event_before": "joint",
    "distribution_of_the_event_after": "joint",
    "wrong_rollback_after_full_acceptance": "memory",
    "no_rollback_after_rejection": "memory",
    "row_reads_its_neighbours_cache": "memory",
    "accepted_prefix_dropped": "joint",
    "noise_of_the_round_before": "joint",
    "noise_of_the_rejected_event_again": "joint",
    "silence_ignored": "silence",
    "silence_ignored_by_the_target": "silence",
    "autoregressive_stale_context": "autoregressive",
}


@cache
def p_value_of_the_right_sampler(cell: str) -> float:
    return CELLS[cell].p_value()


def distance_of_marks(cell: Cell) -> float:
    """TV between the marks of the first event under target and draft."""
    probs = []
    for model in (cell.target, cell.draft):
        distribution = distribution_after(model, cell.history)
        x = grid_over(distribution)
        probs.append(torch.trapezoid(densities(distribution, x), x, dim=0))
    return 0.5 * float((probs[0] - probs[1]).abs().sum())


@pytest.mark.parametrize("name", [name for name in CELLS if name != "autoregressive"])
def test_target_and_draft_differ_in_the_cells(name: str) -> None:
    cell = CELLS[name]
    distributions = distribution_after(cell.target, cell.history), distribution_after(cell.draft, cell.history)
    assert overlap_joint(*distributions, elapsed=silence_after(cell.history)) < 0.9
    assert distance_of_marks(cell) > 0.1


def test_every_mutant_has_a_cell() -> None:
    assert set(CELL_OF) | {"round_that_crosses_the_end_is_dropped"} == set(MUTANTS)


@pytest.mark.parametrize("cell", CELLS)
def test_the_right_sampler_passes(cell: str) -> None:
    assert p_value_of_the_right_sampler(cell) > FALSE_ALARM


@pytest.mark.parametrize("name", CELL_OF)
def test_the_mutant_is_rejected(name: str) -> None:
    assert CELLS[CELL_OF[name]].p_value(MUTANTS[name]) < REJECTED


def test_dropping_the_round_that_crosses_the_end_is_seen_by_the_residuals_of_whole_windows() -> None:
    """It touches no event's distribution given its prefix: only the compensator left over in each window tells."""

    size = {"method": "speculative", "num_sequences": 1500, "t_end": 3.0, "batch_size": 1500}

    def p_value(mutant: Mutant) -> float:
        samples = mutant.samples(CHAIN, CHAIN.moved(3, times=0.5, marks=1.0), **size)
        return ks_exponential(carry_over(model_residuals(CHAIN, list(samples)))).p_value

    assert p_value(RIGHT) > FALSE_ALARM
    assert p_value(MUTANTS["round_that_crosses_the_end_is_dropped"]) < REJECTED
