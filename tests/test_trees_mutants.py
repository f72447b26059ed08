"""Wrong samplers of trees are rejected at p < 1e-6 by cells that the right one passes."""

from __future__ import annotations

from typing import Any

import pytest
from goodness import distribution_after, judge, overlap_joint
from stubs import StubTPP, lively_transformer
from tree_mutants import TREE_MUTANTS, TreeMutant

from tppsd.certification.models import make_attentive
from tppsd.data.sequences import EventSequence

REJECTED, FALSE_ALARM = 1e-6, 1e-4
RIGHT = TreeMutant()
HISTORY = EventSequence.of([0.5, 1.2], [1, 2], t_start=0.0)
SWINGING, CHAIN = StubTPP.swinging(4, seed=3), StubTPP.random(4, seed=0)
CELLS: dict[str, tuple[Any, Any, dict[str, Any]]] = {
    "memory": (
        SWINGING,
        SWINGING.moved(3, times=0.8, marks=1.5),
        {"candidates": (2, 2), "num_events": 6, "num_sequences": 2500},
    ),
    "attention": (
        make_attentive(lively_transformer(4, "attnhp", seed=2)),
        lively_transformer(4, "sahp", seed=3, num_layers=1),
        {"candidates": (8, 2), "num_events": 5, "num_sequences": 3000},
    ),
    "marks": (
        StubTPP.constant(0.0, 1.0, [0.25] * 4),
        StubTPP.constant(0.0, 1.0, [0.7, 0.1, 0.1, 0.1]),
        {"candidates": (2,), "num_events": 1, "num_sequences": 10_000},
    ),
    "rule": (
        CHAIN,
        CHAIN.moved(3, times=0.5, marks=1.0),
        {"candidates": (4, 4), "num_events": 3, "num_sequences": 8000},
    ),
}
CELL_OF = {
    "children_reuse_the_parents_context": "memory",
    "sibling_attends_to_sibling": "attention",
    "cache_of_another_branch_is_kept": "memory",
    "accepted_path_is_not_gathered": "memory",
    "negative_weights_are_not_clipped": "marks",
    "what_is_picked_is_accepted": "rule",
    "adjusted_distribution_of_plain_rejection": "rule",
    "each_candidate_is_tested_alone": "rule",
}


def p_value(cell: str, mutant: TreeMutant = RIGHT) -> float:
    target, draft, arguments = CELLS[cell]
    samples = mutant.samples(target, draft, history=HISTORY, batch_size=arguments["num_sequences"], **arguments)
    return judge(target, HISTORY, samples)


def test_every_mutant_has_a_cell() -> None:
    assert set(CELL_OF) == set(TREE_MUTANTS)


@pytest.mark.parametrize("cell", CELLS)
def test_the_right_sampler_passes(cell: str) -> None:
    target, draft, _ = CELLS[cell]
    assert overlap_joint(distribution_after(target, HISTORY), distribution_after(draft, HISTORY)) < 0.9
    assert p_value(cell) > FALSE_ALARM


@pytest.mark.parametrize("name", CELL_OF)
def test_the_mutant_is_rejected(name: str) -> None:
    assert p_value(CELL_OF[name], TREE_MUTANTS[name]) < REJECTED
