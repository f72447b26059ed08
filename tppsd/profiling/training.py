"""Training speed: `fit`, with what surrounds a step there, beside the same steps in a bare PyTorch loop."""

from __future__ import annotations

import io
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import redirect_stdout
from dataclasses import dataclass
from itertools import islice, pairwise
from statistics import median
from typing import Any

import torch
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.loggers import CSVLogger
from rich.table import Table

from tppsd.benchmark.memory import PeakMemory
from tppsd.data.sequences import EventBatch
from tppsd.lightning.cli import FIT_DEFAULTS
from tppsd.lightning.datamodule import EventDataModule
from tppsd.lightning.modules import TargetTPP

_WARM_UP = 5  # steps, not timed


@dataclass(frozen=True)
class Throughput:
    """Seconds of every step of one model, by run: of `fit`, and of the bare loop that ran just before or after it on
    the same batches, which hold `num_events` events. `memory` is what each run of `fit` took at its peak, in bytes,
    beyond what the process held before; None where the system does not say."""

    name: str
    num_events: int
    fit: list[list[float]]
    bare: list[list[float]]
    memory: list[int | None]

    @property
    def overhead(self) -> float:
        """Share of the time in `fit` that the bare loop does without. Of every step the fastest run counts: whatever
        else the machine does makes steps slower, never faster, and scatters by more than the overhead from run to
        run."""
        return 1 - _fastest(self.bare) / _fastest(self.fit)

    def speeds(self, runs: list[list[float]]) -> list[float]:
        """Events per second of each of the runs."""
        return [self.num_events / sum(run) for run in runs]


def _fastest(runs: list[list[float]]) -> float:
    """Seconds of all steps, each in its fastest run."""
    return sum(map(min, zip(*runs, strict=True)))


def throughput(
    name: str,
    build: Callable[[], TargetTPP],
    data: EventDataModule,
    num_steps: int,
    repeats: int,
    advance: Callable[[], None],
) -> Throughput:
    """Time `num_steps` training steps on the same batches in both ways, `repeats` times by turns.

    `advance` is called after each run.
    """
    num_events = sum(int(batch.mask.sum()) for batch in islice(_endless(data), _WARM_UP, _WARM_UP + num_steps))
    result = Throughput(name, num_events, [], [], [])
    for run in range(repeats):
        ways = [(result.fit, fit_seconds), (result.bare, bare_seconds)]
        for runs, measure in ways if run % 2 else reversed(ways):
            torch.manual_seed(run)
            with PeakMemory() as peak:
                runs.append(measure(build(), data, num_steps))
            if measure is fit_seconds:
                result.memory.append(peak.bytes)
            advance()
    return result


def fit_seconds(module: TargetTPP, data: EventDataModule, num_steps: int) -> list[float]:
    """Of each step of `Trainer.fit` as `tppsd fit` sets it up, loading, padding, logging and progress bar included,
    without
    validation and checkpoints: those are another kind of work."""
    watch = _Stopwatch()
    with tempfile.TemporaryDirectory() as folder, redirect_stdout(io.StringIO()):  # no bar within the bar
        options: dict[str, Any] = FIT_DEFAULTS | {"max_epochs": 1_000_000, "logger": CSVLogger(folder)}
        trainer = Trainer(
            **options, max_steps=_WARM_UP + num_steps, limit_val_batches=0, enable_checkpointing=False,
            enable_model_summary=False, callbacks=[watch],
        )  # fmt: skip
        trainer.fit(module, datamodule=data)
    return _durations(watch.ends)


class _Stopwatch(Callback):
    """Notes when each step ended."""

    def __init__(self) -> None:
        self.ends: list[float] = []

    def on_train_batch_end(self, *_: Any) -> None:
        self.ends.append(time.perf_counter())


def bare_seconds(module: TargetTPP, data: EventDataModule, num_steps: int) -> list[float]:
    """Of each step of a loop over batches that are ready, without anything but the model and its optimiser."""
    model = module.model
    model.set_statistics(data.statistics)
    module.compile_model()
    optimizer = module.optimizer_factory(model.parameters())
    ends = []
    for batch in list(islice(_endless(data), _WARM_UP + num_steps)):
        loss = -model.log_likelihood(batch).sum() / batch.mask.sum()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), FIT_DEFAULTS["gradient_clip_val"])
        optimizer.step()
        ends.append(time.perf_counter())
    return _durations(ends)


def _durations(ends: list[float]) -> list[float]:
    """Of the steps after the first few."""
    return [stop - start for start, stop in pairwise(ends[_WARM_UP - 1 :])]


def _endless(data: EventDataModule) -> Iterator[EventBatch]:
    """The training batches of epoch after epoch, in the order of `fit`."""
    loader = data.train_dataloader()
    epoch = 0
    while True:
        loader.sampler.set_epoch(epoch)  # type: ignore[attr-defined]
        yield from loader
        epoch += 1


def padding(data: EventDataModule, num_steps: int) -> float:
    """Share of the training batches' positions that hold no event."""
    batches = list(islice(_endless(data), num_steps))
    return 1 - sum(int(batch.mask.sum()) for batch in batches) / sum(batch.mask.numel() for batch in batches)


def table(rows: list[Throughput]) -> Table:
    """One line per model, speeds as medians with the smallest and the largest run."""
    result = Table(title="Training, events per second")
    for column in ("encoder", "bare loop", "fit", "overhead of fit", "memory of fit"):
        result.add_column(column, justify="left" if column == "encoder" else "right")
    for row in rows:
        known = [size for size in row.memory if size is not None]
        memory = f"{max(known) / 2**20:,.0f} MiB" if known else ""
        result.add_row(
            row.name, _spread(row.speeds(row.bare)), _spread(row.speeds(row.fit)), f"{100 * row.overhead:.0f} %", memory
        )
    return result


def _spread(values: list[float]) -> str:
    return f"{median(values):,.0f} ({min(values):,.0f} to {max(values):,.0f})"
