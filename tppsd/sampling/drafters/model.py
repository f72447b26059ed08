"""A trained draft model that drafts a chain, one pass per event or one native call for all of them."""

from __future__ import annotations

import torch
from torch import Tensor

from tppsd.models.protocol import EventDistribution, EventModel, EventTokens
from tppsd.sampling.autoregressive import ModelRunner
from tppsd.sampling.drafters.base import Committed, Draft
from tppsd.sampling.requests import Histories, Requests
from tppsd.sampling.state import BatchState


class DraftBacklog:
    """Holds tokens (rows, n) of which the first `num` int64 (rows,) of each row are real.

    A draft model is shown nothing in rounds that draft nothing, and never the event that ends a round.
    """

    def __init__(self, num_rows: int, device: torch.device) -> None:
        self.tokens: EventTokens | None = None  # before the first round
        self.num = torch.ones(num_rows, dtype=torch.int64, device=device)

    def begin(self, newest: EventTokens) -> EventTokens:
        """Return the tokens; before the first draft of all, the newest of every row (rows, 1)."""
        if self.tokens is None:
            self.tokens = newest
        return self.tokens

    def prefill(self, rows: Tensor, newest: EventTokens) -> None:
        """Hold the newest token alone of new requests in `rows`."""
        if self.tokens is not None:
            self.num[rows] = 1
            for mine, theirs in zip(self.tokens, newest, strict=True):
                mine[rows, 0] = theirs[rows, 0]

    def replace(self, events: EventTokens, num_kept: Tensor, newest: EventTokens) -> None:
        """Hold from now on the first `num_kept` (rows,) of `events`, then `newest` (rows, 1)."""
        most = int(num_kept.max())
        self.tokens, self.num = behind(events.map(lambda field: field[:, :most]), num_kept, newest), num_kept + 1

    def add(self, newest: EventTokens) -> None:
        """Add `newest` (rows, 1)."""
        assert self.tokens is not None
        self.tokens, self.num = behind(self.tokens, self.num, newest), self.num + 1

    def clear(self) -> None:
        """Forget all tokens: they were shown."""
        assert self.tokens is not None
        self.tokens, self.num = self.tokens.map(lambda field: field[:, :0]), torch.zeros_like(self.num)

    def followed_by(self, drafted: EventTokens) -> EventTokens:
        """Return each row's own unseen tokens, the drafted ones behind them without a gap, and dead ones."""
        assert self.tokens is not None
        num, width = self.num.unsqueeze(1), self.tokens.ids.shape[1]
        both = self.tokens.cat(drafted)
        length = both.ids.shape[1]
        places = torch.arange(length, device=num.device)
        source = torch.where(places < num, places, places + width - num).clamp_max(length - 1)
        return both.map(lambda field: field.gather(1, source))

    def compact(self, rows: Tensor) -> None:
        """Keep only `rows`."""
        self.num = self.num[rows]
        if self.tokens is not None:
            self.tokens = self.tokens.map(lambda field: field[rows])


def behind(tokens: EventTokens, num: Tensor, newest: EventTokens) -> EventTokens:
    """Return tokens (rows, n + 1) with `newest` (rows, 1) after the first `num` (rows,) of each row."""
    return tokens.map(
        lambda old, new: torch.cat([old, torch.zeros_like(new)], 1).scatter(1, num.unsqueeze(1), new), newest
    )


_ASK_EVERY = 4  # drafted events: whether any row still needs one
_LONGEST_BACKLOG = 64  # tokens that a draft model may lag behind in rounds without a draft


class ModelDrafter:
    """Drafts by a model with a cache of its own.

    Args:
        model: the draft.
        num_rows: running sequences.
        histories: of the requests.
        stops_at_end: draft nothing beyond the end of each row.
    """

    def __init__(self, model: EventModel, num_rows: int, histories: Histories, stops_at_end: bool = False) -> None:
        self.stops_at_end = stops_at_end
        self.runner = ModelRunner(model, num_rows, histories)
        self.backlog = DraftBacklog(num_rows, histories.lengths.device)
        self._num_cached = 0  # steps of the draft that the cache holds

    def prefill(self, rows: Tensor, requests: Requests, state: BatchState) -> None:
        """Encode the histories of new requests."""
        self.runner.prefill(rows, requests)
        self.backlog.prefill(rows, state.last_token)

    def propose(self, state: BatchState, uniforms: Tensor) -> Draft:
        """Draft a chain, each event from the draft's distribution after those before it."""
        backlog = self.backlog.begin(state.last_token)
        if uniforms.shape[1] == 0:
            return Draft.nothing(uniforms)
        distribution = self._first(state, backlog, uniforms.shape[1])
        if self.runner.can_decode:
            decoded, distributions = self.runner.decode(distribution, state.last_times, uniforms, True)
            self._num_cached = uniforms.shape[1] - 1
            draft = Draft(decoded.inter_times, decoded.times, decoded.marks, distributions)
        else:
            draft = self._event_by_event(state, distribution, uniforms)
        return draft.needed(state) if self.stops_at_end else draft

    def _first(self, state: BatchState, backlog: EventTokens, num_steps: int) -> EventDistribution:
        """Return the distributions (rows, 1) of the first drafted events, in a cache with room for all."""
        # all at once: a later pass may drop nothing that a rejection could still need
        self.runner.cache.make_room(backlog.ids.shape[1] + num_steps - 1)
        distribution = self._catch_up(backlog)
        return distribution.truncated(state.elapsed.unsqueeze(1)) if state.is_truncated_start else distribution

    def _event_by_event(self, state: BatchState, distribution: EventDistribution, uniforms: Tensor) -> Draft:
        time = state.last_times.unsqueeze(1)
        steps: list[tuple[Tensor, Tensor, Tensor, EventDistribution]] = []
        for j in range(uniforms.shape[1]):
            if steps:
                tau, time, mark, _ = steps[-1]
                distribution = self.runner.extend(EventTokens(mark + 1, time, tau))
            tau, mark = distribution.sample(uniforms[:, j : j + 1, :3])
            time = time + tau
            steps.append((tau, time, mark, distribution))
            is_time_to_ask = self.stops_at_end and j % _ASK_EVERY == _ASK_EVERY - 1
            if is_time_to_ask and not state.want_more(time, j + 1).any():
                break
        self._num_cached = len(steps) - 1
        return Draft(*joined(steps))

    def _catch_up(self, backlog: EventTokens) -> EventDistribution:
        """Put the backlog into the cache and return the distribution (rows, 1) after its newest token."""
        distribution = self.runner.extend(backlog).at((self.backlog.num - 1).unsqueeze(1))
        self.runner.cache.roll_back(backlog.ids.shape[1] - self.backlog.num)  # shorter ones wrote dead entries
        return distribution

    def commit(self, done: Committed) -> None:
        """Keep what was accepted in the cache; what it has not seen of it joins the backlog."""
        draft, num_accepted, newest = done.draft, done.num_accepted, done.state.last_token
        if draft.draft_length == 0:
            self._add_to_backlog(newest)
            return
        # the cache holds all drafted events but the last: a fully accepted round leaves out that and the bonus event
        num_kept = num_accepted.clamp_max(self._num_cached)
        draft.keep_in(self.runner.cache, num_kept, self._num_cached, 0)
        last = draft.tokens.map(lambda field: field[:, -1:])
        self.backlog.replace(last, num_accepted - num_kept, newest)

    def _add_to_backlog(self, newest: EventTokens) -> None:
        """Add the newest token in a round that drafted nothing."""
        if (tokens := self.backlog.tokens) is not None and tokens.ids.shape[1] >= _LONGEST_BACKLOG:
            self._catch_up(tokens)
            self.backlog.clear()
        self.backlog.add(newest)

    def compact(self, rows: Tensor) -> None:
        """Keep only `rows`."""
        self.runner.compact(rows)
        self.backlog.compact(rows)


def joined(
    steps: list[tuple[Tensor, Tensor, Tensor, EventDistribution]],
) -> tuple[Tensor, Tensor, Tensor, EventDistribution]:
    """Return inter-times, times, marks and distributions of steps (rows, n) side by side."""
    inter_times, times, marks, distributions = zip(*steps, strict=True)
    return (
        torch.cat(inter_times, 1),
        torch.cat(times, 1),
        torch.cat(marks, 1),
        type(distributions[0]).cat(distributions, 1),
    )
