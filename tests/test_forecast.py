"""Forecasts: estimates against closed forms and plain paths, wrong ones that are found out, and what the object
promises."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from small_models import attentive_model, random_sequence
from torch import Tensor

import tppsd
from tppsd.data.sequences import EventSequence
from tppsd.data.statistics import DataStatistics
from tppsd.forecasting import first_events, step_sums
from tppsd.forecasting.estimators import Estimate, mean_estimate
from tppsd.forecasting.first_events import FirstEvents
from tppsd.forecasting.forecast import Forecast, forecast
from tppsd.forecasting.path_events import PathEvents
from tppsd.forecasting.paths import PathSampler
from tppsd.forecasting.step_sums import StepSums
from tppsd.processes import Hawkes

HORIZON, BETA = 3.0, 1.5
# marks 0 and 1 come on their own and excite mark 1 only by its own past; mark 2 is rare
PROCESS = Hawkes([0.5, 0.3, 0.02], [[0.0, 0.0, 0.0], [0.0, 0.8, 0.0], [0.0, 0.0, 0.0]], BETA)
HISTORY = EventSequence.of([0.5, 1.0, 1.4], [0, 1, 1], t_start=0.0, t_end=2.0)
MODEL = attentive_model("thp", num_marks=4)
HISTORIES = [random_sequence(n, 4, seed=n) for n in (0, 3, 12)]  # each observed half a unit after its last event
RARE = 1e-6  # false alarms: |z| below 4.9


def excitation(history: EventSequence) -> float:
    """Excess of mark 1's intensity at the end of a history."""
    own = history.event_times[history.marks == 1]
    return float((0.8 * torch.exp(-BETA * (history.window_end - own))).sum())


def true_probability(history: EventSequence, within: float) -> Tensor:
    """P(an event of mark 0, 1, 2 within): until its first event, each intensity is deterministic."""
    integrals = torch.tensor([0.5, 0.3, 0.02], dtype=torch.float64) * within
    integrals[1] += excitation(history) * -math.expm1(-BETA * within) / BETA
    return -torch.expm1(-integrals)


def true_count(history: EventSequence, within: float) -> Tensor:
    """E N of marks 0, 1, 2: the mean intensity of mark 1 falls as exp(-(beta - alpha) t) to its level."""
    kappa, counts = BETA - 0.8, torch.tensor([0.5, 0.3, 0.02], dtype=torch.float64) * within
    level = 0.3 * 0.8 / kappa  # of the mean excitation
    counts[1] += level * within + (excitation(history) - level) * -math.expm1(-kappa * within) / kappa
    return counts


ESTIMATORS = ("control_variates", "step_sum", "frequency")


@pytest.fixture(scope="module")
def of_process() -> Forecast:
    return forecast(PROCESS, HISTORY, HORIZON, num_paths=4000, bins=3, batch_size=4000)


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_estimates_agree_with_the_closed_forms_of_a_hawkes_process(of_process: Forecast, estimator: Any) -> None:
    for within in (1.0, HORIZON):
        without = of_process.probability(2, within, estimator="without")  # until then it is a constant rate
        torch.testing.assert_close(without.value[0], true_probability(HISTORY, within)[2], rtol=1e-9, atol=0)
        found = of_process.probability(within=within, estimator=estimator)
        assert found.value.shape == (1, 4)
        error = found.value[0, :3] - true_probability(HISTORY, within)
        assert (error.abs() / found.standard_error[0, :3] < 4.9).all()
    counts = of_process.expected_counts(estimator=estimator)
    assert counts.value.shape == (1, 4, 3)
    at = torch.stack([true_count(HISTORY, t) for t in (0.0, 1.0, 2.0, 3.0)], -1).diff(dim=-1)
    error, least = counts.value[0, :3] - at, counts.standard_error[0, :3].clamp_min(1e-9)
    assert (error.abs() / least < 4.9).all()


def test_the_default_is_never_less_precise_and_far_more_so_for_what_is_rare(of_process: Forecast) -> None:
    of = {name: of_process.probability(estimator=name).standard_error for name in ESTIMATORS}  # type: ignore[arg-type]
    ratio = (of["frequency"] / of["control_variates"]).square()[0]
    assert (ratio > 0.98).all() and float(ratio[2]) > 30  # of mark 2: 120 of 4,000 paths
    counts = {name: of_process.expected_counts(estimator=name).standard_error for name in ESTIMATORS}  # type: ignore[arg-type]
    assert (counts["control_variates"] < 1.01 * counts["frequency"]).all()


def test_first_events_leave_half_of_the_variance_and_are_left_out_where_few(monkeypatch: pytest.MonkeyPatch) -> None:
    """A Hawkes process of one mark that excites itself: whether the next event is followed depends on when it comes."""
    process = Hawkes([0.5], [[3.0]], 6.0)
    few = forecast(process, HISTORIES[0], 1.0, num_paths=400)  # of which 160 have an event: of 199 none is used
    many = forecast(process, HISTORIES[0], 1.0, num_paths=2000)
    variances = []
    for least in (0.0, math.inf):
        monkeypatch.setattr(first_events, "_FEWEST", least)
        variances.append(many.expected_counts().standard_error.square())
    assert (variances[0] < 0.6 * variances[1]).all()
    monkeypatch.undo()
    assert torch.equal(many.expected_counts().standard_error.square(), variances[0])
    assert not few._paths.with_sums(few.sets, [1.0]).first_events([1.0]).any()


@pytest.mark.parametrize("how", ["compiled", "eager", "speculative", "tree", "fixed point"])
def test_estimates_agree_with_plain_paths_of_a_transformer(how: str) -> None:
    """The plain ones are 6,000 others; every way to sample hands over the distributions of its steps."""
    ways: dict[str, dict[str, Any]] = {
        "compiled": {"options": tppsd.SamplingOptions("autoregressive")},
        "eager": {"options": tppsd.SamplingOptions("autoregressive", compile=False)},
        "speculative": {
            "draft": attentive_model("rotary", num_marks=4),
            "options": tppsd.SamplingOptions(draft_length=3),
        },
        "tree": {"draft": attentive_model("rotary", num_marks=4), "options": tppsd.SamplingOptions(candidates=(2, 2))},
        "fixed point": {"options": tppsd.SamplingOptions("fixed_point", 4)},
    }
    found = forecast(MODEL, HISTORIES, HORIZON, num_paths=600, bins=2, seed=1, **ways[how])
    plain = forecast(MODEL, HISTORIES, HORIZON, num_paths=6000, bins=2, seed=2, batch_size=500)
    for question in (lambda f, e: f.probability(estimator=e), lambda f, e: f.expected_counts(estimator=e)):
        ours, theirs = question(found, "control_variates"), question(plain, "frequency")
        error = (ours.standard_error.square() + theirs.standard_error.square()).sqrt()
        assert ((ours.value - theirs.value).abs() / error < 4.9).all()


def test_the_process_without_the_marks_says_the_same_with_less_variance() -> None:
    """Path by path its probability is the chance that the path had none of the marks, given all else."""
    found = forecast(MODEL, HISTORIES, HORIZON, num_paths=1500, batch_size=500)
    for marks in (1, [0, 2]):
        without, share = (found.probability(marks, 2.0, estimator) for estimator in ("without", "frequency"))
        assert without.estimator == "process without the marks"
        assert (without.standard_error < 1.05 * share.standard_error).all()
        error = (without.standard_error.square() + share.standard_error.square()).sqrt()
        assert ((without.value - share.value).abs() / error < 4.9).all()


# --- wrong sums -------------------------------------------------------------------------------------------------------


def largest_z() -> float:
    """Return the largest score of the means of all martingales of a forecast after two units without an event."""
    histories = [history.prefix(len(history), history.window_end + 1.5) for history in HISTORIES[1:]]
    found = forecast(MODEL, histories, HORIZON, num_paths=3000, bins=2, batch_size=500)
    sums = found._paths.with_sums(found.sets, found.edges.tolist()).sums
    largest = 0.0
    for values in (sums.totals, sums.until_first):
        for expected in (values.probabilities, values.hazards):
            gaps = (values.events - expected).cumsum(-1).view(2, 3000, 5, 2)
            largest = max(largest, float((gaps.mean(1) / gaps.std(1).clamp_min(1e-12) * 3000**0.5).abs().max()))
    first = found._paths.with_sums(found.sets, found.edges.tolist()).first_events(found.edges[1:].tolist())
    assert first.shape == (3000, 2, 2, 3)
    return max(largest, float((first.mean(0) / first.std(0).clamp_min(1e-12) * 3000**0.5).abs().max()))


def test_sums_over_steps_and_first_events_have_the_mean_0() -> None:
    assert largest_z() < 4.9


def forgets_the_stop(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(StepSums, "_is_before", lambda self, path, hits: torch.ones_like(hits))


def forgets_the_truncation(patch: pytest.MonkeyPatch) -> None:
    right = step_sums.mark_integrals
    patch.setattr(
        step_sums, "mark_integrals", lambda distributions, ends, sets: right(distributions.whole(), ends, sets)
    )


def integrates_from_zero_after_w(patch: pytest.MonkeyPatch) -> None:
    right = StepSums.add

    def wrong(self: StepSums, steps: Any) -> None:
        observed = self._observed[steps.request.clamp_min(0)].unsqueeze(1)
        right(self, steps._replace(starts=torch.maximum(steps.starts, observed)))

    patch.setattr(StepSums, "add", wrong)


def forgets_the_silence_before_the_first_event(patch: pytest.MonkeyPatch) -> None:
    right = FirstEvents.add
    patch.setattr(
        FirstEvents, "add", lambda self, path, laws, ends, times: right(self, path, laws.whole(), ends, times)
    )


def takes_every_event_for_the_first(patch: pytest.MonkeyPatch) -> None:
    right = FirstEvents.add

    def wrong(self: FirstEvents, path: Tensor, laws: Any, ends: Tensor, times: Tensor) -> None:
        self._is_new[path] = times <= ends[:, -1]
        right(self, path, laws, ends, times)

    patch.setattr(FirstEvents, "add", wrong)


def forgets_the_step_until_the_horizon(patch: pytest.MonkeyPatch) -> None:
    right = StepSums.add
    patch.setattr(StepSums, "add", lambda self, steps: right(self, steps._replace(num_steps=steps.num_events)))


WRONG: dict[str, Callable[[pytest.MonkeyPatch], None]] = {
    "forgets the truncation": forgets_the_truncation,
    "integrates from 0 after w": integrates_from_zero_after_w,
    "forgets the step until the horizon": forgets_the_step_until_the_horizon,
    "forgets the silence before the first event": forgets_the_silence_before_the_first_event,
    "takes every event for the first": takes_every_event_for_the_first,
}


@pytest.mark.parametrize("wrong", WRONG)
def test_wrong_sums_have_another_mean(wrong: str, monkeypatch: pytest.MonkeyPatch) -> None:
    WRONG[wrong](monkeypatch)
    assert largest_z() > 6


def test_a_probability_that_forgets_the_stop_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its sums are those of the expected count: martingales still, but of something else."""
    forgets_the_stop(monkeypatch)
    found = forecast(PROCESS, HISTORY, HORIZON, num_paths=2000, batch_size=2000).probability(estimator="step_sum")
    assert float(found.value[0, 1] - true_probability(HISTORY, HORIZON)[1]) > 6 * float(found.standard_error[0, 1])


# --- calibration ------------------------------------------------------------------------------------------------------


def test_intervals_of_95_percent_cover_in_93_to_97_percent() -> None:
    """Over 400 histories and two marks, each with its own closed form."""
    histories = []
    for i in range(400):
        times = (
            2.0 * torch.rand(1 + i % 5, generator=torch.Generator().manual_seed(i), dtype=torch.float64).sort().values
        )
        histories.append(EventSequence.of(times, torch.arange(1 + i % 5) % 2, t_start=0.0, t_end=2.0 + 0.1 * (i % 4)))
    found = forecast(PROCESS, histories, 1.5, num_paths=150, batch_size=4000)
    truths = torch.stack([true_probability(history, 1.5)[:2] for history in histories])
    counts = torch.stack([true_count(history, 1.5)[:2] for history in histories])
    for estimator in ESTIMATORS:
        inside = []
        probability = found.probability(estimator=estimator)  # type: ignore[arg-type]
        count = found.expected_counts(estimator=estimator)  # type: ignore[arg-type]
        for estimate, truth in ((probability, truths), (count, counts.unsqueeze(-1))):
            low, high = (end[:, :2] for end in estimate.interval(0.95))
            inside.append((low <= truth) & (truth <= high))
        covered = float(torch.cat([part.flatten() for part in inside]).double().mean())
        assert 0.93 <= covered <= 0.97, (estimator, covered)


# --- the next event ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("target", [MODEL, PROCESS], ids=["transformer", "process"])
def test_the_next_event_needs_no_path_and_agrees_with_them(target: Any) -> None:
    histories = HISTORIES if target is MODEL else [HISTORY]
    levels = (0.1, 0.5, 0.9)
    found = forecast(target, histories, HORIZON)
    next_time, next_mark = found.next_time(levels), found.next_mark()
    assert not found._paths.kept, "nothing was sampled"
    num = 4000
    paths = tppsd.sample(target, history=histories, num_sequences=num, num_events=1, seed=5, batch_size=1000)
    ends = torch.tensor([history.window_end for history in histories], dtype=torch.float64).repeat_interleave(num)
    times = (paths.flat_event_times - ends).view(len(histories), num)
    share = (times.unsqueeze(-1) <= next_time.quantiles.unsqueeze(1)).double().mean(1)
    level = torch.tensor(levels, dtype=torch.float64)
    assert ((share - level).abs() / (level * (1 - level) / num).sqrt() < 4.9).all()
    cap = min(next_time.mean_cap, 1e9)
    capped = times.clamp_max(cap)
    assert ((capped.mean(1) - next_time.mean).abs() / (capped.std(1) / num**0.5) < 4.9).all()
    marks = torch.nn.functional.one_hot(paths.flat_marks.view(len(histories), num), target.num_marks).double().mean(1)
    assert ((marks - next_mark).abs() / (next_mark * (1 - next_mark) / num).sqrt() < 4.9).all()
    at = torch.tensor([0.0, 0.3, 1.7], dtype=torch.float64)
    slope = (next_time.survival(at) - next_time.survival(at + 1e-6)) / 1e-6
    torch.testing.assert_close(next_time.density(at + 5e-7), slope, rtol=1e-4, atol=1e-7)
    torch.testing.assert_close(next_time.survival([0.0]), torch.ones(len(histories), 1, dtype=torch.float64))


# --- the object -------------------------------------------------------------------------------------------------------


# --- several events, densities, the mark at a time; |z| < 4.9 is a false alarm once in a million --------------------

POISSON = Hawkes([0.9, 0.4], 0.0, 1.0)


def scores(found: Estimate, expected: Tensor, errors: Tensor | float = 0.0) -> float:
    """Return the largest score of the differences, both standard errors and 1e-6 for integrals counted."""
    spread = (found.standard_error.square() + torch.as_tensor(errors).square() + 1e-12).sqrt()
    return float(((found.value - expected) / spread).abs().max())


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_several_events_are_as_probable_as_counts_of_poisson(estimator: Any) -> None:
    found = forecast(POISSON, HISTORY, HORIZON, num_paths=3000, marks=[1], batch_size=3000)
    for n in (1, 2, 3):
        rates = torch.tensor([[0.4, 1.3]], dtype=torch.float64) * HORIZON
        below = sum(torch.exp(-rates) * rates**j / math.factorial(j) for j in range(n))
        assert scores(found.probability(estimator=estimator, at_least=n), 1 - below) < 4.9
    within = found.probability(1, within=1.0, estimator=estimator, at_least=2)
    assert scores(within, torch.tensor([1 - math.exp(-0.4) * 1.4])) < 4.9
    with pytest.raises(ValueError, match="estimator = 'without' is unknown here"):
        found.probability(1, estimator="without", at_least=2)
    with pytest.raises(ValueError, match="at_least = 0"):
        found.probability(1, at_least=0)


def largest_score_of_several() -> float:
    """Step sums and the default against shares of other paths, of a transformer after two units without an event."""
    histories = [history.prefix(len(history), history.window_end + 1.5) for history in HISTORIES[1:]]
    found = forecast(MODEL, histories, HORIZON, num_paths=1500, marks=[0, [1, 2]], batch_size=500)
    plain = forecast(MODEL, histories, HORIZON, num_paths=4000, marks=[0, [1, 2]], batch_size=500, seed=1)
    largest = 0.0
    counts = PathEvents.of(plain).counts(plain.sets, [HORIZON], 4).squeeze(-1)
    for n in (2, 3):
        share = mean_estimate((counts >= n).double())
        for estimator in ("step_sum", "control_variates"):
            own = found.probability(estimator=estimator, at_least=n)  # type: ignore[arg-type]
            largest = max(largest, scores(own, share.value, share.standard_error))
    return largest


def takes_the_event_after(self: StepSums, path: Tensor, hits: Tensor) -> Tensor:
    """Take the steps after n events for those that may end with the n-th."""
    earlier = hits.long().cumsum(1) - hits.long()
    return earlier + self._num_hits[path].unsqueeze(1) == self.order


def test_several_events_of_a_transformer_agree_with_plain_paths(monkeypatch: pytest.MonkeyPatch) -> None:
    assert largest_score_of_several() < 4.9
    monkeypatch.setattr(StepSums, "_is_before", takes_the_event_after)
    assert largest_score_of_several() > 6


def density_against_shares(marks: Any) -> float:
    """The density, integrated over bins by midpoints, against the share of first events there in other paths."""
    histories = [history.prefix(len(history), history.window_end + 1.5) for history in HISTORIES[1:]]
    edges = torch.linspace(0.0, HORIZON, 6, dtype=torch.float64)
    width = HORIZON / 60
    middles = (torch.arange(60, dtype=torch.float64) + 0.5) * width
    found = forecast(MODEL, histories, HORIZON, num_paths=800, batch_size=400).first_time_density(marks, middles)
    mass = found.value.view(2, 5, 12).sum(-1) * width
    error = found.standard_error.view(2, 5, 12).sum(-1) * width  # no smaller than that of the sum
    plain = forecast(MODEL, histories, HORIZON, num_paths=4000, marks={"own": marks}, batch_size=500, seed=1)
    first = plain.first_times[..., 0]
    share = torch.stack([((first > a) & (first <= b)).double().mean(0) for a, b in itertools.pairwise(edges)], 1)
    spread = (share * (1 - share) / 4000 + error.square() + 1e-6).sqrt()  # 0.001: of the midpoint rule
    return float(((mass - share) / spread).abs().max())


def test_the_density_of_the_first_event_is_that_of_plain_paths(monkeypatch: pytest.MonkeyPatch) -> None:
    assert density_against_shares([1, 2]) < 4.9
    right = step_sums.event_densities
    with monkeypatch.context() as patch:  # forgets that nothing came until w
        patch.setattr(step_sums, "event_densities", lambda laws, *rest: right(laws.whole(), *rest))
        assert density_against_shares([1, 2]) > 6
    monkeypatch.setattr(StepSums, "_is_before", lambda self, path, hits: torch.ones_like(hits))  # forgets the stop
    monkeypatch.setattr(PathSampler, "_also", lambda self, stops: self.stop_marks)
    assert density_against_shares([1, 2]) > 6


def test_the_density_of_the_first_event_of_poisson_is_exponential() -> None:
    times = torch.tensor([0.2, 1.0, 2.9], dtype=torch.float64)
    for marks, rate in ((1, 0.4), ([0, 1], 1.3)):
        found = forecast(POISSON, HISTORY, HORIZON, num_paths=2000, batch_size=2000).first_time_density(marks, times)
        assert scores(found, rate * torch.exp(-rate * times)) < 4.9
    with pytest.raises(ValueError, match="must lie between 0 and the horizon"):
        forecast(POISSON, HISTORY, HORIZON).first_time_density(1, [4.0])


@pytest.mark.parametrize("target", [MODEL, PROCESS], ids=["transformer", "process"])
def test_the_mark_at_a_time_averages_to_the_mark_whenever_it_comes(target: Any) -> None:
    """E f(k | tau) over 100 quantiles of the next time; a mark at the time since the last event is another."""
    histories = [HISTORY.prefix(3, 3.5), HISTORY] if target is PROCESS else HISTORIES
    found = forecast(target, histories, HORIZON)
    levels = ((torch.arange(100, dtype=torch.float64) + 0.5) / 100).tolist()
    whenever = found.next_mark()
    for i, times in enumerate(found.next_time(levels).quantiles):
        probs = found.next_mark(at=times)[i]
        torch.testing.assert_close(probs.sum(-1), torch.ones(100, dtype=torch.float64), rtol=0, atol=1e-6)
        torch.testing.assert_close(probs.mean(0), whenever[i], rtol=0, atol=5e-3)
    with pytest.raises(ValueError, match="must be positive times"):
        found.next_mark(at=[0.0])


def test_the_mark_at_a_time_counts_from_when_the_history_was_observed() -> None:
    """Mark 1 of the process is excited, and the silence has worn that off: by hand."""
    silent = HISTORY.prefix(3, 3.5)
    (found,) = forecast(PROCESS, silent, HORIZON).next_mark(at=[0.5])[0]
    excited = 0.3 + excitation(silent) * math.exp(-BETA * 0.5)
    torch.testing.assert_close(float(found[1]), excited / (0.52 + excited), rtol=1e-9, atol=0)


def test_the_error_of_a_quantile_is_that_of_repeated_forecasts() -> None:
    """A quantile of the first time over 30 seeds spreads by its standard error, to 50 % (four of its own errors)."""
    found = [
        forecast(POISSON, HISTORY, HORIZON, num_paths=200, batch_size=200, seed=seed).first_time(1, (0.3, 0.9))
        for seed in range(30)
    ]
    medians = torch.stack([one.values[0, 0] for one in found])
    errors = torch.stack([one.standard_error[0, 0] for one in found])
    assert abs(float(errors.mean() / medians.std()) - 1) < 0.5
    assert found[0].standard_error[0, 1] == math.inf  # later than the horizon
    table = forecast(POISSON, HISTORY, HORIZON, num_paths=100).to_pandas()
    assert table["standard_error"][table["quantity"].isin(["first_time", "count_quantile"])].notna().all()


def test_declared_questions_share_their_paths_and_others_sample_again(of_process: Forecast) -> None:
    found = forecast(MODEL, HISTORIES, HORIZON, num_paths=20, marks=[0, [1, 2]], bins=2)
    found.probability(), found.probability(0), found.probability([2, 1], within=1.5), found.expected_counts()
    found.expected_counts(by_mark=False, bins=1), found.count_quantiles(0), found.first_time([1, 2]), found.paths
    assert len(found._paths.kept) == 1 and [one.label for one in found.sets] == ["0", "1 or 2", "any"]
    assert len(found.paths) == 60 and found.paths.history_index.tolist() == [h for h in range(3) for _ in range(20)]
    undeclared = found.probability(3)
    assert undeclared.value.shape == (3,) and len(found._paths.kept) == 2
    assert found._paths.kept[1].samples.options.stop_marks == (3,) and found._paths.kept[1].samples.stopped.any()
    found.probability(0, within=0.7)
    assert len(found._paths.kept) == 3
    named = forecast(MODEL, HISTORIES, HORIZON, num_paths=20, marks={"quick": [0, 3]})
    torch.testing.assert_close(named.probability("quick").value, named.probability([3, 0]).value)


def test_paths_that_stop_say_the_same_of_the_mark_that_stops_them() -> None:
    whole = forecast(PROCESS, HISTORY, HORIZON, num_paths=500, marks=[1], batch_size=500)
    stopped = forecast(PROCESS, HISTORY, HORIZON, num_paths=500, marks=[1], stop_marks={1}, batch_size=500)
    for estimator in ESTIMATORS:
        expected = whole.probability(1, estimator=estimator)  # type: ignore[arg-type]
        for found in (stopped.probability(1, estimator=estimator), stopped.expected_counts(estimator=estimator)):  # type: ignore[arg-type]
            torch.testing.assert_close(found.value.view(1, -1)[:, 0], expected.value)
    torch.testing.assert_close(stopped.first_time(1).values, whole.first_time(1).values)


def test_quantiles_are_those_of_the_paths_and_may_lie_beyond_the_horizon(of_process: Forecast) -> None:
    first = of_process.first_time(1, [0.1, 0.5, 0.99])
    probability = float(true_probability(HISTORY, float(first.values[0, 1]))[1])
    assert abs(probability - 0.5) < 4.9 * math.sqrt(0.25 / 4000)
    assert (
        first.values[0, 2] == math.inf and (first.lower <= first.values).all() and (first.values <= first.upper).all()
    )
    counts = of_process.count_quantiles(bins=1)
    own = torch.tensor([len(times) for times in of_process.paths.event_times], dtype=torch.float64)
    torch.testing.assert_close(counts.values[0, 0, 2], own.sort().values[1999])


def test_times_may_be_durations() -> None:
    model = attentive_model("thp", num_marks=3)
    model.set_statistics(DataStatistics(3, time_unit="h"))
    found = forecast(model, random_sequence(4, 3), "0.25d", num_paths=20)
    assert found.horizon == 6.0
    for marks in (None, 1):
        assert torch.equal(found.probability(marks, within="2h").value, found.probability(marks, within=2).value)
    with pytest.raises(ValueError, match="within = 7h is beyond the horizon, 6"):
        found.probability(within="7h")


def test_numbers_of_other_types_are_as_good() -> None:
    """A NumPy or torch integer is no list of times: bins = 2 must not become the one bin (0, 2]."""
    plain = forecast(MODEL, HISTORIES, 4.0, num_paths=20, marks=1, bins=2)
    for whole in (np.int64, np.array, torch.tensor, float):
        found = forecast(MODEL, HISTORIES, whole(4), num_paths=whole(20), marks=whole(1), bins=whole(2))
        assert found.edges.tolist() == plain.edges.tolist() == [0.0, 2.0, 4.0] and found.sets == plain.sets
        counts = found.expected_counts(bins=whole(4)).value
        assert torch.equal(counts, plain.expected_counts(bins=4).value) and counts.shape[-1] == 4
        found.probability(whole(1), within=whole(2))
    with pytest.raises(ValueError, match=r"bins = 2.5 must be a whole number between 1 and 100000, or a list of times"):
        forecast(MODEL, HISTORIES, 4.0, bins=2.5)  # type: ignore[arg-type]


def test_marks_may_be_named() -> None:
    model = attentive_model("thp", num_marks=3)
    model.set_statistics(DataStatistics(3, mark_names=("admission", "surgery", "discharge")))
    history = random_sequence(4, 3)
    found = forecast(model, history, 4.0, num_paths=50, marks=["surgery", ["admission", "discharge"]])
    assert [one.label for one in found.sets] == ["surgery", "admission or discharge", "any"]
    torch.testing.assert_close(found.probability("surgery").value, found.probability(1).value)


@pytest.mark.parametrize(
    ("ask", "message"),
    [
        (lambda: forecast(MODEL, HISTORIES, -1.0), "horizon = -1.0 must be positive: a number of units"),
        (lambda: forecast(MODEL, HISTORIES, 1.0, num_paths=1), "num_paths = 1 must be a whole number of at least 10"),
        (
            lambda: forecast(attentive_model("thp").to("meta"), HISTORIES, 1.0),
            r"on CPUs, and the target is on meta; give target\.cpu\(\)",
        ),
        (lambda: forecast(MODEL, HISTORIES, 1.0, marks=[9]), "9 is not a mark of the target"),
        (lambda: forecast(MODEL, HISTORIES, 1.0, marks={"any": [1]}), "'any' is the name of the set of all marks"),
        (lambda: forecast(MODEL, HISTORIES, 1.0, bins=[0.5, 2.0]), "between 0 and the horizon, 1"),
        (lambda: forecast(MODEL, HISTORIES, 1.0, bins=[0.0]), r"bins = \[0.0\] must be increasing times"),
        (lambda: forecast(MODEL, HISTORIES, 1.0, bins=["a day"]), r"bins = \['a day'\] must be increasing times"),
        (lambda: forecast(MODEL, HISTORIES, 1.0).probability(within=2.0), "within = 2.0 is beyond the horizon, 1"),
        (lambda: forecast(MODEL, HISTORIES, 1.0).probability(within=math.inf), "within = inf must be positive"),
        (lambda: forecast(MODEL, HISTORIES, 1.0).probability(within="2d"), "within = '2d' needs the unit of the times"),
        (lambda: forecast(MODEL, HISTORIES, 1.0).probability(estimator="best"), "estimator = 'best' is unknown here"),  # type: ignore[arg-type]
        (lambda: forecast(MODEL, HISTORIES, 1.0).next_time([1.5]), "must lie between 0 and 1"),
        (
            lambda: forecast(MODEL, HISTORIES, 1.0, options=tppsd.SamplingOptions(forbid_marks=(1,))),
            "would forecast another process",
        ),
    ],
)
def test_mistakes_are_named(ask: Callable[[], Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ask()


@pytest.mark.filterwarnings("ignore:.*max_events")
def test_paths_cut_by_max_events_are_an_error() -> None:
    with pytest.raises(ValueError, match="reached max_events = 2 before the horizon 30"):
        forecast(MODEL, HISTORIES, 30.0, num_paths=20, max_events=2).expected_counts()
