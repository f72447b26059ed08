"""The command `tppsd certify` tests whether every sampler is exact, cell by cell, and says so plainly.

It can be interrupted: finished cells are kept in the output folder and not repeated. Runs with --compile or --dtype
certify the cells whose targets are networks, and add their lines to the certificate of the same code.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from tppsd.arguments import MOST_THREADS
from tppsd.backends.compile import check_compiler
from tppsd.certification.cells import all_cells
from tppsd.certification.certificate import LEVEL, PARTIAL, WHOLE, Certificate, How, Results, cells_of, certify
from tppsd.certification.models import OWN_ENCODER
from tppsd.commands.console import CommandParser, at_least, output_path
from tppsd.sampling.options import DTYPES

EVENTS = 1_000_000  # per cell


def main(args: list[str]) -> None:
    """Run what is missing, print the verdicts, write the certificate; exit with status 1 if a cell is rejected."""
    options = parse(args)
    if options.compile:
        check_compiler()
    how = _how(options)
    cells = [cell for cell in cells_of(how) if options.only in cell.name]
    if not cells and how.get("compiled") != OWN_ENCODER and any(options.only in cell.name for cell in all_cells()):
        raise ValueError(
            f"--only {options.only!r} with --compile or --dtype: the targets of these cells are no networks"
        )
    if not cells:
        raise ValueError(
            f"--only {options.only!r} is in the name of no cell; they are called like {cells_of(how)[0].name}"
        )
    certificate = certify(cells, options.events, options.seed, options.processes, options.output, how, _shown)
    _print(certificate, options.output / (WHOLE if len(cells) == len(cells_of(how)) else PARTIAL))
    if certificate.rejected:
        raise SystemExit(1)


def parser() -> CommandParser:
    """Return the parser of the command line."""
    parser = CommandParser("tppsd certify", __doc__ or "", ("tppsd certify --events 10000 --only joint",))
    add = parser.add_argument
    add("--events", type=int, default=EVENTS, help=f"per cell (default: {EVENTS:,})")
    add(
        "--processes", "--threads", dest="processes", metavar="N", type=at_least(1, MOST_THREADS), default=2,
        help="cells side by side, with one processor thread each: so many threads in all (default: %(default)s)",
    )  # fmt: skip
    add("--seed", type=at_least(0), default=0, help="of all samples (default: %(default)s)")
    add(
        "--only", default="", metavar="TEXT", help=f"only cells with TEXT in their name; their verdicts go to {PARTIAL}"
    )
    add(
        "--compile", nargs="?", choices=[OWN_ENCODER], const=True, default=False,
        help=f"compiled targets; {OWN_ENCODER}: targets whose encoder native code does not know",
    )  # fmt: skip
    add("--dtype", choices=DTYPES, default=DTYPES[0], help="of matrices, keys and values (default: %(default)s)")
    add(
        "--output",
        type=output_path,
        default=Path("outputs/certify"),
        help="where results are kept (default: %(default)s)",
    )
    return parser


def parse(args: list[str]) -> argparse.Namespace:
    """Read the options of the command line."""
    options = parser().parse_args(args)
    if options.events < 1000:
        raise ValueError(f"--events {options.events} is too few to judge a sampler by; give at least 1000")
    if options.compile == OWN_ENCODER and options.dtype != DTYPES[0]:
        raise ValueError(f"--compile {OWN_ENCODER} and --dtype {options.dtype} do not go together")
    return options


def _how(options: argparse.Namespace) -> How:
    """Return what of the passes is not as by default."""
    how = {"compiled": options.compile, "dtype": options.dtype}
    return {name: value for name, value in how.items() if value not in (False, DTYPES[0])}


def _shown(results: Results, num_cells: int) -> Results:
    """Print a line for every result, above a bar."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, transient=True) as bar:
        task = bar.add_task("certifying", total=num_cells)
        for cell, result in results:
            line = f"{cell.name}: p = {result['p_value']:.3g}, {result['num_events']:,} events"
            bar.console.print(line, highlight=False, soft_wrap=True)
            bar.advance(task)
            yield cell, result


def _print(certificate: Certificate, path: Path) -> None:
    """Print a table of all lines of the certificate, and what they come to."""
    from rich.console import Console
    from rich.table import Table

    note = "accepted: share of tested drafted events; p: that exact samples differ from the model by as much as these"
    table = Table(
        title="Tests of samples under the model that was sampled", title_justify="left", caption=note,
        caption_justify="left",
    )  # fmt: skip
    for column in ("passes", "cell", "events", "accepted", "p", "verdict"):
        table.add_column(column, justify="right" if column in ("events", "accepted", "p") else "left", no_wrap=True)
    for line in certificate.cells:
        accepted = "" if line.step_acceptance is None else f"{line.step_acceptance:.3f}"
        verdict = "[red]REJECTED[/]" if line.rejected else "not rejected"
        table.add_row(line.passes, line.cell, f"{line.num_events:,}", accepted, f"{line.p_value:.2g}", verdict)
    console = Console(width=None if sys.stdout.isatty() else 170)
    console.print(table)
    num_cells, num_rejected = len(certificate.cells), len(certificate.rejected)
    if num_rejected:
        console.print(f"[red]{num_rejected} of {num_cells} cells are rejected[/] (Holm, family-wise level {LEVEL}).")
    else:
        console.print(f"No cell is rejected (Holm over {num_cells} cells, family-wise level {LEVEL}).")
    rest = "; `tppsd certify` without --only tests the other cells" if path.name == PARTIAL else ""
    console.print(f"Written: {path}{rest}", soft_wrap=True)
