"""Counter-based noise: the published generator, separate fields for separate uses, and nothing else to depend on."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from goodness import grid_p
from stubs import StubTPP
from torch import Tensor

from tppsd.sampling import noise
from tppsd.sampling.noise import Purpose, RowNoise, address, philox, row_keys, uniforms
from tppsd.sampling.options import MAX_DRAFT_LENGTH
from tppsd.sampling.sample import sample

# (counter, key, output) of philox4x32-10 in Random123's kat_vectors (Salmon et al., SC 2011)
KNOWN_ANSWERS = [
    ("00000000 00000000 00000000 00000000", "00000000 00000000", "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
    ("ffffffff ffffffff ffffffff ffffffff", "ffffffff ffffffff", "408f276d 41c83b0e a20bc7c6 6d5451fd"),
    ("243f6a88 85a308d3 13198a2e 03707344", "a4093822 299f31d0", "d16cfe09 94fdcceb 5001e420 24126ea1"),
]


def test_no_two_purposes_share_a_number() -> None:
    """Names of one number are one member of an enumeration, under several names."""
    assert len(Purpose) == len(Purpose.__members__) > 10


def words(text: str) -> Tensor:
    return torch.tensor([int(word, 16) for word in text.split()])


def keys(num: int, seed: int = 0) -> Tensor:
    return row_keys(seed, torch.zeros(num, dtype=torch.int64), torch.arange(num))


def test_philox_gives_the_published_words() -> None:
    columns = zip(*KNOWN_ANSWERS, strict=True)
    counters, published_keys, outputs = (torch.stack([words(text) for text in column], 1) for column in columns)
    even, odd = philox(counters[0::2], counters[1::2], published_keys)
    assert torch.equal(even, outputs[0::2])
    assert torch.equal(odd, outputs[1::2])


@pytest.mark.parametrize(("word", "value"), [(0, 2.0**-53), (0xFFFFFFFF, 1 - 2.0**-53)])
def test_uniforms_lie_strictly_inside_the_unit_interval(
    monkeypatch: pytest.MonkeyPatch, word: int, value: float
) -> None:
    monkeypatch.setattr(noise, "philox", lambda even, odd, key: (torch.full_like(even, word),) * 2)
    drawn = uniforms(keys(1), torch.tensor(0), torch.tensor(0))
    assert drawn.dtype == torch.float64
    assert drawn.tolist() == [[value, value]]


def test_uniforms_use_53_bits() -> None:
    """The lowest bits of n + 1/2, of which the last is always set, differ from draw to draw."""
    drawn = uniforms(keys(1)[0], torch.arange(64), torch.tensor(0)) * 2.0**53
    assert torch.equal(drawn, drawn.round())
    assert (drawn.long() % 2 == 1).all()
    assert 20 < int((drawn.long() // 2 % 2).sum()) < 108  # of 128 fair bits; false alarms below 1e-13


@pytest.mark.parametrize("field", ["rounds", "position", "inner", "outer", "row"])
def test_uniforms_are_uniform_and_independent_along_every_field(field: str) -> None:
    """Both uniforms of a pair, and neighbours along the field: chi-square on 16 x 16 cells, three tests per field;
    false alarms 3e-4 per field."""
    n = 40_000
    steps, zero = torch.arange(n), torch.tensor(0)
    along = {"rounds": zero, "position": zero, "inner": zero, "outer": zero} | {field: steps}
    key = keys(n, seed=3) if field == "row" else keys(1, seed=3)[0]
    where = torch.as_tensor(address(along["position"], Purpose.TEST))
    pairs = uniforms(key, along["rounds"], where, along["outer"], along["inner"])
    assert grid_p(pairs[:, 0], pairs[:, 1], 16) > 1e-4
    assert grid_p(pairs[:-1, 0], pairs[1:, 0], 16) > 1e-4
    assert grid_p(pairs[:-1, 1], pairs[1:, 0], 16) > 1e-4


def test_no_two_uses_share_a_number() -> None:
    """Fields are separate: no sum or overlap of position, purpose, draw, round or attempts can collide."""
    small = (0, 1, 2, 3)
    addresses = [address(p, q, d) for p in (*small, 255, 256, MAX_DRAFT_LENGTH) for q in Purpose for d in (*small, 255)]
    assert len(set(addresses)) == len(addresses) == 7 * len(Purpose) * 5
    assert max(addresses) < 2**32
    where = torch.tensor(addresses[:60]).view(-1, 1, 1, 1)
    values = torch.tensor(small)
    drawn = uniforms(keys(1)[0], values.view(-1, 1, 1), where, values.view(-1, 1), values)
    assert drawn.shape == (60, 4, 4, 4, 2)
    assert len(drawn.unique()) == drawn.numel()


def test_streams_differ_by_seed_history_and_path() -> None:
    index = torch.tensor([-1, 0, 1, 2, 2**31, 2**32, 2**33])
    history, path = (x.flatten() for x in torch.meshgrid(index, index, indexing="ij"))
    drawn = torch.cat([row_keys(seed, history, path) for seed in (-1, 0, 1, 2**32, 2**62)])
    assert len(drawn.unique(dim=0)) == 5 * 7 * 7
    assert ((drawn >= 0) & (drawn < 2**32)).all()


def windows_of(row_noise: RowNoise, steps: tuple[int, int, int]) -> Iterator[tuple[list[int], Tensor]]:
    """Twelve windows of two events of three rows, which use up `steps` events each time; a new stream starts in row 1
    at the fifth, row 0 leaves at the ninth. Yields (where each row stands in its stream, its window)."""
    index, at = torch.arange(3), [0, 0, 0]
    row_noise.start(index, torch.full_like(index, 7), index)
    for r in range(12):
        if r == 5:
            row_noise.start(torch.tensor([1]), torch.tensor([8]), torch.tensor([0]))
            at[1] = 0
        if r == 9:
            row_noise.compact(torch.tensor([1, 2]))
            at, steps = at[1:], steps[1:]  # type: ignore[assignment]
        yield at, row_noise.window(2)
        row_noise.advance(steps[0] if len(set(steps)) == 1 else torch.tensor(steps), 4)
        at = [place + step for place, step in zip(at, steps, strict=True)]


@pytest.mark.parametrize("steps", [(1, 1, 1), (2, 1, 4)])
@pytest.mark.parametrize("block_size", [1, 5, 12, 64])
def test_the_block_in_which_noise_is_drawn_changes_nothing(block_size: int, steps: tuple[int, int, int]) -> None:
    addresses = [int(address(0, Purpose.DRAFT, draw)) for draw in range(3)]
    row_noise = RowNoise(5, addresses, 3, torch.device("cpu"))
    row_noise.block_size = block_size
    streams = {
        (h, p): uniforms(
            row_keys(5, torch.tensor(h), torch.tensor(p)), torch.arange(60).unsqueeze(1), torch.tensor(addresses)
        )
        for h, p in ((7, 0), (7, 1), (7, 2), (8, 0))
    }
    for r, (at, drawn) in enumerate(windows_of(row_noise, steps)):
        own = [streams[7, 0], streams[7, 1] if r < 5 else streams[8, 0], streams[7, 2]][-len(at) :]
        expected = torch.stack([stream[place : place + 2].flatten(1) for stream, place in zip(own, at, strict=True)])
        assert torch.equal(drawn, expected)


def test_attempts_do_not_depend_on_how_many_are_drawn_at_once() -> None:
    row_noise = RowNoise(5, [int(address(0, Purpose.DRAFT))], 4, torch.device("cpu"))
    index = torch.arange(4)
    row_noise.start(index, index, index)
    rows, positions = torch.tensor([0, 3]), torch.tensor([2, 0])

    def attempts(first: int, stop: int, which: slice = slice(None)) -> Tensor:
        numbers = torch.arange(first, stop).unsqueeze(0)
        return row_noise.loop(rows[which], positions[which], [(Purpose.PROPOSAL, 2)], numbers)

    whole = attempts(0, 20)
    assert whole.shape == (2, 20, 4)
    assert torch.equal(torch.cat([attempts(a, b) for a, b in ((0, 1), (1, 8), (8, 20))], 1), whole)
    assert torch.equal(attempts(3, 7, slice(1, None)), whole[1:, 3:7])
    row_noise.advance(1, 1)
    assert len(torch.cat([whole, attempts(0, 20)]).unique()) == 2 * whole.numel()


@pytest.mark.parametrize("method", ["autoregressive", "speculative"])
def test_the_global_generators_are_neither_read_nor_advanced(method: Any) -> None:
    target = StubTPP.random(3, seed=0)
    draft = target.moved(1, times=0.5, marks=0.5) if method == "speculative" else None

    def draw() -> Tensor:
        return sample(target, draft, method=method, num_sequences=5, t_end=5.0, seed=2).flat_event_times

    torch.manual_seed(1)
    first = draw()
    torch.manual_seed(2)
    random.seed(2)
    np.random.seed(2)
    before = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()
    assert torch.equal(draw(), first)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert random.getstate() == before[1]
    assert np.random.get_state()[1].tolist() == before[2]
