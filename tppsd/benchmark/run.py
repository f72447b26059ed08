"""The benchmark itself: cell by cell, it trains or loads the models, times the samplers, and tests their samples."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from tppsd.benchmark.measuring import alternate
from tppsd.benchmark.plan import ModelSize, Plan, short_names
from tppsd.benchmark.rows import Judge, Measurement, measurement
from tppsd.benchmark.samplers import DEFAULT_CONTINUATIONS, open_data, request, samplers
from tppsd.benchmark.training import models
from tppsd.lightning.datamodule import EventDataModule
from tppsd.models.transformer_tpp import TransformerTPP


def run(plan: Plan, say: Any, progress: Any) -> Iterator[list[Measurement]]:
    """Yield the measurements of each cell, the autoregressive sampler first.

    Args:
        say: told in a sentence what is being done and what was skipped.
        progress: (text, number of runs) -> context manager of a function to call after each run.

    Raises:
        ValueError: no data set could be read, or a setting does not fit; the sentence names it.
    """
    _check_device(plan)
    num_read, short = 0, short_names(plan.data)
    for name in plan.data or (None,):
        try:
            data = None if name is None else open_data(plan, name)
        except (FileNotFoundError, ValueError) as error:
            if len(plan.data) == 1:
                raise
            say(f"{name} is skipped: {error}")
            continue
        num_read += 1
        for encoder in plan.encoders if isinstance(plan.target, ModelSize) else plan.encoders[:1]:
            for seed in plan.seeds:
                target, drafts = models(plan, data, encoder, seed, say)
                for batch_size in plan.batch_sizes:
                    yield _cell(plan, data, short.get(name or ""), target, drafts, seed, batch_size, progress)
    if not num_read:
        raise ValueError(f"none of the data sets {', '.join(plan.data)} could be read")


def _cell(
    plan: Plan, data: EventDataModule | None, name: str | None, target: TransformerTPP, drafts: dict[str, Any],
    seed: int, batch_size: int, progress: Any,
) -> list[Measurement]:  # fmt: skip
    """Time and judge all samplers of a cell."""
    chosen = samplers(plan, target, drafts)
    default = DEFAULT_CONTINUATIONS if data is not None and data.preset is None else 1
    num_sequences = max(batch_size, plan.sequences_per_run or default)
    requests = [request(plan, data, run, num_sequences) for run in range(plan.repeats)]
    encoder, size = target.config["encoder"], ModelSize(target.config["num_layers"], target.config["num_heads"]).name
    cell = {
        "data": name, "encoder": encoder, "target": size,
        "batch_size": batch_size, "seed": seed, "num_sequences": num_sequences,
    }  # fmt: skip
    text = f"{cell['data'] or 'from scratch'}, {encoder} {size}" + (f", {batch_size} rows" if batch_size > 1 else "")
    with progress(text, len(chosen) * (plan.repeats + 1)) as advance:
        timed = alternate(chosen, requests, batch_size, 1000 * seed, advance)
    judge = Judge(plan, data, chosen[0], requests, seed)
    return [measurement(one, timed, judge(one), cell, plan) for one in timed]


def _check_device(plan: Plan) -> None:
    """Refuse a device that is not there."""
    import torch

    if plan.device == "cuda" and not torch.cuda.is_available():
        raise ValueError(
            "device = cuda, but there is no CUDA device; give --device cpu, or a file of "
            "lightning_configs/benchmark/small"
        )
