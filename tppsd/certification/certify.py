"""The run over all cells, side by side; what is finished is kept in a folder and not repeated."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch

import tppsd
from tppsd.certification.cells import Cell
from tppsd.certification.certificate import (
    PARTIAL,
    WHOLE,
    Certificate,
    How,
    Line,
    cells_of,
    new_certificate,
    passes_of,
    sources,
    with_lines_of,
    write_text,
)
from tppsd.certification.run import run_cell

Result = dict[str, Any]  # of run_cell
Results = Iterator[tuple[Cell, Result]]  # as cells finish
Shown = Callable[[Results, int], Results]  # passes results on, of so many cells, and tells of them


def untold(results: Results, _: int) -> Results:
    """Pass results on without telling anybody."""
    return results


def certify(
    cells: list[Cell],
    num_events: int,
    seed: int,
    processes: int,
    output: Path,
    how: How | None = None,
    shown: Shown = untold,
) -> Certificate:
    """Sample and judge the cells, and write their certificate to `output`.

    Where these are all cells of such passes, the file is certificate.json, which keeps its lines of other passes; where
    they are not, certificate-partial.json: a few cells must not pass for a certificate, nor replace one.

    Args:
        cells: what to certify.
        num_events: events per cell, at least.
        seed: of all samples; every cell derives its own from it.
        processes: cells side by side, one thread each.
        output: folder of the certificate, and of what is kept.
        how: passes, as arguments of `run_cell`; None = eager ones in float32.
        shown: is given the results as they come, and passes them on.
    """
    how = how or {}
    run = {"version": tppsd.__version__, "sources": sources(), "num_events": num_events, "seed": seed} | how
    results = _results_of(cells, run, processes, output, how, shown)
    lines = [_line(cell, results[cell.name], how) for cell in cells]
    if {cell.name for cell in cells} == {cell.name for cell in cells_of(how)}:
        path = output / WHOLE
        lines = with_lines_of(path, lines)
    else:
        path = output / PARTIAL
    certificate = new_certificate(lines)
    certificate.write(path)
    return certificate


def _line(cell: Cell, result: Result, how: How) -> Line:
    """Return what the certificate says of a cell, numbers to three digits."""
    acceptance = result["step_acceptance"]
    return Line(
        passes_of(how), cell.name, result["seed"], result["num_events"],
        None if acceptance is None else round(acceptance, 3), float(f"{result['p_value']:.3g}"),
    )  # fmt: skip


def _results_of(
    cells: list[Cell], run: dict[str, Any], processes: int, output: Path, how: How, shown: Shown
) -> dict[str, Result]:
    """Return results by name of the cell: those that were kept, and new ones of the other cells."""
    folder = output / "cells" / passes_of(how)
    results = {cell.name: kept for cell in cells if (kept := _read(folder, cell, run)) is not None}
    missing = [cell for cell in cells if cell.name not in results]
    new = _new_results(missing, run["num_events"], run["seed"], processes, output / "models", how)
    for cell, result in shown(new, len(missing)):
        results[cell.name] = result
        write_text(folder / f"{cell.name}.json", json.dumps({"run": run, "result": result}, indent=1) + "\n")
    return results


def _read(folder: Path, cell: Cell, run: dict[str, Any]) -> Result | None:
    """Return the kept result of a cell, unless other sources, another seed or number of events made it."""
    path = folder / f"{cell.name}.json"
    if not path.exists():
        return None
    kept = json.loads(path.read_text())
    return dict(kept["result"]) if kept["run"] == run else None


def _new_results(cells: list[Cell], num_events: int, seed: int, processes: int, models: Path, how: How) -> Results:
    """Run the cells, in processes of their own where there are several of both."""
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
