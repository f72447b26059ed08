"""Chunks of the items of a job: each is worked on as a whole, by one process, and makes one file."""

from __future__ import annotations

from collections.abc import Iterator, Sized
from typing import Any, Generic, NamedTuple, TypeVar

import torch
from torch import distributed
from torch.utils.data import DataLoader, Dataset, DistributedSampler

T = TypeVar("T")
MOST_CHUNKS = 1_000_000  # of a job: each is a file, and each is looked for when the job begins


class Chunk(NamedTuple):
    """Is one predict batch: items first_index ... first_index + num_items - 1, which are chunk `chunk` of all."""

    chunk: int
    num_chunks: int
    first_index: int
    num_items: int

    @property
    def items(self) -> slice:
        """The places of its items in a list of all."""
        return slice(self.first_index, self.first_index + self.num_items)


class ChunkDataset(Dataset[T], Generic[T]):
    """Holds the chunks of a job in index order.

    Attributes:
        num_items: of all chunks together.
        items_per_chunk: of each but the last.
        per_item: rows that an item has an index for each.
        job: what all chunks are, as plain values.
    """

    num_items: int
    items_per_chunk: int
    per_item: int = 1
    job: dict[str, Any]

    def __len__(self) -> int:
        return -(-self.num_items // self.items_per_chunk)

    def check_number(self, what: str) -> None:
        """Refuse a job of more files than MOST_CHUNKS.

        Args:
            what: the items, as a user gives them.

        Raises:
            ValueError: the sentence says how many.
        """
        number = -(-self.num_items // self.items_per_chunk)  # which may be too large for `len`
        if number > MOST_CHUNKS:
            raise ValueError(
                f"{what} = {self.num_items:,} would be {number:,} files of {self.items_per_chunk:,} each, and a job "
                f"has at most {MOST_CHUNKS:,}; give a larger chunk_size, or several jobs"
            )

    def indices(self, chunk: int) -> range:
        """Return the indices of the rows of a chunk."""
        first = chunk * self.items_per_chunk * self.per_item
        return range(first, min(first + self.items_per_chunk * self.per_item, self.num_items * self.per_item))


class ItemChunks(ChunkDataset[Chunk]):
    """Says by their numbers which items the chunks have.

    Args:
        num_items: of all chunks together.
        items_per_chunk: of each but the last.
        job: what all chunks are, as plain values.
    """

    def __init__(self, num_items: int, items_per_chunk: int, job: dict[str, Any]) -> None:
        self.num_items, self.items_per_chunk = num_items, items_per_chunk
        self.job = job | {"num_items": num_items, "chunk_size": items_per_chunk}
        self.check_number("num_items")

    def __getitem__(self, chunk: int) -> Chunk:
        own = self.indices(chunk)
        return Chunk(chunk, len(self), own.start, len(own))


class ShareSampler(DistributedSampler[Any]):
    """Gives every n-th chunk to each of n processes.

    Unlike Lightning's, it gives nothing to some where there are fewer chunks.
    """

    def __init__(self, chunks: Sized) -> None:
        super().__init__(chunks, num_replicas=1, rank=0)  # type: ignore[arg-type]  # its length is all that counts
        self.num_chunks = len(chunks)

    def _share(self) -> range:
        """Return this process's share; asked late, as the processes find each other after the command line is read."""
        first, step = (distributed.get_rank(), distributed.get_world_size()) if distributed.is_initialized() else (0, 1)
        return range(first, self.num_chunks, step)

    def __iter__(self) -> Iterator[int]:
        return iter(self._share())

    def __len__(self) -> int:
        return len(self._share())


def chunk_loader(chunks: ChunkDataset[T]) -> DataLoader[T]:
    """Return a loader of chunks in index order for `Trainer.predict`; a distributed run shares them out, each once."""
    return DataLoader(chunks, batch_size=1, sampler=ShareSampler(chunks), collate_fn=_only, generator=torch.Generator())


def _only(chunks: list[T]) -> T:
    (chunk,) = chunks
    return chunk
