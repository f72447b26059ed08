"""Sampling with rules, drafters and draft lengths of one's own, right or wrong."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tppsd.models.protocol import EventModel
from tppsd.sampling.autoregressive import ModelRunner
from tppsd.sampling.draft_length import DraftLength
from tppsd.sampling.drafters.base import Drafter
from tppsd.sampling.drafters.model import ModelDrafter
from tppsd.sampling.job import SamplingJob
from tppsd.sampling.options import SamplingOptions
from tppsd.sampling.recorder import Recorder
from tppsd.sampling.requests import Wanted
from tppsd.sampling.results import SampledSequences
from tppsd.sampling.rules import Rule

MakeDrafter = Callable[[ModelRunner], Drafter]


def sample_with(
    target: Any,
    draft: Any = None,
    *,
    own_rule: Rule | None = None,
    own_drafter: MakeDrafter | None = None,
    own_lengths: DraftLength | None = None,
    options: SamplingOptions | None = None,
    batch_size: int | None = None,
    seed: int = 0,
    history: Any = None,
    num_sequences: int = 1,
    t_start: Any = None,
    t_end: Any = None,
    horizon: Any = None,
    num_events: Any = None,
    max_events: int = 1_000_000,
    return_log_probs: bool = False,
    return_distributions: bool = False,
    **option_overrides: Any,
) -> SampledSequences:
    """Sample as `tppsd.sample` does, with parts that are passed in.

    Args:
        target, draft: as of `sample`, and so are all other arguments.
        own_rule, own_drafter, own_lengths: what takes the place of the parts that the options name.
    """
    recorder = Recorder(return_log_probs, return_distributions)
    given: Any = (target, draft, options, option_overrides, batch_size, seed, max_events, recorder)
    job = SamplingJob(*given, rule=own_rule, drafter=own_drafter)
    job.chosen_lengths = own_lengths
    plan = job.plan(Wanted(history, num_sequences, t_start, t_end, horizon, num_events))
    return job.sampled(plan)


def model_drafter(kind: type[ModelDrafter], draft: EventModel) -> MakeDrafter:
    """What makes a drafter of that kind, of a draft model, for a target that is run in rows of their own."""

    def made(target: ModelRunner) -> Drafter:
        return kind(draft, len(target.cache.lengths), target.histories, stops_at_end=True)

    return made
