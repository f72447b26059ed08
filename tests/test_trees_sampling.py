"""Trees of candidates in the sampler: the chain is a special case, every model and drafter branches, batches change
nothing."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from goodness import judge
from small_models import ENCODERS
from stubs import StubTPP, lively_transformer

from tppsd.data.batch import EventBatch
from tppsd.data.sequences import EventSequence
from tppsd.metrics.functional import acceptance_by_position
from tppsd.processes.event_model import ProcessModel
from tppsd.processes.presets import PRESETS
from tppsd.sampling.options import SamplingOptions
from tppsd.sampling.sample import sample
from tppsd.sampling.stats import SamplingStats
from tppsd.sampling.tree.shape import Tree

FALSE_ALARM = 1e-4
SILENT = EventSequence.of([0.5, 1.2], [1, 2], t_start=0.0, t_end=1.6)
HISTORIES = [
    EventSequence.of(
        [0.5 * i for i in range(1, n + 1)], [i % 3 for i in range(n)], t_start=0.0, t_end=0.5 * n + silence
    )
    for n, silence in ((0, 0.0), (1, 0.7), (30, 0.0), (11, 5.0))
] + [EventSequence.of([4.0, 4.5], [2, 1])]
OTHER = {"thp": "sahp", "sahp": "attnhp", "attnhp": "rotary", "rotary": "thp"}


def lively_pair(encoder: str) -> tuple[Any, Any]:
    target = lively_transformer(3, encoder, seed=2)
    target.statistics = replace(target.statistics, num_events=100, duration=150.0, mark_counts=[30, 30, 40])
    return target, lively_transformer(3, OTHER[encoder], seed=3, num_layers=1, num_components=2)


# --- shape ---------------------------------------------------------------------------------------------------------


def test_nodes_are_numbered_level_by_level() -> None:
    tree = Tree((2, 3, 1))
    assert tree.parents == (-1, -1, 0, 0, 0, 1, 1, 1, 2, 3, 4, 5, 6, 7) and tree.starts == (0, 2, 8, 14)
    nodes = torch.tensor([3, 7])
    assert tree.first_child(2, nodes).tolist() == [9, 13] and tree.first_child(0, torch.tensor([-1])).tolist() == [0]
    for depth in range(3):
        parents = list(tree.parents[tree.level(depth)])
        above = 0 if depth == 0 else tree.starts[depth - 1]
        expected = [above + i if depth else -1 for i in tree.repeated(depth, torch.device("cpu")).tolist()]
        assert parents == expected
    values = torch.arange(14.0).unsqueeze(0)
    assert tree.path_sums(values)[0, 11] == 11 + 5 + 1
    assert torch.equal(Tree.chain(4).path_sums(values[:, :4]), values[:, :4].cumsum(1))


# --- the chain is the special case -----------------------------------------------------------------------------------


@pytest.mark.parametrize("drafter", ["model", "self", "poisson"])
def test_one_candidate_per_step_is_the_chain(drafter: str) -> None:
    target, draft = lively_pair("thp")
    arguments = {"history": HISTORIES, "num_events": 9, "batch_size": 3, "seed": 5, "return_log_probs": True}
    chosen = draft if drafter == "model" else drafter
    chain = sample(target, chosen, draft_length=3, rule="joint", **arguments)
    tree = sample(target, chosen, candidates=(1, 1, 1), **arguments)
    assert torch.equal(chain.flat_event_times, tree.flat_event_times) and torch.equal(chain.flat_marks, tree.flat_marks)
    assert torch.equal(chain.stats.accepted_counts, tree.stats.accepted_counts)
    assert chain.stats.acceptance_rate == tree.stats.acceptance_rate
    assert tree.options == SamplingOptions("speculative", rule="linear", drafter=drafter, candidates=(1, 1, 1))  # type: ignore[arg-type]


# --- distribution -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("drafter", ["model", "self", "poisson"])
@pytest.mark.parametrize("encoder", ENCODERS)
def test_paths_of_a_transformer_have_its_distribution(encoder: str, drafter: str) -> None:
    """With rows that finish and are refilled, after a silence."""
    target, draft = lively_pair(encoder)
    chosen = draft if drafter == "model" else drafter
    size = {"num_sequences": 700, "num_events": 5, "batch_size": 300}
    samples = sample(target, chosen, history=SILENT, candidates=(2, 1, 3), **size)
    assert judge(target, SILENT, samples) > FALSE_ALARM
    assert 0.1 < samples.stats.step_acceptance < 0.95
    if drafter == "model":
        assert judge(draft, SILENT, samples) < 1e-6


@pytest.mark.parametrize("rule", ["linear", "mean", "rrs"])
def test_paths_have_the_targets_distribution_under_every_rule(rule: str) -> None:
    target = StubTPP.swinging(4, seed=3)
    draft = target.moved(3, times=0.8, marks=1.5)
    num_paths = 300 if rule == "rrs" else 4000
    size = {"num_sequences": num_paths, "num_events": 5, "batch_size": num_paths}
    samples = sample(target, draft, history=SILENT, candidates=(4, 2, 1), rule=rule, **size)
    assert judge(target, SILENT, samples) > FALSE_ALARM


def test_ground_truth_processes_branch() -> None:
    """A Hawkes process as target, with itself as the draft: everything is accepted, whatever path the states are taken
    along."""
    model = ProcessModel(PRESETS["multivariate_hawkes"].process)
    stats = sample(model, model, num_sequences=20, num_events=12, candidates=(2, 2), batch_size=7).stats
    assert stats.step_acceptance == 1.0


# --- batches, statistics -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("drafter", ["model", "self"])
@pytest.mark.parametrize("encoder", ENCODERS)
def test_batch_size_changes_nothing(encoder: str, drafter: str) -> None:
    target, draft = lively_pair(encoder)
    arguments = {"history": HISTORIES, "num_sequences": 2, "candidates": (3, 2), "seed": 3, "horizon": 12.0}
    arguments["num_events"] = [5 + i % 7 for i in range(2 * len(HISTORIES))]
    whole, *parts = (
        sample(target, draft if drafter == "model" else drafter, batch_size=n, **arguments) for n in (64, 1, 3)
    )
    for part in parts:
        assert torch.equal(whole.flat_marks, part.flat_marks)
        torch.testing.assert_close(whole.flat_event_times, part.flat_event_times, rtol=1e-9, atol=0)
        assert torch.equal(whole.stats.rank_counts, part.stats.rank_counts)


@pytest.mark.parametrize("candidates", [(1, 2), (1, 1, 3)])
def test_a_level_of_one_candidate_leaves_nothing_to_doubt(candidates: tuple[int, ...]) -> None:
    target, draft = lively_transformer(3, "thp", seed=0), lively_transformer(3, "sahp", seed=1, num_layers=1)
    for seed in range(5):
        assert len(sample(target, draft, candidates=candidates, num_events=30, seed=seed)[0]) == 30


def test_log_probs_are_those_of_a_full_pass() -> None:
    target, draft = lively_pair("sahp")
    samples = sample(target, draft, num_sequences=3, num_events=8, candidates=(2, 2), return_log_probs=True)
    plain = sample(target, draft, num_sequences=3, num_events=8, candidates=(2, 2))
    assert torch.equal(samples.flat_event_times, plain.flat_event_times)
    for sequence, log_probs in zip(samples, samples.log_probs or [], strict=True):
        with torch.no_grad():
            distributions = target(EventBatch.from_sequences([sequence]))[0, :-1]
            expected = distributions.log_prob(sequence.inter_times, sequence.marks)
        torch.testing.assert_close(log_probs, expected, rtol=0, atol=1e-9)


def test_statistics_by_depth_and_rank_add_up() -> None:
    target = StubTPP.random(4, seed=0)
    stats = sample(
        target, target.moved(3, times=0.5, marks=1.0), num_sequences=300, num_events=10, candidates=(3, 1, 2)
    ).stats
    accepted = torch.arange(4)
    tested = torch.tensor([int(stats.accepted_counts[:, depth:].sum()) for depth in range(3)])
    assert stats.tree == Tree((3, 1, 2)) and stats.rank_counts.shape == (3, 4)
    assert torch.equal(stats.rank_counts.sum(1), tested)
    assert stats.rank_counts[:, 1:].sum() == stats.num_accepted == int((stats.accepted_counts * accepted).sum())
    assert stats.rank_counts[1, 2:].sum() == 0 and stats.rank_counts[2, 3] == 0
    assert stats.num_drafted == 12 * stats.num_rounds and stats.num_tested == int(tested.sum())
    torch.testing.assert_close(stats.acceptance_by_rank.sum(1), stats.acceptance_by_depth)
    both = SamplingStats.total([stats, stats])
    assert (
        torch.equal(both.rank_counts, 2 * stats.rank_counts)
        and len(stats.node_counts) == 12
        and both.acceptance_rate == stats.acceptance_rate
    )
    assert stats.to_dict()["candidates"] == [3, 1, 2]
    chain = sample(target, target.moved(3, times=0.5, marks=1.0), num_sequences=20, num_events=10, draft_length=3).stats
    torch.testing.assert_close(chain.acceptance_by_depth, acceptance_by_position(chain.accepted_counts))


# --- options -------------------------------------------------------------------------------------------------------


def test_options_normalise_and_resolve_candidates() -> None:
    assert SamplingOptions(candidates=4).candidates == (4,) and SamplingOptions(candidates=[2, 1]).candidates == (2, 1)  # type: ignore[arg-type]
    resolved = SamplingOptions(candidates=(2, 1)).resolved(None)
    assert resolved == SamplingOptions("speculative", rule="linear", drafter="self", candidates=(2, 1))
    assert resolved.longest_draft == 2
    assert resolved.to_dict() == {"method": "speculative", "rule": "linear", "drafter": "self", "candidates": (2, 1)}


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"candidates": (2, 0)}, r"candidates = \(2, 0\) must be whole numbers between 1 and 64"),
        ({"candidates": 65}, "candidates = 65 must be whole numbers between 1 and 64"),
        ({"candidates": ()}, r"candidates = \(\) must be"),
        ({"candidates": (64, 64)}, "make 4160 nodes; a tree has at most 1024"),
        ({"candidates": (2,), "draft_length": 3}, "draft_length = 3 was given together with candidates"),
        ({"candidates": (2,), "rule": "joint"}, "rule = 'joint' is not one for candidates"),
        ({"rule": "linear"}, "rule = 'linear' is one for several candidates per step: give candidates"),
        ({"rule": "nearest"}, "rule = 'nearest' is unknown"),
        (
            {"candidates": (2,), "method": "autoregressive"},
            r"candidates = \(2,\) has no meaning for method = 'autoregressive'",
        ),
    ],
)
def test_wrong_combinations_are_refused_in_one_sentence(options: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        SamplingOptions(**options)
