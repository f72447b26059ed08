"""The paths of a forecast: sampled where a question needs them, with sums along them, and kept for later questions."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from tppsd.data.memory import free
from tppsd.forecasting.questions import Mark, MarkSet
from tppsd.forecasting.step_sums import StepSums, Sums
from tppsd.sampling.checks import mark_indices, mark_set
from tppsd.sampling.job import SamplingJob
from tppsd.sampling.options import SamplingOptions
from tppsd.sampling.recorder import Recorder
from tppsd.sampling.requests import Wanted
from tppsd.sampling.results import SampledSequences

BYTES_OF_SUMS, BYTES_OF_CHANCES = 48, 8  # that are kept of a path and a bin: of each set of marks, and once


class Paths(NamedTuple):
    """Holds sampled paths and their sums.

    Fields:
        sets: of marks, whose events are summed.
        edges: float64 (num_bins + 1,), ends of bins, times since w.
        stops: marks at which paths end.
        forbidden: marks that do not happen on them; None = they are of the target itself.
        num_paths: of each history.
        samples: all of them.
        sums: along them, also until the n-th event of each set, and with its density, where these are wanted.
    """

    sets: tuple[MarkSet, ...]
    edges: Tensor
    stops: tuple[Mark, ...] | None
    forbidden: tuple[int, ...] | None
    num_paths: int
    samples: SampledSequences
    sums: StepSums

    def has_ends(self, ends: list[float]) -> bool:
        """Say whether these times are all ends of bins."""
        return all(bool((self.edges == end).any()) for end in ends)

    def number_of_bins(self, end: float) -> int:
        """Return how many bins lie before an end of one."""
        return int(torch.searchsorted(self.edges, end))

    def places(self, sets: tuple[MarkSet, ...]) -> list[int]:
        """Return where sets of marks stand among those that were summed."""
        known = [one.marks for one in self.sets]
        return [known.index(one.marks) for one in sets]

    def by_history(self, sums: Sums) -> Sums:
        """Map sums of (num_paths of all histories, ...) to (num_paths, num_histories, ...)."""
        return Sums(*(field.view(-1, self.num_paths, *field.shape[1:]).transpose(0, 1) for field in sums))

    def until_first(self, sets: tuple[MarkSet, ...], end: float) -> Sums:
        """Return sums until `end`, or until a set's first event: (num_paths, num_histories, num_sets)."""
        which, bins = self.places(sets), self.number_of_bins(end)
        return self.by_history(Sums(*(field[:, which, :bins].sum(-1) for field in self.sums.until_first)))

    def first_events(self, ends: list[float]) -> Tensor:
        """Return control variates of the first events until ends of bins, (num_paths, num_histories, num_ends, 3)."""
        return self.sums.first_events.controls([self.number_of_bins(end) - 1 for end in ends], self.num_paths)

    def in_bins(self, sets: tuple[MarkSet, ...], edges: Tensor) -> Sums:
        """Return sums in bins of the paths or in joined ones: (num_paths, num_histories, num_sets, num_bins)."""
        which, at = self.places(sets), torch.searchsorted(self.edges, edges)

        def joined(field: Tensor) -> Tensor:
            cumulative = torch.nn.functional.pad(field[:, which].cumsum(-1), (1, 0))
            return cumulative[..., at].diff(dim=-1)

        return self.by_history(Sums(*map(joined, self.sums.totals)))


def check_memory(num_paths: int, num_sets: int, num_bins: int) -> None:
    """Refuse sums that would not fit into the memory that is free.

    Raises:
        ValueError: the sentence says what they want.
    """
    wanted, available = num_paths * num_bins * (num_sets * BYTES_OF_SUMS + BYTES_OF_CHANCES), free()
    if available is not None and wanted > available:
        raise ValueError(
            f"bins = {num_bins:,} with {num_paths:,} paths and {num_sets:,} sets of marks want "
            f"{wanted / 2**30:,.1f} GiB of memory, and {available / 2**30:,.1f} GiB are free; give fewer bins, paths "
            "or marks, or fewer histories at a time (chunk_size)"
        )


class PathSampler:
    """Samples the paths of a forecast where a question needs them, and keeps them for the questions that follow.

    Args:
        target, draft, options, batch_size, seed, max_events: as of `forecast`, resolved.
        stop_marks: marks at which every path ends.
        wanted: the paths, up to the horizon.
        sets, edges: what the forecast has declared, to be answered by the same paths.

    Attributes:
        kept: the paths that have been sampled.
    """

    def __init__(
        self,
        target: Any,
        draft: Any,
        options: SamplingOptions,
        batch_size: int | None,
        seed: int,
        max_events: int,
        stop_marks: tuple[Mark, ...] | None,
        wanted: Wanted,
        sets: tuple[MarkSet, ...],
        edges: Tensor,
    ) -> None:
        self.target, self.draft, self.options = target, draft, options
        self.batch_size, self.seed, self.max_events = batch_size, seed, max_events
        self.stop_marks, self.wanted, self.sets, self.edges = stop_marks, wanted, sets, edges
        self.kept: list[Paths] = []

    def job(
        self,
        recorder: Recorder | None = None,
        stops: tuple[Mark, ...] | None = None,
        forbidden: tuple[int, ...] | None = None,
    ) -> SamplingJob:
        """Return the job of such paths; the process without some marks is sampled event by event."""
        options, draft = self.options.with_overrides(stop_marks=stops), self.draft
        if forbidden is not None:
            common = options.common | {"forbid_marks": forbidden}
            options, draft = SamplingOptions("autoregressive", **common), None
        return SamplingJob(self.target, draft, options, {}, self.batch_size, self.seed, self.max_events, recorder)

    def with_sums(
        self,
        sets: tuple[MarkSet, ...],
        ends: list[float],
        stops: tuple[int, ...] | None = None,
        order: int = 1,
        times: tuple[float, ...] = (),
    ) -> Paths:
        """Return paths with the sums of these sets and with these ends of bins; sampled where there are none yet.

        Args:
            sets: of marks.
            ends: of bins, times since w.
            stops: marks at which paths may end, as nothing after them matters.
            order: which event of a set the sums until its first are about instead, as of StepSums.
            times: at which the density of that event is wanted.
        """
        wanted = {one.marks for one in sets}
        for paths in [paths for paths in self.kept if paths.forbidden is None]:
            is_fit = {one.marks for one in paths.sets} >= wanted and paths.has_ends(ends)
            is_same = (paths.sums.order, paths.sums.times.tolist()) == (order, list(times))
            if is_fit and is_same and paths.stops in (self.stop_marks, self._also(stops)):
                return paths
        is_declared = {one.marks for one in self.sets} >= wanted and all(bool((self.edges == e).any()) for e in ends)
        if is_declared and not times:
            return self._sampled(self.sets, self.edges, self.stop_marks, order=order)
        return self._sampled(sets, self._edges(ends), self._also(stops), order=order, times=times)

    def without(self, one: MarkSet, end: float) -> Paths:
        """Return paths of the process without a set of marks, with the sums of that set until `end`."""
        for paths in self.kept:
            if paths.forbidden == one.marks and paths.has_ends([end]):
                return paths
        return self._sampled((one,), self._edges([*self.edges.tolist(), end]), self.stop_marks, one.marks)

    def _edges(self, ends: list[float]) -> Tensor:
        return torch.tensor(sorted({0.0, *ends, float(self.wanted.horizon)}), dtype=torch.float64)

    def _also(self, stops: tuple[int, ...] | None) -> tuple[Mark, ...] | None:
        """Return the forecast's own stop marks and these."""
        if stops is None:
            return self.stop_marks
        names = getattr(getattr(self.target, "statistics", None), "mark_names", None)
        own = mark_indices("stop_marks", self.stop_marks or (), self.target.num_marks, names)
        return mark_set("stop_marks", [*own, *stops])

    def _check_length(self) -> None:
        """Refuse a horizon in which a path is expected to have more events than it may, before any is sampled.

        Raises:
            ValueError: the sentence says how many.
        """
        rate, horizon = getattr(getattr(self.target, "statistics", None), "rate", None), float(self.wanted.horizon)
        if rate is not None and rate * horizon > self.max_events:
            raise ValueError(
                f"horizon = {horizon:g} would have about {rate * horizon:.3g} events at the rate of the training data, "
                f"{rate:.3g} per unit of time, and a path may have max_events = {self.max_events:,}; give a shorter "
                "horizon, or a larger max_events (--max_events of a command)"
            )

    def _sampled(
        self,
        sets: tuple[MarkSet, ...],
        edges: Tensor,
        stops: tuple[Mark, ...] | None,
        forbidden: tuple[int, ...] | None = None,
        order: int = 1,
        times: tuple[float, ...] = (),
    ) -> Paths:
        members = torch.zeros(len(sets), self.target.num_marks, dtype=torch.bool)
        for row, one in zip(members, sets, strict=True):
            row[list(one.marks)] = True
        if stops is None and forbidden is None:
            self._check_length()
        sums = StepSums(members, edges, order, torch.tensor(times, dtype=torch.float64))
        job = self.job(Recorder(accumulator=sums), stops, forbidden)
        plan = job.plan(self.wanted)
        check_memory(len(plan.requests), len(sets), len(edges) - 1)
        sums.begin(plan)
        samples = job.sampled(plan)
        if samples.truncated.any():
            raise ValueError(
                f"{int(samples.truncated.sum())} paths reached max_events = {self.max_events} before the horizon "
                f"{self.wanted.horizon:g}; give a shorter horizon, or a larger max_events (--max_events of a command)"
            )
        self.kept.append(Paths(sets, edges, stops, forbidden, self.wanted.num_sequences, samples, sums))
        return self.kept[-1]
