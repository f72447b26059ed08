"""`tppsd convert SOURCE OUT`: a log as the Parquet file that everything reads, as a mapped Arrow file, or as JSON.

With `--format csep`, samples of `predict` as catalogue forecasts.
"""

from __future__ import annotations

import shlex
from pathlib import Path

from tppsd.commands.data_options import SourceParser, source_of, without_prefix
from tppsd.data.options import ReadOptions
from tppsd.data.paths import local_path

ARROW, JSON = ".arrow", (".json", ".jsonl")
WRITTEN = (".parquet", ARROW, *JSON)


def parser() -> SourceParser:
    """Return the parser of the command line."""
    parser = SourceParser(
        "tppsd convert",
        "Write a log of events to the Parquet file that everything reads, to an Arrow file that stays on the disk, or "
        "to EasyTPP's JSON.",
        (
            "tppsd convert log.csv log.parquet --columns.time when --columns.mark what",
            "tppsd convert log.parquet log.arrow   # for a log that is larger than the memory",
            "tppsd convert log.csv easytpp/train.json --split train   # what EasyTPP reads",
            "tppsd convert outputs/samples outputs/catalogues --format csep",
        ),
    )
    parser.add_argument(
        "output",
        type=str,
        help="file to write: .parquet; .arrow, whose events are read from the disk while a model is trained; or .json "
        "or .jsonl, EasyTPP's records, one a line; with --format csep a folder",
    )
    parser.add_argument(
        "--split",
        type=str | None,
        default=None,
        help="to .json or .jsonl, write train, validation or test alone, as EasyTPP wants it (default: all, with a "
        "field `split`)",
    )
    parser.add_argument(
        "--format",
        type=str | None,
        default=None,
        help="csep: SOURCE is a folder of `tppsd predict` with continuations; write those of each history as a "
        "catalogue forecast",
    )
    parser.add_argument(
        "--magnitudes",
        type=list[float] | None,
        default=None,
        help="of marks 0, 1 and so on, for --format csep, which they stand for too (default: the lower edges of "
        "mark_bins, where the marks are these)",
    )
    return parser


def main(args: list[str]) -> None:
    """Read a source and write its canonical file, or the catalogues that it samples.

    Raises:
        FileNotFoundError, ValueError: it cannot be read, or the name is not that of a file that is written.
    """
    parsed = parser().parse_args(without_prefix(args))
    if parsed.source is None and parsed.config is None:  # a word alone is OUT
        raise ValueError(
            f"give SOURCE and OUT, as in `tppsd convert log.csv log.parquet`; there is only {parsed.output}"
        )
    path = local_path(parsed.output, "OUT")
    suffix, are_catalogs = path.suffix.lower(), parsed.format is not None or parsed.magnitudes is not None
    if not are_catalogs and suffix not in WRITTEN:
        raise ValueError(f"OUT {path} must end in {', '.join(WRITTEN[:-1])} or {WRITTEN[-1]}")
    if parsed.split is not None and suffix not in JSON:
        raise ValueError(f"--split is for EasyTPP's JSON ({' or '.join(JSON)}); {path} holds all splits")
    source, options = source_of(parsed)
    if are_catalogs:
        from tppsd.data.catalogs import check_format, write_catalogs

        check_format(parsed.format)
        files = write_catalogs(source, parsed.output, parsed.magnitudes)
        print(f"Written: {len(files)} catalogue forecasts, {files[0]} to {files[-1]}")
        return

    from tppsd.data.interchange import write_parquet
    from tppsd.data.log import read_log

    if suffix == ARROW:
        sizes, num_marks, notes = _write_arrow(source, path, options)
    elif suffix in JSON:
        sizes, num_marks, notes = _write_json(source, path, options, parsed.split)
    else:
        log = read_log(source, options)
        write_parquet(log, path)
        sizes, num_marks, notes = {s: len(part) for s, part in log.parts.items()}, log.vocabulary.num_marks, log.notes
    for note in notes:
        print(note)
    shown, name = ", ".join(f"{number:,} {split}" for split, number in sizes.items()), shlex.quote(str(path))
    print(f"Written: {path} ({shown} sequences, {num_marks} marks)")
    print(f"Next: tppsd inspect {name}, or tppsd fit --data.path {name}")


def _write_json(
    source: str, path: Path, options: ReadOptions, split: str | None
) -> tuple[dict[str, int], int, tuple[str, ...]]:
    """Write EasyTPP's records of all splits, or of one.

    Returns:
        As `_write_arrow`; the notes also say what the records do not.
    """
    from tppsd.data.interchange import write_easytpp
    from tppsd.data.reading import read_dataset

    dataset = read_dataset(source, **options.given())
    parts = dataset.splits if split is None else {split: dataset.sequences(split)}
    write_easytpp(path, parts if split is None else parts[split], dataset.num_marks)
    notes = list(dataset.notes)
    if dataset.mark_names is not None:
        notes.append(f"marks 0, 1, ... are {', '.join(dataset.mark_names)}: the records have no names")
    if dataset.time_unit is not None:
        notes.append(f"times are in {dataset.time_unit} since the start of each window: the records have no unit")
    return {name: len(part) for name, part in parts.items()}, dataset.num_marks, tuple(notes)


def _write_arrow(source: str, path: Path, options: ReadOptions) -> tuple[dict[str, int], int, tuple[str, ...]]:
    """Write an Arrow file, block by block where the source can be read so.

    Returns:
        Split -> number of sequences; number of marks; notes for the user.
    """
    from tppsd.data.arrow_file import write_arrow
    from tppsd.data.blocks import Unstreamable
    from tppsd.data.log import read_log
    from tppsd.data.streaming import stream_to_arrow

    try:
        facts, notes = stream_to_arrow(source, path, options)
    except Unstreamable as why:
        print(f"{source}: all of it is read into memory, since {why}")
        log = read_log(source, options)
        facts, notes = write_arrow(log, path), log.notes
    return {split: numbers[0] for split, numbers in facts.splits.items()}, facts.num_marks, notes
