"""Backtests: origins and scores by hand, right and wrong models that are told apart, and nothing known of the
future."""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from small_models import attentive_model
from torch import Tensor

import tppsd
from tppsd import cli
from tppsd.data.batch import EventBatch
from tppsd.data.sequences import EventSequence
from tppsd.data.statistics import DataStatistics
from tppsd.forecasting import backtest_plan as module
from tppsd.forecasting.backtest import backtest
from tppsd.forecasting.backtest_result import Backtest
from tppsd.forecasting.baselines import baseline_models, poisson_process
from tppsd.forecasting.forecast import Forecast, forecast
from tppsd.forecasting.next_time_scores import next_time_scores
from tppsd.forecasting.origins import find_origins, history_until, what_came
from tppsd.forecasting.path_events import TOLERANCES, PathEvents, observe
from tppsd.forecasting.paths import PathSampler
from tppsd.forecasting.questions import MarkSet
from tppsd.metrics.functional import (
    bootstrap_interval,
    brier_decomposition,
    crps,
    ks_distance,
    ks_uniform,
    reliability_bins,
    transport_distance,
)
from tppsd.models.mixture import LogNormalMixture
from tppsd.models.renewal import RenewalTPP
from tppsd.plots.backtest import backtest_page, reliability_grid
from tppsd.processes import Hawkes

TRUTH = Hawkes(0.6, 0.7, 1.5)
DOUBLE = Hawkes(1.2, 0.7, 1.5)  # twice the rate
TEST = TRUTH.simulate(80, t_end=8.0, seed=3)  # one origin each: independent cases
RARE = 3.3  # |z|: a right model fails one such check in a thousand


@pytest.fixture(scope="module")
def result() -> Backtest:
    return backtest(TRUTH, TEST, 3.0, num_paths=60, within=1.0, baselines={"double": DOUBLE}, batch_size=2000)


# --- origins ----------------------------------------------------------------------------------------------------------


def test_origins_have_a_whole_horizon_in_the_scored_part() -> None:
    """By hand: windows [0, 10] and [0, 4]; the second is scored from 2.5 on."""
    rows = [EventSequence.of([1.0], None, 0.0, 10.0), EventSequence.of([1.0], None, 0.0, 4.0, score_start=2.5)]
    found = find_origins(rows, "every 2", 3.0)
    assert found.sequence.tolist() == [0, 0, 0, 0] and found.times.tolist() == [0.0, 2.0, 4.0, 6.0]
    assert (found.num_left_out, found.num_outside) == (3, 0)  # 8 and 10 of the first, 2.5 of the second
    assert find_origins(rows, 0.5, 0.75).times.tolist() == [5.0, 3.25]
    found = find_origins(rows, [2.0, 7.0, 7.5, 11.0], 3.0)
    assert found.times.tolist() == [2.0, 7.0]
    assert (found.num_left_out, found.num_outside) == (1, 5)  # 7.5; 11, and all of the second
    assert find_origins([EventSequence.of([], None, 0.0, 0.9)], "every 0.3", 0.3).times.tolist() == [0.0, 0.3, 0.6]
    assert find_origins(rows, "every 2d", 72.0 / 24, unit="d").times.tolist() == [0.0, 2.0, 4.0, 6.0]
    for half in (np.float32(0.5), torch.tensor(0.5)):
        assert find_origins(rows, half, 0.75).times.tolist() == [5.0, 3.25]  # type: ignore[arg-type]
    assert find_origins(rows, np.int64(0), 0.75).times.tolist() == [0.0, 2.5]  # type: ignore[arg-type]
    assert find_origins(rows, torch.tensor([2.0, 7.0]), 3.0).times.tolist() == [2.0, 7.0]  # type: ignore[arg-type]
    for wrong in (1.0, "sometimes", "every"):
        with pytest.raises(ValueError, match="origins = "):
            find_origins(rows, wrong, 3.0)
    with pytest.raises(ValueError, match="no origin"):
        find_origins(rows, 0.5, 6.0)


def test_an_event_belongs_to_the_history_or_to_what_came() -> None:
    row = EventSequence.of([1.0, 2.0, 2.5, 4.0], [0, 1, 0, 1], 0.0, 9.0)
    history, came = history_until(row, 2.0), what_came(row, 2.0, 2.0)
    assert history.event_times.tolist() == [1.0, 2.0] and history.window_end == 2.0
    assert came.event_times.tolist() == [0.5, 2.0] and came.marks.tolist() == [0, 1] and came.window_end == 2.0


def altered(row: EventSequence, origin: float) -> EventSequence:
    """The same until the origin, and then a burst."""
    kept = row.event_times <= origin
    times = torch.cat([row.event_times[kept], origin + torch.linspace(0.01, 2.0, 20, dtype=torch.float64)])
    return EventSequence.of(times, None, 0.0, row.t_end)


def forecast_probs(rows: list[EventSequence]) -> Tensor:
    found = backtest(TRUTH, rows, 3.0, num_paths=20, baselines=())
    return torch.cat(
        [found.cases["target"].probs.flatten(), found.cases["target"].means["transport_distance"].sum((1, 2))]
    )


def test_what_comes_after_an_origin_changes_no_forecast(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = TEST[:3]
    others = [altered(row, 4.0) for row in rows]
    assert torch.equal(forecast_probs(rows)[:3], forecast_probs(others)[:3])
    right = history_until
    monkeypatch.setattr(module, "history_until", lambda row, origin: right(row, origin + 3.0))  # looks ahead
    assert not torch.equal(forecast_probs(rows)[:3], forecast_probs(others)[:3])


# --- scores of paths by hand ------------------------------------------------------------------------------------------

SETS = (MarkSet("0", (0,)), MarkSet("1", (1,)), MarkSet("any", (0, 1)))
# origin 0: path 0 has (1.0, mark 0), (3.0, mark 1), path 1 has (1.2, mark 0); origin 1: path 0 nothing, path 1 (4.0, 1)
PATHS = PathEvents(
    2, torch.tensor([0, 2, 3, 3, 4]), torch.tensor([1.0, 3.0, 1.2, 4.0]).double(), torch.tensor([0, 1, 0, 1])
)
CAME = [EventSequence.of([1.3], [0], 0.0, 4.0), EventSequence.of([], [], 0.0, 4.0)]


def test_counts_of_paths_and_of_what_came() -> None:
    counts = PATHS.counts(SETS, [2.0, 4.0], 2)  # (num_paths, num_origins, num_sets, num_horizons)
    assert counts[0].tolist() == [[[1, 1], [0, 1], [1, 2]], [[0, 0], [0, 0], [0, 0]]]
    assert counts[1].tolist() == [[[1, 1], [0, 0], [1, 1]], [[0, 0], [0, 1], [0, 1]]]
    observed = observe(CAME, SETS, [2.0, 4.0], 2)
    assert observed.counts.tolist() == [[[1, 1], [0, 0], [1, 1]], [[0, 0], [0, 0], [0, 0]]]
    assert observed.next_times.tolist() == [1.3, math.inf]
    assert observed.first_times.tolist() == [[1.3, math.inf, 1.3], [math.inf] * 3]


def test_transport_is_that_of_each_path_alone() -> None:
    """The mean over paths of the distance of two sequences, and between the paths, as the plain function gives them."""
    paths = [EventSequence.of([1.0, 3.0], [0, 1], 0.0, 4.0), EventSequence.of([1.2], [0], 0.0, 4.0)]
    for horizon in (2.0, 4.0):
        ends = []
        for p in (*paths, CAME[0]):
            came = p.event_times <= horizon
            ends.append(EventSequence.of(p.event_times[came], p.marks[came], 0.0, horizon))
        costs = [0.5 * share * horizon for share in TOLERANCES]
        to_truth = sum(transport_distance(p, ends[2], costs).mean() for p in ends[:2]) / 2
        found = PATHS.transport(0, CAME[0], SETS, [horizon], 2)
        assert found.shape == (2, 3, 1)
        torch.testing.assert_close(found[0, :, 0].tolist()[2], float(to_truth))
        torch.testing.assert_close(float(found[1, 2, 0]), float(transport_distance(*ends[:2], costs).mean()))
        torch.testing.assert_close(found[:, :2].sum(1), found[:, 2])


def test_temporal_map_of_the_jth_events() -> None:
    """By hand: predicted 1.0 (score 1) and 3.0 (score 1/2 of mark 1) after origin 0, nothing within 4 after origin 1.

    The event of mark 0 at 1.3 is within 1/2 and 1 of 1.0, not within 1/8 and 1/4; mark 1 had no event.
    """
    found = PATHS.temporal_map(observe(CAME, SETS, [4.0], 2), SETS, 4.0, 2)
    assert found.values().tolist() == pytest.approx([0.5, 0.0, 0.25])


# --- the next event's time --------------------------------------------------------------------------------------------


def scored(distributions: object, next_times: Tensor, horizon: float) -> tuple[Tensor, Tensor]:
    return next_time_scores(distributions, next_times, horizon, torch.full_like(next_times, 0.5))


def test_the_crps_of_the_next_time_is_the_closed_form_of_mixtures() -> None:
    from tppsd.models.distribution import NextEventDistribution

    g = torch.Generator().manual_seed(0)
    weights = torch.randn(6, 5, generator=g, dtype=torch.float64).log_softmax(-1)
    means, log_stds = torch.randn(2, 6, 5, generator=g, dtype=torch.float64)
    times = torch.tensor([0.01, 0.3, 1.0, 2.5, 3.9, math.inf], dtype=torch.float64)
    mixture = LogNormalMixture(weights, means, 0.5 * log_stds, 0.2, 1.1)
    found, pits = scored(NextEventDistribution(mixture, None, None), times, 4.0)
    torch.testing.assert_close(found, crps(mixture, times, 4.0), rtol=0, atol=2e-5)
    torch.testing.assert_close(pits[:5], mixture.cdf(times)[:5])
    assert float(mixture.cdf(torch.full((6,), 4.0, dtype=torch.float64))[5]) < float(pits[5]) < 1


def test_the_time_without_events_is_taken_into_account() -> None:
    """A Poisson process forgets it: the closed form of an exponential distribution, whatever the elapsed time."""
    process, rate, horizon = Hawkes(0.7, 0.0, 1.0), 0.7, 4.0
    times = torch.tensor([0.5, 3.0], dtype=torch.float64)
    truncated = process.distribution(torch.zeros(2, process.state_size).double()).truncated(
        torch.full((2,), 2.0).double()
    )
    found, pits = scored(truncated, times, horizon)
    below = times - 2 * -torch.expm1(-rate * times) / rate + -torch.expm1(-2 * rate * times) / (2 * rate)
    above = (torch.exp(-2 * rate * times) - math.exp(-2 * rate * horizon)) / (2 * rate)
    torch.testing.assert_close(found, below + above, rtol=0, atol=1e-6)
    torch.testing.assert_close(pits, -torch.expm1(-rate * times))


# --- right and wrong models -------------------------------------------------------------------------------------------


def test_the_true_process_is_calibrated(result: Backtest) -> None:
    """80 independent origins: coverage and mean PIT within 3.3 standard errors; each check fails once in a thousand."""
    num = len(TEST)
    assert len(result.origins.times) == num
    for level in (0.5, 0.8, 0.95):
        error = result.value("target", f"coverage_{100 * level:g}") - level
        assert abs(error) < RARE * math.sqrt(level * (1 - level) / num)
    passed = result.value("target", "number_test_passed")
    assert passed > 0.95 - RARE * math.sqrt(0.95 * 0.05 / num)
    for metric in ("mean_of_count_pit", "mean_of_next_time_pit", "mean_of_first_time_pit"):
        assert abs(result.value("target", metric) - 0.5) < RARE / math.sqrt(12 * num)
    for metric in ("ks_of_count_pit", "ks_of_next_time_pit", "ks_of_first_time_pit"):
        assert result.value("target", metric) < 1.95 / math.sqrt(num)  # Kolmogorov's 99.9 % quantile


def test_the_table_by_origin_holds_every_score_in_its_place(result: Backtest) -> None:
    """A mutant that swaps marks and horizons, or origins and marks, puts counts that came elsewhere."""
    table = result.by_origin()
    assert len(table) == 2 * len(TEST) * len(result.labels) * 2
    for row in table[::17].itertuples():
        came = what_came(TEST[row.sequence], row.origin, row.horizon)
        wanted = len(came) if row.mark == "any" else int((came.marks == int(row.mark)).sum())
        assert row.num_events == wanted and row.outcome == (wanted > 0)
        share = row.delta_1 + row.delta_2 - 1  # of paths with just as many
        assert -1e-9 <= share <= 1 and (wanted > 0 or row.delta_1 == 1)
    for metric in ("num_events", "num_events_expected", "delta_1", "delta_2", "number_test_passed"):
        mean = table.groupby(["model", "mark", "horizon"])[metric].mean()
        for (model, mark, horizon), value in mean.items():
            assert math.isclose(value, result.value(model, metric, mark, horizon))
    dated = dataclasses.replace(result, time_unit="d", time_origin="2024-01-01T00:00:00").by_origin()
    days = (dated["origin"] - np.datetime64("2024-01-01")) / np.timedelta64(1, "D")
    assert np.allclose(days, table["origin"])


def test_the_table_by_origin_has_the_id_of_its_sequence() -> None:
    """Not that of the origin's number: the second sequence has three origins, and the first none."""
    rows = [EventSequence.of([1.0], None, 0.0, 2.0), TEST[0], TEST[1]]
    named = [dataclasses.replace(row, id=name) for row, name in zip(rows, ("short", "x-1", 7), strict=True)]
    found = backtest(TRUTH, named, 3.0, "every 2", num_paths=10, baselines=(), marks=()).by_origin()
    assert found["id"].tolist() == ["x-1"] * 3 + [7] * 3 and found["sequence"].tolist() == [1] * 3 + [2] * 3
    assert backtest(TRUTH, TEST[:1], 3.0, num_paths=10, baselines=()).by_origin()["id"].isna().all()


def test_twice_the_rate_is_found_out(result: Backtest) -> None:
    num = len(TEST)
    assert result.value("double", "mean_of_count_pit") < 0.5 - RARE / math.sqrt(12 * num)
    assert result.value("double", "ks_of_count_pit") > 1.95 / math.sqrt(num)
    assert result.value("double", "coverage_80") < 0.8 - RARE * math.sqrt(0.8 * 0.2 / num)
    assert result.value("double", "number_test_passed") < result.value("target", "number_test_passed")
    clear = {one.metric for one in result.comparisons if one.horizon == 3.0 and one.high < 0}
    assert {"crps_of_counts", "log_score_of_counts", "transport_score"} <= clear
    assert any("the target beats double" in sentence for sentence in result.sentences())
    with_unit = dataclasses.replace(result, time_unit="h").sentences()
    assert all(f"within {result.horizons[-1]:g} h: " in sentence for sentence in with_unit)


def test_a_forecast_that_looks_ahead_is_not_calibrated(monkeypatch: pytest.MonkeyPatch) -> None:
    """Histories that reach to origin + horizon: paths answer for the time after that."""
    right = history_until
    monkeypatch.setattr(module, "history_until", lambda row, origin: right(row, origin + 3.0))
    rows = [altered(row, 4.0) for row in TEST[:40]]
    found = backtest(TRUTH, rows, 3.0, num_paths=30, baselines=(), batch_size=2000)
    assert found.value("target", "coverage_95") < 0.5


def test_rows_are_means_with_bootstrap_intervals(result: Backtest) -> None:
    """And pairs of scores that must agree do: the parts of the Brier score add up."""
    scores = result.cases["target"].means["crps_of_counts"]
    interval = bootstrap_interval(lambda w: (w @ scores[:, 0]) / w.sum(), len(TEST), seed=0)
    rows = [row for row in result.scores if row[:3] == ("target", "crps_of_counts", "any")]
    assert [row.horizon for row in rows] == [1.0, 3.0] and {row.num_origins for row in rows} == {len(TEST)}
    found = torch.tensor([row[4:7] for row in rows], dtype=torch.float64)
    torch.testing.assert_close(found, torch.stack([interval.value, interval.lower, interval.upper], 1))
    parts = {name: result.value("target", f"brier_{name}", horizon=1.0)
             for name in ("reliability", "resolution", "uncertainty", "within_bins", "score")}  # fmt: skip
    assert parts["reliability"] - parts["resolution"] + parts["uncertainty"] + parts["within_bins"] == pytest.approx(
        parts["score"]
    )


def test_the_first_time_of_any_mark_is_the_next_time_at_every_horizon(
    result: Backtest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The fair CRPS over paths is that of the distribution, up to 3.3 standard errors; uncapped, it is another."""
    by_distribution = result.cases["target"].means["crps_of_next_time"]

    def z(found: Backtest) -> float:
        difference = found.cases["target"].means["crps_of_first_time"][:, 0, -1] - by_distribution
        return float(difference.mean() / difference.std() * math.sqrt(len(difference)))

    assert abs(z(result)) < RARE
    shorter = result.cases["target"].means["crps_of_first_time"][:, 0, 0]
    assert bool((shorter <= 1.0).all()) and result.value("target", "crps_of_first_time", horizon=1.0) < 0.5

    right = Forecast.first_times.fget
    assert right is not None
    late = property(lambda self: right(self) + 1.0)  # counts from another time
    monkeypatch.setattr(Forecast, "first_times", late)
    wrong = backtest(TRUTH, TEST, 3.0, num_paths=60, within=1.0, baselines=(), batch_size=2000)
    assert abs(z(wrong)) > 5
    assert wrong.value("target", "mean_of_first_time_pit") < 0.5 - RARE / math.sqrt(12 * len(TEST))


def test_first_times_are_scored_by_mark_and_horizon() -> None:
    """By hand, against every path: a mutant that swaps sets and horizons scores other times."""
    process = Hawkes((0.6, 0.3), 0.2, 2.0)
    rows, horizons = process.simulate(6, t_end=8.0, seed=1), [1.0, 3.0]
    scores = backtest(process, rows, 3.0, 0.5, 30, within=1.0, baselines=()).cases["target"]
    histories = [history_until(row, 4.0) for row in rows]
    paths = forecast(process, histories, 3.0, num_paths=30, bins=horizons).paths
    for i, (row, a, b) in enumerate(itertools.product(range(6), range(3), range(2))):
        marks = [(0,), (1,), (0, 1)][a]
        firsts = []
        for own in [what_came(rows[row], 4.0, 3.0), *(paths[30 * row + s] for s in range(30))]:
            times = own.event_times - (4.0 if firsts else 0.0)
            hits = times[torch.isin(own.marks, torch.tensor(marks))]
            firsts.append(min(float(hits[0]) if len(hits) else math.inf, horizons[b]))
        came, drawn = firsts[0], torch.tensor(firsts[1:], dtype=torch.float64)
        spread = (drawn.unsqueeze(0) - drawn.unsqueeze(1)).abs().sum() / (2 * 30 * 29)
        expected = float((drawn - came).abs().mean() - spread)
        assert float(scores.means["crps_of_first_time"][row, a, b]) == pytest.approx(expected, abs=1e-9), i
        low, high = (float(part.double().sum() + j) / 31 for j, part in enumerate((drawn < came, drawn <= came)))
        assert low <= float(scores.first_time_pits[row, a, b]) <= high


def test_weights_count_a_case_several_times() -> None:
    """Parts of the Brier score and the KS distance; without the weights the numbers are others."""
    generator = torch.Generator().manual_seed(0)
    probs, pits = torch.rand(2, 30, generator=generator, dtype=torch.float64)
    came = torch.rand(30, generator=generator) < 0.4
    weights = torch.randint(4, (30,), generator=generator)
    several = torch.arange(30).repeat_interleave(weights)
    found = torch.stack(brier_decomposition(probs, came, weights=weights))
    torch.testing.assert_close(found, torch.stack(brier_decomposition(probs[several], came[several])))
    assert bool((found - torch.stack(brier_decomposition(probs, came))).abs().gt(1e-4).all())
    assert float(ks_distance(pits, weights)) == pytest.approx(ks_uniform(pits[several]).statistic, abs=1e-12)
    assert abs(float(ks_distance(pits, weights)) - ks_uniform(pits).statistic) > 1e-4


def test_the_grid_has_a_diagram_for_each_mark_and_horizon() -> None:
    process = Hawkes((0.6, 0.3), 0.2, 2.0)
    found = backtest(process, process.simulate(12, t_end=8.0, seed=1), 3.0, num_paths=10, within=1.0, baselines=())
    found = dataclasses.replace(found, time_unit="h")
    grid = reliability_grid(found)
    titles = [axes.get_title(loc="left") for axes in grid.axes]
    assert titles == [f"{mark} within {h:g} h" for mark in ("any", "0", "1") for h in (1.0, 3.0)]
    own = found.cases["target"]
    sums = reliability_bins(own.probs[:, 1, 0], own.outcomes[:, 1, 0])
    (dots,) = grid.axes[4].collections
    shown = np.array(dots.get_offsets())
    number = sums[0][sums[0] > 0]
    np.testing.assert_allclose(shown[:, 1], sums[2][sums[0] > 0] / number)
    page = backtest_page(found).html()
    assert "Reliability by mark and horizon" in page and "<td colspan" in page and "1 within 3 h" in page


def test_nothing_is_sampled_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    right = PathSampler._sampled

    def counted(self: PathSampler, *arguments: object, **options: object) -> object:
        calls.append(len(self.wanted.history))
        return right(self, *arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(PathSampler, "_sampled", counted)
    backtest(TRUTH, TEST[:4], 2.0, origins="every 2", num_paths=10, within=(0.5, 1.0), baselines={"double": DOUBLE})
    assert calls == [16, 16]


# --- baselines --------------------------------------------------------------------------------------------------------


def test_the_renewal_model_samples_from_what_it_scores() -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = RenewalTPP(3, 5).eval()
    samples = tppsd.sample(model, num_sequences=4, t_end=6.0, return_log_probs=True)
    batch = EventBatch.from_sequences(samples)
    distribution = model(batch)[..., :-1].double()
    scored_as = torch.where(batch.mask, distribution.log_prob(batch.inter_times, batch.marks), 0.0).sum(1)
    sampled_as = torch.stack([log_probs.sum() for log_probs in samples.log_probs or []])
    torch.testing.assert_close(sampled_as, scored_as, rtol=1e-4, atol=1e-4)


def test_baselines_are_fitted_or_refused() -> None:
    bare, model = TRUTH, attentive_model("thp", num_marks=1)
    assert baseline_models(None, None, bare)[0] == {} and len(baseline_models(None, None, bare)[1]) == 3
    training = TRUTH.simulate(10, t_end=20.0, seed=0)
    statistics = DataStatistics.of(training, 1)
    model.set_statistics(statistics)
    found, notes = baseline_models(None, None, model)
    assert list(found) == ["poisson"] and len(notes) == 2
    assert float(poisson_process(statistics).mu.sum()) == pytest.approx(statistics.rate)
    fitted = baseline_models(["hawkes"], training, bare)[0]["hawkes"]
    assert isinstance(fitted, Hawkes)
    with pytest.raises(ValueError, match="'hawkes' is fitted to the training split"):
        baseline_models(["hawkes"], None, model)
    with pytest.raises(ValueError, match="'arima' is unknown"):
        baseline_models(["arima"], training, model)
    with pytest.raises(ValueError, match=r"baselines\['other'\] has 2 marks, the target 1"):
        baseline_models({"other": Hawkes((1.0, 1.0), 0.0, 1.0)}, None, model)


def test_an_explosive_baseline_is_left_out_and_said() -> None:
    explosive = Hawkes(5.0, 8.0, 1.0, is_stable=False)
    found = backtest(TRUTH, TEST[:2], 3.0, num_paths=10, baselines={"explosive": explosive}, max_events=60)
    assert list(found.cases) == ["target"] and any("'explosive' is left out" in note for note in found.notes)


# --- what is handed out -----------------------------------------------------------------------------------------------


def test_the_result_as_table_file_and_page(result: Backtest, tmp_path: Path) -> None:
    table = result.to_pandas()
    assert list(table.columns) == ["model", "metric", "mark", "horizon", "value", "low", "high", "num_origins"]
    assert not table.duplicated(["model", "metric", "mark", "horizon"]).any()
    content = json.loads(result.to_json(tmp_path / "new" / "scores.json").read_text())
    assert content["num_origins"] == 80 and len(content["scores"]) == len(table)
    assert all(row["low"] <= row["high"] for row in content["scores"])  # every score has an interval
    single = backtest(TRUTH, TEST[:1], 3.0, num_paths=10, baselines=()).to_dict()
    assert all(row["low"] is None for row in single["scores"])  # what has no interval is null, not NaN
    page = result.to_html(tmp_path / "page.html").read_text()
    assert "prefers-color-scheme: dark" in page and "<svg" in page and "better: -" in page
    assert "http" not in page
    with pytest.raises(ValueError, match="choose from"):
        result.plot(mark="rain")


def test_one_sequence_has_no_interval_and_that_is_said() -> None:
    row = TRUTH.simulate(1, t_end=30.0, seed=0)[0]
    origins = [3.0, 9.0, float(row.event_times[-1]) - 1.0]
    found = backtest(TRUTH, row.prefix(len(row)), 2.0, origins, num_paths=10, baselines=())
    assert all(math.isnan(one.low) for one in found.scores)
    assert any("one sequence" in note for note in found.notes)
    assert any("say t_end" in note for note in found.notes)  # the prefix has no end of observation
    assert found.origins.num_left_out == 1 and any("not observed to its end" in note for note in found.notes)


def test_sets_of_marks_and_a_transformer() -> None:
    """Declared sets are scored by their labels, and durations need a unit."""
    model = attentive_model("thp", num_marks=3)
    rows = Hawkes((0.4, 0.3, 0.2), 0.2, 2.0).simulate(4, t_end=8.0, seed=0)
    found = backtest(model, rows, 2.0, num_paths=20, marks={"first two": [0, 1]}, baselines=())
    assert found.labels == ("first two", "any")
    assert found.value("target", "crps_of_counts", "first two") >= 0
    with pytest.raises(ValueError, match="horizon = '7d' needs the unit"):
        backtest(model, rows, "7d", baselines=())
    with pytest.raises(ValueError, match="would cut paths"):
        backtest(model, rows, 2.0, baselines=(), options=tppsd.SamplingOptions(stop_marks=[1]))
    with pytest.raises(ValueError, match="beyond the horizon"):
        backtest(model, rows, 2.0, within=3.0, baselines=())
    found = backtest(model, rows, 2.0, num_paths=20, within=np.int64(1), baselines=())  # type: ignore[arg-type]
    assert found.horizons == (1.0, 2.0)


def test_the_command_writes_everything_and_names_what_is_missing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Dated events, with the unit and origin that the model was trained with; origins are given as dates."""
    model = attentive_model("thp", num_marks=2)
    names = {"mark_names": ("a", "b"), "time_unit": "d", "time_origin": "2024-01-01T00:00:00", "min_inter_time": 0.0}
    model.set_statistics(DataStatistics(2, log_mean=-0.4, num_events=40, duration=40.0, mark_counts=(20, 20), **names))
    model.save(tmp_path / "model.ckpt")
    days = [(case, f"2024-01-{day:02d}T0{case % 9}:00:00", "ab"[day % 2]) for case in range(10) for day in range(2, 20)]
    rows = "\n".join(f"c{case},{when},{what}" for case, when, what in days)
    (tmp_path / "log.csv").write_text(f"sequence,time,mark\n{rows}\n")
    words = ["backtest", "--model", tmp_path / "model.ckpt", "--data.path", tmp_path / "log.csv", "--data.t_start",
             "2024-01-01", "--data.t_end", "2024-01-21", "--data.fractions", "[0.7, 0.1, 0.2]"]  # fmt: skip
    words += [
        "--origins",
        "2024-01-04,2024-01-18",
        "--num_paths",
        "10",
        "--baselines",
        "[poisson]",
        "--output",
        tmp_path / "out",
    ]
    assert cli.main([*map(str, words), "--horizon", "2d", "--within", "[1d]"]) == 0
    out = capsys.readouterr().out
    assert "4 origins, any mark within 2 d" in out and "the target" in out and "poisson" in out
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        "scores.parquet", "scores.csv", "scores.json", "origins.csv", "backtest.html",
        ".shards", ".job.json", ".manifest.json",
    }  # fmt: skip
    content = json.loads((tmp_path / "out" / "scores.json").read_text())
    assert set(pd.read_csv(tmp_path / "out" / "origins.csv")["id"]) == {"c8", "c9"}
    assert content["horizons"] == [1.0, 2.0] and {row["mark"] for row in content["scores"]} == {"a", "b", "any"}
    assert cli.main(list(map(str, words))) == 2
    assert "--horizon is missing" in capsys.readouterr().err
    assert cli.main(["backtest", "--horizon", "2d"]) == 2
    assert "give either --run" in capsys.readouterr().err


def test_commands_take_sets_of_marks_and_a_limit_of_events(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Sets have the names that they are given; a path that is cut names the option that lets it go on."""
    model = attentive_model("thp", num_marks=3)
    model.set_statistics(dataclasses.replace(model.statistics, mark_names=("a", "b", "c")))
    model.save(tmp_path / "model.ckpt")
    rows = [f"{case},{0.5 * j},{'abc'[j % 3]}" for case in range(5) for j in range(1, 12)]
    (tmp_path / "log.csv").write_text("sequence,time,mark\n" + "\n".join(rows))
    words = [str(tmp_path / "log.csv"), "--model", str(tmp_path / "model.ckpt"), "--t_start", "0", "--horizon", "2"]
    words += ["--num_paths", "10", "--fractions", "[0.4, 0.2, 0.4]"]
    own = {"backtest": ["--baselines", "[]"], "forecast": []}
    for command, more in own.items():
        for marks, labels in (("{early: [a, b], late: c}", ["early", "late"]), ("[c, [a, 1]]", ["c", "a or b"])):
            output = tmp_path / command / labels[0]
            assert cli.main([command, *words, *more, "--marks", marks, "--output", str(output)]) == 0
            table = pd.read_parquet(output / ("scores.parquet" if command == "backtest" else "forecast.parquet"))
            table = table[table["metric"] == "brier_score"] if command == "backtest" else table
            found = table["mark"] if command == "backtest" else table["mark"][table["quantity"] == "probability"]
            assert list(dict.fromkeys(found)) == [*labels, "any"]
        capsys.readouterr()
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", ".*reached max_events")
            output = tmp_path / command / "cut"
            assert cli.main([command, *words, *more, "--max_events", "1", "--output", str(output)]) != 0
        assert "a larger max_events (--max_events of a command)" in capsys.readouterr().err
