"""What `tppsd test` logs about forecasts: the functions on the whole split, whatever the batches; nothing where nothing
is."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from lightning_helpers import SMALL, fitted, small_data, trainer
from small_models import random_sequence, small_model

from tppsd import TargetTPP
from tppsd.data.batch import EventBatch
from tppsd.data.sequences import EventSequence
from tppsd.lightning.forecasts import ForecastMetrics
from tppsd.metrics.functional import (
    capped_mean,
    carry_over,
    confidence_bins,
    crps,
    expected_calibration_error,
    ks_exponential,
    marginal_mark_probs,
    mark_accuracy,
    mean_share_beyond,
    model_residuals,
    rmse,
)

OF_TIMES = {"rmse_mean", "rmse_median", "crps", "pit_ks", "nll_untied", "mean_unusable"}
OF_MARKS = {"mark_accuracy", "mark_accuracy_marginal", "mark_ece"}


def by_functions(model: torch.nn.Module, sequences: list[EventSequence], horizon: float = math.inf) -> dict[str, float]:
    """From one batch of all sequences, events 2..N."""
    batch = EventBatch.from_sequences(sequences)
    scored = batch.mask.clone()
    scored[:, 0] &= batch.start_marks >= 0
    with torch.no_grad():
        distribution = model(batch)[..., :-1][scored]
    tau, marks = batch.inter_times[scored], batch.marks[scored]
    probs = distribution.mark_log_probs(tau).exp()
    scores = {
        "rmse_mean": rmse(capped_mean(distribution.inter_time, horizon), tau.clamp_max(horizon)),
        "mean_unusable": (mean_share_beyond(distribution.inter_time, horizon) > 0.5).double().mean(),
        "rmse_median": rmse(distribution.inter_time.median, tau),
        "crps": crps(distribution.inter_time, tau, horizon).mean(),
        "nll_untied": -distribution.log_prob(tau, marks).detach().mean(),
        "mark_accuracy": mark_accuracy(probs, marks),
        "mark_accuracy_marginal": mark_accuracy(marginal_mark_probs(distribution), marks),
        "mark_ece": expected_calibration_error(confidence_bins(probs, marks)),
        "pit_ks": torch.tensor(ks_exponential(carry_over(model_residuals(model, sequences))).statistic),
    }
    return {name: float(score) for name, score in scores.items()}


@pytest.mark.parametrize("batch_size", [1, 4])
def test_logged_at_test_only_and_equal_to_the_functions(batch_size: int, tmp_path: Path) -> None:
    data = small_data(batch_size=batch_size)
    module = TargetTPP.load_from_checkpoint(fitted(TargetTPP(2, **SMALL), tmp_path / "a.ckpt"), weights_only=True)
    tested = trainer().test(module, datamodule=data, verbose=False)[0]
    horizon = module.model.statistics.horizon
    assert tested["test/horizon"] == pytest.approx(horizon)
    for name, value in by_functions(module.model, data.sequences("test"), horizon).items():
        assert tested[f"test/{name}"] == pytest.approx(value, rel=1e-5), name
    assert int(module.forecasts.crps.num_events) == 0  # nothing is left over for another test
    validated = trainer().validate(module, datamodule=data, verbose=False)[0]
    assert not {name.partition("/")[2] for name in validated} & (OF_TIMES | OF_MARKS)


def test_unmarked_events_have_no_mark_scores() -> None:
    data = small_data(process="hawkes")
    module = TargetTPP(1, **SMALL)
    run = trainer(max_steps=1)
    run.fit(module, datamodule=data)
    logged = {name.partition("/")[2] for name in run.test(module, datamodule=data, verbose=False)[0]}
    assert logged >= OF_TIMES and not logged & OF_MARKS


@pytest.mark.parametrize("given", [False, True])
def test_events_2_to_n_are_scored_once_each(given: bool) -> None:
    """Windows of no event, of one and of several, in one batch; a given first event has no inter-time to forecast."""
    lengths = [1, 2, 7] if given else [0, 1, 6]
    model, metrics = small_model(), ForecastMetrics(3)
    sequences = [random_sequence(n, seed=i, given=given) for i, n in enumerate(lengths)]
    batch = EventBatch.from_sequences(sequences)
    with torch.no_grad():
        metrics.update(model(batch), batch, 0.0)
    assert int(metrics.crps.num_events) == sum(max(0, n - 1) for n in lengths)
    assert metrics.compute().keys() == OF_TIMES | OF_MARKS
    for name, value in by_functions(model, sequences).items():
        assert float(metrics.compute()[name]) == pytest.approx(value, rel=1e-6), name


@pytest.mark.filterwarnings("ignore:The ``compute`` method")
def test_batches_without_any_event_have_no_scores() -> None:
    model, metrics = small_model(), ForecastMetrics(3)
    batch = EventBatch.from_sequences([random_sequence(0, seed=i) for i in range(2)])
    with torch.no_grad():
        metrics.update(model(batch), batch, 0.0)
    assert all(math.isnan(value) for value in metrics.compute().values())


def test_extreme_inter_times_in_one_sequence() -> None:
    """1e-9 and 1e+9 together, and ties at the declared floor."""
    model, metrics = small_model(), ForecastMetrics(3)
    times = torch.tensor([1e-9, 1e9, 1e-9, 0.0, 1.0], dtype=torch.float64)
    sequence = EventSequence(times.cumsum(0), torch.zeros(5, dtype=torch.int64), 0.0, None, 0, times)
    batch = EventBatch.from_sequences([sequence])
    with torch.no_grad():
        metrics.update(model(batch), batch, 1e-6)
    values = {name: float(value) for name, value in metrics.compute().items()}
    assert all(math.isfinite(value) for value in values.values())
    assert values["rmse_median"] == pytest.approx(1e9 / 2, rel=0.01)  # one of four misses by 1e9
    assert values["crps"] == pytest.approx(1e9 / 4, rel=0.01)


def heavy_tailed(module: TargetTPP) -> TargetTPP:
    """One component of weight e^-8 or so becomes as wide as a component can be."""
    num = module.model.decoder.num_components
    with torch.no_grad():
        module.model.decoder.to_mixture.weight.zero_()
        module.model.decoder.to_mixture.bias[num - 1] = -8.0
        module.model.decoder.to_mixture.bias[3 * num - 1] = 2.0
    return module


def test_a_mean_that_is_not_usable_is_said_and_spoils_no_score() -> None:
    """A component of tiny weight and huge width costs no likelihood; without a horizon it decides CRPS and RMSE."""
    data = small_data()
    data.setup("test")
    module = TargetTPP(2, **SMALL)
    module.model.set_statistics(data.statistics)
    usual = trainer().test(module, datamodule=data, verbose=False)[0]
    with pytest.warns(UserWarning, match=r"not usable for 100.0% of the events: more than half of it lies beyond"):
        heavy = trainer().test(heavy_tailed(module), datamodule=data, verbose=False)[0]
    assert (usual["test/mean_unusable"], heavy["test/mean_unusable"]) == (0.0, 1.0)
    assert heavy["test/crps"] < 2 * usual["test/crps"] and heavy["test/rmse_mean"] < 2 * usual["test/rmse_mean"]
    batch, uncapped = EventBatch.from_sequences(data.sequences("test")), ForecastMetrics(2)
    with torch.no_grad():
        uncapped.update(module.model(batch), batch, 0.0)
    assert float(uncapped.compute()["rmse_mean"]) > 1e9 * data.statistics.horizon


def test_a_spike_at_ties_does_not_count_as_untied() -> None:
    """A distribution that knows where ties are floored gains in nll, and nothing in nll_untied."""
    sequence = EventSequence.of([1.0, 2.0, 2.0, 4.0], [0, 1, 2, 0], t_start=0.0)
    batch, model, metrics = EventBatch.from_sequences([sequence]), small_model(), ForecastMetrics(3)
    with torch.no_grad():
        distribution = model(batch)
        metrics.update(distribution, batch, 1e-3)
        density = distribution[..., :-1].log_prob(batch.inter_times.clamp_min(1e-3), batch.marks)[0]
    assert float(metrics.compute()["nll_untied"]) == pytest.approx(-float(density[[1, 3]].mean()), rel=1e-6)
    assert int(metrics.untied.num_events) == 2


def test_scores_are_those_of_a_float32_head_under_autocast() -> None:
    model, plain, cast = small_model(dtype=torch.float32), ForecastMetrics(3), ForecastMetrics(3)
    batch = EventBatch.from_sequences([random_sequence(9, seed=i) for i in range(4)])
    with torch.no_grad():
        distribution = model(batch)
        plain.update(distribution, batch, 0.0)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            cast.update(distribution, batch, 0.0)
    assert {n: float(v) for n, v in cast.compute().items()} == {n: float(v) for n, v in plain.compute().items()}
