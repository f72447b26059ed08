"""The samplers of a cell, as functions of a request and a seed, and the data that they are asked for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import torch

from tppsd.backends.compile import is_compiled, runnable, why_not_compilable
from tppsd.benchmark.plan import Plan, draft_names, in_passes, short_names
from tppsd.data.batch import EventBatch
from tppsd.data.remarks import shorten
from tppsd.data.sequences import EventSequence
from tppsd.lightning.datamodule import EventDataModule
from tppsd.models.resolve import model_device
from tppsd.models.transformer_tpp import TransformerTPP
from tppsd.processes.presets import PRESETS
from tppsd.sampling.options import DRAFTER_NAMES, SamplingOptions
from tppsd.sampling.results import SampledSequences
from tppsd.sampling.sample import sample

DEFAULT_NUM_EVENTS = 200  # of a sequence of models of unknown data
DEFAULT_CONTINUATIONS = 8  # of one run on real data, whose sequences are short
MAX_EVENTS = 5_000  # of one sampled sequence: a badly trained model may explode


class Request(NamedTuple):
    """Holds what one run samples: sequences from scratch (`histories` is None), or a continuation of each history.

    Fields: num_sequences; histories; t_end, a list with one end per sequence or None; num_events, new events or None.
    """

    num_sequences: int
    histories: list[EventSequence] | None
    t_end: list[float] | None
    num_events: int | None

    def arguments(self) -> dict[str, Any]:
        """Return the keywords of `tppsd.sample`."""
        ends = {"t_end": self.t_end, "num_events": self.num_events}
        given = {name: end for name, end in ends.items() if end is not None}
        if self.histories is None:
            return {"num_sequences": self.num_sequences, **given}
        return {"history": EventBatch.from_sequences(self.histories), **given}


def open_data(plan: Plan, name: str) -> EventDataModule:
    """Return the data module of a preset or a data set, its validation split cut to what the plan affords.

    Raises:
        FileNotFoundError, ValueError: it cannot be read; the sentence says why.
    """
    training = plan.training
    if name in PRESETS:
        data = EventDataModule(process=name, num_sequences=training.num_sequences)
    else:
        local = None if plan.data_root is None else Path(plan.data_root) / Path(name).name
        data = EventDataModule(path=str(local) if local is not None and local.is_dir() else name)
    splits = dict(data.dataset.splits)
    if "validation" in splits:
        splits["validation"], _ = shorten(splits["validation"], max_events=training.max_scored_events)
    data.dataset = replace(data.dataset, splits=splits)
    return data


def request(plan: Plan, data: EventDataModule | None, run: int, num_sequences: int) -> Request:
    """Return what run number `run` samples: other histories in every run, from the first test sequence on."""
    if data is None:
        return Request(num_sequences, None, None, plan.num_events or DEFAULT_NUM_EVENTS)
    if data.preset is not None:
        t_end = None if plan.num_events is not None else [data.preset.t_end] * num_sequences
        return Request(num_sequences, None, t_end, plan.num_events)
    test = data.sequences("test")
    sources = [test[i % len(test)] for i in range(run * num_sequences, (run + 1) * num_sequences)]
    histories = [history(plan, source) for source in sources]
    ends = None if plan.num_events is not None else [source.window_end for source in sources]
    return Request(num_sequences, histories, ends, plan.num_events)


def history(plan: Plan, source: EventSequence) -> EventSequence:
    """Return the first `given_events` events, or the first half where the sequence is not twice as long."""
    return source.prefix(max(1, min(plan.given_events, len(source) // 2)))


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
            assert not isinstance(options.draft_length, tuple)  # a plan names lengths and "auto"
            length = options.draft_length if widths is None else len(widths)
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


def is_compiled_in(plan: Plan, sampler: Sampler) -> bool:
    """Say whether the model of a sampler is run compiled: the plan asks for it, and the machine and the model do."""
    if sampler.method in ("eager", "reencode"):
        return False
    return is_compiled(runnable(sampler.model, "draft", plan.compile, plan.dtype))  # a target has been refused before


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
    batch = EventBatch.from_sequences([history]).to(device)
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
