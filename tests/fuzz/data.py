"""Files of events with seeded damage: values of other types, nested ids, sequences as lists, and damaged bytes."""

from __future__ import annotations

import json
import random
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet

from tests.fuzz.judge import ODD_VALUES, damaged, sentence_of
from tppsd.data import reading

Rows = list[dict[str, Any]]


def event_rows(rng: random.Random) -> Rows:
    """Return 60 events of twelve sequences, with one to three values replaced by odd ones in half of all cases."""
    rows: Rows = [
        {"sequence": i, "time": round(0.7 * j + 0.01 * i, 3), "mark": "abc"[(i + j) % 3]}
        for i in range(12)
        for j in range(1, 6)
    ]
    spoil(rows, ["sequence", "time", "mark", "t_end", "dim_process"], rng)
    return rows


def sequence_rows(rng: random.Random) -> Rows:
    """Return 30 sequences of three events as lists, spoilt likewise, lists inside too."""
    rows: Rows = [
        {"time_since_start": [0.5 + 0.01 * i, 1.5, 2.0], "type_event": [0, i % 2, 1], "dim_process": 2}
        for i in range(30)
    ]
    if rng.random() < 0.5:
        inner = rng.choice(rows)[rng.choice(["time_since_start", "type_event"])]
        inner[rng.randrange(3)] = rng.choice(ODD_VALUES)
    spoil(rows, ["time_since_start", "type_event", "t_end", "dim_process", "seq_idx"], rng)
    return rows


def spoil(rows: Rows, names: list[str], rng: random.Random) -> None:
    """Replace a few values, or a whole column, by odd ones."""
    if rng.random() < 0.5:
        for _ in range(rng.randint(1, 3)):
            rng.choice(rows)[rng.choice(names)] = rng.choice(ODD_VALUES)
    if rng.random() < 0.1:  # a whole column of another type
        name, value = rng.choice(names), rng.choice(ODD_VALUES)
        for row in rows:
            row[name] = value


def csv_of(rows: Rows, rng: random.Random) -> bytes:
    """Return rows as CSV, without quotes."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    lines = [",".join(names), *(",".join(str(row.get(name, "")) for name in names) for row in rows)]
    return "\n".join(lines).encode("utf-8", "replace")


def json_of(rows: Rows, rng: random.Random) -> bytes:
    """Return rows as an array of objects, NaN and Infinity as Python writes them."""
    return json.dumps(rows).encode()


def lines_of(rows: Rows, rng: random.Random) -> bytes:
    """Return rows as JSON lines."""
    return "\n".join(map(json.dumps, rows)).encode()


def parquet_of(rows: Rows, rng: random.Random) -> bytes:
    """Return rows as Parquet, with types of their own where a column's values have one type, else as strings."""
    columns: dict[str, Any] = {}
    for name in dict.fromkeys(name for row in rows for name in row):
        values = [row.get(name) for row in rows]
        try:
            columns[name] = pyarrow.array(values)
        except (pyarrow.ArrowInvalid, pyarrow.ArrowTypeError, OverflowError):
            columns[name] = pyarrow.array([str(value) for value in values])
    if rng.random() < 0.3:  # numbers, ids and times of types that no JSON has
        name = rng.choice(list(columns))
        columns[name] = rng.choice(ODD_COLUMNS)(len(rows))
    sink = pyarrow.BufferOutputStream()
    pyarrow.parquet.write_table(pyarrow.table(columns), sink, row_group_size=20)
    data: bytes = sink.getvalue().to_pybytes()
    return data


ODD_COLUMNS: list[Callable[[int], Any]] = [
    lambda n: pyarrow.array([{"a": i // 10} for i in range(n)]),
    lambda n: pyarrow.array([[("a", i // 10)] for i in range(n)], pyarrow.map_(pyarrow.string(), pyarrow.int64())),
    lambda n: pyarrow.array([uuid.UUID(int=i // 10).bytes for i in range(n)], pyarrow.binary(16)),
    lambda n: pyarrow.array([[i] for i in range(n)]),
    lambda n: pyarrow.array([i // 10 for i in range(n)], pyarrow.date32()),
    lambda n: pyarrow.array([i // 10 for i in range(n)], pyarrow.duration("ns")),
    lambda n: pyarrow.array([i // 10 for i in range(n)], pyarrow.time64("us")),
    lambda n: pyarrow.array([i // 10 for i in range(n)]).cast(pyarrow.decimal128(25, 2)),
    lambda n: pyarrow.array([2**63 + i for i in range(n)], pyarrow.uint64()),
    lambda n: pyarrow.nulls(n),
    lambda n: pyarrow.array([f"{i // 10}" for i in range(n)]).dictionary_encode(),
    lambda n: pyarrow.array([i % 2 == 0 for i in range(n)]),
    lambda n: pyarrow.array([i * 10**17 for i in range(n)], pyarrow.timestamp("ns", "Europe/Berlin")),
]
if hasattr(pyarrow, "uuid"):
    ODD_COLUMNS.append(
        lambda n: pyarrow.ExtensionArray.from_storage(
            pyarrow.uuid(), pyarrow.array([uuid.UUID(int=i // 10).bytes for i in range(n)], pyarrow.binary(16))
        )
    )

FORMATS: dict[str, Callable[[Rows, random.Random], bytes]] = {
    ".csv": csv_of,
    ".json": json_of,
    ".jsonl": lines_of,
    ".parquet": parquet_of,
}


def read(path: Path, named: str | None = None) -> str | None:
    """Return the sentence that reading ended in, or None; see `judge.sentence_of`."""

    def act() -> None:
        dataset = reading.read_dataset(path)
        for sequence in dataset.sequences("train"):
            assert sequence.event_times.isfinite().all()

    return sentence_of(act, named)


def try_case(seed: int, folder: Path, suffix: str | None = None) -> str | None:
    """Write and read one file, of any format where none is given."""
    rng = random.Random(f"data {seed}")
    suffix = suffix or rng.choice(list(FORMATS))
    rows = event_rows(rng) if suffix == ".csv" or rng.random() < 0.6 else sequence_rows(rng)
    path = folder / f"log{suffix}"
    path.write_bytes(damaged(FORMATS[suffix](rows, rng), rng))
    return read(path, str(path))
