"""`JobModule`: work in chunks as a LightningModule, for `Trainer.predict` on any number of devices."""

from __future__ import annotations

from typing import Any

from lightning.pytorch import LightningModule

from tppsd.backends.compile import content_hash
from tppsd.lightning.checkpoint_io import use_local_checkpoints
from tppsd.lightning.chunks import ChunkDataset
from tppsd.lightning.run_module import check_precision
from tppsd.models.resolve import resolve_model
from tppsd.sampling.options import DRAFTER_NAMES


class JobModule(LightningModule):
    """Works on chunks; `predict_step` returns what the writer of its files takes, and None for a finished chunk.

    Attributes:
        finished_chunks: set by a writer that has them already.
        needs_cpu: sums along paths are taken on CPUs only.
    """

    needs_cpu = False

    def __init__(self) -> None:
        super().__init__()
        self.allow_zero_length_dataloader_with_multiple_devices = True  # there may be fewer chunks than processes
        self.finished_chunks: frozenset[int] = frozenset()

    def job(self) -> dict[str, Any]:
        """Return what its results depend on, as plain values."""
        raise NotImplementedError

    def job_on(self, chunks: ChunkDataset[Any]) -> dict[str, Any]:
        """Return what the results of these chunks depend on, as plain values: the record of the whole job."""
        return self.job() | chunks.job

    def setup(self, stage: str) -> None:
        """Check precision and device before the writer begins."""
        check_precision(self.trainer.precision)
        device = self.trainer.strategy.root_device
        if self.needs_cpu and device.type != "cpu":
            raise ValueError(f"forecasts are worked out on CPUs, and not on {device}; say --trainer.accelerator cpu")
        use_local_checkpoints(self.trainer)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Restore nothing: the models come from their own files, and a job goes on by what its folder holds.

        Lightning would load whatever a requeued SLURM job has left in the working directory.
        """
        checkpoint["state_dict"] = self.state_dict()


def hashes(target: Any, draft: Any) -> dict[str, Any]:
    """Return the content hashes of target and draft for the record of a job; a draft that is a name or None is kept."""
    kept = draft is None or isinstance(draft, str)
    return {"target": content_hash(target), "draft": draft if kept else content_hash(draft)}


def resolve_draft(draft: Any) -> Any:
    """Return a draft model once for all chunks, from a checkpoint where that is given; names of drafters stay."""
    return draft if draft is None or draft in DRAFTER_NAMES else resolve_model(draft, "draft", DRAFTER_NAMES)
