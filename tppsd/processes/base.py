"""Ground-truth processes: what all of them share, written once over a small state.

A process is described by a *state*, a float64 vector that sums up everything before an instant: together with the time
elapsed since that instant it determines the intensity until the next event. A process states how its state moves
(`advance`), its log-intensity and its compensator; likelihood, residuals and simulation follow.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from random import Random

import torch
from torch import Tensor

from tppsd.data.batch import NO_MARK
from tppsd.data.sequences import EventSequence
from tppsd.models.distribution import pick_mark, sample_mark

_EPS = torch.finfo(torch.float64).eps
_MAX_STEPS = 1100  # doubling from 1 to the largest float64 takes 1024 steps; an inversion typically takes 5


def invert_increasing(value: Callable[[Tensor], Tensor], slope: Callable[[Tensor], Tensor], target: Tensor) -> Tensor:
    """Return x > 0 with value(x) = target, by Newton steps safeguarded by doubling and bisection.

    Every element has its own bracket and stops on its own, so its result does not depend on the others.

    Args:
        value: continuous, increasing, elementwise, value(0) = 0, unbounded.
        slope: its derivative.
        target: float64 (...), > 0.
    """
    lower, upper = torch.zeros_like(target), torch.full_like(target, torch.inf)
    before = step = upper
    x = target / slope(lower)  # Newton's step from 0; no further than the solution if `value` is concave
    x = torch.where(torch.isfinite(x), x, 1.0)
    done = torch.zeros_like(target, dtype=torch.bool)
    for _ in range(_MAX_STEPS):
        gap = value(x) - target
        done = done | (gap.abs() <= 2 * _EPS * target) | (step < 2 * _EPS * x)
        if done.all():
            return x
        lower, upper = torch.where(gap < 0, x, lower), torch.where(gap > 0, x, upper)
        newton = x - gap / slope(x)
        # a Newton step is taken if it stays inside and at least halves the last step but one (Brent 1973)
        usable = (newton >= lower) & (newton <= upper.clamp_max(1e3 * x)) & ((newton - x).abs() <= 0.5 * before)
        proposal = torch.where(usable, newton, torch.where(upper.isinf(), 2 * x, 0.5 * (lower + upper)))
        before, step = step, (proposal - x).abs()
        x = torch.where(done, x, proposal)
    raise RuntimeError(
        f"no inverse found in {_MAX_STEPS} steps: the function does not reach its target, or is not increasing"
    )


_BLOCK = 64  # uniforms are drawn for so many events at a time; results do not depend on it


class Process(ABC):
    """Is a point process with known conditional intensity; one that surely has a next event.

    Attributes:
        num_marks: number of marks; 1 = unmarked.
        state_size: length of the state.
    """

    num_marks: int = 1
    state_size: int = 1

    # --- what a process defines ----------------------------------------------------------------------------------

    @abstractmethod
    def start_state(self, t_start: Tensor) -> Tensor:
        """Return the state at the start of a window, before any event: float64 (*batch,) -> (*batch, state_size)."""

    @abstractmethod
    def advance(self, state: Tensor, inter_times: Tensor, marks: Tensor) -> Tensor:
        """Return the states right after each of the next events.

        Args:
            state: (*batch, state_size).
            inter_times: float64 (*batch, length), from the state's instant, then from event to event.
            marks: int64 (*batch, length); NO_MARK where time passes without an event.

        Returns:
            float64 (*batch, length, state_size).
        """

    @abstractmethod
    def log_intensity_after(self, state: Tensor, elapsed: Tensor) -> Tensor:
        """Return log lambda*_k while nothing has happened for `elapsed` since `state`.

        Args:
            state: float64 (..., state_size).
            elapsed: float64 (...).

        Returns:
            float64 (..., num_marks).
        """

    @abstractmethod
    def compensator_after(self, state: Tensor, elapsed: Tensor) -> Tensor:
        """Return the total intensity integrated over the `elapsed` time that follows `state`.

        Args:
            state: float64 (..., state_size).
            elapsed: float64 (...).

        Returns:
            float64 (...).
        """

    def elapsed_at(self, state: Tensor, compensator: Tensor) -> Tensor:
        """Invert `compensator_after`: return the elapsed time at which it reaches `compensator` (...) > 0: (...)."""
        target = compensator.broadcast_to(torch.broadcast_shapes(compensator.shape, state.shape[:-1])).contiguous()
        return invert_increasing(
            lambda elapsed: self.compensator_after(state, elapsed),
            lambda elapsed: self.log_intensity_after(state, elapsed).exp().sum(-1),
            target,
        )

    # --- one sequence --------------------------------------------------------------------------------------------

    def intensity(self, sequence: EventSequence, times: Tensor) -> Tensor:
        """Return lambda*_k just before each of `times` (n,), none before the window's start: float64 (n, num_marks)."""
        knot, elapsed = _locate(sequence, times)
        return self.log_intensity_after(self._states(sequence)[knot], elapsed).exp()

    def compensator(self, sequence: EventSequence, times: Tensor | None = None) -> Tensor:
        """Return the total compensator Lambda*(t) from the start of the window, float64.

        With `times` (n,): at each of them, (n,). Without: at each event with a likelihood term and, last, at the
        window's end, (num_scored + 1,).
        """
        states = self._states(sequence)
        steps = self._steps(sequence, states)
        if times is None:
            return steps.cumsum(0)[_num_knots(sequence) :]
        knot, elapsed = _locate(sequence, times)
        at_knots = torch.cat([steps.new_zeros(1), steps[:-1].cumsum(0)])
        return at_knots[knot] + self.compensator_after(states[knot], elapsed)

    def residuals(self, sequence: EventSequence) -> tuple[Tensor, float]:
        """Return time-rescaling residuals z_i = Lambda*(t_i) - Lambda*(t_{i-1}), (num_scored,), and the part left over.

        That is the compensator from the last event until the window's end. Both begin at `score_start`, where there is
        one. Under this process the residuals are i.i.d. Exp(1) once the part left over in each window is carried into
        the first residual of the next one.
        """
        gaps, leftover = self._residuals(sequence, self._states(sequence))
        return gaps, float(leftover)

    def log_likelihood(self, sequence: EventSequence) -> float:
        """Return the log-likelihood of a sequence in nats, given all events before `score_start`.

        It is sum_i log lambda*_{k_i}(t_i) - (Lambda*(t_end) - Lambda*(score_start)) over the scored events i.
        """
        states, given = self._states(sequence), sequence.num_given
        log_intensities = self.log_intensity_after(states[_num_knots(sequence) : -1], sequence.inter_times[given:])
        gaps, leftover = self._residuals(sequence, states)
        return float((pick_mark(log_intensities, sequence.marks[given:]) - gaps).sum() - leftover)

    def _states(self, sequence: EventSequence) -> Tensor:
        """Return the states at the window's start and after each event but a given first one.

        Returns:
            float64 (num_events + 1, state_size).
        """
        outside = sequence.marks[(sequence.marks < 0) | (sequence.marks >= self.num_marks)]
        if len(outside):
            raise ValueError(
                f"sequence {sequence.index}: has mark {outside[0]}; the process has marks 0..{self.num_marks - 1}"
            )
        inter_times, marks = sequence.inter_times, sequence.marks
        if not sequence.first_is_given:  # a window without a given first event starts with no event
            inter_times = torch.cat([inter_times.new_zeros(1), inter_times])
            marks = torch.cat([marks.new_tensor([NO_MARK]), marks])
        start = torch.tensor(sequence.window_start, dtype=torch.float64)
        return self.advance(self.start_state(start), inter_times, marks)

    def _steps(self, sequence: EventSequence, states: Tensor) -> Tensor:
        """Return Lambda*(t_i) - Lambda*(t_{i-1}) of every event but a given first one: (num_events + 1,).

        The last entry is what is left until the window's end.
        """
        last_time = float(sequence.event_times[-1]) if len(sequence) else sequence.window_start
        until_end = sequence.inter_times.new_tensor([sequence.window_end - last_time])
        intervals = torch.cat([sequence.inter_times[int(sequence.first_is_given) :], until_end])
        return self.compensator_after(states, intervals)

    def _residuals(self, sequence: EventSequence, states: Tensor) -> tuple[Tensor, Tensor]:
        first, steps = _num_knots(sequence), self._steps(sequence, states)
        known = steps.new_tensor(sequence.scored_from - sequence.last_given_time)
        steps[first] -= self.compensator_after(states[first], known)
        return steps[first:-1], steps[-1]

    # --- simulation ----------------------------------------------------------------------------------------------

    def simulate(
        self, num_sequences: int = 1, *, t_end: float, t_start: float = 0.0, seed: int = 0, first_index: int = 0
    ) -> list[EventSequence]:
        """Draw exactly on [t_start, t_end], by inversion of the compensator, in time linear in the number of events.

        Sequence `index` depends on (seed, index) alone, not on the others; the global RNG is neither read nor advanced.

        Args:
            num_sequences: how many, with indices first_index, first_index + 1, ...
            t_end, t_start: the window, in the process's unit of time.
            seed: of the whole data set.
            first_index: index of the first sequence.
        """
        if num_sequences < 0:
            raise ValueError(f"num_sequences = {num_sequences} must not be negative")
        if not math.isfinite(t_start):
            raise ValueError(f"t_start = {t_start} must be finite")
        if not t_start < t_end < math.inf:
            raise ValueError(f"t_end = {t_end} must be finite and later than t_start = {t_start}")
        streams = [Random(f"{seed}/{first_index + i}") for i in range(num_sequences)]  # seeded by a hash of the text
        rows = torch.arange(num_sequences)
        times = torch.full((num_sequences,), float(t_start), dtype=torch.float64)
        state = self.start_state(times)
        events: list[tuple[Tensor, Tensor, Tensor, Tensor]] = []
        while len(rows):
            if len(events) % _BLOCK == 0:
                uniforms, slots = _uniforms([streams[row] for row in rows.tolist()]), torch.arange(len(rows))
            draws = uniforms[slots, len(events) % _BLOCK]
            inter_times = self.elapsed_at(state, -draws[:, 0].log())
            marks = sample_mark(self.log_intensity_after(state, inter_times), draws[:, 1])
            state = self.advance(state, inter_times.unsqueeze(1), marks.unsqueeze(1)).squeeze(1)
            times = times + inter_times
            kept = times <= t_end
            rows, slots, times, state = rows[kept], slots[kept], times[kept], state[kept]
            events.append((rows, times, inter_times[kept], marks[kept]))
        return _sequences(events, num_sequences, t_start, t_end, first_index)


def _num_knots(sequence: EventSequence) -> int:
    """Return the number of given events, a given first one not counted: the place of the last one's state."""
    return sequence.num_given - int(sequence.first_is_given)


def _locate(sequence: EventSequence, times: Tensor) -> tuple[Tensor, Tensor]:
    """Return the number of events strictly before each time and the time elapsed since the last of them (or the start).

    A given first event is not counted.
    """
    times = torch.as_tensor(times, dtype=torch.float64)
    if not (times >= sequence.window_start).all():
        raise ValueError(
            f"sequence {sequence.index}: times must be numbers not before the window's start at "
            f"{sequence.window_start}, got {times.min().item()}"
        )
    knots = sequence.event_times[int(sequence.first_is_given) :]
    knot = torch.searchsorted(knots, times)
    return knot, times - torch.cat([knots.new_tensor([sequence.window_start]), knots])[knot]


def _uniforms(streams: list[Random]) -> Tensor:
    """Return the next draws of every stream, float64 (len(streams), _BLOCK, 2), strictly inside (0, 1)."""
    words = bytearray().join(stream.randbytes(8 * 2 * _BLOCK) for stream in streams)
    bits = (torch.frombuffer(words, dtype=torch.int64) >> 12) & (2**52 - 1)
    return ((bits.double() + 0.5) * 2.0**-52).view(len(streams), _BLOCK, 2)


def _sequences(
    events: list[tuple[Tensor, Tensor, Tensor, Tensor]],
    num_sequences: int,
    t_start: float,
    t_end: float,
    first_index: int,
) -> list[EventSequence]:
    """Sort (rows, times, inter_times, marks), one tuple per event number, into one EventSequence per row."""
    if num_sequences == 0:
        return []
    rows, times, inter_times, marks = (torch.cat(values) for values in zip(*events, strict=True))
    order = rows.argsort(stable=True)
    lengths = torch.bincount(rows, minlength=num_sequences).tolist()
    columns = zip(*(values[order].split(lengths) for values in (times, marks, inter_times)), strict=True)
    return [
        EventSequence(times, marks, float(t_start), float(t_end), first_index + i, inter_times)
        for i, (times, marks, inter_times) in enumerate(columns)
    ]
