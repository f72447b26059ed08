"""Is the certificate of one checkout good for another? If both draw the same samples, to the last bit, in every cell.

A change that only makes the samplers faster or their code clearer then needs no new certificate, which takes hours. Both
checkouts run on this machine: bits recorded on another one would differ by its rounding.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

_DRAWS = Path(__file__).with_name("draws.py")


class Drawn(NamedTuple):
    """What a checkout draws. Fields: sources: hash of its samplers and models; cells: by name, number of events and hash of the
    samples' bits."""

    sources: str
    cells: dict[str, dict[str, Any]]


def draw_cells(
    root: Path, num_events: int, seed: int, processes: int, models: Path, only: str, advance: Callable[[], None]
) -> Drawn:
    """Draw with the code of the checkout at `root`, cells shared out over processes.

    Args:
        num_events: per cell.
        models: where trained models are kept.
        only: part of the names of the cells to draw.
        advance: called after every cell.

    Raises:
        ValueError: it is no checkout, or its samplers fail.
    """
    if not (root / "tppsd" / "certification" / "cells.py").is_file():
        raise ValueError(f"{root} is no checkout of this project: it has no tppsd/certification/cells.py")
    lines = list(_lines(root.resolve(), [str(num_events), str(seed), str(models.resolve()), only], processes, advance))
    return Drawn(lines[0]["sources"], {line["cell"]: line for line in lines if "cell" in line})


def _lines(root: Path, words: list[str], processes: int, advance: Callable[[], None]) -> Iterator[dict[str, Any]]:
    """What draws.py prints, process by process."""
    call = [sys.executable, "-c", f"exec(open({str(_DRAWS)!r}).read())", *words]
    environment = os.environ | {"PYTHONPATH": str(root)}
    with tempfile.TemporaryFile("w+") as errors:
        running = [
            subprocess.Popen(
                [*call, str(i), str(processes)], cwd=root, env=environment, stdout=subprocess.PIPE, stderr=errors, text=True
            )
            for i in range(processes)
        ]
        try:
            for process in running:
                assert process.stdout is not None
                for line in map(json.loads, process.stdout):
                    if "cell" in line:
                        advance()
                    yield line
                if process.wait():
                    errors.seek(0)
                    raise ValueError(f"{root}: the samplers failed: {errors.read().strip().splitlines()[-1]}")
        finally:
            for process in running:
                process.kill()


def check_same(before: Drawn, after: Drawn) -> None:
    """Refuse samples that differ in any bit.

    Raises:
        ValueError: they do; the sentence names a cell.
    """
    if before.cells.keys() != after.cells.keys():
        raise ValueError(f"the checkouts have other cells: {', '.join(sorted(before.cells.keys() ^ after.cells.keys()))}")
    if different := [name for name in before.cells if before.cells[name] != after.cells[name]]:
        raise ValueError(f"the samples differ in {len(different)} cells ({different[0]}, ...): certify anew")
