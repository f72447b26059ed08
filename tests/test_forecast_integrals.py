"""Probabilities and integrated intensities of marks over one distribution, against fine quadrature."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from goodness import densities
from native_builds import compiled_wrong, needs_a_compiler
from small_models import attentive_model, random_batch, small_model
from stubs import StubTPP
from torch import Tensor

from tppsd.backends.cpp.distribution import CompiledDistribution
from tppsd.backends.cpp.model import CompiledTPP
from tppsd.forecasting.integrals import mark_integrals
from tppsd.models.distribution import NextEventDistribution
from tppsd.models.mixture import LogNormalMixture
from tppsd.models.transformer_tpp import TransformerTPP
from tppsd.processes import Hawkes

NUM_MARKS = 4
SETS = torch.tensor([[True, False, False, False], [False, True, False, True], [True, True, True, True]])


def distributions_of(model: TransformerTPP) -> NextEventDistribution:
    """Twelve distributions, (12,)."""
    with torch.inference_mode():
        distributions = model(random_batch([5] * 4, NUM_MARKS)).double()
    return distributions[torch.arange(4).repeat_interleave(3), torch.arange(3).repeat(4)]


def reference(distribution: NextEventDistribution, elapsed: float, end: float) -> tuple[Tensor, Tensor]:
    """(p, Lambda), (num_sets,), by a trapezoidal rule of 100,001 nodes."""
    x = torch.linspace(math.log(max(elapsed, 1e-9)), math.log(end), 100_001, dtype=torch.float64)
    of_marks = densities(distribution, x)
    survival = distribution.log_survival(x.exp()).exp().unsqueeze(-1)
    members = SETS.double().t()
    p, hazard = (torch.trapezoid(values, x, dim=0) @ members for values in (of_marks, of_marks / survival))
    if elapsed > 0:
        p = p / distribution.log_survival(torch.tensor(elapsed, dtype=torch.float64)).exp()
    return p, hazard


MODELS = {
    "closed form": (StubTPP.random(NUM_MARKS, seed=0), 5e-5, 5e-4),
    "time conditional": (attentive_model("thp", num_marks=NUM_MARKS).double(), 1e-4, 5e-4),
    "independent": (small_model("thp", NUM_MARKS, mark_decoder="independent"), 1e-7, 1e-7),
}


@pytest.mark.parametrize("is_truncated", [False, True], ids=["whole", "truncated"])
@pytest.mark.parametrize("name", MODELS)
def test_integrals_are_those_of_fine_quadrature(name: str, is_truncated: bool) -> None:
    model, of_p, of_hazard = MODELS[name]
    distributions = distributions_of(model)
    generator = torch.Generator().manual_seed(0)
    ends = 0.01 + 4 * torch.rand(12, 3, generator=generator, dtype=torch.float64)
    elapsed = torch.rand(12, generator=generator, dtype=torch.float64) * is_truncated
    given = distributions.truncated(elapsed) if is_truncated else distributions
    with torch.inference_mode():
        p, hazard = mark_integrals(given, ends, SETS)
        for i in range(12):
            for j in range(3):
                if ends[i, j] <= elapsed[i]:
                    assert (p[i, :, j] == 0).all() and (hazard[i, :, j] == 0).all()
                    continue
                expected = reference(distributions[i], float(elapsed[i]), float(ends[i, j]))
                torch.testing.assert_close(p[i, :, j], expected[0], atol=of_p * (1 + 2 * is_truncated), rtol=0)
                torch.testing.assert_close(hazard[i, :, j], expected[1], atol=of_hazard, rtol=0)


# --- compiled code, which has the same rule ---------------------------------------------------------------------------


def compiled_distributions(seed: int = 0) -> CompiledDistribution:
    """Twelve distributions of a compiled model, (12,), from contexts that no history has to lead to."""
    torch.manual_seed(seed)
    model = attentive_model("thp", num_marks=NUM_MARKS)
    found = CompiledTPP(model).distribution(torch.randn(12, model.config["embed_dim"]))
    assert isinstance(found, CompiledDistribution)
    return found


ENDS = torch.tensor([0.0, 1e-7, 0.02, 0.3, 1.1, 7.0], dtype=torch.float64).expand(12, 6)  # the second: before all nodes
WAITS = torch.tensor([0.0, 1e-8, 0.05, 0.3, 1.0, 2.5], dtype=torch.float64).repeat(2)


def largest_errors(found: tuple[Tensor, Tensor], distributions: NextEventDistribution, waits: Tensor) -> list[float]:
    """Return those of p and Lambda against fine quadrature."""
    errors = torch.zeros(2, dtype=torch.float64)
    for i in range(12):
        for j in range(6):
            nothing = torch.zeros(len(SETS), dtype=torch.float64)
            is_late = bool(ENDS[i, j] > waits[i])
            expected = (
                reference(distributions[i], float(waits[i]), float(ENDS[i, j])) if is_late else (nothing, nothing)
            )
            of_case = torch.stack([(a[i, :, j] - b).abs().max() for a, b in zip(found, expected, strict=True)])
            errors = torch.maximum(errors, of_case)
    return errors.tolist()


def natively_integrated(is_truncated: bool) -> list[float]:
    own = compiled_distributions()
    waits = WAITS * is_truncated
    with torch.inference_mode():
        found = mark_integrals(own.truncated(waits) if is_truncated else own, ENDS, SETS)
        return largest_errors(found, own.with_parts(), waits)


@needs_a_compiler
@pytest.mark.parametrize("is_truncated", [False, True], ids=["whole", "truncated"])
def test_compiled_integrals_are_those_of_fine_quadrature(is_truncated: bool) -> None:
    of_p, of_hazard = natively_integrated(is_truncated)
    assert of_p < 1e-4 * (1 + 2 * is_truncated) and of_hazard < 5e-4


@needs_a_compiler
@pytest.mark.parametrize("is_truncated", [False, True], ids=["whole", "truncated"])
@pytest.mark.parametrize("num_marks", [1, NUM_MARKS], ids=["unmarked", "independent"])
def test_compiled_integrals_of_times_alone_are_those_of_operators(num_marks: int, is_truncated: bool) -> None:
    model = small_model("thp", num_marks, mark_decoder="independent")
    sets = SETS if num_marks > 1 else torch.ones(1, 1, dtype=torch.bool)
    with torch.inference_mode():
        own = CompiledTPP(model).distribution(torch.randn(12, model.config["embed_dim"]))
        given = own.truncated(WAITS) if is_truncated else own
        for found, expected in zip(
            mark_integrals(given, ENDS, sets), mark_integrals(given.with_parts(), ENDS, sets), strict=True
        ):
            torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)
            assert bool((found[:, :, 1] > 0).any()) and bool((found[:, :, 0] == 0).all())


@needs_a_compiler
@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        ("NAN : found[0] / left;", "NAN : found[0];"),  # forgets that nothing came until then
        ("cell == first_cell ? begin : cell - first", "cell - first"),  # begins at the node before
        ("add(cell_of(x[e]), parts[e], found);", ";"),  # ends at the node before
        ("f[j] * gain.mass + slope * gain.rise", "f[j] * gain.mass"),  # the same from node to node
    ],
)
def test_wrong_compiled_integrals_are_found_out(
    right: str, wrong: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiled_wrong(right, wrong, tmp_path, monkeypatch)
    of_p, of_hazard = natively_integrated(is_truncated=True)
    assert of_p > 3e-4 or of_hazard > 5e-4


@needs_a_compiler
def test_a_silence_of_any_length_is_integrated() -> None:
    """P(X > elapsed) down to what a float cannot hold, where the operators' float64 takes over.

    The reference of all marks together is the ratio of survival functions, that of a set the operators' integral, which
    is a difference of tails and so no reference where these are tiny.
    """
    own = compiled_distributions()
    with torch.inference_mode():
        waits = 10.0 ** torch.linspace(0.5, 6, 12, dtype=torch.float64)
        left = own.with_parts().log_survival(waits)
        assert float(left.min()) < math.log(1e-45) and float(left.max()) > math.log(1e-8)
        ends = waits.unsqueeze(1) * torch.tensor([[1.2, 3.0]], dtype=torch.float64)
        p, hazard = mark_integrals(own.truncated(waits), ends, SETS)
        assert bool(p.isfinite().all() and hazard.isfinite().all())
        beyond = own.with_parts().log_survival(ends.t()).t() - left.unsqueeze(1)
        is_kept = left > math.log(1e-28)
        assert 3 <= int(is_kept.sum()) < 12
        torch.testing.assert_close(p[is_kept, 2], -beyond[is_kept].expm1(), rtol=0, atol=3e-4)
        is_kept = left > math.log(1e-10)
        by_operators = mark_integrals(own.with_parts().truncated(waits), ends, SETS)
        torch.testing.assert_close(p[is_kept], by_operators[0][is_kept], rtol=0, atol=3e-4)


def test_a_component_narrower_than_the_nodes_is_not_missed() -> None:
    """Log-normals of standard deviation e^-6, one of which lies between two nodes."""
    stub = StubTPP.random(NUM_MARKS, seed=1)
    distribution = distributions_of(stub)[:1]
    mixture = LogNormalMixture(
        torch.tensor([[0.4, 0.6]], dtype=torch.float64).log(),
        torch.tensor([[0.06, 0.8]], dtype=torch.float64),
        torch.tensor([[-6.0, -5.0]], dtype=torch.float64),
    )
    narrow = distribution.with_parts(inter_time=mixture)
    with torch.inference_mode():
        p, _ = mark_integrals(narrow, torch.tensor([[1.5, 3.0]], dtype=torch.float64), SETS)
        for j, weights in enumerate((torch.tensor([0.4, 0.0]), torch.tensor([0.4, 0.6]))):
            at = torch.tensor([0.06, 0.8], dtype=torch.float64).exp()
            expected = (narrow.unsqueeze(0).mark_log_probs(at.view(2, 1)).exp().squeeze(1) * weights.view(2, 1)).sum(0)
            torch.testing.assert_close(p[0, :, j], expected @ SETS.double().t(), atol=1e-4, rtol=0)


def test_processes_are_integrated_to_rounding() -> None:
    """sum over marks of p is 1 - S, that of Lambda the compensator; of one mark, a rule with 20 times the nodes."""
    process = Hawkes([0.5, 0.2, 0.4, 0.1], 0.2, 1.7)
    states = torch.rand(6, process.state_size, dtype=torch.float64)
    distribution = process.distribution(states).truncated(
        torch.tensor([0.0, 0.0, 0.3, 0.7, 1.0, 0.2], dtype=torch.float64)
    )
    ends = torch.tensor([[0.4, 2.5, 0.1]], dtype=torch.float64).expand(6, 3)
    p, hazard = mark_integrals(distribution, ends, SETS)
    survival = distribution.log_survival(ends.t()).t()
    torch.testing.assert_close(p[:, 2], 1 - survival.exp(), rtol=0, atol=1e-10)
    torch.testing.assert_close(hazard[:, 2], -survival, rtol=0, atol=1e-8)
    elapsed = distribution.inter_time.elapsed
    x = elapsed + (ends[:, 1] - elapsed) * (torch.arange(20_000, dtype=torch.float64).unsqueeze(1) + 0.5) / 20_000
    density = (distribution.inter_time.log_prob(x).unsqueeze(-1) + distribution.mark_log_probs(x)).exp()[..., 0]
    torch.testing.assert_close(p[:, 0, 1], density.mean(0) * (ends[:, 1] - elapsed), rtol=0, atol=1e-7)


def test_unmarked_distributions_have_one_set() -> None:
    model = small_model("thp", num_marks=1)
    with torch.inference_mode():
        distributions = model(random_batch([4], 1)).double()[0]
        ends = torch.tensor([[0.5, 2.0]], dtype=torch.float64).expand(5, 2)
        p, hazard = mark_integrals(distributions, ends, torch.ones(1, 1, dtype=torch.bool))
        torch.testing.assert_close(p[:, 0], distributions.unsqueeze(0).inter_time.cdf(ends.t()).t())
        torch.testing.assert_close(hazard[:, 0], -distributions.unsqueeze(0).log_survival(ends.t()).t())
