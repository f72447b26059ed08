"""`SampleWriter`: writes the samples of a `predict` run."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING

from lightning.pytorch import Trainer
from lightning.pytorch.utilities import rank_zero_info

from tppsd.lightning.job_kinds import PREDICT
from tppsd.lightning.shard_writer import ShardWriter, share_of
from tppsd.sampling.columns import to_table
from tppsd.sampling.results import SampledSequences

if TYPE_CHECKING:
    import pyarrow


class SampleWriter(ShardWriter):
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

    kind = PREDICT

    def __init__(self, output_dir: str | Path = "outputs/samples") -> None:
        super().__init__(output_dir)
        self.num_sequences, self.num_events, self.seconds = 0, 0, 0.0
        self.choice: str | None = None  # of method = "auto", in words

    def to_table(self, prediction: SampledSequences) -> pyarrow.Table:
        """Return one row per sequence."""
        return to_table(prediction)

    def written(self, prediction: SampledSequences) -> None:
        """Count sequences, events and seconds."""
        self.num_sequences += len(prediction)
        self.num_events += prediction.stats.num_events
        self.seconds += prediction.stats.seconds
        self.choice = prediction.stats.choice

    def say(self, trainer: Trainer) -> None:
        """Say how many were sampled, and how fast."""
        rate = f" at {self.num_events / self.seconds:.0f} events/s" if self.seconds else ""
        share = share_of(trainer)
        sequences = "1 sequence" if self.num_sequences == 1 else f"{self.num_sequences:,} sequences"
        rank_zero_info(f"{sequences} with {self.num_events:,} events sampled{rate}{share}, in {self.output_dir}")
        if self.choice is not None:
            rank_zero_info(f"auto chose {self.choice}{share}")
        folder = str(self.output_dir)
        word = shlex.quote(folder)
        rank_zero_info(f"Next: tppsd verify {word}, tppsd inspect {word}, or pandas.read_parquet({folder!r})")
