"""Inputs at the edge: nothing hangs, nothing is lost, and the distribution stays the target's."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from goodness import chi_square_p, judge
from native_builds import needs_a_compiler
from small_models import ENCODERS, random_sequence
from stubs import StubTPP, lively_transformer

from tppsd.data.batch import EventBatch
from tppsd.data.sequences import EventSequence
from tppsd.data.statistics import DataStatistics
from tppsd.metrics.functional import SequenceResiduals, carry_over, ks_exponential
from tppsd.models.mixture import LOG_STD_RANGE
from tppsd.models.transformer_tpp import TransformerTPP
from tppsd.processes.event_model import ProcessModel
from tppsd.processes.hawkes import Hawkes
from tppsd.sampling import rules
from tppsd.sampling.sample import sample

RULES = ("joint", "factorised", "block")
WIDE = torch.tensor([1e-9, 1.0, 1e-9, 1e9, 1e-9, 1e-3, 1e6, 1e-6], dtype=torch.float64)


@pytest.mark.parametrize("method", ["autoregressive", *RULES])
@pytest.mark.parametrize("encoder", ENCODERS)
def test_inter_times_of_18_orders_of_magnitude_in_one_history(encoder: str, method: str) -> None:
    """The history's inter-times are those given, not differences of its times, in which 1e-9 is lost after 1e9; so are
    the new ones. Log-densities equal those of an uncached pass over the returned sequence."""
    history = replace(EventSequence.of(WIDE.cumsum(0), [0, 1, 2, 0, 1, 2, 0, 1], t_start=0.0), inter_times=WIDE)
    model = lively_transformer(3, encoder, seed=0)
    model.set_statistics(DataStatistics(3, log_mean=0.0, log_std=8.0, time_scale=1e8))
    draft: Any = None
    if method != "autoregressive":
        draft = lively_transformer(3, "thp", seed=1, num_layers=1)
        draft.set_statistics(model.statistics)
    options = {"method": "autoregressive"} if draft is None else {"rule": method, "draft_length": 4}
    samples = sample(model, draft, history=history, num_sequences=20, num_events=15, return_log_probs=True, **options)
    taus = samples.flat_inter_times
    assert taus.min() < 1e-6 and taus.max() > 1e6 and (taus > 0).all()
    assert (samples.flat_event_times >= history.window_end).all()
    assert samples.log_probs is not None
    for i, whole in enumerate(samples.with_history()):
        assert torch.equal(whole.inter_times[8:], taus[15 * i : 15 * i + 15])
        batch = EventBatch.from_sequences([whole])
        with torch.inference_mode():
            expected = model(batch)[0, 8:-1].log_prob(batch.inter_times[0, 8:], batch.marks[0, 8:])
        # times since the start are accumulated in another order, to a relative 1e-16 of 1e9 and more
        torch.testing.assert_close(samples.log_probs[i], expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("compile", [False, pytest.param(True, marks=needs_a_compiler)])
@pytest.mark.parametrize("draft", [None, "model", "self"])
@pytest.mark.parametrize("end", [{"num_events": 1}, {"t_end": 9.0, "max_events": 1}], ids=["num_events", "max_events"])
@pytest.mark.filterwarnings("ignore:4 of 4 sequences reached max_events")
def test_one_event_that_is_given_leaves_none_to_draw(end: dict[str, Any], draft: str | None, compile: bool) -> None:
    """A sequence of one event is that event, where sequences begin with their first one."""
    target, other = (TransformerTPP(2, embed_dim=16, num_heads=2, num_components=4).eval() for _ in range(2))
    statistics = DataStatistics.of([EventSequence.of([1.0, 2.0, 2.5], [0, 1, 0])], 2)
    target.set_statistics(statistics), other.set_statistics(statistics)
    options: dict[str, Any] = {} if draft is None else {"draft_length": 3}
    samples = sample(target, other if draft == "model" else draft, num_sequences=4, compile=compile, **end, **options)
    assert len(samples.flat_event_times) == 0
    assert [len(sequence) for sequence in samples] == [1] * 4


def test_tiny_inter_times_at_a_late_time_keep_their_distribution() -> None:
    """At t = 1e9 the spacing of float64 is 1e-7; inter-times of 1e-9 are drawn, carried and scored all the same."""
    target = StubTPP.constant(math.log(1e-9), 1.0, [0.5, 0.5])
    draft = StubTPP.constant(math.log(2e-9), 1.0, [0.7, 0.3])
    history = EventSequence.of([], t_start=1e9)
    samples = sample(
        target, draft, history=history, num_sequences=4000, num_events=3, draft_length=2, batch_size=4000, seed=1
    )
    assert judge(target, history, samples) > 1e-4
    assert (samples.flat_event_times >= 1e9).all()
    assert (torch.diff(samples.flat_event_times.view(-1, 3), dim=1) >= 0).all()


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("bias", [-50.0, 50.0])
def test_standard_deviations_at_their_clamps(bias: float, rule: Any) -> None:
    """Spikes, which the draft hardly ever hits, and distributions over hundreds of orders of magnitude."""
    target, draft = (lively_transformer(3, "thp", seed=seed) for seed in (0, 1))
    for model in (target, draft):
        with torch.no_grad():
            model.decoder.to_mixture.bias[-3:] = bias
            model.decoder.to_mixture.weight[-3:] = 0.0
    history = random_sequence(3, seed=0)
    with torch.inference_mode():
        stds = target(EventBatch.from_sequences([history])).inter_time.log_stds
    assert (stds == (LOG_STD_RANGE[0] if bias < 0 else LOG_STD_RANGE[1])).all()
    samples = sample(
        target, draft, history=history, num_sequences=2000, num_events=3, rule=rule, draft_length=2, batch_size=2000
    )
    assert judge(target, history, samples) > 1e-4


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("same", [True, False])
def test_one_hot_marks(same: bool, rule: Any) -> None:
    """Target and draft each allow one mark after each history: the same, or another, of which none is ever accepted."""
    target = StubTPP.constant(0.0, 1.0, [0.2, 0.5, 0.3])
    target = replace(target, levels=torch.tensor([-torch.inf, 0.0, -torch.inf], dtype=torch.float64))
    draft = replace(
        StubTPP.constant(0.3, 1.0, [0.2, 0.5, 0.3]), levels=target.levels if same else target.levels.roll(1)
    )
    samples = sample(target, draft, num_sequences=200, num_events=4, rule=rule, draft_length=3, batch_size=200)
    assert (samples.flat_marks == 1).all()
    assert (samples.stats.num_accepted > 0) == same


def test_a_mark_that_only_the_draft_allows_or_only_the_target() -> None:
    """Levels of -inf on one side: their ratio is 0 or infinite. False alarms 1e-4 each."""
    probs = torch.tensor([0.5, 0.5, 0.0], dtype=torch.float64)
    target = replace(StubTPP.constant(0.0, 1.0, [1.0] * 3), levels=probs.log())
    draft = replace(target, levels=probs.roll(1).log())
    for rule in RULES:
        samples = sample(target, draft, num_sequences=1500, num_events=4, rule=rule, draft_length=3, batch_size=1500)
        counts = torch.bincount(samples.flat_marks, minlength=3)
        assert counts[2] == 0
        assert chi_square_p(counts[:2], torch.tensor([3000.0, 3000.0])) > 1e-4
        assert 0.3 < samples.stats.step_acceptance < 0.7


@pytest.mark.parametrize("rule", RULES)
def test_distributions_that_differ_by_rounding_only(rule: Any) -> None:
    """In float32 a draft equal to the target is rejected about once in 10^7 events, and its loop must end all the
    same."""
    target = StubTPP.random(3, seed=0)
    draft = replace(target, means=target.means + 1e-6)
    stats = sample(target, draft, num_sequences=500, num_events=40, rule=rule, draft_length=8, batch_size=500).stats
    assert stats.step_acceptance > 0.9999


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("encoder", ENCODERS)
def test_a_drafted_inter_time_beyond_the_range_of_float64_does_not_hang(encoder: str, rule: Any) -> None:
    """Distributions so wide that exp overflows: an infinite time in a drafted event would make every distribution of
    the pass NaN."""
    models = [lively_transformer(2, encoder, seed=seed) for seed in (0, 1)]
    for model in models:
        model.set_statistics(DataStatistics(2, log_mean=0.0, log_std=400.0, time_scale=1.0))
    samples = sample(*models, num_sequences=50, num_events=10, rule=rule, draft_length=4)
    assert torch.isfinite(samples.flat_event_times).all() and (samples.flat_inter_times > 0).all()
    assert samples.flat_inter_times.max() > 1e290


@pytest.mark.parametrize("rule", RULES)
def test_distributions_that_are_not_numbers_are_an_error_not_an_endless_loop(rule: Any) -> None:
    """Finite weights whose products overflow."""
    target = StubTPP.random(2, seed=0)
    broken = replace(target, means=target.means * torch.nan)
    with pytest.raises(RuntimeError, match="are not densities"):
        sample(broken, target, num_sequences=3, num_events=5, rule=rule)
    with pytest.raises(RuntimeError, match="is not a number"):
        sample(broken, num_sequences=3, t_end=5.0)


@pytest.mark.parametrize("compile", [False, "auto"])
def test_weights_that_overflow_are_named(compile: Any) -> None:
    """Finite ones, whose product with a context is not."""
    model = TransformerTPP(3, embed_dim=8, num_heads=2, num_layers=1, num_components=4).eval()
    with torch.no_grad():
        model.decoder.to_mixture.weight.fill_(3e38)
        model.decoder.to_mixture.weight[::2] *= -1
    with pytest.raises(RuntimeError, match=r"overflow \(its largest weight is 3e\+38, in the parameter decoder.to_mix"):
        sample(model, num_events=5, compile=compile)


def test_a_default_device_without_values_is_refused() -> None:
    with torch.device("meta"), pytest.raises(ValueError, match="default device is meta, on which nothing has a value"):
        sample(StubTPP.random(2, seed=0), num_events=5)


@pytest.mark.parametrize("rule", ["linear", "mean"])
def test_nor_are_they_endless_for_several_candidates(rule: Any) -> None:
    target = StubTPP.random(2, seed=0)
    broken = replace(target, means=target.means * torch.nan)
    for models in ((broken, target), (target, broken)):
        with pytest.raises(RuntimeError, match="is not a number"):
            sample(*models, num_sequences=3, num_events=5, rule=rule, candidates=3)


def test_a_loop_that_keeps_nothing_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """A draft that claims a density of e times the target's everywhere: no proposal has an excess."""
    monkeypatch.setattr(rules, "MAX_PROPOSALS", 10_000)
    target = StubTPP.constant(0.0, 1.0, [0.5, 0.5])
    draft = replace(target, log_weights=target.log_weights + 1.0)
    with pytest.raises(RuntimeError, match=r"no proposal of 1\d{4} was kept"):
        sample(target, draft, method="speculative", num_sequences=3, num_events=5)


HAWKES = Hawkes([0.4, 0.2], [[0.5, 0.3], [0.1, 0.6]], 1.5)


@pytest.mark.parametrize("method", ["autoregressive", "joint", "factorised", "self"])
def test_a_process_is_sampled_exactly_by_every_method(method: str) -> None:
    """A multivariate Hawkes process as target, another as draft, after a silence: its own residuals are Exp(1), and the
    number of events agrees with exact simulation. False alarms 2e-4 per method."""
    draft = ProcessModel(Hawkes([0.3, 0.5], [[0.4, 0.1], [0.4, 0.4]], 1.0))
    options = {
        "autoregressive": {"method": "autoregressive"},
        "self": {"method": "speculative", "draft_length": 3},
    }.get(method, {"draft": draft, "rule": method, "draft_length": 3})
    history = EventSequence.of([0.5, 0.6, 1.5], [0, 1, 1], t_start=0.0, t_end=3.0)
    samples = sample(
        ProcessModel(HAWKES), history=history, num_sequences=300, t_end=15.0, batch_size=100, seed=2, **options
    )
    residuals = []
    for i, whole in enumerate(samples.with_history()):
        gaps, leftover = HAWKES.residuals(whole)
        new = gaps[3:].clone()
        known = float(HAWKES.residuals(history)[1])
        if len(new):
            new[0] -= known
        residuals.append(SequenceResiduals(i, new, leftover - (0.0 if len(new) else known)))
    assert len(samples.flat_marks) > 1500
    assert ks_exponential(carry_over(residuals)).p_value > 1e-4
    by_mark = torch.bincount(samples.flat_marks, minlength=2)
    expected = torch.zeros(2, dtype=torch.float64)
    for whole in samples.with_history():  # sum of f(k | history, tau) over events: what marks would be on average
        states = HAWKES.intensity(whole, whole.event_times[3:])
        expected += (states / states.sum(-1, keepdim=True)).sum(0)
    assert abs(float(by_mark[0] - expected[0])) < 4 * math.sqrt(float(by_mark.sum()) / 4)


def test_autocast_leaves_the_densities_alone() -> None:
    """Under bfloat16 autocast the contexts lose digits, the heads and the rules do not: the draft equal to the target
    is accepted but for the contexts' own rounding, and every log-density is finite."""
    torch.manual_seed(0)
    model = TransformerTPP(3, embed_dim=16, num_heads=2, num_components=4).eval()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        samples = sample(model, model, num_sequences=20, num_events=20, draft_length=4, return_log_probs=True)
    assert samples.flat_event_times.dtype == torch.float64 and samples.flat_log_probs is not None
    assert torch.isfinite(samples.flat_log_probs).all()
    assert samples.stats.step_acceptance > 0.9
