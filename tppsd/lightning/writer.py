"""`SampleWriter`: predictions as Parquet shards, written while sampling goes on; an interrupted job goes on where it
stopped."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import BasePredictionWriter
from lightning.pytorch.utilities import rank_zero_info

from tppsd.lightning.requests import RequestChunk
from tppsd.lightning.sampler import Sampler
from tppsd.sampling.results import SampledSequences

JOB = ".job.json"  # hidden from those who read the folder as data


class SampleWriter(BasePredictionWriter):
    """Writes each chunk of a Sampler to `output_dir`/train-CHUNK-of-CHUNKS.parquet, in index order by name.

    The folder opens with `datasets` and `pandas` and is a data set for EventDataModule (one split, cut by its
    fractions). A shard appears whole or not at all. Chunks that the folder already holds are not sampled again if they
    are of this very job: the same models, options, seed, requests and histories, on any number of processes, with any
    number of rows in flight. It never mixes the shards of two jobs.

    Args:
        output_dir: a new folder, or that of the same job, interrupted.
    """

    def __init__(self, output_dir: str | Path = "outputs/samples") -> None:
        super().__init__(write_interval="batch")  # "epoch" would keep all predictions in memory
        self.output_dir = Path(output_dir)
        self.num_sequences, self.num_events, self.seconds = 0, 0, 0.0
        self.choice: str | None = None  # of method = "auto", in words

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """See what is there, on all processes before the first of them writes."""
        if stage != "predict":
            return
        assert isinstance(pl_module, Sampler)
        _check_writable(self.output_dir)
        shards = sorted(path.name for path in self.output_dir.glob("*.parquet"))
        finished = [re.fullmatch(r"train-(\d+)-of-\d+\.parquet", name) for name in shards]
        if shards and (None in finished or not (self.output_dir / JOB).exists()):
            raise ValueError(
                f"{self.output_dir} already holds {len(shards)} Parquet files ({shards[0]}, ...); {_WHAT_TO_DO}"
            )
        pl_module.finished_chunks = frozenset(int(match[1]) for match in finished if match)
        trainer.strategy.barrier()

    def on_predict_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: RequestChunk, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Before anything is sampled, compare the job with that of the folder, or leave it there."""
        if batch_idx:
            return
        assert isinstance(pl_module, Sampler)
        job = json.loads(json.dumps(pl_module.job() | batch.job))
        path = self.output_dir / JOB
        if pl_module.finished_chunks:
            _check_same(_read_job(path), job, self.output_dir)
            rank_zero_info(
                f"{self.output_dir} holds {len(pl_module.finished_chunks)} of {batch.num_chunks} chunks of this job"
            )
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f"{JOB}.{os.getpid()}")
        temporary.write_text(json.dumps(job, indent=1, sort_keys=True) + "\n")
        os.replace(temporary, path)

    def write_on_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        prediction: SampledSequences | None,
        batch_indices: Sequence[int] | None,
        batch: RequestChunk,
        batch_idx: int,
        dataloader_idx: int,
    ) -> None:
        if prediction is None:
            return
        prediction.to_parquet(self.output_dir / f"train-{batch.chunk:05d}-of-{batch.num_chunks:05d}.parquet")
        self.num_sequences += len(prediction)
        self.num_events += prediction.stats.num_events
        self.seconds += prediction.stats.seconds
        self.choice = prediction.stats.choice

    def on_predict_end(self, trainer: Trainer, *_: Any) -> None:
        share = f" (process 0 of {trainer.world_size})" if trainer.world_size > 1 else ""
        rate = f" at {self.num_events / self.seconds:.0f} events/s" if self.seconds else ""
        rank_zero_info(
            f"{self.num_sequences} sequences with {self.num_events} events sampled{rate}{share}, in {self.output_dir}"
        )
        if self.choice is not None:
            rank_zero_info(f"auto chose {self.choice}{share}")


_WHAT_TO_DO = "choose another --writer.output_dir, or delete it to sample again"


def _check_writable(folder: Path) -> None:
    """Refuse what cannot become a folder or be written to, before anything is sampled."""
    there = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    if not there.is_dir():
        raise ValueError(
            f"{folder} cannot be a folder of samples: {there} is a file; choose another --writer.output_dir"
        )
    if not os.access(there, os.W_OK):
        raise ValueError(f"{folder} cannot be written: {there} is read-only; choose another --writer.output_dir")


def _read_job(path: Path) -> dict[str, Any]:
    try:
        job: dict[str, Any] = json.loads(path.read_text())
    except json.JSONDecodeError:
        raise ValueError(f"{path} is damaged, so that nobody knows whose samples these are; {_WHAT_TO_DO}") from None
    return job


def _check_same(there: dict[str, Any], now: dict[str, Any], folder: Path) -> None:
    """Refuse a folder whose shards are of another job."""
    for name in sorted(there.keys() | now.keys()):
        if there.get(name) != now.get(name):
            values = f"{name} is {there.get(name)!r} there and {now.get(name)!r} here"
            raise ValueError(f"{folder} holds samples of another job ({values}); {_WHAT_TO_DO}")
