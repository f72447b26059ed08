"""The samplers of a cell, as functions of a request and a seed, and the loop without a cache of the papers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch

from tppsd.backends.compile import why_not_compilable
from tppsd.benchmark.names import in_passes, short_names
from tppsd.benchmark.plan import Plan, draft_names
from tppsd.benchmark.sources import MAX_EVENTS, Request, sequences_on
from tppsd.data.sequences import EventBatch, EventSequence
from tppsd.models.resolve import model_device
from tppsd.models.transformer_tpp import TransformerTPP
from tppsd.sampling.options import DRAFTER_NAMES, SamplingOptions
from tppsd.sampling.results import SampledSequences
from tppsd.sampling.sample import sample

AUTOREGRESSIVE, REENCODE, EAGER = "autoregressive", "reencode (uncached)", "autoregressive, eager"


@dataclass(frozen=True)
class Sampler:
    """Holds a sampler with its settings as columns.

    Attributes:
        name: unique within a cell.
        method: "autoregressive", "eager", "speculative", "draft" (a draft on its own) or "reencode".
        model: whose distribution it samples.
        run: (request, seed, running sequences) -> samples.
        draft, draft_length, rule, candidates, draft_passes: where they apply; a tree's draft length is its depth.
    """

    name: str
    method: str
    model: TransformerTPP
    run: Callable[[Request, int, int], SampledSequences | list[EventSequence]]
    draft: str | None = None
    draft_length: int | str | None = None
    rule: str | None = None
    candidates: tuple[int, ...] | None = None
    draft_passes: int | None = None


def samplers(plan: Plan, target: TransformerTPP, drafts: dict[str, Any]) -> list[Sampler]:
    """Return all samplers that the plan asks for, the autoregressive one first."""
    passes = plan.passes
    chosen = [Sampler(AUTOREGRESSIVE, "autoregressive", target, _cached(target, passes))]
    if "eager" in plan.baselines:
        chosen.append(Sampler(EAGER, "eager", target, _cached(target, {"compile": False})))
    if "reencode" in plan.baselines:
        chosen.append(Sampler(REENCODE, "reencode", target, lambda request, seed, _: reencode(target, request, seed)))
    labels = _labels(plan)
    for name, draft in drafts.items():
        if "draft" in plan.baselines and draft not in DRAFTER_NAMES:
            run = _cached(draft, _possible_passes(draft, passes))
            chosen.append(Sampler(f"draft {labels[name].removeprefix('draft ')} alone", "draft", draft, run, name))
        for options in plan.speculative_options(of_model=draft not in DRAFTER_NAMES):
            rule, of_draft = options.rule, options.draft_passes
            widths = None if options.tree is None else options.tree.candidates
            length = written_length(options) if widths is None else len(widths)
            shape = length if widths is None else "tree " + "x".join(map(str, widths))
            label = f"speculative, {labels[name]}, {shape}{in_passes(of_draft)}" + (
                f", {rule}" if len(plan.rules) > 1 else ""
            )
            run = _cached(target, passes, draft, options)
            chosen.append(Sampler(label, "speculative", target, run, name, length, rule, widths, of_draft))
    first_model = next((name for name, draft in drafts.items() if draft not in DRAFTER_NAMES), None)
    for method in plan.methods:
        offered = first_model if method == "auto" else None
        for length in plan.draft_lengths if method == "fixed_point" else (None,):
            run = _cached(target, passes, None if offered is None else drafts[offered], SamplingOptions(method, length))
            of = length if offered is None else labels[offered]
            label = method.replace("_", " ") + ("" if of is None else f", {of}")
            chosen.append(Sampler(label, method, target, run, offered, length))
    return chosen


def written_length(options: SamplingOptions) -> int | str | None:
    """Return the draft length of options that name one length or "auto"."""
    assert not isinstance(options.draft_length, tuple)
    return options.draft_length


def _labels(plan: Plan) -> dict[str, str]:
    """Return a label by name of a draft: sizes and drafters are called by it, checkpoints by their file."""
    names = draft_names(plan.drafts)
    files = short_names(draft for draft in plan.drafts if isinstance(draft, str) and draft not in DRAFTER_NAMES)
    return {name: f"draft {files[name]}" if name in files else name for name in names}


def _possible_passes(draft: TransformerTPP, passes: dict[str, Any]) -> dict[str, Any]:
    """Return the passes of a draft on its own: a draft that cannot be compiled is timed as it is."""
    is_possible = why_not_compilable(draft) is None or passes.get("compile") is False
    return passes if is_possible else {}


def _cached(
    target: TransformerTPP, passes: dict[str, Any], draft: Any = None, options: SamplingOptions | None = None
) -> Callable[[Request, int, int], SampledSequences]:
    """Return a function that runs `tppsd.sample` with these models and options."""
    chosen = (options or SamplingOptions("autoregressive")).with_overrides(**passes)

    def run(request: Request, seed: int, batch_size: int) -> SampledSequences:
        arguments = request.arguments()
        return sample(
            target, draft, options=chosen, seed=seed, batch_size=batch_size, max_events=MAX_EVENTS, **arguments
        )

    return run


@torch.inference_mode()
def reencode(target: TransformerTPP, request: Request, seed: int) -> list[EventSequence]:
    """Sample as papers do: a full pass over the whole history for every event, one sequence at a time.

    Source: the autoregressive sampler of TPP-SD (arXiv 2507.09252), section 5, and of its released code.
    """
    generator = torch.Generator().manual_seed(seed)
    histories = request.histories or [EventSequence.of([], t_start=0.0, index=i) for i in range(request.num_sequences)]
    ends: list[Any] = request.t_end or [None] * len(histories)
    return [_continue(target, h, end, request.num_events, generator) for h, end in zip(histories, ends, strict=True)]


def _continue(
    target: TransformerTPP,
    history: EventSequence,
    t_end: float | None,
    num_events: int | None,
    generator: torch.Generator,
) -> EventSequence:
    """Continue one history until its end, or by so many events."""
    device = model_device(target)
    batch = sequences_on(device, [history])
    for _ in range(MAX_EVENTS if num_events is None else num_events):
        distribution = target(batch)[:, -1].double()
        inter_time, mark = distribution.sample(torch.rand(1, 3, generator=generator, dtype=torch.float64).to(device))
        event_time = batch.last_times + inter_time
        if t_end is not None and float(event_time) > t_end:
            return _sequence(batch, history, t_end)
        batch = batch._replace(
            event_times=torch.cat([batch.event_times, event_time.unsqueeze(1)], 1),
            inter_times=torch.cat([batch.inter_times, inter_time.unsqueeze(1)], 1),
            marks=torch.cat([batch.marks, mark.unsqueeze(1)], 1),
            mask=torch.cat([batch.mask, batch.mask.new_ones(1, 1)], 1),
        )
    return _sequence(batch, history, None)


def _sequence(batch: EventBatch, history: EventSequence, t_end: float | None) -> EventSequence:
    """Return the one row of a batch as a sequence that ends at `t_end`."""
    row = batch._replace(t_end=batch.last_times if t_end is None else batch.t_end.new_tensor([t_end])).sequence(0)
    return replace(row, t_end=t_end)
