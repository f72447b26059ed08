"""The cases of a backtest: from when on which sequences are forecast, and how a part of them is scored."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from torch import Tensor

from tppsd.data.batch import EventBatch
from tppsd.data.sequences import EventSequence
from tppsd.forecasting.backtest_result import Backtest
from tppsd.forecasting.case_scores import CaseScores, Uniforms, case_scores
from tppsd.forecasting.forecast import Forecast, forecast
from tppsd.forecasting.origins import Origins, duration, find_origins, history_until, what_came
from tppsd.forecasting.path_events import Observed, observe
from tppsd.forecasting.questions import Marks
from tppsd.forecasting.score_rows import comparisons, score_rows
from tppsd.models.protocol import EventModel
from tppsd.models.resolve import resolve_model
from tppsd.sampling.checks import several
from tppsd.sampling.options import SamplingOptions
from tppsd.sampling.requests import as_sequences

TARGET = "target"  # its name among the models

Scores = dict[str, CaseScores | str]  # of every model, or why it has none


class BacktestPlan:
    """Holds the origins of a backtest, which are scored part by part: a score depends on its origin and the seed alone.

    The arguments are those of `tppsd.backtest`.

    Attributes:
        model: the target.
        rows: the sequences.
        origins: places of the sequences and times of the origins; their numbers are the cases.
        horizons: in units of time, increasing.
        sets: of marks; the last is "any".
        time_unit: of the target's data, or None.
    """

    def __init__(
        self,
        target: Any,
        sequences: EventSequence | Sequence[EventSequence] | EventBatch,
        horizon: float | str,
        origins: float | str | Sequence[float] = 0.5,
        num_paths: int = 200,
        marks: Iterable[Marks] | Mapping[str, Marks] | None = None,
        within: float | str | Sequence[float | str] = (),
        draft: Any = None,
        seed: int = 0,
        options: SamplingOptions | None = None,
        batch_size: int | None = None,
        max_events: int = 100_000,
        history_lookback: float | str | None = None,
    ) -> None:
        if options is not None and options.stop_marks is not None:
            raise ValueError(
                f"stop_marks = {list(options.stop_marks)} would cut paths, but not what came; leave it out"
            )
        self.model = resolve_model(target, "target")
        self.time_unit: str | None = getattr(getattr(self.model, "statistics", None), "time_unit", None)
        self.horizons = _horizons(horizon, within, self.time_unit)
        self.rows = as_sequences(sequences, getattr(self.model, "statistics", None))
        self.origins: Origins = find_origins(self.rows, origins, self.horizons[-1], self.time_unit)
        self.num_paths, self.seed, self.max_events = num_paths, seed, max_events
        self._places = list(zip(self.origins.sequence.tolist(), self.origins.times.tolist(), strict=True))
        self._common: dict[str, Any] = {"bins": self.horizons, "seed": seed, "batch_size": batch_size}
        self._common["max_events"] = max_events
        self._own: dict[str, Any] = {"draft": draft, "options": options, "history_lookback": history_lookback}
        first = self._forecast(self.model, slice(0, 1), marks, **self._own)
        self.sets, self.num_marks = first.sets, first.num_marks
        self._uniforms = Uniforms.of(seed, len(self), len(self.sets), len(self.horizons))

    def __len__(self) -> int:
        return len(self._places)

    def chunks(self, num_origins: int) -> Iterator[slice]:
        """Yield the cases, so many at a time."""
        return (slice(i, min(i + num_origins, len(self))) for i in range(0, len(self), num_origins))

    def scores(
        self, which: slice, models: Mapping[str, EventModel], advance: Callable[[], Any] = lambda: None
    ) -> Scores:
        """Score the target and other models at some of the origins.

        Args:
            which: the cases.
            models: the others by name. One whose paths reach max_events has no scores: a Hawkes process that explodes
                says little, and ends nothing.
            advance: is called after every origin and model.
        """
        came = [what_came(self.rows[i], time, self.horizons[-1]) for i, time in self._places[which]]
        observed = observe(came, self.sets, self.horizons, self.num_marks)
        sets = {one.label: one.marks for one in self.sets[:-1]}
        own = self._forecast(self.model, which, sets, **self._own)
        found: Scores = {TARGET: self._scored(own, observed, which, advance)}
        for name, model in models.items():
            try:
                with warnings.catch_warnings():
                    warnings.filterwarnings("ignore", ".*reached max_events")  # the note says it
                    found[name] = self._scored(self._forecast(model, which, sets), observed, which, advance)
            except ValueError as error:
                if "max_events" not in str(error):
                    raise
                found[name] = f"{name!r} is left out: {error}"
        return found

    def _scored(self, found: Forecast, observed: Observed, which: slice, advance: Callable[[], Any]) -> CaseScores:
        return case_scores(found, observed, self.horizons, self._uniforms.of_chunk(which), advance)

    def _forecast(self, model: Any, which: slice, marks: Any, **arguments: Any) -> Forecast:
        histories = [history_until(self.rows[i], time) for i, time in self._places[which]]
        arguments |= self._common | {"first_index": which.start}
        return forecast(model, histories, self.horizons[-1], self.num_paths, marks, **arguments)

    def result(self, parts: Sequence[Scores], notes: Iterable[str] = ()) -> Backtest:
        """Return what the scores of all cases say together.

        Args:
            parts: of all cases, in order. A model that lacks scores in one of them is left out.
            notes: what a reader should know of the models.
        """
        said = list(notes)
        cases = {}
        for name in parts[0]:
            own = [part[name] for part in parts]
            reason = next((one for one in own if isinstance(one, str)), None)
            if reason is None:
                cases[name] = CaseScores.cat([one for one in own if isinstance(one, CaseScores)])
            else:
                said.append(reason)
        labels, sequence = [one.label for one in self.sets], self.origins.sequence
        arguments = (labels, self.horizons, sequence, self.seed)
        return Backtest(
            tuple(score_rows(cases, *arguments)),
            tuple(comparisons(cases, TARGET, *arguments)),
            cases,
            tuple(labels),
            tuple(self.horizons),
            self.origins,
            self.num_paths,
            self.seed,
            self.time_unit,
            (*said, *_remarks(self.rows, self.origins)),
            getattr(getattr(self.model, "statistics", None), "time_origin", None),
            tuple(self.rows[i].id for i in sequence.tolist()),
        )


def _horizons(horizon: float | str, within: float | str | Sequence[float | str], unit: str | None) -> list[float]:
    longest = duration(horizon, "horizon", unit)
    shorter = sorted({duration(one, "within", unit) for one in several(within)} - {longest})
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
