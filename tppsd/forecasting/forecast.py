"""`forecast`: from histories to numbers about what comes next, each with its standard error."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cached_property
from typing import Any, Literal

import torch
from torch import Tensor

from tppsd.data.batch import EventBatch
from tppsd.data.sequences import EventSequence
from tppsd.forecasting.anchors import anchored
from tppsd.forecasting.estimators import Estimate, Quantiles, mean_estimate, quantiles_of, step_sum_estimate
from tppsd.forecasting.next_event import NextTime, first_distributions, next_mark_probs, next_mark_probs_at
from tppsd.forecasting.origins import duration
from tppsd.forecasting.paths import PathSampler
from tppsd.forecasting.questions import MIN_PATHS, Marks, MarkSet, Vocabulary, bin_edges
from tppsd.forecasting.step_sums import Sums
from tppsd.models.resolve import model_device, resolve_model
from tppsd.sampling.checks import mark_set, whole_number
from tppsd.sampling.options import SamplingOptions
from tppsd.sampling.requests import Wanted, as_sequences
from tppsd.sampling.results import SampledSequences

Estimator = Literal["control_variates", "step_sum", "frequency", "without"]
LEVELS = (0.05, 0.25, 0.5, 0.75, 0.95)


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
    history_lookback: float | str | None = None,
) -> Forecast:
    """Forecast what follows histories that were observed until w, up to w + horizon.

    The forecast is lazy: nothing is sampled before a question needs paths. The sums that `marks` and `bins` ask for are
    taken while these are sampled, so that no distribution is kept; a question about other marks or times samples again.

    Args:
        target: an EventModel, a LightningModule or a checkpoint path; on a CPU.
        history: what has happened, and until when that was observed (`t_end`); several are best forecast together, by
            one call (see `seed`). Also a table with mark names and timestamps (tppsd.read_histories).
        horizon: length of the forecast, in the unit of time of the target's data, or as "7d".
        num_paths: sampled continuations of each history, at least 10.
        marks: what to forecast: marks by index or name, and sets of them; a mapping gives the sets names. None = each
            mark.
        bins: the horizon is cut into so many even bins, at most 100,000, or at these times since w. None = one bin.
        draft: a draft model or the name of a drafter, for speed.
        stop_marks: paths end at their first event of these marks; what is counted is counted until then.
        options: how to sample; `forbid_marks` are refused.
        seed: of the counter-based noise. The paths of history `index` are the same in every call with this seed, so
            that calls with one seed are not independent: forecasts of `for h in histories: forecast(target, h, 7.0)`
            all draw the same noise and move together. Give one call with a list, `forecast(target, histories, 7.0)`,
            or a seed per call.
        batch_size, max_events: as of `tppsd.sample`; a path that reaches max_events is an error.
        first_index: index of the first history of this call; lets many calls share one numbering.
        history_lookback: how much of each history is taken, in units of time or as "28d". None = all of it; but where
            the model's data were cut into windows, of a history that is longer than these only as much as their
            `lookback` (half a window without one), as times enter a model since the start of a window. A forecast that
            reaches beyond the windows of the training warns.

    Returns:
        A Forecast, with `next_time`, `next_mark`, `probability`, `expected_counts`, `count_quantiles`, `first_time`,
        `first_time_density`, `paths`, `to_pandas` and `plot`.

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
        first_index, history_lookback,
    )  # fmt: skip


class Forecast:
    """Answers questions about the future of histories; made by `tppsd.forecast`, whose arguments it takes.

    All times are since w, the time until which a history was observed. Tensors have a leading (num_histories,)
    dimension.

    Attributes:
        histories: that are continued, as far as `history_lookback` reaches.
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
        history_lookback: float | str | None = None,
    ) -> None:
        self.target, self.draft = resolve_model(target, "target"), draft
        if (device := model_device(self.target)).type != "cpu":  # sums along paths are taken there
            raise ValueError(f"forecasts are worked out on CPUs, and the target is on {device}; give target.cpu()")
        statistics = getattr(self.target, "statistics", None)
        self.histories = as_sequences(history, statistics)
        self._time_unit = getattr(statistics, "time_unit", None)
        self.horizon = duration(horizon, "horizon", self._time_unit)
        reach = None if history_lookback is None else duration(history_lookback, "history_lookback", self._time_unit)
        self.histories = anchored(self.histories, statistics, self.horizon, reach)
        self.num_paths = whole_number("num_paths", num_paths, MIN_PATHS)
        self.seed, self.first_index, self.max_events = seed, whole_number("first_index", first_index, 0), max_events
        self.num_marks = self.target.num_marks
        self.vocabulary = Vocabulary(self.num_marks, getattr(statistics, "mark_names", None))
        self.sets, self.edges = self.vocabulary.sets(marks), bin_edges(bins, self.horizon)
        options = options or SamplingOptions()
        if options.forbid_marks is not None:
            forbidden = list(options.forbid_marks)
            raise ValueError(f"forbid_marks = {forbidden} would forecast another process; leave it out")
        self.stop_marks = mark_set("stop_marks", stop_marks) or options.stop_marks
        self._wanted = Wanted(
            self.histories,  # cut already: the sampler finds nothing to cut where it is told the same
            self.num_paths,
            horizon=self.horizon,
            first_index=self.first_index,
            history_lookback=reach,
        )
        self._paths = PathSampler(
            self.target, draft, options, batch_size, seed, max_events, self.stop_marks, self._wanted, self.sets,
            self.edges,
        )  # fmt: skip

    def __repr__(self) -> str:
        labels = ", ".join(one.label for one in self.sets)
        sizes = f"{len(self.histories)} histories, horizon={self.horizon:g}, num_paths={self.num_paths}"
        return f"Forecast({sizes}, marks: {labels})"

    # --- questions that need no path ----------------------------------------------------------------------------------

    @cached_property
    def next_event(self) -> Any:
        """The distributions (num_histories,) of the next event, given that none came until the window's start."""
        job = self._paths.job(stops=self.stop_marks)
        return first_distributions(job, job.plan(self._wanted._replace(num_sequences=1)))

    def next_time(self, quantiles: Sequence[float] = LEVELS) -> NextTime:
        """Return quantiles, mean and density of the time until the next event of any mark, in closed form.

        Args:
            quantiles: levels, in (0, 1).
        """
        return NextTime(self.next_event, quantiles, getattr(self.target, "statistics", None))

    def next_mark(self, at: Sequence[float] | Tensor | None = None) -> Tensor:
        """Return the probability of each mark to be the next; it needs no paths.

        Args:
            at: times since w, (n,): the next mark should the next event come then, (num_histories, n, num_marks). None
                = whenever that is, (num_histories, num_marks).
        """
        if at is not None:
            return next_mark_probs_at(self.next_event, at, self.num_marks)
        return next_mark_probs(self.next_event, self.num_marks)

    # --- estimates over paths -----------------------------------------------------------------------------------------

    def probability(
        self,
        marks: Marks | None = None,
        within: float | str | None = None,
        estimator: Estimator = "control_variates",
        at_least: int = 1,
    ) -> Estimate:
        """Estimate the probability of an event of some marks until a time, or of several.

        Args:
            marks: a mark or a set of them, by index or name, or the name of a declared set, (num_histories,); None =
                each declared set, (num_histories, num_sets).
            within: time since w, at most the horizon (None), in the unit of time of the target's data, or as "2d".
            estimator: "control_variates" (the default): the share of paths, corrected by what their steps made
                probable and by the times of their first events, never less precise than the share but for the fit of
                five coefficients; "step_sum": the mean over paths of the steps' probabilities, until the first such
                event; "frequency": the share of paths; "without": the mean of 1 - exp(-integral of these marks'
                intensity) over other paths, of the process without them, each set of marks by paths of its own: never
                less precise than the share, and good for what is rare.
            at_least: how many of these events until then.

        An estimate that is no frequency is unbiased, and may lie a few standard errors outside of [0, 1].
        """
        end = self.horizon if within is None else self._within(within)
        sets = self.sets if marks is None else (self._set(marks),)
        order = whole_number("at_least", at_least, 1)
        if estimator == "without" and order == 1:
            parts = torch.stack([self._missed(one, end) for one in sets], -1)  # (num_paths, num_histories, num_sets)
            return _squeezed(mean_estimate(parts)._replace(estimator="process without the marks"), marks is not None)
        stops = sets[0].marks if marks is not None and order == 1 else None
        paths = self._paths.with_sums(sets, [end], stops, order)
        sums = paths.until_first(sets, end)  # of the n-th event of a set, by the steps between the one before and it
        return _squeezed(_estimate(sums, estimator, True, lambda: paths.first_events([end])), marks is not None)

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
        paths = self._paths.with_sums(sets, edges.tolist())
        sums, ends = paths.in_bins(sets, edges), edges[1:].tolist()
        found = _estimate(sums, estimator, False, lambda: paths.first_events(ends).unsqueeze(2))
        return _squeezed(found, not by_mark)

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
        counts = self._paths.with_sums(sets, edges.tolist()).in_bins(sets, edges).events.squeeze(2)
        return quantiles_of(counts, quantiles)

    def first_time(self, marks: Marks, quantiles: Sequence[float] = LEVELS) -> Quantiles:
        """Return quantiles of the time until the first event of some marks, over paths: (num_histories, num_levels).

        A quantile beyond the probability that there is one before the horizon is inf: it is later than the horizon.

        Args:
            marks: a mark or a set of them.
            quantiles: levels, in (0, 1).
        """
        sets = (self._set(marks),)
        paths = self._paths.with_sums(sets, [self.horizon], sets[0].marks)
        first = paths.sums.first_times[:, paths.places(sets)].squeeze(1)
        return quantiles_of(first.view(len(self.histories), self.num_paths).t(), quantiles)

    def first_time_density(self, marks: Marks, times: Sequence[float] | Tensor) -> Estimate:
        """Estimate the density of the time of the first event of some marks, (num_histories, num_times).

        It is the mean over paths of the sum over their steps, until the first such event, of the density that the step
        ends with one at that time. Other paths are sampled for it, which stop there.

        Args:
            marks: a mark or a set of them.
            times: since w, positive, up to the horizon.
        """
        at = torch.as_tensor(times, dtype=torch.float64).flatten()
        if len(at) == 0 or not bool(((at > 0) & (at <= self.horizon)).all()):
            raise ValueError(f"times = {times} must lie between 0 and the horizon, {self.horizon:g}")
        sets = (self._set(marks),)
        paths = self._paths.with_sums(sets, [self.horizon], sets[0].marks, times=tuple(at.tolist()))
        densities = paths.sums.densities[:, paths.places(sets)[0]]
        by_history = densities.view(len(self.histories), self.num_paths, -1).transpose(0, 1)
        return mean_estimate(by_history)._replace(estimator="step sum")

    @property
    def first_times(self) -> Tensor:
        """Times of the first event of each declared set on every path, (num_paths, num_histories, num_sets).

        They are inf where there is none until the horizon.
        """
        paths = self._paths.with_sums(self.sets, self.edges.tolist())
        first = paths.sums.first_times[:, paths.places(self.sets)]
        return first.view(len(self.histories), self.num_paths, -1).transpose(0, 1)

    @property
    def paths(self) -> SampledSequences:
        """The sampled continuations, `num_paths` of each history, that the declared questions are answered from."""
        return self._paths.with_sums(self.sets, self.edges.tolist()).samples

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

    # --- arguments of questions ---------------------------------------------------------------------------------------

    def label(self, mark: int) -> str:
        """Return the name of a mark in the target's data, or its number."""
        return self.vocabulary.label(mark)

    def _set(self, marks: Marks) -> MarkSet:
        """Return a declared set by its label, or the set of these marks."""
        for one in self.sets:
            if isinstance(marks, str) and one.label == marks:
                return one
        return MarkSet(str(marks), self.vocabulary.indices(marks))

    def _missed(self, one: MarkSet, end: float) -> Tensor:
        """Return 1 - exp(-integral of the set's intensity until `end`), (num_paths, num_histories).

        Along paths of the process without the set of marks.
        """
        paths = self._paths.without(one, end)
        hazards = paths.by_history(paths.sums.totals).hazards.squeeze(2)
        return -torch.expm1(-hazards[..., : paths.number_of_bins(end)].sum(-1))

    def _within(self, within: float | str) -> float:
        end = duration(within, "within", self._time_unit)
        if end > self.horizon:
            raise ValueError(f"within = {within} is beyond the horizon, {self.horizon:g}; give a longer horizon")
        return end


def _estimate(sums: Sums, estimator: Estimator, is_binary: bool, controls: Callable[[], Tensor]) -> Estimate:
    """Estimate the means over paths of sums (num_paths, *batch), (*batch,), with more control variates."""
    if estimator == "control_variates":
        return step_sum_estimate(*sums, is_binary, controls())
    if estimator == "step_sum":
        return mean_estimate(sums.probabilities)._replace(estimator="step sum")
    if estimator == "frequency":
        return mean_estimate(sums.events)._replace(estimator="frequency" if is_binary else "mean")
    raise ValueError(
        f"estimator = {estimator!r} is unknown here; choose 'control_variates', 'step_sum' or 'frequency' (or "
        "'without' for a probability)"
    )


def _squeezed(estimate: Estimate, is_one: bool) -> Estimate:
    """Return values without the dimension of sets where there is one set."""
    if not is_one:
        return estimate
    freedom = estimate.degrees_of_freedom
    return estimate._replace(
        value=estimate.value[:, 0],
        standard_error=estimate.standard_error[:, 0],
        degrees_of_freedom=None if freedom is None else freedom[:, 0],
    )
