"""`ShardWriter`: writes what a job makes as Parquet shards while it goes on, whatever a shard holds.

An interrupted job goes on where it stopped.
"""

from __future__ import annotations

import contextlib
import json
import logging
import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import BasePredictionWriter
from lightning.pytorch.utilities import rank_zero_info

from tppsd.data.paths import local_path
from tppsd.lightning.chunks import ChunkDataset
from tppsd.lightning.job_folder import (
    JOB,
    Lock,
    check_names,
    check_writable,
    claim,
    recorded_hashes,
    write_manifest,
)
from tppsd.lightning.job_kinds import JobKind
from tppsd.lightning.job_module import JobModule
from tppsd.lightning.processes import Meeting
from tppsd.lightning.shards import Shard, faults, remove_left_overs, shard_name, with_attached, write_shard
from tppsd.lightning.stopping import Stopped, TermListener

if TYPE_CHECKING:
    import pyarrow

_PATIENCE = 10.0  # seconds for which a process that was told to stop waits for the shards in the others' hands
_log = logging.getLogger(__name__)


class ShardWriter(BasePredictionWriter):
    """Writes each chunk of a JobModule to a file of its own in `output_dir`; names sort by index.

    A shard appears whole or not at all. Chunks that the folder already holds are not done again if they are of this
    very job, on any number of processes; each is read and checked first, and done again where it is damaged. It never
    mixes the shards of two jobs, and two processes never work on one folder at the same time, unless they are of one
    run.

    A job ends well only if all of its shards are there and hold what they must; the results are then made of them, a
    manifest says what there is, and `tppsd verify` compares. SIGTERM ends it after the shard in hand, with an exit
    status that is not 0.

    Args:
        output_dir: a new folder, or that of the same job, interrupted.
    """

    kind: JobKind

    def __init__(self, output_dir: str | Path) -> None:
        super().__init__(write_interval="batch")  # "epoch" would keep all predictions in memory
        self.output_dir = local_path(output_dir, self.kind.option)
        self._job: dict[str, Any] = {}
        self._chunks: ChunkDataset[Any] | None = None
        self._has_claimed = False  # this process has left the record of the job
        self._shards: list[Shard] = []  # that the folder is to hold
        self._lock = Lock(self.output_dir, self.kind)
        self._term, self._meeting = TermListener(), Meeting()

    # --- what a shard holds: for subclasses ---------------------------------------------------------------------------

    def to_table(self, prediction: Any) -> pyarrow.Table:
        """Return the rows of a shard, items in order, the rows of each together: the prediction, if it is a table."""
        table: pyarrow.Table = prediction
        return table

    def write_attached(self, prediction: Any, module: JobModule) -> dict[str, str]:
        """Write the files that belong to a shard, before it is there.

        Returns:
            The SHA-256 of each, by its name as seen from the folder.
        """
        return {}

    def written(self, prediction: Any) -> None:
        """Take note of what was written."""

    def make_results(self, module: JobModule, chunks: ChunkDataset[Any]) -> None:
        """Make the results of all shards, on rank zero when all are there."""

    def say(self, trainer: Trainer) -> None:
        """Say what was done."""

    # --- before the first chunk -------------------------------------------------------------------------------------

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """See what is in the folder, in one process before any of them writes."""
        if stage != "predict":
            return
        assert isinstance(pl_module, JobModule)
        check_writable(self.output_dir, self.kind)
        self._meeting.arrange()
        if trainer.is_global_zero:
            self._lock.acquire()
            remove_left_overs(self.output_dir, self.kind)
            check_names(self.output_dir, kind=self.kind)
        trainer.strategy.barrier()

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Compare the job with that of the folder, or leave its record there, and check the shards of this process.

        A process without chunks is not asked.
        """
        assert isinstance(pl_module, JobModule)
        chunks = getattr(trainer.predict_dataloaders, "dataset", None)
        if not isinstance(chunks, ChunkDataset):
            raise ValueError(
                f"a {type(self).__name__} needs a loader of chunks, as in trainer.predict(sampler, requests.loader())"
            )
        self._chunks = chunks
        self._job = json.loads(json.dumps(pl_module.job_on(chunks)))
        self._has_claimed = claim(self.output_dir, self._job)
        check_names(self.output_dir, len(chunks), self.kind)
        self._shards = [
            Shard(shard_name(chunk, len(chunks), self.kind), indices.start, len(indices))
            for chunk, indices in ((chunk, chunks.indices(chunk)) for chunk in range(len(chunks)))
        ]
        own = range(trainer.global_rank, len(chunks), trainer.world_size)
        pl_module.finished_chunks = frozenset(self._finished(own))
        if pl_module.finished_chunks:
            rank_zero_info(
                f"{self.output_dir} holds {len(pl_module.finished_chunks)} of {len(own)} chunks of this job"
                + share_of(trainer)
            )
        launcher = trainer.strategy.launcher
        self._term.listen(None if launcher is None else launcher.kill)

    def _finished(self, chunks: Iterable[int]) -> list[int]:
        """Return the chunks whose shard is there and intact; others are done again."""
        finished, hashes = [], recorded_hashes(self.output_dir)
        for chunk in chunks:
            shard = self._shards[chunk]
            path = self.output_dir / shard.name
            if not path.exists():
                continue
            found = faults(self.output_dir, shard, self._job, hashes.get(shard.name))
            if path.is_dir():
                raise ValueError(f"{path} {found[0][1]}, where a file of {self.kind.content} must be; move it away")
            if not found:
                finished.append(chunk)
            else:
                name, what = found[0]
                _log.warning("%s %s: it is %s", self.output_dir / name, what, self.kind.again)
        return finished

    # --- chunk by chunk ---------------------------------------------------------------------------------------------

    def write_on_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        prediction: Any,
        batch_indices: Sequence[int] | None,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int,
    ) -> None:
        """Write the rows of a chunk, and end the run where SIGTERM has come and more chunks would follow."""
        if prediction is not None:
            if not (self.output_dir / JOB).is_file():
                raise ValueError(f"{self.output_dir} was removed or emptied while it was being written; start again")
            assert isinstance(pl_module, JobModule)
            table = with_attached(self.to_table(prediction), self.write_attached(prediction, pl_module))
            write_shard(table, self.output_dir / self._shards[batch.chunk].name, self._job)
            self.written(prediction)
        is_told = self._term.is_told or trainer.received_sigterm
        if is_told and batch.chunk + trainer.world_size < len(self._shards):
            self._meeting.wait(_PATIENCE)
            raise Stopped(self._how_to_go_on())

    # --- after the last ---------------------------------------------------------------------------------------------

    def on_predict_end(self, trainer: Trainer, *_: Any) -> None:
        """Give the signal handlers back, as Lightning gives back those that it found."""
        self._term.restore()  # Lightning gives back the handlers that it found

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Check that the job is done, on rank zero when all processes are."""
        if stage != "predict":
            return
        self._term.listen()
        try:
            if not self._meeting.wait(is_over=lambda: self._term.is_told):
                raise Stopped(self._how_to_go_on())
            if trainer.is_global_zero and self._shards:
                assert isinstance(pl_module, JobModule)
                self._finish(trainer, pl_module)
        finally:
            self._leave()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Remove the record of a job that has not begun, and the lock."""
        shards = self.output_dir / self.kind.folder
        if self._has_claimed and trainer.world_size == 1 and not any(shards.glob("*.parquet")):
            (self.output_dir / JOB).unlink(missing_ok=True)  # a job that has not begun leaves nothing
            if self.kind.attached:
                shutil.rmtree(self.output_dir / self.kind.attached, ignore_errors=True)
            if shards != self.output_dir:
                with contextlib.suppress(OSError):
                    shards.rmdir()
        self._leave()

    def _leave(self) -> None:
        self._term.restore()
        self._lock.release()

    def _finish(self, trainer: Trainer, module: JobModule) -> None:
        """Check every shard, make the results, leave the manifest, and say what was done."""
        found = [faults(self.output_dir, shard, self._job) for shard in self._shards]
        wrong = [" ".join(own[0]) for own in found if own]
        if wrong and trainer.limit_predict_batches == 1.0:
            raise ValueError(
                f"{self.output_dir}: the job is not done, {len(wrong)} of {len(found)} files are not as they must be "
                f"({wrong[0]}); give the same command again, which has only these {self.kind.again}"
            )
        if not wrong:
            assert self._chunks is not None
            self.make_results(module, self._chunks)
            write_manifest(self.output_dir, self._job, self._shards)
        self.say(trainer)

    def _how_to_go_on(self) -> str:
        num_there = sum((self.output_dir / shard.name).is_file() for shard in self._shards)
        return (
            f"stopped by SIGTERM with {num_there} of {len(self._shards)} files in {self.output_dir}; "
            "give the same command again to go on from there"
        )


def share_of(trainer: Trainer) -> str:
    """Return words for the part of a run that one of several processes has."""
    return f" (process {trainer.global_rank} of {trainer.world_size})" if trainer.world_size > 1 else ""
