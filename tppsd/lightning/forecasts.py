"""The scores of forecasts that `tppsd test` logs beside the likelihood."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torchmetrics import Metric

from tppsd.data.batch import EventBatch
from tppsd.metrics.calibration import InterTimeCalibration, MarkCalibrationError
from tppsd.metrics.forecast import InterTimeCRPS, InterTimeRMSE, MarkAccuracy, UnusableMeans
from tppsd.metrics.functional.capped import capped_mean
from tppsd.metrics.functional.forecast import marginal_mark_probs, quantiles
from tppsd.metrics.functional.model_residuals import distribution_residuals
from tppsd.metrics.likelihood import NegativeLogLikelihood
from tppsd.models.distribution import NextEventDistribution
from tppsd.models.likelihood import scored_events


class ForecastMetrics(nn.Module):
    """Scores the distributions of the next event, each before the event is seen.

    - rmse_mean, rmse_median: of the inter-time, with the distribution's mean and with its median as the forecast, and
    - crps: of the whole distribution of the inter-time, all three in the data's unit of time; rmse_mean and crps are of
      min(tau, horizon), because a tail that no data have shown would decide them otherwise;
    - mean_unusable: share of events whose distribution has more than half of its mean beyond the horizon;
    - pit_ks: D = sup |F_n(u) - u| of the PITs of inter-times, carried over the ends of windows;
    - nll_untied: NLL of times and marks without ties (inter-times below the declared floor): at a tie a distribution
      can pile up density without limit, which says how times were rounded and nothing about when events happen;
    - mark_accuracy, mark_ece: of the most probable mark at the true inter-time, and
    - mark_accuracy_marginal: of the most probable mark whenever it comes; no marks, no mark scores.

    `pit_ks` is of all scored events, the first after a `score_start` given the time until then; the rest are of the
    events of the `benchmark` convention (EasyTPP's: 2..N, without given ones), each under its whole distribution.
    """

    def __init__(self, num_marks: int) -> None:
        super().__init__()
        self.rmse_mean, self.rmse_median = InterTimeRMSE(), InterTimeRMSE()
        self.crps, self.mean_unusable, self.calibration = InterTimeCRPS(), UnusableMeans(), InterTimeCalibration()
        self.untied = NegativeLogLikelihood()
        self.mark_accuracy, self.mark_accuracy_marginal, self.mark_ece = (
            MarkAccuracy(),
            MarkAccuracy(),
            MarkCalibrationError(),
        )
        self.has_marks = num_marks > 1

    def update(
        self, distribution: NextEventDistribution, batch: EventBatch, min_inter_time: float, horizon: float = math.inf
    ) -> None:
        """Add a batch and its distributions, (batch, length + 1).

        Args:
            distribution: the distributions.
            batch: the sequences.
            min_inter_time: the declared floor; inter-times below it are scored at the floor.
            horizon: in the data's unit of time; inter-times beyond it are scored at the horizon
                (DataStatistics.horizon).
        """
        self.calibration.update(distribution_residuals(distribution, batch))
        scored = scored_events(batch, "benchmark")
        distribution = distribution[..., :-1][scored]  # (num_events,)
        inter_times, marks = batch.inter_times[scored], batch.marks[scored]
        is_untied = inter_times >= min_inter_time
        inter_times = inter_times.clamp_min(min_inter_time)
        self.untied.update(torch.where(is_untied, distribution.log_prob(inter_times, marks), 0.0), is_untied)
        self.rmse_mean.update(capped_mean(distribution.inter_time, horizon), inter_times.clamp_max(horizon))
        self.mean_unusable.update(distribution.inter_time, horizon)
        median = torch.tensor([0.5], dtype=torch.float64, device=inter_times.device)
        self.rmse_median.update(quantiles(distribution.inter_time, median)[0], inter_times)
        self.crps.update(distribution.inter_time, inter_times, horizon)
        if self.has_marks:
            mark_probs = distribution.mark_log_probs(inter_times).exp()
            self.mark_accuracy.update(mark_probs, marks)
            self.mark_ece.update(mark_probs, marks)
            self.mark_accuracy_marginal.update(marginal_mark_probs(distribution), marks)

    def compute(self) -> dict[str, Tensor]:
        """Return the scores, each float64 (), over all ranks."""
        values = {
            "rmse_mean": self.rmse_mean.compute(),
            "rmse_median": self.rmse_median.compute(),
            "crps": self.crps.compute(),
            "mean_unusable": self.mean_unusable.compute(),
        }
        values["nll_untied"] = self.untied.compute()
        values["pit_ks"] = values["crps"].new_tensor(self.calibration.compute().ks_statistic)
        if self.has_marks:
            for name in ("mark_accuracy", "mark_accuracy_marginal", "mark_ece"):
                values[name] = getattr(self, name).compute()
        return values

    def reset(self) -> None:
        """Forget all that was added."""
        for metric in self.children():
            assert isinstance(metric, Metric)
            metric.reset()
