"""`backtest`: forecasts from many origins of a test split against what happened, beside classical baselines."""

from __future__ import annotations

import json
import math
import os
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from tppsd.data.sequences import EventBatch, EventSequence
from tppsd.forecasting.baselines import baseline_models
from tppsd.forecasting.case_scores import CaseScores, Observed, case_scores, observe
from tppsd.forecasting.forecast import Forecast, forecast
from tppsd.forecasting.origins import Origins, duration, find_origins, history_until, what_came
from tppsd.forecasting.questions import Marks
from tppsd.forecasting.score_rows import Comparison, ScoreRow, comparisons, score_rows
from tppsd.models.protocol import EventModel
from tppsd.models.resolve import resolve_model
from tppsd.progress import progress as progress_bar
from tppsd.sampling.options import SamplingOptions
from tppsd.sampling.requests import as_sequences

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

TARGET = "target"  # its name among the models
LEVELS = (0.5, 0.8, 0.95)  # of the intervals whose coverage is scored


@dataclass(frozen=True, eq=False)
class Backtest:
    """Says how forecasts from many origins compare with what happened.

    Attributes:
        scores: one row per model, metric, set of marks and horizon.
        comparisons: of the target with each baseline, on the same origins.
        cases: model -> its scores, probabilities and PITs at every origin.
        labels: of the sets of marks; the last is "any".
        horizons: in units of time, increasing.
        origins: places of the sequences and times of the origins, and how many were left out.
        num_paths, seed: as given.
        time_unit: of the target's data, or None.
        notes: what a reader should know.
    """

    scores: tuple[ScoreRow, ...]
    comparisons: tuple[Comparison, ...]
    cases: Mapping[str, CaseScores]
    labels: tuple[str, ...]
    horizons: tuple[float, ...]
    origins: Origins
    num_paths: int
    seed: int
    time_unit: str | None
    notes: tuple[str, ...]

    def __repr__(self) -> str:
        horizons = ", ".join(f"{h:g}" for h in self.horizons)
        return f"Backtest({', '.join(self.cases)}; {len(self.origins.times)} origins, horizons {horizons})"

    def value(self, model: str, metric: str, mark: str = "any", horizon: float | None = None) -> float:
        """Return one score.

        Args:
            model: "target" or the name of a baseline.
            metric: its name in the table.
            mark: label of a set of marks.
            horizon: None = the longest.

        Raises:
            ValueError: there is no such row.
        """
        wanted = (model, metric, mark, self.horizons[-1] if horizon is None else horizon)
        for row in self.scores:
            if row[:4] == wanted:
                return row.value
        raise ValueError(f"there is no score of model, metric, mark and horizon {wanted}")

    def sentences(self, mark: str = "any") -> list[str]:
        """Say of every score whether the target beats each baseline, for a set of marks at the longest horizon."""
        chosen = (one for one in self.comparisons if one.mark == mark and one.horizon == self.horizons[-1])
        return [one.sentence(self.time_unit) for one in chosen]

    def to_pandas(self) -> pd.DataFrame:
        """Return the scores as a tidy table: model, metric, mark, horizon, value, low, high, num_origins."""
        import pandas as pd

        return pd.DataFrame(self.scores, columns=list(ScoreRow._fields))

    def to_dict(self) -> dict[str, Any]:
        """Return settings, scores and comparisons as plain values; what is not a number is None."""
        return {
            "num_origins": len(self.origins.times),
            "num_sequences": len(self.origins.sequence.unique()),
            "num_left_out": self.origins.num_left_out,
            "num_outside": self.origins.num_outside,
            "horizons": list(self.horizons),
            "time_unit": self.time_unit,
            "num_paths": self.num_paths,
            "seed": self.seed,
            "notes": list(self.notes),
            "scores": [_plain(row) for row in self.scores],
            "comparisons": [_plain(row) for row in self.comparisons],
        }

    def to_json(self, path: str | Path) -> Path:
        """Write `to_dict` as a file, whole or not at all, make the folder if need be, and return the path."""
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}.{os.getpid()}")
        try:
            temporary.write_text(json.dumps(self.to_dict(), indent=1, allow_nan=False), encoding="utf-8")
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)
        return path

    def plot(self, mark: str | None = None, horizon: float | None = None) -> Figure:
        """Draw a reliability diagram, histograms of PITs and the coverage of intervals (tppsd.plots.backtest).

        Args:
            mark: label of a set of marks; None = any, and all sets and horizons together in the reliability diagram.
            horizon: one of the horizons; None = the longest.
        """
        from tppsd.plots.backtest import backtest_plot

        return backtest_plot(self, mark, horizon)

    def to_html(self, path: str | Path) -> Path:
        """Write one page with sentences, figures and tables, light and dark, and return the path."""
        from tppsd.plots.backtest import backtest_page

        return backtest_page(self).write(path)


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
) -> Backtest:
    """Forecast from origins within sequences, and score the forecasts by what happened after each until its horizon.

    At an origin a model knows the events up to and including it, and that no other came. `num_paths` continuations of
    each are sampled, in one call for all origins, and every score is taken from these same paths; the time of the next
    event is scored by its distribution itself. Scores, for each set of marks and each horizon h (lower is better, where
    nothing else is said):

    - crps_of_counts, log_score_of_counts: of the number of events (tppsd.metrics.functional);
    - brier_score, log_score, auroc (higher is better): of "an event within h", with the probabilities that `forecast`
      gives; brier_reliability, _uncertainty and _within_bins, less _resolution, add up to the Brier score;
    - coverage_50, _80, _95: share of counts inside central intervals, randomised, so that it is nominal for a right
      forecast; mean_of_count_pit: 1/2 for a right one, more where forecasts are too low; ks_of_count_pit: distance of
      the randomised PITs from uniform ones;
    - crps_of_next_time, mean_of_next_time_pit, ks_of_next_time_pit: of the time until the next event, as far as the
      longest h;
    - transport_distance: mean optimal transport distance of 16 paths from what came, E D(X, y), averaged over costs of
      1/64, 1/32, 1/16 and 1/8 of h. It favours forecasts that vary too little, a constant rate over a true Hawkes
      process, hence transport_score, E D(X, y) - E D(X, X') / 2, by which models are compared;
    - temporal_map (higher is better): T-mAP with time differences of 1/32, 1/16, 1/8 and 1/4 of h.

    Intervals are 95 % percentile intervals of a bootstrap over sequences; distances from uniform and the parts of the
    Brier score have none.

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

    Raises:
        ValueError, TypeError, FileNotFoundError: an argument is wrong; the sentence names it and its value.
    """
    if options is not None and options.stop_marks is not None:
        raise ValueError(f"stop_marks = {list(options.stop_marks)} would cut paths, but not what came; leave it out")
    model = resolve_model(target, "target")
    unit = getattr(getattr(model, "statistics", None), "time_unit", None)
    horizons = _horizons(horizon, within, unit)
    rows = as_sequences(sequences)
    found = find_origins(rows, origins, horizons[-1], unit)
    places = list(zip(found.sequence.tolist(), found.times.tolist(), strict=True))
    histories = [history_until(rows[i], time) for i, time in places]
    others, notes = baseline_models(baselines, training_sequences, model, seed)
    common: dict[str, Any] = {"bins": horizons, "seed": seed, "batch_size": batch_size, "max_events": max_events}
    own = forecast(target, histories, horizons[-1], num_paths, marks, draft=draft, options=options, **common)
    sets = {one.label: one.marks for one in own.sets[:-1]}
    observed = observe(
        [what_came(rows[i], time, horizons[-1]) for i, time in places], own.sets, horizons, own.num_marks
    )
    cases: dict[str, CaseScores] = {}
    with progress_bar(None, "scoring", (1 + len(others)) * len(places), progress) as advance:
        cases[TARGET] = case_scores(own, observed, horizons, LEVELS, seed, advance)
        for name, other in others.items():
            theirs = forecast(other, histories, horizons[-1], num_paths, sets, **common)
            if isinstance(scored := _of_baseline(name, theirs, observed, horizons, seed, advance), str):
                notes.append(scored)
            else:
                cases[name] = scored
    labels = [one.label for one in own.sets]
    arguments = (labels, horizons, found.sequence, seed)
    return Backtest(
        tuple(score_rows(cases, *arguments)),
        tuple(comparisons(cases, TARGET, *arguments)),
        cases,
        tuple(labels),
        tuple(horizons),
        found,
        num_paths,
        seed,
        unit,
        (*notes, *_remarks(rows, found)),
    )


def _of_baseline(
    name: str, theirs: Forecast, observed: Observed, horizons: Sequence[float], seed: int, advance: Any
) -> CaseScores | str:
    """Return the scores of a baseline, or why there are none.

    A Hawkes process that explodes says little, and ends nothing.
    """
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", ".*reached max_events")  # the note says it
            return case_scores(theirs, observed, horizons, LEVELS, seed, advance)
    except ValueError as error:
        if "max_events" not in str(error):
            raise
        return f"{name!r} is left out: {error}"


def _horizons(horizon: float | str, within: float | str | Sequence[float | str], unit: str | None) -> list[float]:
    longest = duration(horizon, "horizon", unit)
    several = [within] if isinstance(within, int | float | str) else list(within)
    shorter = sorted({duration(one, "within", unit) for one in several} - {longest})
    if shorter and shorter[-1] > longest:
        raise ValueError(f"within = {within!r} is beyond the horizon, {longest:g}; give a longer horizon")
    return [*shorter, longest]


def _remarks(sequences: Sequence[EventSequence], origins: Origins) -> list[str]:
    remarks = []
    used: Tensor = origins.sequence.unique()
    if origins.num_left_out:
        remarks.append(f"{origins.num_left_out} origins are left out: their horizon was not observed to its end")
    if origins.num_outside:
        remarks.append(f"{origins.num_outside} origins are left out: they lie outside of what is scored of a sequence")
    if len(used) < 2:
        remarks.append("there is one sequence, so that no score has an interval")
    if endless := sum(sequences[i].t_end is None for i in used.tolist()):
        remarks.append(
            f"{endless} of {len(used)} sequences without an end of observation count as observed until their last "
            "event, so that origins near it see too many events; say t_end"
        )
    return remarks


def _plain(row: ScoreRow | Comparison) -> dict[str, Any]:
    return {name: None if isinstance(v, float) and not math.isfinite(v) else v for name, v in row._asdict().items()}
