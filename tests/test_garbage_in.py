"""Whatever is in a file or checkpoint, reading ends in sequences or in one sentence, never in a traceback or a wait.

Files are valid logs with seeded damage: bytes flipped, cut, doubled or replaced, and values of other types. Mutant: a
reader that lets the errors of its libraries through.
"""

from __future__ import annotations

import io
import json
import os
import random
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest
import torch

import tppsd
from tppsd.data import reading
from tppsd.models.checkpoint import DIGEST_KEY

CASES_PER_FORMAT = 125
LONGEST_MESSAGE = 2_000
LONGEST_SECONDS = 10
ODD_VALUES: list[Any] = [
    None,
    True,
    "",
    "x" * 1_000_000,
    "1e309",
    float("nan"),
    float("inf"),
    -1,
    2**70,
    1e300,
    -1e308,
    1e-320,
    [1, 2],
    {"a": 1},
    "2024-02-30",
    "0000-01-01",
    "\x00",
    "naïve ☃",
]


def rows_of(rng: random.Random) -> list[dict[str, Any]]:
    """Return 60 events of six sequences, with one to three values replaced by odd ones in half of all cases."""
    rows: list[dict[str, Any]] = [
        {"sequence": i, "time": round(0.7 * j + 0.01 * i, 3), "mark": "abc"[(i + j) % 3]}
        for i in range(6)
        for j in range(1, 11)
    ]
    if rng.random() < 0.5:
        for _ in range(rng.randint(1, 3)):
            rng.choice(rows)[rng.choice(["sequence", "time", "mark", "t_end"])] = rng.choice(ODD_VALUES)
    if rng.random() < 0.1:  # a whole column of another type
        name, value = rng.choice(["sequence", "time", "mark"]), rng.choice(ODD_VALUES)
        for row in rows:
            row[name] = value
    return rows


def csv_of(rows: list[dict[str, Any]]) -> bytes:
    """Return rows as CSV, without quotes."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    lines = [",".join(names), *(",".join(str(row.get(name, "")) for name in names) for row in rows)]
    return "\n".join(lines).encode("utf-8", "replace")


def json_of(rows: list[dict[str, Any]]) -> bytes:
    """Return rows as an array of objects, NaN and Infinity as Python writes them."""
    return json.dumps(rows).encode()


def lines_of(rows: list[dict[str, Any]]) -> bytes:
    """Return rows as JSON lines."""
    return "\n".join(map(json.dumps, rows)).encode()


def parquet_of(rows: list[dict[str, Any]]) -> bytes:
    """Return rows as Parquet, with types of their own where a column's values have one type, else as strings."""
    columns: dict[str, Any] = {}
    for name in dict.fromkeys(name for row in rows for name in row):
        values = [row.get(name) for row in rows]
        try:
            columns[name] = pyarrow.array(values)
        except (pyarrow.ArrowInvalid, pyarrow.ArrowTypeError, OverflowError):
            columns[name] = pyarrow.array([str(value) for value in values])
    sink = pyarrow.BufferOutputStream()
    pyarrow.parquet.write_table(pyarrow.table(columns), sink, row_group_size=20)
    data: bytes = sink.getvalue().to_pybytes()
    return data


def damaged(data: bytes, rng: random.Random) -> bytes:
    """Return the bytes with one kind of damage, or none."""
    kind, at = rng.randrange(7), rng.randrange(max(1, len(data)))
    if kind == 0:
        return data[:at]
    if kind == 1:
        return data[:at] + bytes([rng.randrange(256)]) + data[at + 1 :]
    if kind == 2:
        return data[:at] + data[at:] * 2
    if kind == 3:
        return data[:at] + rng.choice([b"\x00", b"\xff\xfe", b"\n\n", b",,,", b'"', b"[" * 3_000, b"1e400"]) + data[at:]
    if kind == 4:
        return bytes(rng.randrange(256) for _ in range(200))
    return data


FORMATS: dict[str, Callable[[list[dict[str, Any]]], bytes]] = {
    ".csv": csv_of,
    ".json": json_of,
    ".jsonl": lines_of,
    ".parquet": parquet_of,
}


@contextmanager
def time_limit(seconds: int) -> Iterator[None]:
    """Raise in this thread when the block takes longer."""

    def late(*_: Any) -> None:
        raise AssertionError(f"still reading after {seconds} s")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def read(path: Path) -> str | None:
    """Return the sentence that reading ended in, or None; other errors than a user's are raised."""
    try:
        with time_limit(LONGEST_SECONDS):
            data = reading.read_dataset(path)
    except (OSError, TypeError, ValueError) as error:  # what the command line says in a sentence
        return str(error)
    for sequence in data.sequences("train"):
        assert sequence.event_times.isfinite().all()
    return None


@pytest.mark.parametrize("suffix", FORMATS)
def test_damaged_files_end_in_a_sentence(tmp_path: Path, suffix: str) -> None:
    """500 cases in all; every sentence names the file, and none quotes it at length."""
    path = tmp_path / f"log{suffix}"
    for seed in range(CASES_PER_FORMAT):
        rng = random.Random(seed)
        path.write_bytes(damaged(FORMATS[suffix](rows_of(rng)), rng))
        try:
            message = read(path)
        except Exception as error:
            raise AssertionError(f"case {seed} of {suffix} is a traceback: {error!r:.300}") from error
        if message is not None:
            assert str(path) in message, (seed, message[:300])
            assert len(message) < LONGEST_MESSAGE, (seed, message[:300])


def places(content: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yield the keys that lead to each value in nested mappings."""
    if not isinstance(content, dict):
        yield path
        return
    for key, value in content.items():
        yield from places(value, (*path, key))


@pytest.mark.parametrize("has_digest", [True, False])
def test_damaged_checkpoints_end_in_a_sentence(tmp_path: Path, has_digest: bool) -> None:
    """500 cases: bytes damaged, or a value inside replaced; without its digest nothing tells that it was changed."""
    path = tmp_path / "model.ckpt"
    tppsd.TransformerTPP(3, embed_dim=16, num_heads=2).save(path)
    whole, loaded = path.read_bytes(), 0
    for seed in range(250):
        rng = random.Random(seed)
        if has_digest:
            path.write_bytes(damaged(whole, rng))
        else:
            content = torch.load(io.BytesIO(whole), weights_only=True)
            content.pop(DIGEST_KEY)
            *way, last = rng.choice(list(places(content)))
            inner = content
            for key in way:
                inner = inner[key]
            inner[last] = rng.choice(ODD_VALUES)
            torch.save(content, path)
        try:
            with time_limit(LONGEST_SECONDS):
                tppsd.load(path)
            loaded += 1
        except (OSError, TypeError, ValueError) as error:
            assert str(path) in str(error) and len(str(error)) < LONGEST_MESSAGE, (seed, str(error)[:300])
        except Exception as error:
            raise AssertionError(f"case {seed} is a traceback: {error!r:.300}") from error
    assert loaded < 200  # else nothing was damaged


@pytest.mark.parametrize("suffix", FORMATS)
def test_a_pipe_is_refused_at_once(tmp_path: Path, suffix: str) -> None:
    """Nobody writes to it, so that reading would wait for ever."""
    path = tmp_path / f"train{suffix}"
    os.mkfifo(path)
    assert f"{path}: no such file" in str(read(path))
    assert f"{path}: is a pipe or a device" in str(read(tmp_path))


def test_errors_of_libraries_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The mutant: a reader that raises what its library raises."""

    def fail(*_: Any, **__: Any) -> None:
        raise pyarrow.ArrowNotImplementedError("as planned")

    monkeypatch.setattr(reading, "read_dataset", fail)
    with pytest.raises(AssertionError, match="is a traceback"):
        test_damaged_files_end_in_a_sentence(tmp_path, ".csv")
