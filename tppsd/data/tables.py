"""Find and open the tables of a data set: a folder of split files, one file, or a hub id.

Every table becomes an Arrow table (float64 stays float64). Arrow and `datasets` are imported when a table is opened.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection
from pathlib import Path
from typing import Any, NamedTuple

SPLITS = ("train", "validation", "test")
SPLIT_NAMES = {"train": "train", "test": "test", **dict.fromkeys(("validation", "valid", "val", "dev"), "validation")}
SUFFIXES = (".parquet", ".json", ".jsonl", ".csv")
SHARD = re.compile(r"-\d+-of-\d+$")  # train-00000-of-00002.parquet
HUB_ID = re.compile(r"[\w-][\w.-]*/[\w.-]+")


class Tables(NamedTuple):
    """The opened tables of one data set.

    Fields: name; tables: split -> (source for messages, Arrow table), or {None: ...} for one table still to be cut into
    splits; notes: what a user should be told.
    """

    name: str
    tables: dict[str | None, tuple[str, Any]]
    notes: tuple[str, ...] = ()


def split_name(name: str) -> str:
    """train, validation or test for any of their usual names."""
    if name not in SPLIT_NAMES:
        raise ValueError(f"there is no split {name!r}; the splits are {', '.join(SPLITS)}")
    return SPLIT_NAMES[name]


def open_tables(path: str | Path, candidates: Collection[str]) -> Tables:
    """Open the data set at `path`; of JSON files only the columns in `candidates` are kept."""
    local = Path(path)
    if local.is_dir():
        return _open_folder(local, candidates)
    if local.is_file():
        return Tables(local.stem, {None: (str(local), _open_file(local, candidates))})
    if HUB_ID.fullmatch(str(path)) and local.suffix not in SUFFIXES:
        return _open_hub(str(path))
    raise FileNotFoundError(
        f"{path}: no such file or folder; give a folder of split files, one file, or a hub id such as easytpp/taxi"
    )


def _open_folder(folder: Path, candidates: Collection[str]) -> Tables:
    files = sorted(file for file in folder.iterdir() if file.suffix in SUFFIXES and not file.name.startswith("."))
    by_split: dict[str, list[Path]] = {}
    ignored = []
    for file in files:
        split = SPLIT_NAMES.get(SHARD.sub("", file.stem))
        if split is None:
            ignored.append(file.name)
        else:
            by_split.setdefault(split, []).append(file)
    if not by_split:
        found = ", ".join(ignored) or "no data file"
        raise FileNotFoundError(
            f"{folder}: no split files; expected train, validation and test as {', '.join(SUFFIXES)}, found {found} "
            "(to cut one file into splits, give its own path)"
        )
    tables: dict[str | None, tuple[str, Any]] = {}
    for split in (split for split in SPLITS if split in by_split):
        parts = by_split[split]
        if len({SHARD.sub("", part.stem) + part.suffix for part in parts}) > 1:
            raise ValueError(f"{folder}: {parts[0].name} and {parts[1].name} are both the {split} split; keep one of them")
        tables[split] = _concatenate(parts, candidates)
    notes = (f"{folder}: ignored {', '.join(ignored)} (not a split file)",) if ignored else ()
    return Tables(folder.resolve().name, _only_train_is_unsplit(tables), notes)


def _open_hub(hub_id: str) -> Tables:
    import datasets

    try:
        loaded = datasets.load_dataset(hub_id)
    except Exception as error:  # the hub's client raises many kinds: offline, unknown, gated, broken files
        reason = " ".join(str(error).split()).rstrip(".")
        raise FileNotFoundError(f"{hub_id}: no such folder here, and the hub does not give it: {reason}") from error
    by_split = {SPLIT_NAMES[name]: part for name, part in loaded.items() if name in SPLIT_NAMES}
    ignored = [str(name) for name in loaded if name not in SPLIT_NAMES]
    if not by_split:
        raise ValueError(f"{hub_id}: none of its splits {', '.join(ignored)} is train, validation or test")
    tables: dict[str | None, tuple[str, Any]] = {
        split: (f"{hub_id}, {split} split", by_split[split].with_format("arrow")[:]) for split in SPLITS if split in by_split
    }
    notes = (f"{hub_id}: ignored the splits {', '.join(ignored)}",) if ignored else ()
    return Tables(hub_id.split("/")[-1], _only_train_is_unsplit(tables), notes)


def _only_train_is_unsplit(tables: dict[str | None, tuple[str, Any]]) -> dict[str | None, tuple[str, Any]]:
    """A data set that consists of a train table alone is cut by fractions like a single file."""
    if "train" not in tables:
        source = next(iter(tables.values()))[0]
        raise FileNotFoundError(f"{source}: its data set has no train split; vocabulary, moments and scales come from that split")
    return {None: tables["train"]} if list(tables) == ["train"] else tables


def _open_file(file: Path, candidates: Collection[str]) -> Any:
    import pyarrow.csv
    import pyarrow.parquet

    if file.suffix not in SUFFIXES:
        raise ValueError(f"{file}: cannot read a {file.suffix or 'file without a suffix'}; the formats are {', '.join(SUFFIXES)}")
    try:
        if file.suffix == ".parquet":
            return pyarrow.parquet.read_table(file)
        if file.suffix == ".csv":
            empty_is_missing = pyarrow.csv.ConvertOptions(null_values=[""], strings_can_be_null=True)
            return pyarrow.csv.read_csv(file, convert_options=empty_is_missing)
    except pyarrow.ArrowInvalid as error:
        raise ValueError(f"{file}: not a readable {file.suffix[1:]} file: {' '.join(str(error).split())}") from error
    return _rows_to_table(str(file), _json_rows(file), candidates)


def _json_rows(file: Path) -> list[dict[str, Any]]:
    """The objects of a JSON array, or of a file with one JSON object per line."""
    text = file.read_text(encoding="utf-8")
    if text.lstrip().startswith("["):
        pieces = [(1, text)]
    else:
        pieces = [(number, line) for number, line in enumerate(text.splitlines(), 1) if line.strip()]
    rows: list[Any] = []
    for number, piece in pieces:
        try:
            value = json.loads(piece)
        except json.JSONDecodeError as error:
            line = number + error.lineno - 1
            raise ValueError(
                f"{file}, line {line}: not valid JSON ({error.msg}); expected an array of objects or one object per line"
            ) from error
        rows.extend(value if isinstance(value, list) else [value])
    for i, row in enumerate(rows):
        if not isinstance(row, dict):
            raise ValueError(f"{file}, row {i}: is {str(row)[:40]}, not an object with columns")
    return rows


def _rows_to_table(source: str, rows: list[dict[str, Any]], candidates: Collection[str]) -> Any:
    import pyarrow

    names = [name for name in dict.fromkeys(name for row in rows for name in row) if name in candidates]
    others = [name for name in dict.fromkeys(name for row in rows for name in row) if name not in candidates]
    arrays = {name: _json_column(source, name, [row.get(name) for row in rows]) for name in names}
    # other columns are not read, but an error about a missing column lists them
    return pyarrow.table(arrays | {name: pyarrow.nulls(len(rows)) for name in others})


def _json_column(source: str, name: str, values: list[Any]) -> Any:
    """A typed column; JSON may mix types, so name the first row that does not fit those before it."""
    import pyarrow

    try:
        return pyarrow.array(values)
    except (pyarrow.ArrowInvalid, pyarrow.ArrowTypeError, OverflowError):
        low, high = 1, len(values)  # the first `low - 1` values fit together, the first `high` do not
        while low < high:
            middle = (low + high) // 2
            try:
                pyarrow.array(values[:middle])
                low = middle + 1
            except (pyarrow.ArrowInvalid, pyarrow.ArrowTypeError, OverflowError):
                high = middle
        shown = json.dumps(values[low - 1])[:60]
        raise ValueError(
            f"{source}, row {low - 1}: {name} = {shown} mixes types or does not fit the rows before it; "
            f"every row of {name} must hold the same type"
        ) from None


def _concatenate(parts: list[Path], candidates: Collection[str]) -> tuple[str, Any]:
    """The shards of one split as one table; rows count through all of them."""
    import pyarrow

    tables = [_open_file(part, candidates) for part in parts]
    if len(parts) == 1:
        return str(parts[0]), tables[0]
    source = f"{parts[0]} to {parts[-1].name}"
    try:
        return source, pyarrow.concat_tables(tables, promote_options="permissive")
    except (pyarrow.ArrowInvalid, pyarrow.ArrowTypeError) as error:
        raise ValueError(
            f"{source}: the shards of a split must have the same column types: {' '.join(str(error).split())}"
        ) from error
