"""`tppsd convert SOURCE OUT`: a log as the Parquet file that everything reads, or as an Arrow file that is mapped.

With `--magnitudes`, samples of `predict` as catalogue forecasts of CSEP.
"""

from __future__ import annotations

import shlex
from pathlib import Path

from tppsd.commands.data_options import SourceParser, parse_source
from tppsd.data.options import ReadOptions
from tppsd.data.paths import local_path


def parser() -> SourceParser:
    """Return the parser of the command line."""
    parser = SourceParser(
        "tppsd convert",
        "Write a log of events to the Parquet file that everything reads, or to an Arrow file that stays on the disk.",
        (
            "tppsd convert log.csv log.parquet --columns.time when --columns.mark what",
            "tppsd convert log.parquet log.arrow   # for a log that is larger than the memory",
            "tppsd convert outputs/samples outputs/catalogues --magnitudes '[1, 1.5, 2, 2.5]'",
        ),
    )
    parser.add_argument(
        "output",
        type=str,
        help="file to write: .parquet, or .arrow, whose events are read from the disk while a model is trained; "
        "with --magnitudes a folder",
    )
    parser.add_argument(
        "--magnitudes",
        type=list[float] | None,
        default=None,
        help="SOURCE is a folder of `tppsd predict` with continuations: write those of each history as a catalogue "
        "forecast of CSEP, with these magnitudes for marks 0, 1 and so on",
    )
    return parser


def main(args: list[str]) -> None:
    """Read a source and write its canonical file, or the catalogues that it samples.

    Raises:
        FileNotFoundError, ValueError: it cannot be read, or the name is not that of a Parquet or Arrow file.
    """
    parsed, source, options = parse_source(parser(), args)
    path = local_path(parsed.output, "OUT")
    if parsed.magnitudes is not None:
        from tppsd.data.catalogs import write_catalogs

        files = write_catalogs(source, parsed.output, parsed.magnitudes)
        print(f"Written: {len(files)} catalogue forecasts, {files[0]} to {files[-1]}")
        return

    from tppsd.data.arrow_file import SUFFIX
    from tppsd.data.interchange import write_parquet
    from tppsd.data.log import read_log

    if path.suffix.lower() == SUFFIX:
        sizes, num_marks, notes = _write_arrow(source, path, options)
    else:
        log = read_log(source, options)
        write_parquet(log, path)
        sizes, num_marks, notes = {s: len(part) for s, part in log.parts.items()}, log.vocabulary.num_marks, log.notes
    for note in notes:
        print(note)
    shown, name = ", ".join(f"{number:,} {split}" for split, number in sizes.items()), shlex.quote(str(path))
    print(f"Written: {path} ({shown} sequences, {num_marks} marks)")
    print(f"Next: tppsd inspect {name}, or tppsd fit --data.path {name}")


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
