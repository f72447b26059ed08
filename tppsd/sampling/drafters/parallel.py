"""A trained draft in a few passes over all drafted events, instead of one pass for each of them."""

from __future__ import annotations

import torch
from torch import Tensor

from tppsd.models.protocol import EventDistribution, EventModel, EventTokens
from tppsd.sampling.autoregressive import ModelRunner
from tppsd.sampling.drafters.base import Committed, Draft
from tppsd.sampling.drafters.model import ModelDrafter
from tppsd.sampling.drafters.own import JacobiDrafter
from tppsd.sampling.requests import Requests
from tppsd.sampling.state import BatchState


class ParallelDrafter(ModelDrafter):
    """Guesses all events as `JacobiDrafter` drafts them, then lets the draft model correct them `num_passes` times.

    A pass gives its distributions after the events as they were before it, and from these every event is drawn again,
    with the same noise. With as many passes as events this is drafting one by one (Jacobi iteration of a triangular
    system, Song et al., ICML 2021). Most events settle in one or two, so that a long draft costs little more than a
    short one.

    Why it is exact: the events that a pass sees before event j are functions of their own noise and of earlier rounds.
    So the distribution that event j is drawn from is fixed before its own noise is looked at, and it is the one that
    the rules test. The number of passes is fixed: one that depended on what still changes would depend on the noise of
    later events.
    """

    def __init__(self, model: EventModel, target: ModelRunner, num_rows: int, num_passes: int) -> None:
        super().__init__(model, num_rows, target.histories)
        self.num_passes = num_passes
        self.guess = JacobiDrafter(target, num_rows)

    def prefill(self, rows: Tensor, requests: Requests, state: BatchState) -> None:
        """Encode the histories of new requests."""
        super().prefill(rows, requests, state)
        self.guess.prefill(rows, requests, state)

    def propose(self, state: BatchState, uniforms: Tensor) -> Draft:
        """Guess a chain and redraw it from the draft model's distributions, pass by pass."""
        self.backlog.begin(state.last_token)
        draft = self.guess.propose(
            state, uniforms
        )  # nothing after a silence, so that no distribution here is left-truncated
        if draft.distributions is None:
            return draft
        distributions = self._catch_up_and_follow(draft.tokens)
        first = distributions[:, :1]
        draft = redrawn(draft, distributions, state, uniforms)
        for _ in range(1, min(self.num_passes, uniforms.shape[1])):
            distributions = self.runner.extend(but_last(draft.tokens))
            self.runner.cache.roll_back(uniforms.shape[1] - 1)
            draft = redrawn(draft, type(distributions).cat([first, distributions], 1), state, uniforms)
        return draft

    def _catch_up_and_follow(self, drafted: EventTokens) -> EventDistribution:
        """Put the backlog tokens into the cache, and run over the drafted events in the same pass.

        Returns:
            Distributions (rows, n) after the newest backlog token and after each of n drafted events but the last.
        """
        tokens = self.backlog.followed_by(but_last(drafted))
        distributions = self.runner.extend(tokens)
        self.runner.cache.roll_back(tokens.ids.shape[1] - self.backlog.num)
        last = self.backlog.num.unsqueeze(1) - 1
        return distributions.at(last + torch.arange(drafted.ids.shape[1], device=last.device))

    def commit(self, done: Committed) -> None:
        """Keep the accepted events for the next round's backlog."""
        self.guess.commit(done)
        if done.draft.draft_length == 0:
            self._add_to_backlog(done.state.last_token)
        else:  # what the cache has seen of the draft is how it was before the last pass
            self.backlog.replace(done.draft.tokens, done.num_accepted, done.state.last_token)

    def compact(self, rows: Tensor) -> None:
        """Keep only `rows`."""
        super().compact(rows)
        self.guess.compact(rows)


def redrawn(draft: Draft, distributions: EventDistribution, state: BatchState, uniforms: Tensor) -> Draft:
    """Return the draft with every event drawn from another distribution."""
    inter_times, marks = distributions.sample(uniforms[..., :3])
    times = state.last_times.unsqueeze(1) + inter_times.cumsum(1)
    return Draft(inter_times, times, marks, distributions, draft.lengths)


def but_last(tokens: EventTokens) -> EventTokens:
    """Return the tokens of each row without the last."""
    return tokens.map(lambda field: field[:, :-1])
