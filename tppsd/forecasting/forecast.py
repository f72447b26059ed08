"""`forecast`: from histories to numbers about what comes next, each with its standard error."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from tppsd.data.sequences import EventBatch, EventSequence
from tppsd.forecasting.estimators import Estimate, Quantiles, mean_estimate, quantiles_of, step_sum_estimate
from tppsd.forecasting.next_event import NextTime, first_distributions, next_mark_probs
from tppsd.forecasting.origins import duration
from tppsd.forecasting.questions import Mark, Marks, MarkSet, bin_edges, positive
from tppsd.forecasting.step_sums import StepSums, Sums
from tppsd.models.resolve import resolve_model
from tppsd.sampling.checks import mark_indices, mark_set, whole_number
from tppsd.sampling.options import SamplingOptions
from tppsd.sampling.recorder import Recorder
from tppsd.sampling.requests import Wanted, as_sequences
from tppsd.sampling.results import SampledSequences
from tppsd.sampling.sample import SamplingJob

Estimator = Literal["control_variates", "step_sum", "frequency", "without"]
LEVELS = (0.05, 0.25, 0.5, 0.75, 0.95)


class _Pass(NamedTuple):
    """Paths that have been sampled, and their sums.

    Fields: sets; edges float64 (num_bins + 1,); stops: marks at which paths end; forbidden: marks that do not happen;
    samples; sums.
    """

    sets: tuple[MarkSet, ...]
    edges: Tensor
    stops: tuple[int | str, ...] | None
    forbidden: tuple[int, ...] | None
    samples: SampledSequences
    sums: StepSums


def forecast(
    target: Any,
    history: EventSequence | Sequence[EventSequence] | EventBatch | Any,
    horizon: float | str,
    num_paths: int = 1000,
    marks: Iterable[Marks] | Mapping[str, Marks] | None = None,
    bins: int | Sequence[float] | Tensor | None = None,
    draft: Any = None,
    stop_marks: Marks | None = None,
    options: SamplingOptions | None = None,
    seed: int = 0,
    batch_size: int | None = None,
    max_events: int = 1_000_000,
    first_index: int = 0,
) -> Forecast:
    """Forecast what follows histories that were observed until w, up to w + horizon.

    The forecast is lazy: nothing is sampled before a question needs paths. The sums that `marks` and `bins` ask for are
    taken while these are sampled, so that no distribution is kept; a question about other marks or times samples again.

    Args:
        target: an EventModel, a LightningModule or a checkpoint path.
        history: what has happened, and until when that was observed (`t_end`); several are best forecast together, by
            one call (see `seed`). Also a table with mark names and timestamps (tppsd.read_histories).
        horizon: length of the forecast, in the unit of time of the target's data, or as "7d".
        num_paths: sampled continuations of each history, at least 10.
        marks: what to forecast: marks by index or name, and sets of them; a mapping gives the sets names. None = each
            mark.
        bins: the horizon is cut into so many even bins, or at these times since w. None = one bin.
        draft: a draft model or the name of a drafter, for speed.
        stop_marks: paths end at their first event of these marks; what is counted is counted until then.
        options: how to sample; `forbid_marks` are refused.
        seed: of the counter-based noise. The paths of history `index` are the same in every call with this seed, so
            that calls with one seed are not independent: forecasts of `for h in histories: forecast(target, h, 7.0)`
            all draw the same noise and move together. Give one call with a list, `forecast(target, histories, 7.0)`,
            or a seed per call.
        batch_size, max_events: as of `tppsd.sample`; a path that reaches max_events is an error.
        first_index: index of the first history of this call; lets many calls share one numbering.

    Returns:
        A Forecast, with `next_time`, `next_mark`, `probability`, `expected_counts`, `count_quantiles`, `first_time`,
        `paths`, `to_pandas` and `plot`.

    Raises:
        ValueError, TypeError, FileNotFoundError: an argument is wrong; the sentence names it and its value.

    Example:
        >>> from tppsd.processes import Hawkes
        >>> poisson = Hawkes(mu=[1.0, 0.5], alpha=0.0, beta=1.0)  # a model that was trained is asked in the same way
        >>> history = EventSequence.of([0.5, 2.0], marks=[0, 1], t_start=0.0, t_end=3.0)  # observed until 3
        >>> found = forecast(poisson, history, horizon=2.0, num_paths=200, bins=2)
        >>> found
        Forecast(1 histories, horizon=2, num_paths=200, marks: 0, 1, any)
        >>> chance = found.probability(1)  # 1 - exp(-1) = 0.632, but for its standard error
        >>> abs(float(chance.value) - 0.632) < 4 * float(chance.standard_error)
        True
        >>> abs(float(found.expected_counts(by_mark=False).value.sum()) - 3.0) < 0.5
        True
        >>> found.next_time((0.5,)).quantiles  # log(2) / 1.5
        tensor([[0.4621]], dtype=torch.float64)
    """
    return Forecast(
        target, history, horizon, num_paths, marks, bins, draft, stop_marks, options, seed, batch_size, max_events,
        first_index,
    )  # fmt: skip


class Forecast:
    """Answers questions about the future of histories; made by `tppsd.forecast`, whose arguments it takes.

    All times are since w, the time until which a history was observed. Tensors have a leading (num_histories,)
    dimension.

    Attributes:
        histories: that are continued.
        sets: of marks, as declared, and at last "any", all marks.
        edges: float64 (num_bins + 1,), ends of the bins, from 0 to the horizon.
        horizon, num_paths, seed, first_index: as given.
    """

    def __init__(
        self,
        target: Any,
        history: EventSequence | Sequence[EventSequence] | EventBatch | Any,
        horizon: float | str,
        num_paths: int,
        marks: Iterable[Marks] | Mapping[str, Marks] | None,
        bins: int | Sequence[float] | Tensor | None,
        draft: Any,
        stop_marks: Marks | None,
        options: SamplingOptions | None,
        seed: int,
        batch_size: int | None,
        max_events: int,
        first_index: int,
    ) -> None:
        self.target, self.draft = resolve_model(target, "target"), draft
        self.histories = as_sequences(history, getattr(self.target, "statistics", None))
        unit = getattr(getattr(self.target, "statistics", None), "time_unit", None)
        self.horizon = duration(horizon, "horizon", unit) if isinstance(horizon, str) else positive("horizon", horizon)
        self.num_paths = whole_number("num_paths", num_paths, 10)
        self.options = options or SamplingOptions()
        if self.options.forbid_marks is not None:
            raise ValueError(
                f"forbid_marks = {list(self.options.forbid_marks)} would forecast another process; leave it out"
            )
        self.stop_marks = mark_set("stop_marks", stop_marks) or self.options.stop_marks
        self.seed, self.batch_size, self.max_events = seed, batch_size, max_events
        self.first_index = whole_number("first_index", first_index, 0)
        statistics = getattr(self.target, "statistics", None)
        self.mark_names: tuple[str, ...] | None = getattr(statistics, "mark_names", None)
        self.num_marks = self.target.num_marks
        self.sets = (*self._declared(marks), MarkSet("any", tuple(range(self.num_marks))))
        self.edges = bin_edges(bins, self.horizon)
        self._passes: list[_Pass] = []

    def __repr__(self) -> str:
        labels = ", ".join(one.label for one in self.sets)
        sizes = f"{len(self.histories)} histories, horizon={self.horizon:g}, num_paths={self.num_paths}"
        return f"Forecast({sizes}, marks: {labels})"

    # --- questions that need no path ----------------------------------------------------------------------------------

    @cached_property
    def next_event(self) -> Any:
        """The distributions (num_histories,) of the next event, given that none came until the window's start."""
        job = self._job(None, self.stop_marks)
        wanted = Wanted(self.histories, horizon=self.horizon, first_index=self.first_index)
        return first_distributions(job, job.plan(wanted))

    def next_time(self, quantiles: Sequence[float] = LEVELS) -> NextTime:
        """Return quantiles, mean and density of the time until the next event of any mark, in closed form.

        Args:
            quantiles: levels, in (0, 1).
        """
        return NextTime(self.next_event, quantiles, getattr(self.target, "statistics", None))

    def next_mark(self) -> Tensor:
        """Return the probability of each mark to be the next, whenever that is, (num_histories, num_marks).

        It needs no paths.
        """
        return next_mark_probs(self.next_event, self.num_marks)

    # --- estimates over paths -----------------------------------------------------------------------------------------

    def probability(
        self,
        marks: Marks | None = None,
        within: float | None = None,
        estimator: Estimator = "control_variates",
    ) -> Estimate:
        """Estimate the probability of an event of some marks until a time.

        Args:
            marks: a mark or a set of them, by index or name, or the name of a declared set, (num_histories,); None =
                each declared set, (num_histories, num_sets).
            within: time since w, at most the horizon (None).
            estimator: "control_variates" (the default): the share of paths, corrected by what their steps made
                probable, never less precise than the share but for the fit of two coefficients; "step_sum": the mean
                over paths of the steps' probabilities, until the first such event; "frequency": the share of paths;
                "without": the mean of 1 - exp(-integral of these marks' intensity) over other paths, of the process
                without them, each set of
                marks by paths of its own: never less precise than the share, and good for what is rare.

        An estimate that is no frequency is unbiased, and may lie a few standard errors outside of [0, 1].
        """
        end = self.horizon if within is None else self._within(within)
        sets = self.sets if marks is None else (self._set(marks),)
        if estimator == "without":
            parts = torch.stack([self._missed(one, end) for one in sets], -1)  # (num_paths, num_histories, num_sets)
            return _squeezed(mean_estimate(parts)._replace(estimator="process without the marks"), marks is not None)
        stops = None if marks is None else sets[0].marks
        done = self._pass(sets, [end], stops)
        which, bins = self._of(done, sets), int(torch.searchsorted(done.edges, end))
        sums = self._by_history(Sums(*(field[:, which, :bins].sum(-1) for field in done.sums.until_first)))
        return _squeezed(_estimate(sums, estimator, is_binary=True), marks is not None)

    def expected_counts(
        self,
        by_mark: bool = True,
        bins: int | Sequence[float] | Tensor | None = None,
        estimator: Estimator = "control_variates",
    ) -> Estimate:
        """Estimate the expected number of events in each bin.

        Args:
            by_mark: of each declared set of marks, (num_histories, num_sets, num_bins); else of any mark,
                (num_histories, num_bins).
            bins: as of `forecast`; None = the declared ones.
            estimator: as of `probability`.
        """
        edges = self.edges if bins is None else bin_edges(bins, self.horizon)
        sets = self.sets if by_mark else self.sets[-1:]
        sums = self._binned(self._pass(sets, edges.tolist()), sets, edges)
        return _squeezed(_estimate(sums, estimator, is_binary=False), not by_mark)

    def count_quantiles(
        self,
        marks: Marks | None = None,
        quantiles: Sequence[float] = LEVELS,
        bins: int | Sequence[float] | Tensor | None = None,
    ) -> Quantiles:
        """Return quantiles of the number of events in each bin, over paths: (num_histories, num_bins, num_levels).

        Args:
            marks: a mark or a set of them; None = any.
            quantiles: levels, in (0, 1).
            bins: as of `forecast`; None = the declared ones.
        """
        edges = self.edges if bins is None else bin_edges(bins, self.horizon)
        sets = (self.sets[-1] if marks is None else self._set(marks),)
        counts = self._binned(self._pass(sets, edges.tolist()), sets, edges).events.squeeze(2)
        return quantiles_of(counts, quantiles)

    def first_time(self, marks: Marks, quantiles: Sequence[float] = LEVELS) -> Quantiles:
        """Return quantiles of the time until the first event of some marks, over paths: (num_histories, num_levels).

        A quantile beyond the probability that there is one before the horizon is inf: it is later than the horizon.

        Args:
            marks: a mark or a set of them.
            quantiles: levels, in (0, 1).
        """
        sets = (self._set(marks),)
        done = self._pass(sets, [self.horizon], sets[0].marks)
        first = done.sums.first_times[:, self._of(done, sets)].squeeze(1)
        return quantiles_of(first.view(len(self.histories), self.num_paths).t(), quantiles)

    @property
    def paths(self) -> SampledSequences:
        """The sampled continuations, `num_paths` of each history, that the declared questions are answered from."""
        return self._pass(self.sets, self.edges.tolist()).samples

    # --- tables and figures -------------------------------------------------------------------------------------------

    def to_pandas(self) -> Any:
        """Return a tidy `pandas.DataFrame` of the declared questions, one row per number (tppsd.forecasting.tables)."""
        from tppsd.forecasting.tables import forecast_table

        return forecast_table(self)

    def plot(self, observed: Sequence[EventSequence] | None = None, history: int = 0) -> Any:
        """Draw the fan of cumulative counts by mark, the next time and the probabilities (tppsd.plots.forecast_plot).

        Args:
            observed: what has happened, sequences as long as the histories with their continuations, where it is known.
            history: which history to draw.
        """
        from tppsd.plots.forecasts import forecast_plot

        return forecast_plot(self, observed, history)

    def _missed(self, one: MarkSet, end: float) -> Tensor:
        """Return 1 - exp(-integral of the set's intensity until `end`), (num_paths, num_histories).

        Along paths of the process without the set of marks.
        """
        known = [done for done in self._passes if done.forbidden == one.marks and bool((done.edges == end).any())]
        if not known:
            edges = torch.tensor(sorted({0.0, *self.edges.tolist(), end, self.horizon}), dtype=torch.float64)
            known = [self._sampled((one,), edges, self.stop_marks, one.marks)]
            self._passes.append(known[0])
        done = known[0]
        hazards = self._by_history(done.sums.totals).hazards.squeeze(2)
        return -torch.expm1(-hazards[..., : int(torch.searchsorted(done.edges, end))].sum(-1))

    # --- paths --------------------------------------------------------------------------------------------------------

    def _job(
        self, recorder: Recorder | None, stops: tuple[Mark, ...] | None, forbidden: tuple[int, ...] | None = None
    ) -> SamplingJob:
        options, draft = self.options.with_overrides(stop_marks=stops), self.draft
        if forbidden is not None:
            common = options.common | {"forbid_marks": forbidden}
            options, draft = SamplingOptions("autoregressive", **common), None
        return SamplingJob(self.target, draft, options, {}, self.batch_size, self.seed, self.max_events, recorder)

    def _pass(self, sets: tuple[MarkSet, ...], ends: list[float], stops: tuple[int, ...] | None = None) -> _Pass:
        """Paths with the sums of these sets of marks and with these ends of bins; sampled where there are none yet.

        Args:
            sets: of marks.
            ends: of bins, times since w.
            stops: marks at which paths may end, as nothing after them matters.
        """
        own, wanted = self.stop_marks, {one.marks for one in sets}
        for done in [done for done in self._passes if done.forbidden is None]:
            has_ends = all(bool((done.edges == end).any()) for end in ends)
            if {one.marks for one in done.sets} >= wanted and has_ends and done.stops in (own, self._also(stops)):
                return done
        is_declared = {one.marks for one in self.sets} >= wanted and all(
            bool((self.edges == end).any()) for end in ends
        )
        if is_declared:
            done = self._sampled(self.sets, self.edges, own)
        else:
            edges = torch.tensor(sorted({0.0, *ends, self.horizon}), dtype=torch.float64)
            done = self._sampled(sets, edges, self._also(stops))
        self._passes.append(done)
        return done

    def _also(self, stops: tuple[int, ...] | None) -> tuple[Mark, ...] | None:
        """Return the forecast's own stop marks and these."""
        if stops is None:
            return self.stop_marks
        own = mark_indices("stop_marks", self.stop_marks or (), self.num_marks, self.mark_names)
        return mark_set("stop_marks", [*own, *stops])

    def _sampled(
        self,
        sets: tuple[MarkSet, ...],
        edges: Tensor,
        stops: tuple[Mark, ...] | None,
        forbidden: tuple[int, ...] | None = None,
    ) -> _Pass:
        members = torch.zeros(len(sets), self.num_marks, dtype=torch.bool)
        for row, one in zip(members, sets, strict=True):
            row[list(one.marks)] = True
        sums = StepSums(members, edges)
        job = self._job(Recorder(accumulator=sums), stops, forbidden)
        plan = job.plan(Wanted(self.histories, self.num_paths, horizon=self.horizon, first_index=self.first_index))
        sums.begin(plan)
        samples = job.sampled(plan)
        if samples.truncated.any():
            raise ValueError(
                f"{int(samples.truncated.sum())} paths reached max_events = {self.max_events} before the horizon "
                f"{self.horizon:g}; give a shorter horizon or a larger max_events"
            )
        return _Pass(sets, edges, stops, forbidden, samples, sums)

    @staticmethod
    def _of(done: _Pass, sets: tuple[MarkSet, ...]) -> list[int]:
        """Return the places of sets among those of a pass."""
        known = [one.marks for one in done.sets]
        return [known.index(one.marks) for one in sets]

    def _by_history(self, sums: Sums) -> Sums:
        """Map (num_paths of all histories, ...) to (num_paths, num_histories, ...)."""
        shape = len(self.histories), self.num_paths
        return Sums(*(field.view(*shape, *field.shape[1:]).transpose(0, 1) for field in sums))

    def _binned(self, done: _Pass, sets: tuple[MarkSet, ...], edges: Tensor) -> Sums:
        """Sums of sets of marks in bins of a pass or in joined ones: (num_paths, num_histories, num_sets, num_bins)."""
        which, at = self._of(done, sets), torch.searchsorted(done.edges, edges)

        def joined(field: Tensor) -> Tensor:
            cumulative = torch.nn.functional.pad(field[:, which].cumsum(-1), (1, 0))
            return cumulative[..., at].diff(dim=-1)

        return self._by_history(Sums(*map(joined, done.sums.totals)))

    # --- arguments ----------------------------------------------------------------------------------------------------

    def _declared(self, marks: Iterable[Marks] | Mapping[str, Marks] | None) -> list[MarkSet]:
        if marks is None:
            return [MarkSet(self.label(mark), (mark,)) for mark in range(self.num_marks)] if self.num_marks > 1 else []
        if isinstance(marks, Mapping):
            return [MarkSet(label, self._indices(several)) for label, several in marks.items()]
        if isinstance(marks, str | int):
            marks = [marks]
        indices = [self._indices(several) for several in marks]
        return [MarkSet(" or ".join(map(self.label, own)), own) for own in indices]

    def label(self, mark: int) -> str:
        """Return the name of a mark in the target's data, or its number."""
        return str(mark) if self.mark_names is None else self.mark_names[mark]

    def _indices(self, marks: Marks) -> tuple[int, ...]:
        several = mark_set("marks", marks) or ()
        return tuple(sorted(mark_indices("marks", several, self.num_marks, self.mark_names)))

    def _set(self, marks: Marks) -> MarkSet:
        """Return a declared set by its label, or the set of these marks."""
        for one in self.sets:
            if isinstance(marks, str) and one.label == marks:
                return one
        return MarkSet(str(marks), self._indices(marks))

    def _within(self, within: float) -> float:
        within = positive("within", within)
        if within > self.horizon:
            raise ValueError(f"within = {within:g} is beyond the horizon, {self.horizon:g}; give a longer horizon")
        return within


def _estimate(sums: Sums, estimator: Estimator, is_binary: bool) -> Estimate:
    """Estimate the means over paths of sums (num_paths, *batch), (*batch,)."""
    if estimator == "control_variates":
        return step_sum_estimate(*sums, is_binary)
    if estimator == "step_sum":
        return mean_estimate(sums.probabilities)._replace(estimator="step sum")
    if estimator == "frequency":
        return mean_estimate(sums.events)._replace(estimator="frequency" if is_binary else "mean")
    raise ValueError(
        f"estimator = {estimator!r} is unknown here; choose 'control_variates', 'step_sum' or 'frequency' (or "
        "'without' for a "
        "probability)"
    )


def _squeezed(estimate: Estimate, is_one: bool) -> Estimate:
    """Return values without the dimension of sets where there is one set."""
    if not is_one:
        return estimate
    return estimate._replace(value=estimate.value[:, 0], standard_error=estimate.standard_error[:, 0])
