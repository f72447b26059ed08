"""Checkpoints with seeded damage: bytes, values in place of others, archives that unpack to more than they are."""

from __future__ import annotations

import io
import random
import zipfile
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import torch

import tppsd
from tests.fuzz.judge import ODD_VALUES, damaged, sentence_of
from tppsd.models.checkpoint import CHECKPOINT_KEY, DIGEST_KEY

BOMB = 2**30  # bytes that an archive unpacks to


@cache
def whole() -> bytes:
    """Return a checkpoint of a small model."""
    file = io.BytesIO()
    torch.manual_seed(0)
    model = tppsd.TransformerTPP(3, embed_dim=16, num_heads=2)
    torch.save({CHECKPOINT_KEY: tppsd.models.checkpoint.describe(model), "state_dict": model.state_dict()}, file)
    return file.getvalue()


def places(content: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yield the keys that lead to each value in nested mappings."""
    if not isinstance(content, dict):
        yield path
        return
    for key, value in content.items():
        yield from places(value, (*path, key))


def with_other_values(rng: random.Random) -> bytes:
    """Return a checkpoint with one to three values replaced or taken out, and no digest that would tell."""
    content = torch.load(io.BytesIO(whole()), weights_only=True)
    content.pop(DIGEST_KEY, None)
    for _ in range(rng.randint(1, 3)):
        found = list(places(content))
        if rng.random() < 0.6:  # the configuration has few places among the weights
            found = [way for way in found if way[0] == CHECKPOINT_KEY] or found
        *way, last = rng.choice(found)
        inner = content
        for key in way:
            inner = inner[key]
        if rng.random() < 0.15:
            del inner[last]
        else:
            odd = [100_000, 2**40, torch.zeros(3), torch.zeros(1).expand(2**40)]
            inner[last] = rng.choice([*ODD_VALUES, *odd])
    file = io.BytesIO()
    torch.save(content, file)
    return file.getvalue()


def bomb(rng: random.Random) -> bytes:
    """Return an archive with a compressed entry that unpacks to a GiB of zeros."""
    file = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(whole())) as source, zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as target:
        names = source.namelist()
        large = rng.choice(names)
        for name in names:
            with target.open(name, "w", force_zip64=True) as entry:
                if name == large:
                    for _ in range(BOMB >> 24):
                        entry.write(bytes(2**24))
                else:
                    entry.write(source.read(name))
    return file.getvalue()


def try_case(seed: int, folder: Path, kind: str | None = None) -> str | None:
    """Write and load one checkpoint, damaged in its bytes or in its values where no kind is given."""
    rng = random.Random(f"checkpoint {seed}")
    kind = kind or rng.choice(["bytes", "values", "values"])
    path = folder / "model.ckpt"
    if kind == "bytes":
        path.write_bytes(damaged(whole(), rng))
    else:
        path.write_bytes(bomb(rng) if kind == "bomb" else with_other_values(rng))
    return sentence_of(lambda: tppsd.load(path), str(path))
