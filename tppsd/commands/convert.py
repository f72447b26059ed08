"""`tppsd convert SOURCE OUT.parquet`: a log as the Parquet file that everything reads, with splits and vocabulary.

With `--magnitudes`, samples of `predict` as catalogue forecasts of CSEP.
"""

from __future__ import annotations

import shlex

from tppsd.commands.data_options import SourceParser, parse_source
from tppsd.data.paths import local_path


def parser() -> SourceParser:
    """Return the parser of the command line."""
    parser = SourceParser(
        "tppsd convert",
        "Write a log of events to the Parquet file that everything reads.",
        ("tppsd convert log.csv log.parquet --columns.time when --columns.mark what",
         "tppsd convert outputs/samples outputs/catalogues --magnitudes '[1, 1.5, 2, 2.5]'"),
    )  # fmt: skip
    parser.add_argument("output", type=str, help="file to write, which ends in .parquet; with --magnitudes a folder")
    parser.add_argument("--magnitudes", type=list[float] | None, default=None,
                        help="SOURCE is a folder of `tppsd predict` with continuations: write those of each history as "
                        "a catalogue forecast of CSEP, with these magnitudes for marks 0, 1, ...")  # fmt: skip
    return parser


def main(args: list[str]) -> None:
    """Read a source and write its canonical Parquet file, or the catalogues that it samples.

    Raises:
        FileNotFoundError, ValueError: it cannot be read, or the name is not that of a Parquet file.
    """
    parsed, source, options = parse_source(parser(), args)
    local_path(parsed.output, "OUT")
    if parsed.magnitudes is not None:
        from tppsd.data.catalogs import write_catalogs

        files = write_catalogs(source, parsed.output, parsed.magnitudes)
        print(f"Written: {len(files)} catalogue forecasts, {files[0]} to {files[-1]}")
        return

    from tppsd.data.interchange import write_parquet
    from tppsd.data.log import read_log

    log = read_log(source, options)
    path = write_parquet(log, parsed.output)
    for note in log.notes:
        print(note)
    sizes = ", ".join(f"{len(part):,} {split}" for split, part in log.parts.items())
    print(f"Written: {path} ({sizes} sequences, {log.vocabulary.num_marks} marks)")
    print(f"Next: tppsd inspect {shlex.quote(str(path))}, or tppsd fit --data.path {shlex.quote(str(path))}")
