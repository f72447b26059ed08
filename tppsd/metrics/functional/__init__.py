"""The formulas of the metrics, as plain functions of tensors.

They need no torchmetrics and no Lightning, and scipy only where a p-value is asked for.
"""

from tppsd.metrics.functional.acceptance import (
    acceptance_by_position,
    acceptance_rate,
    events_per_round,
    optimal_acceptance,
    step_acceptance,
)
from tppsd.metrics.functional.bootstrap import BootstrapInterval, bootstrap_interval
from tppsd.metrics.functional.calibration import (
    PITCalibration,
    confidence_bins,
    expected_calibration_error,
    pit_calibration,
)
from tppsd.metrics.functional.capped import capped_mean, mean_share_beyond
from tppsd.metrics.functional.correlation import Lag1Correlation, lag1_correlation
from tppsd.metrics.functional.counts import (
    NumberTest,
    central_interval,
    crps_of_counts,
    horizon_counts,
    log_score,
    log_score_of_counts,
    number_test,
    pit_coverage,
    randomised_pit,
)
from tppsd.metrics.functional.forecast import marginal_mark_probs, mark_accuracy, quantiles, rmse
from tppsd.metrics.functional.independence import IndependenceResult, lag1_independence, pair_independence
from tppsd.metrics.functional.likelihood import (
    history_share,
    likelihood_discrepancy,
    model_nll,
    nll_by_time,
    nll_per_event,
    process_nll,
)
from tppsd.metrics.functional.model_residuals import distribution_residuals, model_residuals
from tppsd.metrics.functional.overlap import Overlap, overlap, stratified_inter_times
from tppsd.metrics.functional.permutation import (
    PermutationResult,
    event_counts,
    mark_totals,
    permutation_test,
    time_counts,
)
from tppsd.metrics.functional.probability import (
    BrierDecomposition,
    auroc,
    binary_log_score,
    brier_decomposition,
    brier_score,
    reliability_bins,
)
from tppsd.metrics.functional.scoring import crps
from tppsd.metrics.functional.temporal_map import (
    ForecastEvents,
    MatchedPredictions,
    TemporalMAP,
    match_predictions,
    temporal_map,
)
from tppsd.metrics.functional.time_rescaling import (
    KSResult,
    SequenceResiduals,
    carried_forecasts,
    carry_over,
    ks_band,
    ks_exponential,
    ks_uniform,
)
from tppsd.metrics.functional.transport import transport_by_mark, transport_distance
from tppsd.metrics.functional.wasserstein import earth_movers_distance, wasserstein_distance

__all__ = [
    "BootstrapInterval",
    "BrierDecomposition",
    "ForecastEvents",
    "IndependenceResult",
    "KSResult",
    "Lag1Correlation",
    "MatchedPredictions",
    "NumberTest",
    "Overlap",
    "PITCalibration",
    "PermutationResult",
    "SequenceResiduals",
    "TemporalMAP",
    "acceptance_by_position",
    "acceptance_rate",
    "auroc",
    "binary_log_score",
    "bootstrap_interval",
    "brier_decomposition",
    "brier_score",
    "capped_mean",
    "carried_forecasts",
    "carry_over",
    "central_interval",
    "confidence_bins",
    "crps",
    "crps_of_counts",
    "distribution_residuals",
    "earth_movers_distance",
    "event_counts",
    "events_per_round",
    "expected_calibration_error",
    "history_share",
    "horizon_counts",
    "ks_band",
    "ks_exponential",
    "ks_uniform",
    "lag1_correlation",
    "lag1_independence",
    "likelihood_discrepancy",
    "log_score",
    "log_score_of_counts",
    "marginal_mark_probs",
    "mark_accuracy",
    "mark_totals",
    "match_predictions",
    "mean_share_beyond",
    "model_nll",
    "model_residuals",
    "nll_by_time",
    "nll_per_event",
    "number_test",
    "optimal_acceptance",
    "overlap",
    "pair_independence",
    "permutation_test",
    "pit_calibration",
    "pit_coverage",
    "process_nll",
    "quantiles",
    "randomised_pit",
    "reliability_bins",
    "rmse",
    "step_acceptance",
    "stratified_inter_times",
    "temporal_map",
    "time_counts",
    "transport_by_mark",
    "transport_distance",
    "wasserstein_distance",
]
