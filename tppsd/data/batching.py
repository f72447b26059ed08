"""Length-bucketed batches that share out evenly over the processes of a distributed run."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from itertools import islice, pairwise
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torch.utils.data.distributed import DistributedSampler

from tppsd.data.sequences import EventSequence

# global batches whose sequences are sorted by length together: little padding, and batches still differ each epoch
POOL = 16


class SequenceDataset(Dataset[list[EventSequence]]):
    """Holds sequences that are fetched by a list of positions: the sampler yields whole batches."""

    def __init__(self, sequences: Sequence[EventSequence]) -> None:
        self.sequences = sequences

    def __len__(self) -> int:
        return len(self.sequences)

    def __getitem__(self, positions: list[int]) -> list[EventSequence]:
        return [self.sequences[position] for position in positions]


class LengthBucketSampler(DistributedSampler[list[int]]):
    """Yields this process's batches of an epoch: lists of positions of sequences of similar length.

    An epoch is cut into global batches of nearly equal size, at most `num_replicas * batch_size`, each shared out over
    the processes. Every process has the same number of batches (a DDP forward pass is a collective, in evaluation too,
    so one batch more would wait for ever) and every sequence occurs exactly once: there is no padding and nothing is
    dropped. The global batches depend on `num_replicas * batch_size` only, so two processes see in step s what one
    process with twice the batch size sees. (The exception: at `batch_size=1`, processes may get 2 sequences when there
    is one too many to share.)

    It is a DistributedSampler so that Lightning, which replaces other samplers in distributed runs, leaves it in place
    and calls its `set_epoch`. Give it as `DataLoader(sampler=..., batch_size=None)`: it yields batches.

    Args:
        lengths: number of events of each sequence, given or scored: what a batch is padded to.
        batch_size: sequences per batch and process.
        num_replicas, rank: number of processes and which one this is.
        shuffle: other batches in every epoch; otherwise the same ones, in an order that does not follow the length.
        seed: with the epoch, the key of all randomness here; the global generator is not used.

    Attributes:
        start: how many batches of the epoch the next iteration leaves out, of a run that goes on within an epoch. The
            length stays that of the whole epoch.
    """

    def __init__(
        self,
        lengths: Sequence[int] | Tensor,
        batch_size: int,
        *,
        num_replicas: int = 1,
        rank: int = 0,
        shuffle: bool = True,
        seed: int = 0,
    ) -> None:
        dataset: Any = lengths  # of which only the length is asked
        super().__init__(dataset, num_replicas=num_replicas, rank=rank, shuffle=shuffle, seed=seed)
        if batch_size < 1:
            raise ValueError(f"batch_size = {batch_size} must be at least 1")
        if len(lengths) < num_replicas:
            raise ValueError(
                f"the split has {len(lengths)} sequences for {num_replicas} processes; each process needs at least one"
            )
        self.lengths, self.start = torch.as_tensor(lengths, dtype=torch.int64), 0
        wanted = math.ceil(len(lengths) / (num_replicas * batch_size))
        self.num_batches = min(
            wanted, len(lengths) // num_replicas
        )  # so that every process has a sequence in every batch

    def __len__(self) -> int:
        return self.num_batches

    def __iter__(self) -> Iterator[list[int]]:
        for batch in islice(self.global_batches(), self.start, None):
            yield batch[self.rank :: self.num_replicas]

    def global_batches(self) -> Iterator[list[int]]:
        """Yield the epoch's batches over all processes.

        Within a batch they are ordered by length, so that each process gets like lengths.
        """
        generator = torch.Generator().manual_seed(self.seed + (self.epoch if self.shuffle else 0))
        n = len(self.lengths)
        edges = [n * i // self.num_batches for i in range(self.num_batches + 1)]
        positions = torch.randperm(n, generator=generator)
        pool = POOL if self.shuffle else self.num_batches
        for start, stop in pairwise([*edges[:-1:pool], n]):
            inside = positions[start:stop]
            positions[start:stop] = inside[torch.argsort(self.lengths[inside], stable=True)]
        order = torch.randperm(self.num_batches, generator=generator).tolist()
        for i in order:
            yield positions[edges[i] : edges[i + 1]].tolist()


class ResumableLoader(DataLoader[Any]):
    """Is a DataLoader that can begin within an epoch: with the batch that comes next in a run that goes on.

    Epoch and first batch are asked for when the first batch is, not when the iterator is made: Lightning makes the
    first one before it has told the sampler which epoch it is, and worker processes would fetch batches of epoch 0.

    Args:
        dataset: the sequences.
        sampler: yields batches of their positions.
        options: of a DataLoader.

    Attributes:
        first_batch: gives the number of the batch of the epoch with which an iteration begins.
    """

    def __init__(self, dataset: SequenceDataset, sampler: LengthBucketSampler, **options: Any) -> None:
        super().__init__(dataset, sampler=sampler, batch_size=None, **options)  # the sampler yields batches
        self.batches = sampler
        self.first_batch: Callable[[], int] = int  # 0

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]  # a generator, so that all this is done late
        self.batches.start = self.first_batch()
        yield from super().__iter__()

    def state_dict(self) -> dict[str, Any]:
        """Return nothing: epoch and batch are counted by the Trainer, which stores them.

        Lightning warns of a loader without this method that it cannot go on within an epoch.
        """
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Do nothing, for the same reason."""
