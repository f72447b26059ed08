"""Finding and opening of the tables of a data set: files, folders of split files, hub ids, URLs, and memory.

Every table becomes an Arrow table (float64 stays float64). Arrow and `datasets` are imported when a table is opened.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from tppsd.data.arrow import OpenTable, is_list, objects, without_views
from tppsd.data.files import FORMATS, format_of, open_file, reason
from tppsd.data.options import Context
from tppsd.data.paths import is_url
from tppsd.data.sequence_table import SequenceTable
from tppsd.data.sequences import EventSequence

TABLES = "a table of pandas, polars, Arrow or datasets, a list of EventSequence, or a dict of them by split"


def is_sequences(source: Any) -> bool:
    """Say whether an object is a list or tuple of EventSequence."""
    return isinstance(source, Sequence) and bool(source) and all(isinstance(one, EventSequence) for one in source)


def to_arrow(source: Any) -> Any:
    """Return an Arrow table of an object in memory.

    Raises:
        TypeError: it is no table.
    """
    import pyarrow

    if isinstance(source, pyarrow.Table):
        return without_views(source)
    module = type(source).__module__.split(".")[0]
    if module == "datasets":
        return source.with_format("arrow")[:]
    if module == "pandas":
        keeps_index = source.index.name is not None or str(source.index.dtype).startswith("datetime")
        return pyarrow.Table.from_pandas(source.reset_index() if keeps_index else source, preserve_index=False)
    if hasattr(source, "__arrow_c_stream__"):
        return without_views(pyarrow.table(source))
    raise TypeError(f"cannot read a {type(source).__name__}; give a path, a hub id, {TABLES}")


def from_sequences(source: str, sequences: Sequence[EventSequence]) -> SequenceTable:
    """Return the table of sequences that are in memory already; their own windows, ids and given events are kept."""
    import pyarrow

    lengths = np.array([len(one) for one in sequences])
    ids = [one.id for one in sequences] if any(one.id is not None for one in sequences) else []
    return SequenceTable(
        source=source,
        columns={"time": "event_times", "mark": "marks"},
        event_times=np.concatenate([one.event_times.double().numpy() for one in sequences]),
        marks=pyarrow.array(np.concatenate([one.marks.numpy() for one in sequences])),
        offsets=np.concatenate([[0], np.cumsum(lengths)]),
        inter_times=np.concatenate([one.inter_times.double().numpy() for one in sequences]),
        t_start=np.array([np.nan if one.t_start is None else one.t_start for one in sequences]),
        t_end=np.array([np.nan if one.t_end is None else one.t_end for one in sequences]),
        num_marks=None,
        rows=range(len(sequences)),
        one_row_each=True,
        sequence_ids=None if not ids else objects(ids),
        score_start=np.array([np.nan if one.score_start is None else one.score_start for one in sequences]),
        is_cut=np.array([one.censored_start for one in sequences]),
    )


SPLITS = ("train", "validation", "test")
SPLIT_NAMES = {"train": "train", "test": "test", **dict.fromkeys(("validation", "valid", "val", "dev"), "validation")}
SHARD = re.compile(
    r"(?P<stem>.+)-(?P<number>\d+)-of-(?P<total>\d+)(-[0-9a-f]{16})?"
)  # train-00000-of-00002, maybe a hash
SAVED = "dataset_dict.json"  # what DatasetDict.save_to_disk writes beside a folder for each split
HUB_ID = re.compile(r"[\w-][\w.-]*/[\w.-]+")


class Tables(NamedTuple):
    """Holds the opened tables of one data set.

    Fields:
        name: of the data set.
        tables: split -> (source for messages, table or list of EventSequence), or {None: ...} for one table still to be
            cut into splits.
    """

    name: str
    tables: dict[str | None, tuple[str, Any]]


def split_name(name: str) -> str:
    """Return train, validation or test for any of their usual names."""
    split = _known_split(name)
    if split is None:
        raise ValueError(f"there is no split {name!r}; the splits are {', '.join(SPLITS)}")
    return split


def _known_split(name: str) -> str | None:
    return SPLIT_NAMES.get(name.lower())


def open_tables(source: Any, context: Context) -> Tables:
    """Open the data set `source`; each of its tables is an OpenTable or a list of EventSequence.

    Args:
        source: path of a file or folder, hub id, fsspec URL, or an object in memory: a table (pandas, polars, Arrow,
            `datasets`), a list of EventSequence, or a dict of them by split.
        context: its option `delimiter` is for CSV files; it takes notes, and obstacles that do not end the reading.

    Raises:
        FileNotFoundError, ValueError, TypeError: there is nothing to read.
    """
    opened = _by_column(_opened(source, context))
    tables = {
        split: (place, table if is_sequences(table) else OpenTable(table))
        for split, (place, table) in opened.tables.items()
    }
    return opened._replace(tables=tables)


def _opened(source: Any, context: Context) -> Tables:
    """Return the data set with Arrow tables."""
    if not isinstance(source, str | Path):
        name = type(source).__name__
        if isinstance(source, Mapping):
            return _from_splits(name, name, source, context)
        return Tables(name, {None: (name, source if is_sequences(source) else to_arrow(source))})
    if is_url(source):
        return Tables(format_of(str(source)).stem, {None: (str(source), open_file(str(source), context))})
    local = Path(source)
    if local.is_dir():
        return _open_saved(local, context) if (local / SAVED).is_file() else _open_folder(local, context)
    if local.is_file():
        return Tables(format_of(str(local)).stem, {None: (str(local), open_file(local, context))})
    if HUB_ID.fullmatch(str(source)) and not format_of(str(source)).suffix:
        return _open_hub(str(source), context)
    raise FileNotFoundError(
        f"{source}: no such file or folder; give a folder of split files, one file, or a hub id such as easytpp/taxi"
    )


def _by_column(opened: Tables) -> Tables:
    """Split a table whose column `split` says train, validation or test; others stay as they are."""
    source, table = opened.tables.get(None, ("", None))
    parts = parts_by_column(table) if hasattr(table, "column_names") else {}
    if "train" not in parts:
        return opened
    return Tables(opened.name, {split: (f"{source}, {split} split", part) for split, part in parts.items()})


def parts_by_column(table: Any) -> dict[str, Any]:
    """Return split -> its rows of an Arrow table of sequences with a column `split`; empty where that is none."""
    import pyarrow.compute as pc

    if "split" not in table.column_names or not any(is_list(field.type) for field in table.schema):
        return {}
    found = pc.unique(table["split"]).to_pylist()
    if not set(found) <= set(SPLITS):
        return {}
    return {split: table.filter(pc.equal(table["split"], split)) for split in SPLITS if split in found}


def _open_folder(folder: Path, context: Context) -> Tables:
    tables: dict[str | None, tuple[str, Any]] = {
        split: _concatenate(files, context) for split, files in split_files(folder, context).items()
    }
    return Tables(folder.resolve().name, _only_train_is_unsplit(tables))


def split_files(folder: Path, context: Context) -> dict[str, list[Path]]:
    """Return split -> its file or shards in order, of a folder of split files; others are noted.

    Raises:
        FileNotFoundError, ValueError: there are none, or a split has two copies or lacks a shard.
    """
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
            f"{folder}: no split files; expected train, validation and test as {', '.join(FORMATS)}, found {found} "
            "(to cut one file into splits, give its own path)"
        )
    for split, parts in by_split.items():
        _check_parts(folder, split, parts)
    if ignored:
        context.note(str(folder), f"ignored {', '.join(ignored)} (not a split file)")
    return {split: by_split[split] for split in SPLITS if split in by_split}


def _data_files(folder: Path) -> list[Path]:
    """Return the data files of a folder in order of their names; none where there is no such folder."""
    return sorted(file for file in folder.glob("[!.]*") if format_of(file.name).suffix)


def _split_of(file: Path) -> str | None:
    stem = format_of(file.name).stem
    shard = SHARD.fullmatch(stem)
    return _known_split(shard["stem"] if shard else stem)


def _check_parts(folder: Path, split: str, parts: list[Path]) -> None:
    """Refuse a split that is neither one file nor all shards of one.

    A second copy, or a shard left out, would show nowhere.
    """
    copies = {SHARD.sub(r"\g<stem>-of-\g<total>", part.name): part.name for part in parts}
    if len(copies) > 1:
        first, second, *_ = copies.values()
        raise ValueError(
            f"{folder}: {first} and {second} are both the {split} split; keep one file or one set of shards"
        )
    shards = [shard for part in parts if (shard := SHARD.fullmatch(format_of(part.name).stem))]
    if shards:
        _check_shards(folder, split, shards, parts[0].name.removeprefix(format_of(parts[0].name).stem))


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


def _open_hub(hub_id: str, context: Context) -> Tables:
    import datasets

    try:
        loaded = datasets.load_dataset(hub_id)
    except Exception as error:  # the hub's client raises many kinds: offline, unknown, gated, broken files
        raise FileNotFoundError(
            f"{hub_id}: no such folder here, and the hub does not give it: {reason(error)}"
        ) from error
    return _from_splits(hub_id, hub_id.split("/")[-1], loaded, context)


def _open_saved(folder: Path, context: Context) -> Tables:
    import datasets

    try:
        loaded = datasets.load_from_disk(str(folder))
    except Exception as error:  # files that are missing, cut short or of another version
        raise ValueError(f"{folder}: has a {SAVED}, but `datasets` cannot load the folder: {reason(error)}") from error
    return _from_splits(str(folder), folder.resolve().name, loaded, context)


def _from_splits(source: str, name: str, loaded: Any, context: Context) -> Tables:
    """Return the tables of a mapping from the names of splits, such as a `datasets.DatasetDict`."""
    by_split: dict[str, Any] = {}
    for key, part in loaded.items():
        if (split := _known_split(key)) is not None and by_split.setdefault(split, part) is not part:
            raise ValueError(f"{source}: has two {split} splits, of which {key} is one; keep one of them")
    ignored = [str(key) for key in loaded if _known_split(key) is None]
    if not by_split:
        raise ValueError(f"{source}: none of its splits {', '.join(ignored)} is train, validation or test")
    tables: dict[str | None, tuple[str, Any]] = {
        split: (f"{source}, {split} split", part if is_sequences(part) else to_arrow(part))
        for split in SPLITS
        if (part := by_split.get(split)) is not None
    }
    if ignored:
        context.note(source, f"ignored the splits {', '.join(ignored)}")
    return Tables(name, _only_train_is_unsplit(tables))


def _only_train_is_unsplit(tables: dict[str | None, tuple[str, Any]]) -> dict[str | None, tuple[str, Any]]:
    """Leave a data set that consists of a train table alone unsplit: it is cut by fractions like a single file."""
    if "train" not in tables:
        source = next(iter(tables.values()))[0]
        raise FileNotFoundError(
            f"{source}: its data set has no train split; vocabulary, moments and scales come from that split"
        )
    return {None: tables["train"]} if list(tables) == ["train"] else tables


def _concatenate(parts: list[Path], context: Context) -> tuple[str, Any]:
    """Return the shards of one split as one table; rows count through all of them."""
    import pyarrow

    tables = [open_file(part, context) for part in parts]
    if len(parts) == 1:
        return str(parts[0]), tables[0]
    source = f"{parts[0]} to {parts[-1].name}"
    try:
        return source, pyarrow.concat_tables(tables, promote_options="permissive")
    except (pyarrow.ArrowInvalid, pyarrow.ArrowTypeError) as error:
        raise ValueError(f"{source}: the shards of a split must have the same column types: {reason(error)}") from error
