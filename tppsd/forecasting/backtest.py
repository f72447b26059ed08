"""`backtest`: forecasts from many origins of a test split against what happened, beside classical baselines."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from tppsd.data.batch import EventBatch
from tppsd.data.sequences import EventSequence
from tppsd.forecasting.backtest_plan import BacktestPlan, Scores
from tppsd.forecasting.backtest_result import Backtest
from tppsd.forecasting.baselines import baseline_models
from tppsd.forecasting.questions import Marks, items_per_chunk
from tppsd.models.protocol import EventModel
from tppsd.progress import progress as progress_bar
from tppsd.sampling.options import SamplingOptions


def backtest(
    target: Any,
    sequences: EventSequence | Sequence[EventSequence] | EventBatch,
    horizon: float | str,
    origins: float | str | Sequence[float] = 0.5,
    num_paths: int = 200,
    marks: Iterable[Marks] | Mapping[str, Marks] | None = None,
    within: float | str | Sequence[float | str] = (),
    baselines: Iterable[str] | Mapping[str, EventModel] | None = None,
    training_sequences: Sequence[EventSequence] | None = None,
    draft: Any = None,
    seed: int = 0,
    options: SamplingOptions | None = None,
    batch_size: int | None = None,
    max_events: int = 100_000,
    progress: bool = False,
    chunk_size: int | None = None,
    history_lookback: float | str | None = None,
) -> Backtest:
    """Forecast from origins within sequences, and score the forecasts by what happened after each until its horizon.

    At an origin a model knows the events up to and including it, and that no other came. `num_paths` continuations of
    each are sampled, and every score is taken from these same paths; the time of the next event is scored by its
    distribution itself. Paths are kept for one chunk of origins at a time, and of all others their scores. Scores, for
    each set of marks and each horizon h (lower is better, where nothing else is said):

    - crps_of_counts, log_score_of_counts: of the number of events (tppsd.metrics.functional);
    - brier_score, log_score, auroc (higher is better): of "an event within h", with the probabilities that `forecast`
      gives; brier_reliability, _uncertainty and _within_bins, less _resolution, add up to the Brier score;
    - coverage_50, _80, _95: share of counts inside central intervals, randomised, so that it is nominal for a right
      forecast; mean_of_count_pit: 1/2 for a right one, more where forecasts are too low; ks_of_count_pit: distance of
      the randomised PITs from uniform ones;
    - number_test_passed: share of origins whose count lies outside neither 2.5 % tail of the paths' (CSEP's number
      test); counts are whole numbers, so that a right forecast passes at 95 % of them or more; delta_1, delta_2: means
      of the shares of paths with at least, and with at most, as many events as came; num_events and
      num_events_expected: means of what came and of the paths;
    - crps_of_next_time, mean_of_next_time_pit, ks_of_next_time_pit: of the time until the next event of any mark, by
      its distribution, as far as the longest h;
    - crps_of_first_time, mean_of_first_time_pit, ks_of_first_time_pit: of the time until the first event of the set,
      over paths, as far as h: later times count as h;
    - transport_distance: mean optimal transport distance of 16 paths from what came, E D(X, y), averaged over costs of
      1/64, 1/32, 1/16 and 1/8 of h. It favours forecasts that vary too little, a constant rate over a true Hawkes
      process, hence transport_score, E D(X, y) - E D(X, X') / 2, by which models are compared;
    - temporal_map (higher is better): T-mAP with time differences of 1/32, 1/16, 1/8 and 1/4 of h.

    `by_origin()` of the result has them origin by origin. Intervals are 95 % percentile intervals of a bootstrap over
    sequences. Those of distances from uniform and of brier_reliability lie somewhat high: a resample deviates from the
    data as these do from the truth, and both numbers are distances.

    Args:
        target: an EventModel, a LightningModule or a checkpoint path.
        sequences: of a test split, which neither the target nor a baseline has seen.
        horizon: length of the forecasts, in the unit of time, or as "7d".
        origins: a fraction of the scored part of each window; "every 7" (units, or "every 7d") from its start on; or a
            list of times. Origins whose horizon is not observed to its end are left out and counted.
        num_paths: sampled continuations of each origin, at least 10.
        marks: marks or sets of marks to score, as of `tppsd.forecast`; None = each mark. "any" is always there.
        within: further, shorter horizons to score.
        baselines: "poisson", "renewal", "hawkes", which are fitted to `training_sequences`; or fitted models by name;
            None = those of the three that can be had; () = none.
        training_sequences: what baselines are fitted to.
        draft, options: how the target is sampled, as of `tppsd.sample`.
        seed: of the noise, of the randomised PITs and of the bootstrap.
        batch_size: running sequences, as of `tppsd.sample`, for all models.
        max_events: a path that reaches it is an error; a baseline with such a path is left out with a note.
        progress: show a progress bar.
        chunk_size: origins whose paths are sampled together and kept until they are scored; None = so many that they
            have about 20,000 paths. It changes memory, and scores by no more than the order of floating-point sums.
        history_lookback: how much of each history the target sees, as of `tppsd.forecast`; baselines see all of it.

    Raises:
        ValueError, TypeError, FileNotFoundError: an argument is wrong; the sentence names it and its value.
    """
    plan = BacktestPlan(
        target, sequences, horizon, origins, num_paths, marks, within, draft, seed, options, batch_size, max_events,
        history_lookback,
    )  # fmt: skip
    others, notes = baseline_models(baselines, training_sequences, plan.model, seed)
    parts: list[Scores] = []
    failed: Scores = {}
    with progress_bar(None, "scoring", (1 + len(others)) * len(plan), progress) as advance:
        for cases in plan.chunks(items_per_chunk(chunk_size, num_paths)):
            models = {name: model for name, model in others.items() if name not in failed}
            parts.append(plan.scores(cases, models, advance) | failed)
            failed = {name: found for name, found in parts[-1].items() if isinstance(found, str)}
    return plan.result(parts, notes)
