"""Draws and densities by compiled code are those of the ordinary distributions, and so are whole chains of events."""

from __future__ import annotations

import math
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from faster_passes import chain, head_of_compiled
from native_builds import compiled_wrong, needs_a_compiler
from scipy.special import log_ndtr, ndtri
from small_models import ENCODERS, attentive_model, random_sequence, small_model

import tppsd
from tppsd.backends.cpp.distribution import CompiledDistribution
from tppsd.backends.cpp.model import CompiledHeadTPP, DecodedEvents
from tppsd.models.distribution import NextEventDistribution, log_density_ratio
from tppsd.models.protocol import EventTokens
from tppsd.models.transformer_tpp import TransformerTPP

pytestmark = needs_a_compiler

TINY = torch.finfo(torch.float64).tiny


def distributions_of(model: TransformerTPP, *batch: int) -> tuple[CompiledDistribution, NextEventDistribution]:
    """The same distributions with compiled and with ordinary arithmetic."""
    context = torch.randn(*batch, 16, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        distribution: Any = tppsd.compile(model).distribution(context)
        assert isinstance(distribution, CompiledDistribution)
        return distribution, distribution.with_parts()


def uniforms_of(*shape: int) -> torch.Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)


@pytest.mark.parametrize("decoder", ["time_conditional", "independent"])
@pytest.mark.parametrize("num_marks", [1, 3, 50])
@pytest.mark.parametrize(
    ("of_distributions", "of_draws"),
    [
        ((4, 9), (4, 9)),
        ((4, 1), (4, 9)),
        ((4, 1, 3), (4, 9, 1)),
        ((4,), (9, 4)),
        ((4, 1, 1), (4, 2, 9)),
        ((0, 3), (0, 3)),
    ],
    ids=str,
)
def test_draws_and_densities_are_those_of_the_ordinary_distributions(
    decoder: str, num_marks: int, of_distributions: tuple[int, ...], of_draws: tuple[int, ...]
) -> None:
    compiled, ordinary = distributions_of(
        attentive_model("thp", num_marks=num_marks, mark_decoder=decoder, num_components=7), *of_distributions
    )
    uniforms = uniforms_of(*of_draws, 5)[..., 1:]  # views, and more numbers than are used
    (tau, marks), (expected_tau, expected_marks) = compiled.sample(uniforms), ordinary.sample(uniforms[..., :3])
    torch.testing.assert_close(tau, expected_tau, rtol=1e-12, atol=0)
    assert torch.equal(marks, expected_marks)
    torch.testing.assert_close(compiled.log_prob(tau, marks), ordinary.log_prob(tau, marks), rtol=0, atol=1e-11)


@pytest.mark.parametrize("decoder", ["time_conditional", "independent"])
def test_extreme_uniforms_and_inter_times(decoder: str) -> None:
    compiled, ordinary = distributions_of(attentive_model("thp", mark_decoder=decoder), 1)
    ends = torch.tensor([2.0**-53, 1e-9, 0.5, 1 - 2.0**-53], dtype=torch.float64)
    uniforms = torch.cartesian_prod(ends, ends, ends).view(-1, 1, 3)
    torch.testing.assert_close(compiled.sample(uniforms), ordinary.sample(uniforms), rtol=1e-12, atol=0)
    tau = torch.tensor(
        [[-1.0], [0.0], [5e-324], [TINY], [1e-300], [1e300], [math.inf], [math.nan]], dtype=torch.float64
    )
    marks = torch.zeros_like(tau, dtype=torch.int64)
    torch.testing.assert_close(
        compiled.log_prob(tau, marks)[:-2], ordinary.log_prob(tau, marks)[:-2], rtol=1e-12, atol=0
    )
    assert not (compiled.log_prob(tau, marks)[-2:] > -math.inf).any()


def of_a_standard_component() -> CompiledDistribution:
    """The distribution (1,) of the exponential of a standard normal variable."""
    model = attentive_model("thp", num_marks=1, num_components=1)
    model.set_statistics(tppsd.DataStatistics(1))
    compiled, _ = distributions_of(model, 1)
    with torch.inference_mode():
        compiled.parameters.zero_()
    return compiled


def test_normal_quantiles_are_right_to_the_last_digits() -> None:
    """Through the inter-times of a single standard component."""
    compiled = of_a_standard_component()
    levels = torch.cat(
        [torch.logspace(-16, -1, 999, dtype=torch.float64), torch.linspace(0.05, 0.95, 999, dtype=torch.float64)]
    )
    levels = torch.cat([levels, 1 - levels[:999]])
    uniforms = torch.stack([levels, levels, levels], -1).unsqueeze(1)
    tau, _ = compiled.sample(uniforms)
    expected = torch.from_numpy(-ndtri(levels.numpy()))
    torch.testing.assert_close(tau.squeeze(1).log(), expected, rtol=1e-14, atol=1e-15)


def test_compiled_distributions_select_join_and_compare_like_ordinary_ones() -> None:
    compiled, ordinary = distributions_of(attentive_model("thp"), 3, 4)
    rows, positions = torch.tensor([0, 2, 2]), torch.tensor([3, 0, 1])
    tau, marks = torch.tensor([0.3, 1.0, 7.0], dtype=torch.float64), torch.tensor([0, 2, 1])
    for select in (
        lambda own: own[rows, positions], lambda own: own[:, 1], lambda own: own.at(positions),
        lambda own: NextEventDistribution.cat([own[:, :1], own[:, 1:]], 1)[..., 2],
        lambda own: own.double().whole()[:, 0],
    ):  # fmt: skip
        found, expected = select(compiled), select(ordinary)
        assert isinstance(found, CompiledDistribution) and not isinstance(expected, CompiledDistribution)
        torch.testing.assert_close(found.log_prob(tau, marks), expected.log_prob(tau, marks), rtol=0, atol=1e-11)
    ratios = [
        log_density_ratio(distribution[:, 0], distribution[:, 1], tau, marks) for distribution in (compiled, ordinary)
    ]
    torch.testing.assert_close(*ratios, rtol=0, atol=1e-11)
    silence = torch.tensor([0.5, 0.0, 2.0], dtype=torch.float64)
    silent = [
        distribution[:, 0].truncated(silence)[torch.tensor([2, 0])].unsqueeze(1)
        for distribution in (compiled, ordinary)
    ]
    assert isinstance(silent[0], CompiledDistribution) and torch.equal(silent[0].elapsed, silence[[2, 0], None])
    torch.testing.assert_close(*(distribution.log_prob(tau, marks) for distribution in silent), rtol=0, atol=1e-11)
    torch.testing.assert_close(*(distribution.log_survival(tau) for distribution in silent), rtol=0, atol=1e-11)


@pytest.mark.parametrize("decoder", ["time_conditional", "independent"])
@pytest.mark.parametrize("scale", [0.0, 1e-12, 0.1, 1.0, 30.0, 1e4, 1e9], ids=str)
def test_draws_and_densities_after_a_silence(decoder: str, scale: float) -> None:
    """Also after one that is all but impossible: nothing is left of a density but its logarithm."""
    compiled, ordinary = distributions_of(attentive_model("thp", mark_decoder=decoder, num_components=7), 50, 1)
    silence = scale * uniforms_of(50, 1)
    distributions = [distribution.truncated(silence) for distribution in (compiled, ordinary)]
    (tau, marks), (expected_tau, expected_marks) = (
        distribution.sample(uniforms_of(50, 9, 3)) for distribution in distributions
    )
    assert (tau > silence).all()
    torch.testing.assert_close(tau, expected_tau, rtol=1e-10, atol=0)
    assert torch.equal(marks, expected_marks)
    earlier = torch.where(torch.arange(9) % 3 == 2, silence * uniforms_of(50, 9), tau)
    (found, expected) = (distribution.log_prob(earlier, marks) for distribution in distributions)
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)
    assert scale == 0 or (found[:, 2::3] == -math.inf).all()


def test_logarithms_of_the_normal_distribution_function() -> None:
    """Through the survival of a single standard component, where the parts of the formula meet and far beyond."""
    compiled = of_a_standard_component()
    z = torch.tensor([-40.0, -8.3, -1.0001, -0.9999, 0.0, 0.9999, 1.0001, 5.0, 9.9, 24.999, 25.001, 37.9, 60.0, 500.0])
    silence = z.double().exp().unsqueeze(1)
    later = (silence * 1.001).clamp_min(1e-10)
    density = compiled.log_prob(later, torch.zeros_like(later, dtype=torch.int64))
    found = density - compiled.expand(silence.shape).truncated(silence).log_prob(
        later, torch.zeros_like(later, dtype=torch.int64)
    )
    torch.testing.assert_close(
        found.squeeze(1), torch.from_numpy(log_ndtr(-z.double().numpy())), rtol=1e-13, atol=1e-12
    )


# --- chains of events -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "settings", [{}, {"max_context": 5}, {"num_marks": 1}, {"mark_decoder": "independent"}], ids=str
)
def test_a_chain_of_own_passes_is_its_events_drawn_one_by_one_to_the_last_bit(settings: dict[str, Any]) -> None:
    """Distributions and draws are native code's. (In other company eager passes themselves round in another way.)"""
    model = CompiledHeadTPP(attentive_model("thp", num_layers=2, **({"num_marks": 3} | settings)))
    with torch.inference_mode():
        found, expected = (chain(model, 40, is_silent=True, at_once=at_once) for at_once in (True, False))
    for got, wanted in zip(found, expected, strict=True):
        assert torch.equal(got, wanted)


@pytest.mark.parametrize("encoder", ENCODERS)
@pytest.mark.parametrize(
    "settings", [{}, {"max_context": 5}, {"num_marks": 1}, {"mark_decoder": "independent"}], ids=str
)
def test_a_chain_is_its_events_drawn_one_by_one_to_the_last_bit(encoder: str, settings: dict[str, Any]) -> None:
    """In any company, and on any number of threads."""
    model = tppsd.compile(attentive_model(encoder, num_layers=8, **({"num_marks": 3} | settings)))
    threads = torch.get_num_threads()
    with torch.inference_mode():
        draw = partial(chain, model, 40, is_silent=True)
        expected, found = draw(at_once=False), draw(at_once=True)
        alone = [torch.cat(parts) for parts in zip(*(draw(True, slice(i, i + 1)) for i in range(9)), strict=True)]
        try:
            torch.set_num_threads(3)
            beside = draw(at_once=True)
        finally:
            torch.set_num_threads(threads)
    for got, one, side, wanted in zip(found, alone, beside, expected, strict=True):
        assert torch.equal(got, wanted) and torch.equal(one, wanted) and torch.equal(side, wanted)


@pytest.mark.parametrize(
    ("compiled", "lengths"),
    [(tppsd.compile, [13] * 16 + [7] * 16 + [30] * 8), (CompiledHeadTPP, [7] * 40)],
    ids=["sixteen rows", "all rows"],
)
def test_a_chain_ends_with_the_first_row_that_wants_no_more(compiled: Any, lengths: list[int]) -> None:
    """Of the rows that are drawn together; what it has drawn is what it draws of longer chains. An event at the end is
    within."""
    model = compiled(attentive_model("thp", num_layers=8))
    rows, num, last = 40, 30, torch.zeros(40, dtype=torch.float64)
    never, many = torch.full_like(last, math.inf), torch.full((rows,), 99)

    def decode(ends: torch.Tensor, limits: torch.Tensor) -> DecodedEvents:
        cache = model.new_cache(rows, 3)
        start = torch.zeros(rows, 1, dtype=torch.int64)
        distribution = model.distribution(model.extend(EventTokens(start, start.double(), start.double()), cache))
        decoded: DecodedEvents = model.decode(distribution, cache, last, uniforms_of(rows, num, 3), False, ends, limits)
        assert torch.equal(cache.lengths, decoded.num) and decoded.parameters.shape[:2] == (rows, 1)
        return decoded

    with torch.inference_mode():
        whole = decode(never, many)
        assert (whole.num == num).all()
        ends, limits = never.clone(), many.clone()
        ends[2], limits[3], limits[20] = whole.times[2, 11], 20, 7
        decoded = decode(ends, limits)
    assert decoded.num.tolist() == lengths
    for row, length in enumerate(decoded.num.tolist()):
        assert torch.equal(decoded.times[row, :length], whole.times[row, :length])
        assert torch.equal(decoded.marks[row, :length], whole.marks[row, :length])


WRONG = {
    "component": ("cumulative[picked] < uniform * total", "cumulative[picked + 1] < uniform * total"),
    "survival": (" * -z;", " * z;"),
    "kept": (
        "log_kept(decoder, distribution, elapsed, &kept, &log_weights);\n  const",
        "log_kept(decoder, distribution, 1e-9, &kept, &log_weights);\n  const",
    ),
    "survival of a silence": ("std::log(uniforms[1]) + kept[component]", "std::log(uniforms[1])"),
    "density after a silence": ("log_time -= log_kept", "log_time += log_kept"),
    "silence of a chain": ("chain.elapsed && j == 0", "chain.elapsed && j == 1"),
    "silences of rows": ("chain.elapsed[row]", "chain.elapsed[first]"),
    "views of silences": ("third += steps", "third += 0 * steps"),
    "mark noise": ("uniforms[2])", "uniforms[0])"),
    "mark time": (
        "log_marks(decoder, distribution, inter_time), decoder",
        "log_marks(decoder, distribution, 1.0), decoder",
    ),
    "ReLU": ("hidden[i] = std::max(hidden[i], 0.0)", "hidden[i] += 0.0"),
    "density": ("exponents[m] = distribution[m] - log_stds[m]", "exponents[m] = distribution[m]"),
    "Jacobian": (" + std::log(decoder.log_std)", ""),
    "density of marks": ("log_time + log_marks", "log_time - log_marks"),
    "views": ("second += steps", "second += 0 * steps"),
    "times": ("(j ? chain.times[at - 1] : chain.last_times[row])", "chain.last_times[row]"),
    "tokens": ("chain.marks[at] + 1", "chain.marks[at]"),
    "positions": ("pass.lengths[row]++, pass.num_before[row]++", "pass.lengths[row]++"),
    "lengths": ("pass.lengths[row]++, pass.num_before[row]++", "pass.num_before[row]++"),
    "noise of rows": ("uniforms + (row * num + j) * num_uniforms", "uniforms + j * num_uniforms"),
    "groups": ("chain.distributions + first * chain.stride(decoder)", "chain.distributions"),
    "distributions of contexts from elsewhere": ("*chain, contexts, j, first", "*chain, contexts + (j == 1), j, first"),
}


def observed(model: TransformerTPP) -> list[torch.Tensor]:
    """Draws, densities and chains, of the library as it is."""
    distribution, _ = distributions_of(model, 9, 4)
    silent = distribution.truncated(torch.linspace(0, 3, 36, dtype=torch.float64).view(9, 4))
    (tau, marks), (later, later_marks) = distribution.sample(uniforms_of(9, 4, 3)), silent.sample(uniforms_of(9, 4, 3))
    densities = [distribution.log_prob(tau, marks), silent.log_prob(later, later_marks)]
    chains: list[torch.Tensor] = []
    for compiled in (tppsd.compile(model), head_of_compiled(model)):
        with torch.inference_mode():
            chains += chain(compiled, 8, at_once=True, is_silent=True)
    return [tau, marks, later, *densities, *chains]


def difference_to_wrong(right: str, wrong: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> float:
    """The largest one, with the same model."""
    torch.manual_seed(0)
    model = attentive_model("rotary")  # which looks at positions
    expected = observed(model)
    compiled_wrong(right, wrong, folder, monkeypatch)
    return max(float((got - known).abs().max()) for got, known in zip(observed(model), expected, strict=True))


def test_a_build_with_nothing_wrong_is_not_told_from_the_right_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the tests of wrong ones compare with: other groups of rows and no flags for this processor."""
    assert difference_to_wrong("struct Chain", "struct Chain", tmp_path, monkeypatch) < 1e-3


@pytest.mark.parametrize("name", WRONG)
def test_wrong_distributions_and_chains_are_told_from_right_ones(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By what is compared above, within 1e-11 or to the last bit."""
    assert difference_to_wrong(*WRONG[name], tmp_path, monkeypatch) > 0.01


@pytest.mark.parametrize("until", [{"num_events": 25}, {"t_end": 30.0}, {"t_end": 30.0, "max_events": 18}], ids=str)
@pytest.mark.parametrize("continues", [False, True])
@pytest.mark.filterwarnings("ignore:.*reached max_events")
def test_compiled_autoregressive_samples_do_not_depend_on_the_batch(until: dict[str, Any], continues: bool) -> None:
    """To the last bit, also after a silence. A step is an event."""
    model = small_model("rotary", dtype=torch.float32, num_layers=3)
    arguments: dict[str, Any] = {
        "method": "autoregressive", "history": [random_sequence(n, seed=n) for n in (0, 3, 12)] if continues else None,
        "num_sequences": 7, "return_log_probs": True, "compile": True, "seed": 4,
    }  # fmt: skip
    expected, *others = (tppsd.sample(model, batch_size=size, **arguments, **until) for size in (1, 3, 21))
    plain = tppsd.sample(model, **(arguments | until | {"compile": False}))
    columns = ("flat_event_times", "flat_marks", "flat_log_probs", "offsets", "truncated")
    for samples, tolerance in ((others[0], 0), (others[1], 0), (plain, 1e-2)):
        for name in columns:
            torch.testing.assert_close(getattr(samples, name), getattr(expected, name), rtol=tolerance, atol=tolerance)
        assert samples.stats.num_rounds == expected.stats.num_rounds


def test_a_compiled_fixed_point_without_tolerance_accepts_what_it_draws_again() -> None:
    model = small_model("thp", dtype=torch.float32)
    plain, fast = (
        tppsd.sample(model, method="fixed_point", tolerance=0.0, num_events=200, draft_length=8, compile=compile)
        for compile in (False, True)
    )
    assert plain.stats.exact and fast.stats.exact
    assert plain.stats.num_rounds < 160 and fast.stats.num_rounds < 160, "200 where nothing is accepted"
