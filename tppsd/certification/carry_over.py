"""What is a certificate of one checkout worth for another? The results of all cells in which both draw the same
samples, to the last bit.

A change that only makes the samplers faster or their code clearer then needs no new certificate, which takes hours, and
one that changes some cells new results of these. Both checkouts run on this machine: bits recorded on another one would
differ by its rounding.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import tppsd
from tppsd.certification.cells import Cell
from tppsd.certification.certificate import (
    PACKAGE,
    Certificate,
    How,
    cells_of,
    file_name,
    machine,
    read_certificate,
    sources_hash,
    sources_of,
    verdicts,
    write_json,
)
from tppsd.certification.certify import Shown, results_of, untold

_DRAWS = Path(__file__).with_name("draws.py")

Drawn = dict[str, dict[str, Any]]  # by cell: its name, the number of events and a hash of the samples' bits


class Comparison(NamedTuple):
    """Of the samples of two checkouts."""

    changed: list[Cell]
    num_same: int  # cells
    num_events: int  # drawn in these
    seed: int


def certificate_of(root: Path, how: How) -> Certificate:
    """That of the checkout at `root`, which must not have changed since.

    Raises:
        ValueError: there is none, or it is of other sources.
    """
    path = root / "tests" / (name := file_name(how))
    if not path.is_file():
        raise ValueError(f"{root} has no tests/{name}; --same-as wants the root of a certified checkout")
    certificate = read_certificate(path)
    if sources_hash(root / "tppsd") not in sources_of(certificate):
        raise ValueError(f"{root} is not what its certificate is of: check out the commit that was certified")
    return certificate


def compare(
    root: Path, num_events: int, seed: int, processes: int, models: Path, how: How, advance: Callable[[], None]
) -> Comparison:
    """Samples of the checkout at `root` with those of this code, as in draw_cells."""
    before, after = (
        draw_cells(code, num_events, seed, processes, models, "", how, advance) for code in (root, PACKAGE.parent)
    )
    changed = [cell for cell in cells_of(how) if before.get(cell.name) != after[cell.name]]
    same = [line["num_events"] for name, line in after.items() if name not in {cell.name for cell in changed}]
    return Comparison(changed, len(same), sum(same), seed)


def carry_over(
    certificate: Certificate, comparison: Comparison, processes: int, output: Path, how: How, shown: Shown = untold
) -> Certificate:
    """The certificate for these sources, also written to `output`: cells that draw the same samples keep their results,
    the others are certified anew."""
    sources = sources_hash()
    run = certificate["run"] | {"version": tppsd.__version__, "sources": sources}
    anew = results_of(comparison.changed, run, processes, output, how, shown)
    rows = {row["name"]: row for row in certificate["cells"]} | {
        name: {**result, "name": name, "sources": sources, "machine": machine()} for name, result in anew.items()
    }
    certificate = certificate | verdicts([rows[cell.name] for cell in cells_of(how)])
    certificate["same_samples"] = {
        "sources": sources,
        "num_cells": comparison.num_same,
        "num_events": comparison.num_events,
        "seed": comparison.seed,
    }
    write_json(output / file_name(how), certificate)
    return certificate


def draw_cells(
    root: Path, num_events: int, seed: int, processes: int, models: Path, only: str, how: dict[str, Any],
    advance: Callable[[], None],
) -> Drawn:  # fmt: skip
    """Draw with the code of the checkout at `root`, cells shared out over processes.

    Args:
        num_events: per cell.
        models: where trained models are kept.
        only: part of the names of the cells to draw.
        how: arguments of `draw` beside these, for the cells that can have such passes; empty = all cells, by the
            default ones.
        advance: called after every cell.

    Raises:
        ValueError: it is no checkout, or its samplers fail.
    """
    if not (root / "tppsd" / "certification" / "cells.py").is_file():
        raise ValueError(f"{root} is no checkout of this project: it has no tppsd/certification/cells.py")
    drawn: Drawn = {}
    for line in _lines(
        root.resolve(), [str(num_events), str(seed), str(models.resolve()), only, json.dumps(how)], processes
    ):
        drawn[line["cell"]] = line
        advance()
    return drawn


def _lines(root: Path, words: list[str], processes: int) -> Iterator[dict[str, Any]]:
    """What draws.py prints, process by process."""
    call = [sys.executable, "-P", str(_DRAWS), *words]  # -P: the script's own folder is not searched for modules
    environment = os.environ | {"PYTHONPATH": str(root)}
    with tempfile.TemporaryFile("w+") as errors, ExitStack() as stack:
        running = [
            subprocess.Popen(
                [*call, str(i), str(processes)],
                cwd=root,
                env=environment,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
            )
            for i in range(processes)
        ]
        for process in running:
            stack.enter_context(process)
            stack.callback(process.kill)  # comes before the wait with which a process is left
        for process in running:
            assert process.stdout is not None
            yield from map(json.loads, process.stdout)
            if process.wait():
                errors.seek(0)
                raise ValueError(f"{root}: the samplers failed: {errors.read().strip().splitlines()[-1]}")
