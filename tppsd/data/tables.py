"""Find and open the tables of a data set: a folder of split files or of `datasets`, one file, or a hub id.

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
SHARD = re.compile(
    r"(?P<stem>.+)-(?P<number>\d+)-of-(?P<total>\d+)(-[0-9a-f]{16})?"
)  # train-00000-of-00002, maybe a hash
SAVED = "dataset_dict.json"  # what DatasetDict.save_to_disk writes beside a folder for each split
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
    split = _known_split(name)
    if split is None:
        raise ValueError(f"there is no split {name!r}; the splits are {', '.join(SPLITS)}")
    return split


def _known_split(name: str) -> str | None:
    return SPLIT_NAMES.get(name.lower())


def open_tables(path: str | Path, candidates: Collection[str]) -> Tables:
    """Open the data set at `path`; of JSON files only the columns in `candidates` are kept."""
    local = Path(path)
    if local.is_dir():
        return _open_saved(local) if (local / SAVED).is_file() else _open_folder(local, candidates)
    if local.is_file():
        return Tables(local.stem, {None: (str(local), _open_file(local, candidates))})
    if HUB_ID.fullmatch(str(path)) and local.suffix.lower() not in SUFFIXES:
        return _open_hub(str(path))
    raise FileNotFoundError(
        f"{path}: no such file or folder; give a folder of split files, one file, or a hub id such as easytpp/taxi"
    )


def _open_folder(folder: Path, candidates: Collection[str]) -> Tables:
    files = _data_files(folder)
    if not any(_split_of(file) for file in files):
        files += _data_files(folder / "data")  # where repositories of the hub have them
    by_split: dict[str, list[Path]] = {}
    ignored = []
    for file in files:
        split = _split_of(file)
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
        _check_parts(folder, split, by_split[split])
        tables[split] = _concatenate(by_split[split], candidates)
    notes = (f"{folder}: ignored {', '.join(ignored)} (not a split file)",) if ignored else ()
    return Tables(folder.resolve().name, _only_train_is_unsplit(tables), notes)


def _data_files(folder: Path) -> list[Path]:
    """In order of their names; none where there is no such folder."""
    return sorted(file for file in folder.glob("[!.]*") if file.suffix.lower() in SUFFIXES)


def _split_of(file: Path) -> str | None:
    shard = SHARD.fullmatch(file.stem)
    return _known_split(shard["stem"] if shard else file.stem)


def _check_parts(folder: Path, split: str, parts: list[Path]) -> None:
    """A split is one file or all shards of one; a second copy, or a shard left out, would show nowhere."""
    copies = {SHARD.sub(r"\g<stem>-of-\g<total>", part.name): part.name for part in parts}
    if len(copies) > 1:
        first, second, *_ = copies.values()
        raise ValueError(
            f"{folder}: {first} and {second} are both the {split} split; keep one file or one set of shards"
        )
    shards = [shard for part in parts if (shard := SHARD.fullmatch(part.stem))]
    if shards:
        _check_shards(folder, split, shards, parts[0].suffix)


def _check_shards(folder: Path, split: str, shards: list[re.Match[str]], suffix: str) -> None:
    one, total = shards[0], int(shards[0]["total"])
    numbers = sorted(int(shard["number"]) for shard in shards)
    start = int(total in numbers)  # they are 0..N-1, of some writers 1..N
    expected = range(start, start + total)
    missing = next((number for number in expected if number not in numbers), None)
    if missing is not None:
        name = f"{one['stem']}-{missing:0{len(one['number'])}d}-of-{one['total']}{suffix}"
        raise ValueError(
            f"{folder}: the {split} split has {len(numbers)} of {total} shards and {name} is missing; "
            "copy all of them here, or let the job that writes them finish"
        )
    if numbers != list(expected):
        extra = next(s for s in shards if int(s["number"]) not in expected or numbers.count(int(s["number"])) > 1)
        raise ValueError(
            f"{folder}: {extra[0]}{suffix} is one shard too many of the {split} split; keep one set of {total} shards"
        )


def _open_hub(hub_id: str) -> Tables:
    import datasets

    try:
        loaded = datasets.load_dataset(hub_id)
    except Exception as error:  # the hub's client raises many kinds: offline, unknown, gated, broken files
        raise FileNotFoundError(
            f"{hub_id}: no such folder here, and the hub does not give it: {_reason(error)}"
        ) from error
    return _from_dataset_dict(hub_id, hub_id.split("/")[-1], loaded)


def _open_saved(folder: Path) -> Tables:
    import datasets

    try:
        loaded = datasets.load_from_disk(str(folder))
    except Exception as error:  # files that are missing, cut short or of another version
        raise ValueError(f"{folder}: has a {SAVED}, but `datasets` cannot load the folder: {_reason(error)}") from error
    return _from_dataset_dict(str(folder), folder.resolve().name, loaded)


def _from_dataset_dict(source: str, name: str, loaded: Any) -> Tables:
    by_split: dict[str, Any] = {}
    for key, part in loaded.items():
        if (split := _known_split(key)) is not None and by_split.setdefault(split, part) is not part:
            raise ValueError(f"{source}: has two {split} splits, of which {key} is one; keep one of them")
    ignored = [str(key) for key in loaded if _known_split(key) is None]
    if not by_split:
        raise ValueError(f"{source}: none of its splits {', '.join(ignored)} is train, validation or test")
    tables: dict[str | None, tuple[str, Any]] = {
        split: (f"{source}, {split} split", by_split[split].with_format("arrow")[:])
        for split in SPLITS
        if split in by_split
    }
    notes = (f"{source}: ignored the splits {', '.join(ignored)}",) if ignored else ()
    return Tables(name, _only_train_is_unsplit(tables), notes)


def _reason(error: Exception) -> str:
    """The message of another library's error, to end a sentence with."""
    return " ".join(str(error).split()).rstrip(".")


def _only_train_is_unsplit(tables: dict[str | None, tuple[str, Any]]) -> dict[str | None, tuple[str, Any]]:
    """A data set that consists of a train table alone is cut by fractions like a single file."""
    if "train" not in tables:
        source = next(iter(tables.values()))[0]
        raise FileNotFoundError(
            f"{source}: its data set has no train split; vocabulary, moments and scales come from that split"
        )
    return {None: tables["train"]} if list(tables) == ["train"] else tables


def _open_file(file: Path, candidates: Collection[str]) -> Any:
    import pyarrow.csv
    import pyarrow.parquet

    suffix = file.suffix.lower()
    if suffix not in SUFFIXES:
        raise ValueError(
            f"{file}: cannot read a {file.suffix or 'file without a suffix'}; the formats are {', '.join(SUFFIXES)}"
        )
    try:
        if suffix == ".parquet":
            # read_table takes a folder of parts too, but no file where a column name occurs twice
            return pyarrow.parquet.read_table(file) if file.is_dir() else pyarrow.parquet.ParquetFile(file).read()
        if suffix == ".csv":
            empty_is_missing = pyarrow.csv.ConvertOptions(null_values=[""], strings_can_be_null=True)
            return _in_utf8(file, pyarrow.csv.read_csv(file, convert_options=empty_is_missing), candidates)
    except pyarrow.ArrowInvalid as error:
        raise ValueError(f"{file}: not a readable {suffix[1:]} file: {_reason(error)}") from error
    return _rows_to_table(str(file), _json_rows(file), candidates)


def _in_utf8(file: Path, table: Any, candidates: Collection[str]) -> Any:
    """Arrow reads a column that is not UTF-8 as bytes; of those that are not read, nobody minds."""
    import pyarrow

    for name, column in zip(table.column_names, table.columns, strict=True):
        if name in candidates and pyarrow.types.is_binary(column.type):
            raise ValueError(f"{file}: the column {name} is not UTF-8; save the file as UTF-8")
    return table


def _json_rows(file: Path) -> list[dict[str, Any]]:
    """The objects of a JSON array, or of a file with one JSON object per line."""
    try:
        text = file.read_text(encoding="utf-8-sig")  # with or without a byte-order mark
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise ValueError(
            f"{file}, line {line}: has the byte {error.object[error.start]:#04x}, which is not UTF-8; save the file as UTF-8"
        ) from error
    if text.lstrip().startswith("["):
        pieces = [(1, text)]
    else:
        pieces = [(number, line) for number, line in enumerate(text.split("\n"), 1) if line.strip()]
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
            f"{source}: the shards of a split must have the same column types: {_reason(error)}"
        ) from error
