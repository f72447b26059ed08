"""How often one of K candidates is accepted: every rule against the optimum, which an LP confirms."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from goodness import chi_square_p, densities, distribution_after, grid_over, one_step_p, overlap_joint
from stubs import StubTPP
from torch import Tensor
from tree_mutants import RRS_WITH_A_WRONG_SIGN

from tppsd.data.sequences import EventSequence
from tppsd.metrics.functional import optimal_acceptance
from tppsd.sampling import rules
from tppsd.sampling.drafters.base import Draft
from tppsd.sampling.noise import Purpose, Streams, row_keys
from tppsd.sampling.rules import Rejected
from tppsd.sampling.sample import sample
from tppsd.sampling.tree import linear
from tppsd.sampling.tree.candidates import TOLERANCE, CandidateRule, recursion
from tppsd.sampling.tree.rule import CANDIDATE_RULES

EMPTY = EventSequence.of([], t_start=0.0)
TARGET = StubTPP.random(8, seed=1, num_components=3)
NEAR, FAR = TARGET.moved(5, times=0.3, marks=0.3), TARGET.moved(3, times=0.8, marks=1.2)
ROWS = 6000


def first_steps(draft: Any, num_candidates: int, rule: str, num_rows: int = ROWS) -> Any:
    arguments = {"num_sequences": num_rows, "num_events": 1, "batch_size": num_rows, "seed": 7}
    return sample(TARGET, draft, history=EMPTY, candidates=num_candidates, rule=rule, **arguments)


def optimum(draft: Any, num_candidates: int) -> float:
    distributions = distribution_after(TARGET, EMPTY), distribution_after(draft, EMPTY)
    x = grid_over(*distributions)[::10]
    masses = [(densities(distribution, x) * (x[1] - x[0])).flatten() for distribution in distributions]
    return optimal_acceptance(*masses, num_candidates)


@pytest.mark.parametrize("num_candidates", [1, 2, 3])
def test_the_formula_of_the_optimum_is_that_of_the_linear_programme(num_candidates: int) -> None:
    """Maximise P(the output is among the candidates) over all couplings of the target with K draws of the draft."""
    from scipy.optimize import linprog

    target = torch.tensor([0.5, 0.3, 0.15, 0.05], dtype=torch.float64)
    draft = torch.tensor([0.1, 0.25, 0.05, 0.6], dtype=torch.float64)
    tuples = list(itertools.product(range(4), repeat=num_candidates))
    pairs = [(t, x) for t in range(len(tuples)) for x in range(4)]
    supply = torch.tensor([float(draft[list(t)].prod()) for t in tuples])
    columns = torch.zeros(len(tuples) + 4, len(pairs))
    for j, (t, x) in enumerate(pairs):
        columns[t, j] = columns[len(tuples) + x, j] = 1.0
    found = linprog(
        [-float(x in tuples[t]) for t, x in pairs], A_eq=columns.numpy(), b_eq=torch.cat([supply, target]).numpy()
    )
    assert -found.fun == pytest.approx(optimal_acceptance(target, draft, num_candidates), abs=1e-6)


@pytest.mark.parametrize("draft", [NEAR, FAR], ids=["near", "far"])
def test_linear_lies_close_under_the_optimum(draft: StubTPP) -> None:
    """One candidate is optimal; with more, up to a few per cent are left, and fewer than under `mean`."""
    overlap = overlap_joint(distribution_after(TARGET, EMPTY), distribution_after(draft, EMPTY))
    assert optimum(draft, 1) == pytest.approx(overlap, abs=1e-6)
    for num_candidates in (1, 2, 8):
        best = optimum(draft, num_candidates)
        rates = {rule: first_steps(draft, num_candidates, rule).stats.step_acceptance for rule in ("linear", "mean")}
        error = 4 * (0.25 / ROWS) ** 0.5
        assert best - 0.05 - error < rates["linear"] < best + error
        assert rates["mean"] < rates["linear"] + error
        if num_candidates == 1:
            assert abs(rates["linear"] - overlap) < error and rates["mean"] == rates["linear"]


def test_recursion_has_the_acceptance_of_its_formula(num_candidates: int = 4) -> None:
    """1 - P_2 P_3 / P_2 ... = 1 - P_{K+1}: what is left of the target after K candidates; P by a dense grid agrees.

    With the scale of the next candidate in place of its own, 0.045 less are accepted: seven standard errors.
    """
    distributions = distribution_after(TARGET, EMPTY)[None], distribution_after(FAR, EMPTY)[None]
    scales, masses = recursion(*distributions, num_candidates)
    x = grid_over(*(distribution[0] for distribution in distributions))
    dense = [densities(distribution[0], x) for distribution in distributions]
    c, p = 0.0, 1.0
    for j in range(num_candidates + 1):
        assert float(scales[0, j]) == pytest.approx(c, abs=TOLERANCE * (j + 1))
        assert float(masses[0, j]) == pytest.approx(p, abs=TOLERANCE)
        c += p
        p = float(torch.trapezoid((dense[0] - c * dense[1]).clamp_min(0).sum(-1), x))
    rate = first_steps(FAR, num_candidates, "rrs", 6000).stats.step_acceptance
    assert abs(rate - (1 - float(masses[0, -1]))) < 4 * (0.25 / 6000) ** 0.5


@pytest.mark.parametrize("rule", ["linear", "mean", "rrs"])
@pytest.mark.parametrize("num_candidates", [2, 4, 8])
def test_the_event_has_the_targets_distribution(rule: str, num_candidates: int) -> None:
    """Accepted or not: chi-square against quadrature; the draft is half of the mass away."""
    samples = first_steps(FAR, num_candidates, rule, 500 if rule == "rrs" else ROWS)
    args = samples.flat_inter_times, samples.flat_marks
    assert one_step_p(distribution_after(TARGET, EMPTY), *args) > 1e-4
    assert rule == "rrs" or one_step_p(distribution_after(FAR, EMPTY), *args) < 1e-6


# --- what follows when all candidates are rejected -------------------------------------------------------------------

P, Q = (torch.tensor(probs, dtype=torch.float64) for probs in ([0.3, 0.3, 0.25, 0.15], [0.1, 0.15, 0.15, 0.6]))


class UsedAgain(Streams):
    """Noise whose second uniform of every turn of `linear` is its first."""

    def loop(self, rows: Tensor, positions: Tensor, wanted: Any, *attempts: Any) -> Tensor:
        uniforms = super().loop(rows, positions, wanted, *attempts)
        if wanted[0][0] == Purpose.STOP_COIN:
            uniforms[..., 1] = uniforms[..., 0]
        return uniforms


def resampled_marks(candidates: CandidateRule, k: int, num_rows: int, kind: type[Streams] = Streams) -> Tensor:
    """Counts of the marks that take the place of k rejected candidates, where target and draft differ in marks
    alone."""
    target, draft = (
        StubTPP.constant(0.0, 1.0, probs.tolist()).distribution(torch.zeros(num_rows, 1, 6, dtype=torch.float64))
        for probs in (P, Q)
    )
    index, nothing = torch.arange(num_rows), torch.zeros(num_rows, 1, dtype=torch.float64)
    rejected = Rejected(index, torch.zeros_like(index), Draft(nothing, nothing, nothing.long(), draft), target)
    noise = kind(row_keys(3, torch.zeros_like(index), index), torch.zeros_like(index))
    return torch.bincount(candidates.resample(rejected, k, noise)[1], minlength=4)


def adjusted_probs(rule: str, k: int) -> Tensor:
    """The distribution that it should have, by sums over all draws of the others."""
    r, left = P / Q, torch.zeros_like(P)
    if rule == "rrs":
        c, mass = 0.0, 1.0
        for _ in range(k):
            c += mass
            mass = float((P - c * Q).clamp_min(0).sum())
        left = (P - c * Q).clamp_min(0)
        return left / left.sum()
    for x in range(4):
        returned = stopped = 0.0
        for others in itertools.product(range(4), repeat=k - 1):
            chance, ratios = float(Q[list(others)].prod()), r[[x, *others]]
            if rule == "mean":
                returned, stopped = returned + chance * (1 - k / max(k, float(ratios.sum()))), 1.0
            else:
                weights = linear.linear_weights(ratios)
                stopped += chance * float(weights[0])
                returned += chance * float(weights[0] * (1 - 1 / weights.sum()))
        left[x] = P[x] * returned / stopped if stopped else 0.0
    return left / left.sum()


@pytest.mark.parametrize("rule", ["linear", "mean", "rrs"])
@pytest.mark.parametrize("k", [2, 3])
def test_what_follows_has_the_adjusted_distribution(rule: str, k: int) -> None:
    """Of the rejected rows alone: in whole samples, nearly all candidates being accepted, a mistake here hardly shows.
    False alarms 1e-4 each."""
    num_rows = 1500 if rule == "rrs" else 4000
    counts = resampled_marks(CANDIDATE_RULES[rule], k, num_rows)
    assert chi_square_p(counts, num_rows * adjusted_probs(rule, k)) > 1e-4
    assert chi_square_p(counts, num_rows * P) < 1e-6


def test_a_wrong_sign_in_rrs_and_a_uniform_used_again_in_linear_are_seen() -> None:
    """Mutants."""
    assert chi_square_p(resampled_marks(RRS_WITH_A_WRONG_SIGN, 2, 1500), 1500 * adjusted_probs("rrs", 2)) < 1e-6
    again = resampled_marks(CANDIDATE_RULES["linear"], 3, 4000, UsedAgain)
    assert chi_square_p(again, 4000 * adjusted_probs("linear", 3)) < 1e-6


@pytest.mark.parametrize("rule", ["linear", "mean", "rrs"])
def test_a_draft_equal_to_the_target_is_always_accepted(rule: str) -> None:
    stats = sample(TARGET, TARGET, num_sequences=200, num_events=10, candidates=(3, 2), rule=rule, batch_size=200).stats
    assert stats.step_acceptance == 1.0 and stats.rank_counts[:, 0].sum() == 0


@pytest.mark.parametrize("rule", ["linear", "mean"])
def test_how_many_attempts_are_evaluated_together_changes_nothing(rule: str, monkeypatch: pytest.MonkeyPatch) -> None:
    first = first_steps(FAR, 3, rule, 500)
    monkeypatch.setattr(linear, "_INNER", 3)
    monkeypatch.setattr(rules, "_AT_ONCE", 100)
    monkeypatch.setattr(rules, "proposals_per_row", lambda num_rows, largest=64: 5)
    monkeypatch.setattr(linear, "proposals_per_row", lambda num_rows, largest=64: 5)
    second = first_steps(FAR, 3, rule, 500)
    assert torch.equal(first.flat_marks, second.flat_marks)
    torch.testing.assert_close(first.flat_inter_times, second.flat_inter_times, rtol=1e-12, atol=0)
    assert torch.equal(first.stats.rank_counts, second.stats.rank_counts)


@pytest.mark.parametrize("rule", ["linear", "mean", "rrs"])
@pytest.mark.parametrize("draft", ["disjoint", "narrow"])
def test_a_draft_without_the_targets_mass_is_corrected(draft: str, rule: str) -> None:
    """Next to nothing of the draft is accepted, or the target's tails and a mark are never proposed: r overflows."""
    target = StubTPP.constant(0.0, 1.0, [0.4, 0.4, 0.2], [1.0, -1.0, 0.0])
    models = {
        "disjoint": StubTPP.constant(40.0, 0.5, [0.3, 0.3, 0.4]),
        "narrow": StubTPP.constant(-0.5, 0.25, [0.5, 0.5, 1e-7]),
    }
    num_rows = 400 if rule == "rrs" else 4000
    size = {"num_sequences": num_rows, "num_events": 1, "batch_size": num_rows}
    samples = sample(target, models[draft], history=EMPTY, candidates=(3,), rule=rule, **size)
    assert one_step_p(distribution_after(target, EMPTY), samples.flat_inter_times, samples.flat_marks) > 1e-4
    assert draft == "narrow" or samples.stats.step_acceptance < 0.01
