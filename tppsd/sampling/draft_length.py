"""The number of events to draft per round: fixed, recorded, or what measured costs and acceptance make best.

    gamma = argmax_g (1 + sum_{j <= g} a_j) / T(g)

a_j: probability that at least j drafted events are accepted and come before the row's end; T(g): seconds of a round
that drafts g. The length of a round depends on earlier rounds and the clock alone, never on what the target makes of
the round itself, so that samples keep their distribution.
"""

from __future__ import annotations

import copy
from collections import deque
from collections.abc import Callable
from itertools import accumulate
from statistics import median
from typing import Any, Protocol
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from tppsd.models.resolve import model_device
from tppsd.sampling.options import MAX_AUTO_LENGTH, DraftLengths, SamplingOptions

LENGTHS = (0, 1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, MAX_AUTO_LENGTH)
_FIRST = (24, 16, 0), (8, 4, 0)  # tried before anything is known, with few running sequences and with many
_FIRST_COMPILED = (8, 4, 0), (8, 4, 0)  # where passes are bound by their arithmetic
_MANY_ROWS = 8
_ROUNDS_AT_ONCE = 4, 16  # where several rounds can be had at once: while lengths are looked for, and later
_PROBE_EVERY = 32  # rounds: then another than the best length has a turn
_LATER = 1.5  # factor between the rounds in which drafts have another turn where none seem best: not before
_SOONEST, _PATIENCE = 8.0, 128  # the first of these rounds, and at most the second apart
_DECIDE = (
    1.25  # factor between the rounds in which the best length is worked out anew, at most _PROBE_EVERY / 4 rounds apart
)
_MEMORY = 2000.0  # tested events that an estimate of the acceptance looks back
_ENOUGH = 3  # lengths measured for a line of their own
_TIMINGS = 9  # of a length, of which the median counts
_PRIOR = 8.0  # events by which the acceptance at a position leans on that of the one before
_HOPE = (
    4.0,
    5.0,
)  # events accepted, of so many, before any was tested: bad luck in the first rounds is not yet a bad draft
_JACOBI_LEEWAY = 0.1  # measured to sample faster than 0 and 0.05


class DraftLength(Protocol):
    """Chooses the length of each round of the batch."""

    @property
    def most_rounds(self) -> int:
        """How many rounds at most may have the length just chosen; `record` is told how many did."""

    def choose(self, num_rows: int) -> int:
        """Return the length of the next round with `num_rows` running sequences."""

    def record(
        self, num_drafted: int, num_accepted: Tensor, is_counted: Tensor, seconds: float, num_rounds: int = 1
    ) -> None:
        """Learn from the round just ended.

        Args:
            num_drafted: drafted events, fewer than chosen where all windows ended.
            num_accepted: int64 (rows,), accepted ones that their rows still had use for.
            is_counted: bool (rows,), the rows that drafted so many.
            seconds: wall-clock time.
            num_rounds: with several rounds, `num_accepted` and `is_counted` have an entry for each row and round (rows
                * rounds,), and the seconds are those of all.
        """


class FixedDraftLength:
    """Gives the same length to all rounds."""

    most_rounds = 1

    def __init__(self, draft_length: int) -> None:
        self.draft_length = draft_length

    def choose(self, num_rows: int) -> int:
        """Return the length."""
        return self.draft_length

    def record(
        self, num_drafted: int, num_accepted: Tensor, is_counted: Tensor, seconds: float, num_rounds: int = 1
    ) -> None:
        """Do nothing: there is nothing to learn."""


class RecordedDraftLength:
    """Gives the lengths of an earlier run; its last length goes on for ever."""

    def __init__(self, pairs: DraftLengths) -> None:
        self._pairs, self._which, self._done = pairs, 0, 0  # rounds of the present pair

    @property
    def most_rounds(self) -> int:
        """How many rounds may have the length just chosen."""
        return _PATIENCE if self._is_last else self._pairs[self._which][1] - self._done + 1

    @property
    def _is_last(self) -> bool:
        return self._which == len(self._pairs) - 1

    def choose(self, num_rows: int) -> int:
        """Return the length that the same round had."""
        if self._done >= self._pairs[self._which][1] and not self._is_last:
            self._which, self._done = self._which + 1, 0
        self._done += 1
        return self._pairs[self._which][0]

    def record(
        self, num_drafted: int, num_accepted: Tensor, is_counted: Tensor, seconds: float, num_rounds: int = 1
    ) -> None:
        """Count the rounds."""
        self._done += num_rounds - 1


class AutoDraftLength:
    """Finds the length with the most expected events per second in the first rounds, and watches it ever after.

    Args:
        leeway: share of these events that is given up for a longer draft.
        first: tried before anything is known, with few running sequences and with many.

    Attributes:
        history: pairs [length, rounds] of what was chosen, in order.
    """

    def __init__(self, leeway: float = 0.0, first: tuple[tuple[int, ...], tuple[int, ...]] = _FIRST) -> None:
        self.leeway, self._first = leeway, first
        self.history: list[list[int]] = []
        self._tested = [0.0] * MAX_AUTO_LENGTH
        self._passed = [0.0] * MAX_AUTO_LENGTH
        self._seconds: dict[
            int, dict[int, deque[float]]
        ] = {}  # by number of rows (rounded up to a power of 2) and by length
        self._num_rounds, self._best, self._now, self._rows = 0, 0, 0, 1
        self._untried: tuple[int, ...] = ()
        self._begun: frozenset[int] = frozenset()  # numbers of rows with which calls began
        self._decide_at, self._draft_at = 0.0, _SOONEST  # rounds

    @classmethod
    def of(cls, options: SamplingOptions, is_compiled: bool) -> AutoDraftLength:
        """Return one for what `options` draft from.

        The more events `jacobi` drafts, the more often each has been drafted before, and the better: what is known of
        shorter drafts does not show it.
        """
        return cls(
            _JACOBI_LEEWAY if options.drafter == "jacobi" else 0.0,
            _FIRST_COMPILED if is_compiled else _FIRST,
        )

    @property
    def most_rounds(self) -> int:
        """How many rounds may have the length just chosen: fewer while lengths are looked for."""
        return _ROUNDS_AT_ONCE[not self._untried and self._now == self._best]

    def choose(self, num_rows: int) -> int:
        """Return the best length by now; at first, and every once in a while, another to learn from."""
        rows = 1 << max(0, num_rows - 1).bit_length()
        if (
            not self.history and rows not in self._begun
        ):  # what other numbers of rows have taught says little of long drafts
            self._untried, self._begun = self._first[num_rows > _MANY_ROWS], self._begun | {rows}
        if rows != self._rows:
            self._decide_at = 0.0
        self._rows = rows
        if not self._untried and self._num_rounds >= self._decide_at:
            self._best = self.best()[0]
            self._decide_at = self._num_rounds + max(1.0, min((_DECIDE - 1) * self._num_rounds, _PROBE_EVERY / 4))
        self._now = self._untried[0] if self._untried else self._probe()
        if self.history and self.history[-1][0] == self._now:
            self.history[-1][1] += 1
        else:
            self.history.append([self._now, 1])
        return self._now

    def _probe(self) -> int:
        """Return the best length, but once in a while none, the next and the one before by turns.

        Where none is best, the best that is not 0 has a turn, more and more rarely.
        """
        turn, wait = divmod(self._num_rounds, _PROBE_EVERY)
        if self._best == 0 and self._num_rounds >= self._draft_at:
            self._draft_at = self._num_rounds + min((_LATER - 1) * self._num_rounds, _PATIENCE)
            return self.best(drafted=True)[0]
        if self._best == 0 or wait or not turn:
            return self._best
        place = LENGTHS.index(self._best)
        return LENGTHS[(place - 1, 0, min(place + 1, len(LENGTHS) - 1))[turn % 3]]

    def record(
        self, num_drafted: int, num_accepted: Tensor, is_counted: Tensor, seconds: float, num_rounds: int = 1
    ) -> None:
        """Learn the seconds and the acceptance of a round; see DraftLength."""
        self._num_rounds += 1  # those of one call are one
        self.history[-1][1] += num_rounds - 1
        if num_drafted and bool(is_counted.any()):
            self._learn_acceptance(num_drafted, num_accepted[is_counted])
        if self._num_rounds > 1 or num_drafted == 0:  # the first round allocates; without drafts that is little
            timings = self._seconds.setdefault(self._rows, {}).setdefault(num_drafted, deque(maxlen=_TIMINGS))
            timings.append(seconds / num_rounds)
            tried = self._now if num_drafted else 0
            if (
                num_rounds == 1 or len(timings) > 1
            ):  # several rounds take little time, of which the first ones waste some
                self._untried = tuple(length for length in self._untried if length != tried)

    def continued(self) -> AutoDraftLength:
        """Return a copy that has learnt the same, with an empty history of its own."""
        other = copy.copy(self)
        other.history = []
        other._tested, other._passed, other._seconds = copy.deepcopy((self._tested, self._passed, self._seconds))
        return other

    def _learn_acceptance(self, num_drafted: int, num_accepted: Tensor) -> None:
        kept = max(0.5, 1 - len(num_accepted) / _MEMORY)
        ended_at = torch.bincount(num_accepted, minlength=num_drafted + 1).tolist()
        reached = list(accumulate(reversed(ended_at)))[::-1]  # rows that accepted at least j events
        for j in range(num_drafted):
            self._tested[j] = kept * self._tested[j] + reached[j]
            self._passed[j] = kept * self._passed[j] + reached[j + 1]

    def acceptance(self) -> list[float]:
        """Return the probability that the event at each position is accepted if those before it were."""
        rates, rate = [], (sum(self._passed) + _HOPE[0]) / (sum(self._tested) + _HOPE[1])
        for passed, tested in zip(self._passed, self._tested, strict=True):
            rate = (passed + _PRIOR * rate) / (tested + _PRIOR)
            rates.append(rate)
        return rates

    def best(self, drafted: bool = False) -> tuple[int, float]:
        """Return the best length for the present number of rows, and its expected events per second and row.

        With `drafted` it is the best that is not 0.
        """
        expected = [1.0, *(1.0 + total for total in accumulate(accumulate(self.acceptance(), lambda a, b: a * b)))]
        seconds = self._cost()
        rates = {g: expected[g] / seconds(g) for g in LENGTHS[drafted:]}
        best = max(rates, key=rates.__getitem__)
        if best and self.leeway:
            best = max(g for g in rates if rates[g] >= (1 - self.leeway) * rates[best])
        return best, rates[best]

    def _cost(self) -> Callable[[int], float]:
        """Return a function that gives the seconds of a round by its length.

        They are measured, or on a line through what was measured. A round without drafts is another kind of work than
        the shortest draft, so that the line is laid through the others. A number of rows with few lengths measured
        borrows the seconds of the one with the most: what matters is how they grow.
        """
        known = self._seconds.get(self._rows, {})
        if len(known) < _ENOUGH:
            known = max(self._seconds.values(), key=len)
        points = {
            g: (median(values) if len(values) > 2 else min(values), len(values))
            for g, values in known.items()
            if values
        }
        drafted = {g: point for g, point in points.items() if g} or points
        weight = sum(n / t**2 for t, n in drafted.values())
        mean_g = sum(n / t**2 * g for g, (t, n) in drafted.items()) / weight
        mean_t = sum(n / t for t, n in drafted.values()) / weight
        spread = sum(n / t**2 * (g - mean_g) ** 2 for g, (t, n) in drafted.items())
        slope = sum(n / t**2 * (g - mean_g) * (t - mean_t) for g, (t, n) in drafted.items()) / spread if spread else 0.0
        slope = max(slope, 0.002 * mean_t)
        fitted = {g: max(mean_t + slope * (g - mean_g), 0.1 * mean_t) for g in LENGTHS}
        return lambda g: points[g][0] if g in points and (g == 0 or points[g][1] >= 3) else fitted[g]


_Known = dict[tuple[Any, ...], AutoDraftLength]


class DraftLengthCache:
    """Holds draft lengths by target, draft and the way of sampling, as long as both models live."""

    def __init__(self) -> None:
        self._known: WeakKeyDictionary[nn.Module, WeakKeyDictionary[nn.Module, _Known]] = WeakKeyDictionary()

    def recall(self, target: Any, draft: Any, options: SamplingOptions, is_compiled: bool) -> AutoDraftLength:
        """Return what is known, as a copy to go on from: jobs may run side by side."""
        known = self._of(target, draft).get(_way(target, options))
        return AutoDraftLength.of(options, is_compiled) if known is None else known.continued()

    def remember(self, target: Any, draft: Any, options: SamplingOptions, lengths: AutoDraftLength) -> None:
        """Store what a job has learnt in the end."""
        self._of(target, draft)[_way(target, options)] = lengths.continued()

    def _of(self, target: Any, draft: Any) -> _Known:
        """Return what is known of two models; of models that are no modules, such as a process, nothing is kept."""
        models = (target, target if draft is None else draft)
        if not all(isinstance(model, nn.Module) for model in models):
            return {}
        return self._known.setdefault(models[0], WeakKeyDictionary()).setdefault(models[1], {})


def _way(target: Any, options: SamplingOptions) -> tuple[Any, ...]:
    """Return what the costs of drafts depend on besides the models and the running sequences."""
    where = str(model_device(target)), torch.get_num_threads()
    how = options.drafter, options.draft_passes, options.rule, options.tolerance, options.compile, options.dtype
    return *where, options.method, *how


DRAFT_LENGTHS = DraftLengthCache()
