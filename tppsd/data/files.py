"""Reading of one file as an Arrow table, here or at a URL.

Formats are Parquet, CSV and TSV, JSON and JSON lines, and Feather, compressed or not.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import IO, Any, NamedTuple

from tppsd.data.arrow import check_no_truth_values, without_views
from tppsd.data.memory import warn_of_size
from tppsd.data.obstacles import DataError, quoted
from tppsd.data.options import Context, candidate_names
from tppsd.data.paths import for_arrow, is_url

FORMATS = (".parquet", ".json", ".jsonl", ".csv", ".tsv", ".feather")
OTHER_NAMES = {".arrow": ".feather", ".ndjson": ".jsonl", ".pq": ".parquet"}
COMPRESSED = {".gz": "gzip", ".bz2": "bz2", ".zst": "zstd", ".xz": "xz"}
DELIMITERS = (";", "\t", "|")
PIECE = 2**20  # bytes of a column of a Parquet file that are read at once


class Format(NamedTuple):
    """Holds what the name of a file says: its stem, its format (a suffix of FORMATS, "" for none), its compression."""

    stem: str
    suffix: str
    compression: str | None


def format_of(path: str) -> Format:
    """Return the format of a file by its name, such as train.csv.gz."""
    name = Path(path.split("?")[0]).name
    compression = COMPRESSED.get(Path(name).suffix.lower())
    if compression is not None:
        name = Path(name).stem
    suffix = Path(name).suffix.lower()
    suffix = OTHER_NAMES.get(suffix, suffix)
    return Format(Path(name).stem, suffix if suffix in FORMATS else "", compression)


def reason(error: Exception) -> str:
    """Return the message of another library's error, to end a sentence with."""
    return " ".join(str(error).split()).rstrip(".")[:300]


def open_file(file: str | Path, context: Context) -> Any:
    """Read a file or URL.

    Raises:
        FileNotFoundError, ValueError: it cannot be read; the sentence says why.
    """
    suffix = format_of(str(file)).suffix
    if not suffix:
        raise ValueError(
            f"{file}: cannot read a {Path(file).suffix or 'file without a suffix'}; the formats are "
            f"{', '.join(FORMATS)}"
        )
    candidates = _candidates(context)
    if not is_url(file) and Path(file).exists() and not (Path(file).is_file() or Path(file).is_dir()):
        raise ValueError(f"{file}: is a pipe or a device, which may never end; save its content as a file")
    with _in_a_sentence(file, f"not a readable {suffix[1:]} file"):
        if not is_url(file):
            warn_of_size(Path(file))
        if suffix == ".parquet":
            return _in_utf8(file, _read_parquet(file), candidates)
        if suffix in (".csv", ".tsv"):
            return _in_utf8(file, _read_csv(file, suffix, context), candidates)
        if suffix == ".feather":
            return _in_utf8(file, without_views(_read_feather(file)), candidates)
        return _rows_to_table(str(file), _json_rows(file), candidates)


@contextlib.contextmanager
def _in_a_sentence(file: str | Path, what: str) -> Iterator[None]:
    """Turn whatever a library raises about the content of a file into a ValueError that names the file.

    Errors of the operating system (no such file, no permission, disk) and this package's own are left as they are.
    """
    import lzma
    import zlib

    import pyarrow

    kinds = (pyarrow.ArrowException, EOFError, zlib.error, lzma.LZMAError, OverflowError, UnicodeDecodeError)
    try:
        yield
    except MemoryError:  # Arrow's too, which is said elsewhere
        raise
    except RecursionError as error:
        raise ValueError(f"{file}: {what}: it is nested too deeply") from error
    except (*kinds, OSError) as error:
        if (isinstance(error, OSError) and error.errno is not None) or isinstance(error, FileNotFoundError):
            raise
        raise ValueError(f"{file}: {what}: {reason(error)}") from error


@contextlib.contextmanager
def _stream(file: str | Path) -> Any:
    """Return the decompressed bytes of a file or URL, as a file object."""
    import pyarrow

    compression = format_of(str(file)).compression
    with contextlib.ExitStack() as stack:
        raw: IO[bytes] = stack.enter_context(_open(file))
        if compression == "xz":  # Arrow has no codec for it
            import lzma

            yield stack.enter_context(lzma.open(raw))
        elif compression is None:
            yield raw
        else:
            yield stack.enter_context(pyarrow.input_stream(raw, compression=compression))


def _open(file: str | Path) -> Any:
    if not is_url(file):
        return open(file, "rb")
    import fsspec

    try:
        return fsspec.open(str(file), "rb").open()
    except Exception as error:  # each protocol raises kinds of its own, and some need a package
        raise FileNotFoundError(f"{file}: cannot be opened: {reason(error)}") from error


def _read_parquet(file: str | Path) -> Any:
    import pyarrow.parquet as parquet

    if is_url(file):
        with _stream(file) as stream:
            return parquet.ParquetFile(stream).read()
    # read_table takes a folder of parts too, but no file where a column name occurs twice
    path = for_arrow(file)
    if path.is_dir():
        return parquet.read_table(path)
    return parquet.ParquetFile(path, pre_buffer=False, buffer_size=PIECE).read()  # not a whole row group of bytes first


def _read_feather(file: str | Path) -> Any:
    import pyarrow.feather as feather

    if format_of(str(file)).compression is None and not is_url(file):
        return feather.read_table(file, memory_map=True)
    with _stream(file) as stream:
        import pyarrow

        return feather.read_table(pyarrow.BufferReader(stream.read()))


def _candidates(context: Context) -> set[str]:
    """Return the names of columns that may be read; t_start and t_end may name some."""
    return candidate_names(context.options.column_map) | {
        str(edge) for edge in (context.options.t_start, context.options.t_end)
    }


def _read_csv(file: str | Path, suffix: str, context: Context) -> Any:
    from pyarrow import csv

    options = _csv_options(file, suffix, context)
    with _stream(file) as stream:
        return csv.read_csv(stream, **options)


def _csv_options(file: str | Path, suffix: str, context: Context) -> dict[str, Any]:
    """Return how Arrow reads a delimited file.

    A header that plainly has another delimiter is an obstacle, and is read by that.
    """
    from pyarrow import csv

    delimiter = context.options.delimiter or ("\t" if suffix == ".tsv" else ",")
    with _stream(file) as stream:
        header = stream.read(4096).split(b"\n")[0].decode("utf-8", "replace").strip()
    other = max(DELIMITERS, key=header.count)
    if context.options.delimiter is None and delimiter not in header and header.count(other) > 0:
        context.obstacles.add(
            DataError(
                f"{file}: the header {quoted(header)} is separated by {other!r}; say delimiter: {other!r}",
                delimiter=other,
            )
        )
        delimiter = other
    return {
        "convert_options": csv.ConvertOptions(null_values=[""], strings_can_be_null=True),  # empty is missing
        "parse_options": csv.ParseOptions(delimiter=delimiter),
    }


BLOCK_ROWS, BLOCK_BYTES = 2**17, 2**22  # of a file that is read block by block, at most


def row_blocks(file: str | Path, context: Context) -> Iterator[Any]:
    """Yield the rows of a local Parquet, CSV or TSV file as Arrow tables, of which only one is in memory at a time.

    Of a Parquet file, a row group is held besides.

    Raises:
        OSError, ValueError: as `open_file`, for the part that is wrong.
    """
    import pyarrow
    from pyarrow import csv, parquet

    suffix, candidates = format_of(str(file)).suffix, _candidates(context)
    with _in_a_sentence(file, f"not a readable {suffix[1:]} file"), contextlib.ExitStack() as stack:
        if suffix == ".parquet":
            opened = parquet.ParquetFile(for_arrow(file), memory_map=True, pre_buffer=False)
            groups = [opened.metadata.row_group(i) for i in range(opened.metadata.num_row_groups)]
            per_row = sum(group.total_byte_size for group in groups) / max(1, opened.metadata.num_rows)
            batches = opened.iter_batches(batch_size=int(min(BLOCK_ROWS, max(1, BLOCK_BYTES / max(1.0, per_row)))))
        else:
            options = _csv_options(file, suffix, context)
            stream = stack.enter_context(_stream(file))
            batches = csv.open_csv(stream, read_options=csv.ReadOptions(block_size=BLOCK_BYTES), **options)
        for batch in batches:
            yield _in_utf8(file, pyarrow.table(batch), candidates)


def _in_utf8(file: str | Path, table: Any, candidates: Collection[str]) -> Any:
    """Refuse bytes in columns that may be read, and names of columns that are no text.

    Arrow reads a CSV column that is not UTF-8 as bytes, and believes other files that say that theirs is. Of columns
    that are not read, nobody minds.
    """
    import pyarrow

    try:
        names = table.column_names
    except UnicodeDecodeError as error:
        raise ValueError(f"{file}: the names of its columns are not UTF-8; save the file as UTF-8") from error
    for name, column in zip(names, table.columns, strict=True):
        if name not in candidates:
            continue
        try:
            column.validate(full=True)
            is_text = not pyarrow.types.is_binary(column.type)
        except pyarrow.ArrowInvalid:
            is_text = False
        if not is_text:
            raise ValueError(f"{file}: the column {name} is not UTF-8; save the file as UTF-8")
    return table


def _json_rows(file: str | Path) -> list[dict[str, Any]]:
    """Return the objects of a JSON array, or of a file with one JSON object per line."""
    try:
        with _stream(file) as stream:
            text = stream.read().decode("utf-8-sig")  # with or without a byte-order mark
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise ValueError(
            f"{file}, line {line}: has the byte {error.object[error.start]:#04x}, which is not UTF-8; save the file as "
            "UTF-8"
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
                f"{file}, line {line}: not valid JSON ({error.msg}); expected an array of objects or one object per "
                "line"
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
    # other columns may mix types, but an error about a missing column lists them, and rows may differ in them alone
    return pyarrow.table(arrays | {name: _any_column([row.get(name) for row in rows]) for name in others})


def _any_column(values: list[Any]) -> Any:
    """Return a typed column, or the JSON of its values where types are mixed."""
    import pyarrow

    try:
        return pyarrow.array(values)
    except (pyarrow.ArrowInvalid, pyarrow.ArrowTypeError, OverflowError):
        return pyarrow.array([json.dumps(value) for value in values])


def _json_column(source: str, name: str, values: list[Any]) -> Any:
    """Return a typed column; JSON may mix types, so name the first row that does not fit those before it."""
    import pyarrow

    try:
        column = pyarrow.array(values)
        check_no_truth_values(values, column.type, lambda row: f"{source}, row {row}: {name}")
        return column
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
