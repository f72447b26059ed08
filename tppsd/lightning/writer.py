"""`SampleWriter`: predictions as Parquet shards, written while sampling goes on."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import BasePredictionWriter
from lightning.pytorch.utilities import rank_zero_info

from tppsd.lightning.requests import RequestChunk
from tppsd.sampling.samples import SampledSequences


class SampleWriter(BasePredictionWriter):
    """Writes each chunk of a Sampler to `output_dir`/train-CHUNK-of-CHUNKS.parquet, in index order by name.

    The folder opens with `datasets` and `pandas` and is a data set for EventDataModule (one split, cut by its fractions). A shard
    appears whole or not at all, and a run never mixes its shards with those of another.

    Args:
        output_dir: a new folder, or one without shards.
    """

    def __init__(self, output_dir: str | Path = "outputs/samples") -> None:
        super().__init__(write_interval="batch")  # "epoch" would keep all predictions in memory
        self.output_dir = Path(output_dir)
        self.num_sequences, self.num_events, self.seconds = 0, 0, 0.0

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Refuse a folder that holds samples; on all processes before the first of them writes."""
        if stage != "predict":
            return
        if shards := sorted(self.output_dir.glob("*.parquet")):
            raise ValueError(
                f"{self.output_dir} already holds {len(shards)} Parquet files ({shards[0].name}, ...); "
                "choose another --writer.output_dir, or delete it to sample again"
            )
        trainer.strategy.barrier()

    def write_on_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        prediction: SampledSequences,
        batch_indices: Sequence[int] | None,
        batch: RequestChunk,
        batch_idx: int,
        dataloader_idx: int,
    ) -> None:
        prediction.to_parquet(self.output_dir / f"train-{batch.chunk:05d}-of-{batch.num_chunks:05d}.parquet")
        self.num_sequences += len(prediction)
        self.num_events += prediction.stats.num_events
        self.seconds += prediction.stats.seconds

    def on_predict_end(self, trainer: Trainer, *_: Any) -> None:
        share = f" (process 0 of {trainer.world_size})" if trainer.world_size > 1 else ""
        rate = self.num_events / self.seconds if self.seconds else float("nan")
        rank_zero_info(
            f"{self.num_sequences} sequences with {self.num_events} events at {rate:.0f} events/s{share}, in {self.output_dir}"
        )
