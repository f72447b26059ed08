"""Autoregressive sampling, one target pass per event: the oracle, and the baseline of every speed-up.

Also the runner of a model, whose cache is row by row in step with the running sequences.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from tppsd.models.distribution import NextEventDistribution
from tppsd.models.protocol import DecodingModel, EventDistribution, EventModel, EventTokens, NoiseStreams
from tppsd.sampling.engine import Advance
from tppsd.sampling.long_history import EncodingReport
from tppsd.sampling.noise import Purpose, RowNoise, address
from tppsd.sampling.requests import Histories, Requests
from tppsd.sampling.state import BatchState, Events, token_marks

if TYPE_CHECKING:
    from tppsd.backends.cpp.model import DecodedEvents
    from tppsd.sampling.drafters.own import RecentDistributions


class ModelRunner:
    """Runs one model over the rows of a batch.

    A history is encoded once and shared by all of its paths; with few running sequences those of the next requests are
    encoded along with it, as one pass over many costs little more.

    Args:
        model: that is run.
        num_rows: running sequences.
        histories: of the requests.
        encodes_newest: encode the newest token of a history as well, once for all of its paths, and keep what follows.

    Attributes:
        cache: of the model, one row per running sequence.
        can_decode: the model draws many events per call.
    """

    FIRST_CAPACITY = 16  # entries that a cache begins with
    PREFILL_CHUNK = 512  # tokens per pass over a history: bounds the attention mask of a long one
    AHEAD = 512  # tokens of a pass up to which histories are encoded ahead

    def __init__(self, model: EventModel, num_rows: int, histories: Histories, encodes_newest: bool = False) -> None:
        self.model, self.can_decode = model, isinstance(model, DecodingModel)
        self.cache: Any = model.new_cache(num_rows, self.FIRST_CAPACITY)
        self.histories, self.encodes_newest = histories, encodes_newest
        self._encoded: dict[int, int] = {}  # histories of the latest prefill and their rows in _prefilled
        self._prefilled: Any = None
        self._contexts: list[tuple[Any, Tensor, Tensor]] = []  # by chunk, with marks and how many are no padding
        self._recent: RecentDistributions | None = None
        self._after: EventDistribution | None = None  # the newest tokens, where these are encoded

    def prefill(self, rows: Tensor, requests: Requests) -> None:
        """Encode the requests' histories into `rows`, without the newest token unless `encodes_newest`."""
        wanted = list(dict.fromkeys(requests.history.tolist()))
        if not self._encoded.keys() >= set(wanted):
            self._encode(self._with_next(wanted))
        self.cache.continue_rows(self._prefilled, self.encoded(requests), rows)

    def encoded(self, requests: Requests) -> Tensor:
        """Return the rows of the histories of the latest prefill, int64 (requests,)."""
        rows = [self._encoded[history] for history in requests.history.tolist()]
        return torch.tensor(rows, device=self.histories.lengths.device)

    def after_histories(self, requests: Requests) -> EventDistribution:
        """Return the distributions (requests, 1) of the next events after the histories of the latest prefill."""
        assert self._after is not None
        return self._after[self.encoded(requests)]

    def _with_next(self, wanted: list[int]) -> list[int]:
        """Return the wanted histories and those after them, which the next requests continue."""
        lengths, longest = self.histories.lengths, int(self.histories.lengths[wanted].max())
        if longest == 1 and not self.encodes_newest:  # nothing to encode
            return wanted
        first = max(wanted) + 1
        next_lengths = lengths[first : first + self.AHEAD].clamp_min(longest).cummax(0).values
        sizes = next_lengths * torch.arange(len(wanted) + 1, len(wanted) + 1 + len(next_lengths), device=lengths.device)
        return wanted + list(range(first, first + int((sizes <= self.AHEAD).sum())))

    def _encode(self, wanted: list[int]) -> None:
        which = torch.tensor(wanted, device=self.histories.lengths.device)
        lengths = self.histories.lengths[which] - 1
        longest = int(lengths.max())
        self._prefilled = self.model.new_cache(len(wanted), max(1, longest + self.encodes_newest))
        self._contexts, self._recent = [], None
        report = EncodingReport(longest, getattr(self.model, "max_context", None))
        for start in range(0, longest, self.PREFILL_CHUNK):
            stop = min(longest, start + self.PREFILL_CHUNK)
            part = slice(start, stop)
            tokens = self.histories.tokens.map(lambda field, part=part: field[which, part])
            context = self.model.extend(tokens, self._prefilled)
            marks, num = token_marks(tokens.ids, self.model.num_marks), (lengths - start).clamp(0, stop - start)
            self._contexts.append((context, marks, num))
            self._prefilled.roll_back((stop - lengths.clamp_min(start)).clamp_min(0))  # past the end of shorter ones
            report.encoded(stop)
        if self.encodes_newest:
            newest = self.histories.tokens.map(lambda field: field[which].gather(1, lengths.unsqueeze(1)))
            self._after = self.model.distribution(self.model.extend(newest, self._prefilled))
        self._encoded = {history: row for row, history in enumerate(wanted)}

    def recent_distributions(self) -> RecentDistributions:
        """Return the distributions after the events of the encoded histories, by their rows."""
        if self._recent is None:
            from tppsd.sampling.drafters.own import RecentDistributions

            self._recent = RecentDistributions(len(self._encoded), self.model.num_marks, self.histories.lengths.device)
            for context, marks, num in self._contexts:
                self._recent.update(self.model.distribution(context), marks, num)
            self._contexts = []
        return self._recent

    def extend(self, tokens: EventTokens, parents: tuple[int, ...] | None = None) -> EventDistribution:
        """Return the distributions (rows, q) of the next events after the tokens, a chain or nodes of a tree."""
        return self.model.distribution(self.model.extend(tokens, self.cache, parents))

    def decode(
        self,
        distribution: EventDistribution,
        last_times: Tensor,
        uniforms: Tensor | NoiseStreams,
        keeps_distributions: bool,
        *ends: Tensor | None,
    ) -> tuple[DecodedEvents, EventDistribution | None]:
        """Draw many events by one call of the model (`DecodingModel.decode`).

        Returns:
            The events, and their distributions or None.
        """
        model: Any = self.model
        assert isinstance(distribution, NextEventDistribution)
        decoded: DecodedEvents = model.decode(
            distribution, self.cache, last_times, uniforms, keeps_distributions, *ends
        )
        if not keeps_distributions:
            return decoded, None
        distributions = distribution.of(decoded.parameters)
        if distribution.elapsed is not None:  # the first of each row is given the same elapsed time
            distributions = distributions.truncated(
                torch.nn.functional.pad(distribution.elapsed, (0, distributions.batch_shape[1] - 1))
            )
        return decoded, distributions

    def compact(self, rows: Tensor) -> None:
        """Keep only `rows`."""
        self.cache.keep_rows(rows)


ADDRESSES = [int(address(0, Purpose.TARGET, draw)) for draw in range(2)]
# events that one native call draws: of all rows together, but of each so many that its cache stays near
_AT_ONCE, _FEWEST = 64, 16
_FEWEST_IN_ROOM = 4  # that a call may draw because the cache is full after them


def autoregressive_step(state: BatchState, target: ModelRunner, uniforms: Tensor) -> tuple[Events, EventDistribution]:
    """Draw and commit the next event of every row.

    Args:
        state: the running sequences.
        target: runs the target, whose pass is over their last token.
        uniforms: float64 (rows, 1, at least 3).

    Returns:
        The events (rows, 1), and the distributions (rows, 1) that they were drawn from.
    """
    distribution = given_elapsed(target.extend(state.last_token), state)
    inter_times, marks = distribution.sample(uniforms[..., :3])
    events = Events.of(inter_times, state.last_times.unsqueeze(1) + inter_times, marks)
    state.commit(events, torch.ones_like(state.counts))
    return events, distribution


def given_elapsed(distributions: EventDistribution, state: BatchState) -> EventDistribution:
    """Truncate distributions (rows, n) after the last token and later ones by the elapsed time of each row.

    Only the first of each row is given that nothing happened for that time.
    """
    if not state.is_truncated_start:
        return distributions
    num_later = distributions.batch_shape[1] - 1
    return distributions.truncated(torch.nn.functional.pad(state.elapsed.unsqueeze(1), (0, num_later)))


class Autoregressive:
    """Samples one event per pass; where the model can decode, many events per call."""

    def __init__(self, target: ModelRunner, noise: RowNoise, keeps_distributions: bool = False) -> None:
        self.target, self.noise, self.keeps_distributions = target, noise, keeps_distributions

    def prefill(self, rows: Tensor, requests: Requests, state: BatchState) -> Advance | None:
        """Encode the histories of new requests, and draw the first events of those that continue one."""
        self.target.prefill(rows, requests)
        return self._first_events(rows, requests, state) if self.target.encodes_newest else None

    def compact(self, rows: Tensor) -> None:
        """Keep only `rows`."""
        self.target.compact(rows)

    def _first_events(self, rows: Tensor, requests: Requests, state: BatchState) -> Advance:
        """Draw and commit the first events of new requests, for which a pass over their history has been made."""
        distribution = self.target.after_histories(requests)
        if state.is_truncated_start:
            distribution = distribution.truncated(state.elapsed[rows].unsqueeze(1))
        inter_times, marks = distribution.sample(self.noise.draw(rows, 1)[..., :3])
        own = Events.of(inter_times, state.last_times[rows].unsqueeze(1) + inter_times, marks)
        num_events, place = torch.zeros(2, len(state), dtype=torch.int64, device=rows.device).unbind(0)
        num_events[rows], place[rows] = 1, torch.arange(len(rows), device=rows.device)
        events = Events(own.columns[:, place])  # of the other rows, anything
        state.commit(events, num_events)
        self.noise.advance(num_events, 1)
        return Advance(0, events, distribution[place] if self.keeps_distributions else None)

    def advance(self, state: BatchState) -> Advance:
        """Advance every row by an event or, by one call, by several."""
        if self.target.can_decode:
            return self._several(state)
        events, distribution = autoregressive_step(state, self.target, self.noise.window(1))
        self.noise.advance(1, 1)
        return Advance(1, events, distribution)

    def _several(self, state: BatchState) -> Advance:
        """Draw about as many events as it takes until one of the rows reaches its end; the later ones do not count."""
        distribution = given_elapsed(self.target.extend(state.last_token), state)
        wanted = state.limit - state.counts
        num = max(1, min(max(_FEWEST, _AT_ONCE // len(state)), int(wanted[state.active].max())))
        if (room := self.target.cache.capacity - self.target.cache.max_length + 1) >= _FEWEST_IN_ROOM:
            num = min(num, room)  # a larger cache is further away
        ends = torch.where(state.active, state.end, torch.inf)
        limits = torch.where(state.active, wanted, num)
        noise = self.noise.streams(num)
        decoded, distributions = self.target.decode(
            distribution, state.last_times, noise, self.keeps_distributions, ends, limits, state.stop_marks
        )
        self.noise.advance(decoded.num, num)
        events = Events.of(decoded.inter_times, decoded.times, decoded.marks)
        state.commit(events, decoded.num)
        return Advance(decoded.num, events, distributions)


class WithoutMarks(Autoregressive):
    """Samples one event per pass of the target with the intensity of some marks set to zero.

    Args:
        target: runs the target.
        noise: of the rows.
        forbidden: bool (num_marks,).
        max_steps: candidates of a row, dropped ones included, after which it ends without a further event.
    """

    def __init__(self, target: ModelRunner, noise: RowNoise, forbidden: Tensor, max_steps: int) -> None:
        super().__init__(target, noise)
        self.forbidden, self.max_steps = forbidden, max_steps
        self.num_steps = torch.zeros(len(noise.keys), dtype=torch.int64, device=forbidden.device)

    def prefill(self, rows: Tensor, requests: Requests, state: BatchState) -> None:
        """Encode the histories of new requests."""
        self.target.prefill(rows, requests)
        self.num_steps[rows] = 0

    def compact(self, rows: Tensor) -> None:
        """Keep only `rows`."""
        super().compact(rows)
        self.num_steps = self.num_steps[rows]

    @staticmethod
    def _candidates(distribution: EventDistribution, elapsed: Tensor, uniforms: Tensor) -> tuple[Tensor, Tensor]:
        """Draw the next candidates (rows, 1), later than those that were dropped."""
        inter_times, marks = distribution.truncated(elapsed).sample(uniforms)
        return inter_times, marks

    def advance(self, state: BatchState) -> Advance:
        """Draw candidates of every row until one is kept, comes too late, or is the last one allowed."""
        distribution = given_elapsed(self.target.extend(state.last_token), state)
        elapsed = state.elapsed.unsqueeze(1)
        drawing = state.active.unsqueeze(1)
        # a free row waits where it is: of an infinite time its cache would get numbers that are none, and keep them
        inter_times, marks = torch.where(drawing, torch.inf, 0.0), torch.zeros_like(elapsed, dtype=torch.int64)
        while drawing.any():
            taus, candidates = self._candidates(distribution, elapsed, self.noise.window(1)[..., :3])
            self.noise.advance(drawing.squeeze(1).long(), 1)
            self.num_steps += drawing.squeeze(1)
            is_late = ~(state.last_times.unsqueeze(1) + taus <= state.end.unsqueeze(1))
            is_kept = drawing & (is_late | ~self.forbidden[candidates])
            inter_times, marks = torch.where(is_kept, taus, inter_times), torch.where(is_kept, candidates, marks)
            elapsed = torch.where(drawing, taus, elapsed)
            drawing = drawing & ~is_kept
            is_exhausted = drawing & (self.num_steps >= self.max_steps).unsqueeze(1)
            state.limit = torch.where(is_exhausted.squeeze(1), state.counts, state.limit)
            drawing = drawing & ~is_exhausted
        events = Events.of(inter_times, state.last_times.unsqueeze(1) + inter_times, marks)
        state.commit(events, torch.ones_like(state.counts))
        return Advance(1, events, distribution)
