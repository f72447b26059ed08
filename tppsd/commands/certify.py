"""`tppsd certify`: is every sampler exact? Samples and judges every cell of tppsd.certification, and says so plainly.

It can be interrupted: finished cells are kept in the output folder and not repeated. Compiled passes and bfloat16 have
certificates of their own, of the cells whose targets are networks. Laws in bfloat16 depend on the shape of the pass:
those that were recorded while sampling are what samples are judged by, beside their distance to the target's own.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from tppsd.backends.cpp.compilable import check_compiler
from tppsd.certification.carry_over import carry_over, certificate_of, compare
from tppsd.certification.cells import all_cells
from tppsd.certification.certificate import LEVEL, PARTIAL, Certificate, How, cells_of, file_name, file_name_of
from tppsd.certification.certify import Results, certify
from tppsd.commands.console import at_least, compiled
from tppsd.progress import progress
from tppsd.sampling.options import DTYPES

EVENTS, COMPARED_EVENTS = 1_000_000, 20_000  # per cell


def main(args: list[str]) -> None:
    """Run what is missing, print the verdicts, write the certificate; exit status 1 if a cell is rejected."""
    options = parse(args)
    if options.compile:
        check_compiler()
    _conclude(_carried_over(options) if options.same_as is not None else _certified(options), options.output)


def _certified(options: argparse.Namespace) -> Certificate:
    how = _how(options)
    cells = [cell for cell in cells_of(how) if options.only in cell.name]
    if not cells and how.get("compiled") != "draft" and any(options.only in cell.name for cell in all_cells()):
        raise ValueError(
            f"--only {options.only!r} with --compile or --dtype: the targets of these cells are no networks"
        )
    if not cells:
        raise ValueError(
            f"--only {options.only!r} is in the name of no cell; they are called like {cells_of(how)[0].name}"
        )
    return certify(cells, options.events or EVENTS, options.seed, options.processes, options.output, how, _shown)


def _carried_over(options: argparse.Namespace) -> Certificate:
    from rich.console import Console

    how, num_events, models = _how(options), options.events or COMPARED_EVENTS, options.output / "models"
    certificate = certificate_of(options.same_as, how)
    with progress(Console(stderr=True), "drawing with both", 2 * len(cells_of(how))) as advance:
        found = compare(options.same_as, num_events, options.seed, options.processes, models, how, advance)
    print(
        f"The same samples to the last bit in {found.num_same} cells, {found.num_events:,} events; "
        f"others in {len(found.changed)}.",
        flush=True,
    )
    return carry_over(certificate, found, options.processes, options.output, how, _shown)


def _shown(results: Results, num_cells: int) -> Results:
    """A line for every result, above a bar."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, transient=True) as bar:
        task = bar.add_task("certifying", total=num_cells)
        for cell, result in results:
            line = f"{cell.name}: p = {result['p_value']:.3g}, {result['num_events']:,} events"
            bar.console.print(line, highlight=False, soft_wrap=True)
            bar.advance(task)
            yield cell, result


def _conclude(certificate: Certificate, output: Path) -> None:
    _print(certificate, output)
    if not certificate["exact"]:
        raise SystemExit(1)


def parse(args: list[str]) -> argparse.Namespace:
    """Command line -> options."""
    parser = argparse.ArgumentParser(prog="tppsd certify", description=__doc__)
    add = parser.add_argument
    add("--events", type=int, help=f"per cell (default: {EVENTS:,}; {COMPARED_EVENTS:,} with --same-as)")
    add("--processes", type=at_least(1), default=2, help="cells side by side, one thread each (default: %(default)s)")
    add("--seed", type=at_least(0), default=0, help="of all samples (default: %(default)s)")
    add(
        "--only", default="", metavar="TEXT", help=f"only cells with TEXT in their name; their verdicts go to {PARTIAL}"
    )
    files = [file_name({"compiled": which}) for which in (True, "draft")]
    add(
        "--compile", nargs="?", type=compiled, const=True, default=False, metavar="draft",
        help=f"with compiled passes: {files[0]}; those of the draft alone: {files[1]}",
    )  # fmt: skip
    add(
        "--dtype",
        choices=DTYPES,
        default="float32",
        help=f"of matrices, keys and values: {file_name({'dtype': 'bfloat16'})}",
    )
    add("--output", type=Path, default=Path("outputs/certify"), help="where results are kept (default: %(default)s)")
    add(
        "--same-as", type=Path, metavar="CHECKOUT", help="only what changed: cells in which this code draws the same samples, "
        "to the last bit, as another checkout of the project, that of its certificate, keep their results",
    )  # fmt: skip
    options = parser.parse_args(args)
    if options.events is not None and options.events < 1000:
        raise ValueError(f"--events {options.events} is too few to judge a sampler by; give at least 1000")
    if options.compile == "draft" and options.dtype != DTYPES[0]:
        raise ValueError(f"--compile draft and --dtype {options.dtype} do not go together")
    if options.same_as is not None and options.only:
        raise ValueError(f"--only {options.only} and --same-as do not go together: a certificate is of all cells")
    return options


def _how(options: argparse.Namespace) -> How:
    how = {"compiled": options.compile, "dtype": options.dtype}
    return {name: value for name, value in how.items() if value not in (False, DTYPES[0])}


def _print(certificate: Certificate, output: Path) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(title=f"Own-law tests, {certificate['run']['num_events']:,} events per cell", title_justify="left")
    for column in (
        "method",
        "encoder",
        "marks",
        "weights",
        "draft",
        "length",
        "start",
        "end",
        "candidates",
        "events",
        "accepted",
        "p",
        "verdict",
    ):
        table.add_column(
            column,
            justify="right" if column in ("marks", "length", "candidates", "events", "accepted", "p") else "left",
        )
    for row in certificate["cells"]:
        cell, accepted = row["cell"], row["step_acceptance"]
        shown = ["" if name == "candidates" and not value else str(value) for name, value in cell.items()]
        verdict = "exact" if row["exact"] else "[red]REJECTED[/]"
        table.add_row(
            *shown,
            f"{row['num_events']:,}",
            "" if accepted is None else f"{accepted:.3f}",
            f"{row['p_value']:.2g}",
            verdict,
        )
    console = Console(width=None if sys.stdout.isatty() else 170)
    console.print(table)
    num_rejected = sum(not row["exact"] for row in certificate["cells"])
    if num_rejected:
        console.print(
            f"[red]{num_rejected} of {len(certificate['cells'])} cells are rejected[/] (Holm, family-wise level {LEVEL})."
        )
    else:
        console.print(f"No cell is rejected (Holm over {len(certificate['cells'])} cells, family-wise level {LEVEL}).")
    console.print(f"Written: {output / file_name_of(certificate)}")
