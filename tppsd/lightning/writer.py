"""`SampleWriter`: writes predictions as Parquet shards while sampling goes on.

An interrupted job goes on where it stopped.
"""

from __future__ import annotations

import json
import logging
import shlex
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import BasePredictionWriter
from lightning.pytorch.utilities import rank_zero_info

from tppsd.lightning.job_folder import (
    JOB,
    Lock,
    check_names,
    check_writable,
    claim,
    recorded_hashes,
    write_manifest,
)
from tppsd.lightning.processes import Meeting
from tppsd.lightning.requests import RequestChunk, RequestDataset
from tppsd.lightning.sampler import Sampler
from tppsd.lightning.shards import Shard, fault, remove_left_overs, shard_name, write_shard
from tppsd.lightning.stopping import Stopped, TermListener
from tppsd.sampling.results import SampledSequences

_PATIENCE = 10.0  # seconds for which a process that was told to stop waits for the shards in the others' hands
_log = logging.getLogger(__name__)


class SampleWriter(BasePredictionWriter):
    """Writes each chunk of a Sampler to `output_dir`/train-CHUNK-of-CHUNKS.parquet, in index order by name.

    The folder opens with `datasets` and `pandas` and is a data set for EventDataModule (one split, cut by its
    fractions). A shard appears whole or not at all. Chunks that the folder already holds are not sampled again if they
    are of this very job: the same models, options, seed, requests and histories, on any number of processes, with any
    number of running sequences; each is read and checked first, and sampled again where it is damaged. It never mixes
    the shards of two jobs, and two processes never work on one folder at the same time, unless they are of one run.

    A job ends well only if all of its shards are there and hold what they must; a manifest then says what they hold,
    and `tppsd verify` compares. SIGTERM ends it after the shard in hand, with an exit status that is not 0.

    Args:
        output_dir: a new folder, or that of the same job, interrupted.
    """

    def __init__(self, output_dir: str | Path = "outputs/samples") -> None:
        super().__init__(write_interval="batch")  # "epoch" would keep all predictions in memory
        self.output_dir = Path(output_dir)
        self.num_sequences, self.num_events, self.seconds = 0, 0, 0.0
        self.choice: str | None = None  # of method = "auto", in words
        self._job: dict[str, Any] = {}
        self._has_claimed = False  # this process has left the record of the job
        self._shards: list[Shard] = []  # that the folder is to hold
        self._lock = Lock(self.output_dir)
        self._term, self._meeting = TermListener(), Meeting()

    # --- before the first chunk -------------------------------------------------------------------------------------

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """See what is in the folder, in one process before any of them writes."""
        if stage != "predict":
            return
        assert isinstance(pl_module, Sampler)
        check_writable(self.output_dir)
        self._meeting.arrange()
        if trainer.is_global_zero:
            self._lock.acquire()
            remove_left_overs(self.output_dir)
            check_names(self.output_dir)
        trainer.strategy.barrier()

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Compare the job with that of the folder, or leave its record there, and check the shards of this process.

        A process without chunks is not asked.
        """
        assert isinstance(pl_module, Sampler)
        requests = getattr(trainer.predict_dataloaders, "dataset", None)
        if not isinstance(requests, RequestDataset):
            raise ValueError("a SampleWriter needs the loader of Requests, as in trainer.predict(sampler, r.loader())")
        self._job = json.loads(json.dumps(pl_module.job() | requests.job))
        self._has_claimed = claim(self.output_dir, self._job)
        check_names(self.output_dir, len(requests))
        self._shards = [
            Shard(shard_name(chunk, len(requests)), indices.start, len(indices))
            for chunk, indices in ((chunk, requests.indices(chunk)) for chunk in range(len(requests)))
        ]
        own = range(trainer.global_rank, len(requests), trainer.world_size)
        pl_module.finished_chunks = frozenset(self._finished(own))
        if pl_module.finished_chunks:
            rank_zero_info(
                f"{self.output_dir} holds {len(pl_module.finished_chunks)} of {len(own)} chunks of this job"
                + _share(trainer)
            )
        launcher = trainer.strategy.launcher
        self._term.listen(None if launcher is None else launcher.kill)

    def _finished(self, chunks: Iterable[int]) -> list[int]:
        """Return the chunks whose shard is there and intact; others are sampled again."""
        finished, hashes = [], recorded_hashes(self.output_dir)
        for chunk in chunks:
            shard = self._shards[chunk]
            path = self.output_dir / shard.name
            if not path.exists():
                continue
            found = fault(self.output_dir, shard, self._job, hashes.get(shard.name))
            if path.is_dir():
                raise ValueError(f"{path} {found}, where a file of samples must be; move it away")
            if found is None:
                finished.append(chunk)
            else:
                _log.warning("%s %s: it is sampled again", path, found)
        return finished

    # --- chunk by chunk ---------------------------------------------------------------------------------------------

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
        """Write the samples of a chunk, and end the run where SIGTERM has come and more chunks would follow."""
        if prediction is not None:
            if not (self.output_dir / JOB).is_file():
                raise ValueError(f"{self.output_dir} was removed or emptied while it was being written; start again")
            write_shard(prediction, self.output_dir / self._shards[batch.chunk].name, self._job)
            self.num_sequences += len(prediction)
            self.num_events += prediction.stats.num_events
            self.seconds += prediction.stats.seconds
            self.choice = prediction.stats.choice
        is_told = self._term.is_told or trainer.received_sigterm
        if is_told and len(batch.to_come(trainer.world_size)) > 1:
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
                self._finish(trainer)
        finally:
            self._leave()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Remove the record of a job that has not begun, and the lock."""
        if self._has_claimed and trainer.world_size == 1 and not any(self.output_dir.glob("*.parquet")):
            (self.output_dir / JOB).unlink(missing_ok=True)  # a job that has not begun leaves nothing
        self._leave()

    def _leave(self) -> None:
        self._term.restore()
        self._lock.release()

    def _finish(self, trainer: Trainer) -> None:
        """Check every shard, leave the manifest, and say what was done."""
        faults = [(shard, fault(self.output_dir, shard, self._job)) for shard in self._shards]
        wrong = [f"{shard.name} {found}" for shard, found in faults if found is not None]
        if wrong and trainer.limit_predict_batches == 1.0:
            raise ValueError(
                f"{self.output_dir}: the job is not done, {len(wrong)} of {len(faults)} files are not as they must be "
                f"({wrong[0]}); give the same command again, which samples only these"
            )
        if not wrong:
            write_manifest(self.output_dir, self._job, self._shards)
        share = _share(trainer)
        rate = f" at {self.num_events / self.seconds:.0f} events/s" if self.seconds else ""
        rank_zero_info(
            f"{self.num_sequences} sequences with {self.num_events} events sampled{rate}{share}, in {self.output_dir}"
        )
        if self.choice is not None:
            rank_zero_info(f"auto chose {self.choice}{share}")
        folder = shlex.quote(str(self.output_dir))
        rank_zero_info(f"Next: tppsd verify {folder}, tppsd inspect {folder}, or pandas.read_parquet({folder!r})")

    def _how_to_go_on(self) -> str:
        num_there = sum((self.output_dir / shard.name).is_file() for shard in self._shards)
        return (
            f"stopped by SIGTERM with {num_there} of {len(self._shards)} files in {self.output_dir}; "
            "give the same command again to go on from there"
        )


def _share(trainer: Trainer) -> str:
    return f" (process {trainer.global_rank} of {trainer.world_size})" if trainer.world_size > 1 else ""
