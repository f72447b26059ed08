"""Batches of an epoch: every sequence once, shared evenly, the same global batches for any number of processes."""

from __future__ import annotations

from itertools import chain

import pytest
import torch

from tppsd.data.batching import LengthBucketSampler, ResumableLoader, SequenceDataset
from tppsd.data.sequences import EventSequence

CASES = [
    (n, world, b) for n in (1, 2, 5, 31, 64, 97, 1400) for world in (1, 2, 3, 4) for b in (1, 2, 3, 8, 32) if n >= world
]


def lengths_of(n: int) -> list[int]:
    return torch.randint(1, 200, (n,), generator=torch.Generator().manual_seed(n)).tolist()


def samplers(n: int, world: int, batch_size: int, shuffle: bool = True) -> list[LengthBucketSampler]:
    lengths = lengths_of(n)
    return [
        LengthBucketSampler(lengths, batch_size, num_replicas=world, rank=rank, shuffle=shuffle, seed=5)
        for rank in range(world)
    ]


@pytest.mark.parametrize("shuffle", [True, False])
@pytest.mark.parametrize(("n", "world", "batch_size"), CASES)
def test_each_sequence_once_in_equally_many_batches(n: int, world: int, batch_size: int, shuffle: bool) -> None:
    ranks = samplers(n, world, batch_size, shuffle)
    batches = [list(rank) for rank in ranks]
    assert {len(own) for own in batches} == {len(ranks[0])}
    assert sorted(position for own in batches for batch in own for position in batch) == list(range(n))
    sizes = [len(batch) for own in batches for batch in own]
    assert min(sizes) >= 1
    assert max(sizes) <= (batch_size if batch_size > 1 else 2)


@pytest.mark.parametrize(("n", "world", "batch_size"), [case for case in CASES if case[2] > 1])
def test_union_over_processes_is_the_batch_of_one_process(n: int, world: int, batch_size: int) -> None:
    (alone,) = samplers(n, 1, world * batch_size)
    ranks = samplers(n, world, batch_size)
    for epoch in range(2):
        for sampler in (alone, *ranks):
            sampler.set_epoch(epoch)
        union = [sorted(chain(*parts)) for parts in zip(*ranks, strict=True)]
        assert union == [sorted(batch) for batch in alone]


def test_processes_get_like_lengths_in_every_step() -> None:
    lengths = lengths_of(1400)
    steps = zip(*samplers(1400, 2, 16), strict=True)
    assert (
        max(
            abs(sum(lengths[i] for i in one) / len(one) - sum(lengths[i] for i in two) / len(two)) for one, two in steps
        )
        < 10
    )


def test_epochs_differ_and_repeat_by_number_and_seed() -> None:
    (sampler,) = samplers(97, 1, 8)
    first = list(sampler)
    assert list(sampler) == first
    sampler.set_epoch(1)
    assert list(sampler) != first
    sampler.set_epoch(0)
    assert list(sampler) == first
    assert list(LengthBucketSampler(lengths_of(97), 8, seed=6)) != first


@pytest.mark.parametrize("world", [1, 2])
def test_what_is_left_of_an_epoch_is_its_end(world: int) -> None:
    for rank in samplers(97, world, 8):
        rank.set_epoch(3)
        whole = list(rank)
        rank.start = 5
        assert list(rank) == whole[5:] and len(rank) == len(whole)


def indices(batch: list[EventSequence]) -> list[int]:
    return [sequence.index for sequence in batch]


@pytest.mark.parametrize("num_workers", [0, 1])
def test_a_loader_asks_for_epoch_and_first_batch_when_it_is_read(num_workers: int) -> None:
    """Worker processes fetch ahead, with what is known when they begin."""
    sequences = [EventSequence(torch.ones(1), torch.zeros(1).long(), index=i) for i in range(40)]
    sampler = LengthBucketSampler([1] * 40, 4, seed=5)
    loader = ResumableLoader(
        SequenceDataset(sequences), sampler, collate_fn=indices,
        num_workers=num_workers,
    )  # fmt: skip
    made_early = iter(loader)
    sampler.set_epoch(2)
    expected = list(sampler)
    loader.first_batch = lambda: 6
    assert list(made_early) == expected[6:]
    loader.first_batch = int
    assert list(loader) == expected


def test_evaluation_repeats_the_same_batches_in_an_order_that_does_not_follow_the_length() -> None:
    lengths = lengths_of(1400)
    (sampler,) = samplers(1400, 1, 32, shuffle=False)
    first = list(sampler)
    sampler.set_epoch(3)
    assert list(sampler) == first
    means = [sum(lengths[i] for i in batch) / len(batch) for batch in first]
    assert (
        min(means[:11]) < 75 and max(means[:11]) > 125
    )  # the first quarter (limit_val_batches=0.25) has short and long ones


@pytest.mark.parametrize(("shuffle", "share"), [(True, 0.1), (False, 0.03)])
def test_padding_is_small(shuffle: bool, share: float) -> None:
    lengths = lengths_of(1400)
    (sampler,) = samplers(1400, 1, 32, shuffle)
    cells = sum(len(batch) * max(lengths[i] for i in batch) for batch in sampler)
    assert 1 - sum(lengths) / cells < share


def test_mistakes() -> None:
    with pytest.raises(ValueError, match="the split has 2 sequences for 3 processes; each process needs at least one"):
        LengthBucketSampler([4, 5], 8, num_replicas=3)
    with pytest.raises(ValueError, match="batch_size = 0 must be at least 1"):
        LengthBucketSampler([4, 5], 0)
