"""Certify cells side by side; what is finished is kept in a folder and not repeated."""

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
    Certificate,
    How,
    called,
    file_name_of,
    new_certificate,
    sources_hash,
    write_json,
)
from tppsd.certification.run import run_cell

Result = dict[str, Any]  # of run_cell
Results = Iterator[tuple[Cell, Result]]  # as cells finish
Shown = Callable[[Results, int], Results]  # passes results on, of so many cells, and tells of them


def untold(results: Results, _: int) -> Results:
    """Results of which nobody is told."""
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
    """Results of the cells with their verdicts, also written to `output`: as a certificate only if these are all cells.

    Args:
        num_events: per cell.
        processes: cells side by side, one thread each.
    """
    how = how or {}
    run = {"version": tppsd.__version__, "sources": sources_hash(), "num_events": num_events, "seed": seed} | how
    results = results_of(cells, run, processes, output, how, shown)
    certificate = new_certificate(run, [{**results[cell.name], "name": cell.name} for cell in cells])
    write_json(output / file_name_of(certificate), certificate)
    return certificate


def results_of(
    cells: list[Cell], run: dict[str, Any], processes: int, output: Path, how: How, shown: Shown
) -> dict[str, Result]:
    """By name: those that were kept, and of the other cells new ones."""
    folder = output / called("cells", how)
    results = {cell.name: kept for cell in cells if (kept := _read(folder, cell, run)) is not None}
    missing = [cell for cell in cells if cell.name not in results]
    new = _new_results(missing, run["num_events"], run["seed"], processes, output / "models", how)
    for cell, result in shown(new, len(missing)):
        results[cell.name] = result
        write_json(folder / f"{cell.name}.json", {"run": run, "result": result})
    return results


def _read(folder: Path, cell: Cell, run: dict[str, Any]) -> Result | None:
    """The kept result of a cell, unless another version, seed or number of events made it."""
    path = folder / f"{cell.name}.json"
    if not path.exists():
        return None
    kept = json.loads(path.read_text())
    return kept["result"] if kept["run"] == run else None


def _new_results(cells: list[Cell], num_events: int, seed: int, processes: int, models: Path, how: How) -> Results:
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
