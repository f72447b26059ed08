"""`tppsd certify`: is every sampler exact? Samples and judges every cell of tppsd.certification, and says so plainly.

It can be interrupted: finished cells are kept in the output folder and not repeated. Compiled passes and bfloat16 have
certificates of their own, of the cells whose targets are networks. Laws in bfloat16 depend on the shape of the pass: those that
were recorded while sampling are what samples are judged by, beside their distance to the target's own.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import platform
import sys
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch

import tppsd
from tppsd.certification.carry_over import draw_cells
from tppsd.certification.cells import Cell, all_cells
from tppsd.certification.judge import holm
from tppsd.certification.run import run_cell
from tppsd.commands.console import at_least
from tppsd.models.stand_ins.compilable import check_compiler
from tppsd.progress import progress
from tppsd.sampling.options import DTYPES

PACKAGE = Path(tppsd.__file__).parent
EVENTS, COMPARED_EVENTS = 1_000_000, 20_000  # per cell
LEVEL = 0.01  # chance that a right sampler is rejected in any cell of a run
SCHEMA = 1
PARTIAL = "certificate-partial.json"  # of the cells of --only

How = dict[str, Any]  # arguments of run_cell: what of the passes is not as by default


def main(args: list[str]) -> None:
    """Run what is missing, print the verdicts, write the certificate; exit status 1 if a cell is rejected."""
    options = parse(args)
    if options.compile:
        check_compiler()
    if options.same_as is not None:
        return _conclude(carry_over(options), options.output)
    how = _how(options)
    cells = [cell for cell in cells_of(how) if options.only in cell.name]
    if not cells and any(options.only in cell.name for cell in all_cells()):
        raise ValueError(f"--only {options.only!r} with --compile or --dtype: the targets of these cells are no networks")
    if not cells:
        raise ValueError(f"--only {options.only!r} is in the name of no cell; they are called like {all_cells()[0].name}")
    num_events = options.events or EVENTS
    certificate = certify(cells, num_events, options.seed, options.processes, options.output, how)
    _conclude(certificate, options.output)


def _conclude(certificate: dict[str, Any], output: Path) -> None:
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
    add("--only", default="", metavar="TEXT", help=f"only cells with TEXT in their name; their verdicts go to {PARTIAL}")
    add("--compile", action="store_true", help=f"with compiled passes: {file_name({'compiled': True})}")
    add("--dtype", choices=DTYPES, default="float32", help=f"of matrices, keys and values: {file_name({'dtype': 'bfloat16'})}")
    add("--output", type=Path, default=Path("outputs/certify"), help="where results are kept (default: %(default)s)")
    add(
        "--same-as", type=Path, metavar="CHECKOUT", help="only what changed: cells in which this code draws the same samples, "
        "to the last bit, as another checkout of the project, that of its certificate, keep their results",
    )  # fmt: skip
    options = parser.parse_args(args)
    if options.events is not None and options.events < 1000:
        raise ValueError(f"--events {options.events} is too few to judge a sampler by; give at least 1000")
    if options.same_as is not None and options.only:
        raise ValueError(f"--only {options.only} and --same-as do not go together: a certificate is of all cells")
    return options


def _how(options: argparse.Namespace) -> How:
    how = {"compiled": options.compile, "dtype": options.dtype}
    return {name: value for name, value in how.items() if value not in (False, DTYPES[0])}


def cells_of(how: How) -> list[Cell]:
    """Of a certificate of such passes."""
    return [cell for cell in all_cells() if cell.is_compilable or not how]


def certify(
    cells: list[Cell], num_events: int, seed: int, processes: int, output: Path, how: How | None = None
) -> dict[str, Any]:
    """Results of the cells with their verdicts, also written to `output`: as a certificate only if these are all cells."""
    how = how or {}
    run = {"version": tppsd.__version__, "sources": sources_hash(), "num_events": num_events, "seed": seed} | how
    results = _results_of(cells, run, processes, output, how)
    certificate = {
        "schema": SCHEMA,
        "run": run,
        "machine": _machine(),
        "family_wise_level": LEVEL,
        **_verdicts([{**results[cell.name], "name": cell.name} for cell in cells]),
    }
    _write(output / _file_name(certificate), certificate)
    return certificate


def _results_of(cells: list[Cell], run: dict[str, Any], processes: int, output: Path, how: How) -> dict[str, dict[str, Any]]:
    """By name: those that were kept, and of the other cells new ones."""
    folder = output / _called("cells", how)
    results = {cell.name: kept for cell in cells if (kept := _read(folder, cell, run)) is not None}
    missing = [cell for cell in cells if cell.name not in results]
    for cell, result in _run(missing, run["num_events"], run["seed"], processes, output / "models", how):
        results[cell.name] = result
        _write(folder / f"{cell.name}.json", {"run": run, "result": result})
    return results


def _machine() -> dict[str, str]:
    return {"python": platform.python_version(), "torch": torch.__version__, "processor": platform.machine()}


def _verdicts(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Of the results of all cells together."""
    rejected = holm({row["name"]: row["p_value"] for row in rows}, LEVEL)
    return {"exact": not any(rejected.values()), "cells": [{**row, "exact": not rejected[row["name"]]} for row in rows]}


def file_name(how: How) -> str:
    """Of the certificate of such passes."""
    return f"{_called('certificate', how)}.json"


def _called(name: str, how: How) -> str:
    """What is of such passes alone."""
    return "-".join([name, *["compiled"] * how.get("compiled", False), *([how["dtype"]] if "dtype" in how else [])])


def _file_name(certificate: dict[str, Any]) -> str:
    """A few cells must not pass for a certificate, nor replace one."""
    how = {name: certificate["run"][name] for name in ("compiled", "dtype") if name in certificate["run"]}
    is_whole = {row["name"] for row in certificate["cells"]} == {cell.name for cell in cells_of(how)}
    return file_name(how) if is_whole else PARTIAL


def carry_over(options: argparse.Namespace) -> dict[str, Any]:
    """Write the certificate of `options.same_as` for these sources: cells that draw the same samples keep their results, the
    others are certified anew."""
    from rich.console import Console

    how = _how(options)
    path = options.same_as / "tests" / (name := file_name(how))
    if not path.is_file():
        raise ValueError(f"{options.same_as} has no tests/{name}; --same-as wants the root of a certified checkout")
    certificate = _read_certificate(path)
    if sources_hash(options.same_as / "tppsd") not in _sources_of(certificate):
        raise ValueError(f"{options.same_as} is not what its certificate is of: check out the commit that was certified")
    num_events, models = options.events or COMPARED_EVENTS, options.output / "models"
    with progress(Console(stderr=True), "drawing with both", 2 * len(cells_of(how))) as advance:
        before, after = (
            draw_cells(root, num_events, options.seed, options.processes, models, "", how, advance)
            for root in (options.same_as, PACKAGE.parent)
        )
    changed = {cell.name: cell for cell in cells_of(how) if before.get(cell.name) != after[cell.name]}
    same = [line["num_events"] for cell, line in after.items() if cell not in changed]
    print(f"The same samples to the last bit in {len(same)} cells, {sum(same):,} events; others in {len(changed)}.", flush=True)
    run = certificate["run"] | {"version": tppsd.__version__, "sources": sources_hash()}
    results = _results_of(list(changed.values()), run, options.processes, options.output, how)
    kept = {row["name"]: row for row in certificate["cells"]}
    today = {"sources": sources_hash(), "machine": _machine()}
    anew = {cell: {**result, "name": cell, **today} for cell, result in results.items()}
    certificate |= _verdicts([{**kept, **anew}[cell.name] for cell in cells_of(how)])
    certificate["same_samples"] = {
        "sources": sources_hash(),
        "num_cells": len(same),
        "num_events": sum(same),
        "seed": options.seed,
    }
    _write(options.output / name, certificate)
    return certificate


def _sources_of(certificate: dict[str, Any]) -> set[str]:
    """Of which sources all of its cells are."""
    carried_over = {certificate["same_samples"]["sources"]} if "same_samples" in certificate else set()
    return (
        carried_over if any("sources" in row for row in certificate["cells"]) else carried_over | {certificate["run"]["sources"]}
    )


def _read_certificate(path: Path) -> dict[str, Any]:
    try:
        certificate = json.loads(path.read_text())
        sources = certificate["run"]["sources"]
    except (ValueError, TypeError, KeyError):  # no JSON, or other JSON
        sources = None
    if not isinstance(sources, str):
        raise ValueError(
            f"{path} is no certificate: it does not say of which sources it is; `tppsd certify` writes one that does"
        )
    return dict(certificate)


def sources_hash(package: Path = PACKAGE) -> str:
    """SHA-256 of the files whose exactness is certified: the samplers and the models."""
    digest = hashlib.sha256()
    for path in sorted([*package.glob("sampling/*.py"), *package.glob("models/**/*.py"), *package.glob("models/**/native/*")]):
        digest.update(path.name.encode() + path.read_bytes())
    return digest.hexdigest()


def _run(
    cells: list[Cell], num_events: int, seed: int, processes: int, models: Path, how: How
) -> Iterator[tuple[Cell, dict[str, Any]]]:
    """Yield (cell, result) as they finish."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, transient=True) as bar:
        task = bar.add_task("certifying", total=len(cells))
        for cell, result in _results(cells, num_events, seed, processes, models, how):
            line = f"{cell.name}: p = {result['p_value']:.3g}, {result['num_events']:,} events"
            bar.console.print(line, highlight=False, soft_wrap=True)
            bar.advance(task)
            yield cell, result


def _results(
    cells: list[Cell], num_events: int, seed: int, processes: int, models: Path, how: How
) -> Iterator[tuple[Cell, dict[str, Any]]]:
    if processes == 1 or len(cells) < 2:
        yield from ((cell, run_cell(cell, num_events, seed, models, **how)) for cell in cells)
        return
    # new processes, not copies: a copied process would inherit the locks of torch's threads
    with ProcessPoolExecutor(processes, get_context("spawn"), torch.set_num_threads, (1,)) as pool:
        running = {pool.submit(run_cell, cell, num_events, seed, models, **how): cell for cell in cells}
        try:
            for finished in as_completed(running):
                yield running[finished], finished.result()
        finally:
            pool.shutdown(cancel_futures=True)


def _read(folder: Path, cell: Cell, run: dict[str, Any]) -> dict[str, Any] | None:
    """The kept result of a cell, unless another version, seed or number of events made it."""
    path = folder / f"{cell.name}.json"
    if not path.exists():
        return None
    kept = json.loads(path.read_text())
    return kept["result"] if kept["run"] == run else None


def _write(path: Path, content: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text(json.dumps(content, indent=1) + "\n")
    os.replace(temporary, path)


def _print(certificate: dict[str, Any], output: Path) -> None:
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
            column, justify="right" if column in ("marks", "length", "candidates", "events", "accepted", "p") else "left"
        )
    for row in certificate["cells"]:
        cell, accepted = row["cell"], row["step_acceptance"]
        shown = ["" if name == "candidates" and not value else str(value) for name, value in cell.items()]
        verdict = "exact" if row["exact"] else "[red]REJECTED[/]"
        table.add_row(
            *shown, f"{row['num_events']:,}", "" if accepted is None else f"{accepted:.3f}", f"{row['p_value']:.2g}", verdict
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
    console.print(f"Written: {output / _file_name(certificate)}")
