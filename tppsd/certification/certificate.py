"""The certificate: the version and the commit that were certified, and one line with the verdict on each cell.

A run certifies one kind of passes (eager, compiled, in bfloat16). Runs of the same sources with other passes add their
lines to the same file, and the verdicts are of all lines together.
"""

from __future__ import annotations

import hashlib
import json
import platform
import subprocess
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass, replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch

import tppsd
from tppsd.certification.cells import Cell, all_cells, covering_cells
from tppsd.certification.models import OWN_ENCODER
from tppsd.certification.run import holm, run_cell
from tppsd.data.whole_files import write_text

LEVEL = 0.01  # chance that a right sampler is rejected in any cell of a certificate
WHOLE, PARTIAL = "certificate.json", "certificate-partial.json"  # of all cells of some passes, of a few cells
PACKAGE = Path(tppsd.__file__).parent
_CERTIFIED = ("sampling", "models", "backends")  # packages that decide which events are drawn
_NATIVE = (".py", ".h", ".cpp")

How = dict[str, Any]  # arguments of run_cell: what of the passes is not as by default


@dataclass(frozen=True)
class Line:
    """Holds what was found in one cell.

    Attributes:
        passes: how contexts and distributions were computed, see `passes_of`.
        cell: name of the cell.
        seed: of its samples.
        num_events: events that were sampled and tested.
        step_acceptance: share of the tested events that were accepted; None where nothing is drafted.
        p_value: smallest p-value of the tests of the cell times their number (Bonferroni).
        rejected: verdict over all lines of the certificate (Holm, family-wise level 0.01).
    """

    passes: str
    cell: str
    seed: int
    num_events: int
    step_acceptance: float | None
    p_value: float
    rejected: bool = False


@dataclass(frozen=True)
class Certificate:
    """Holds the lines of all cells that were certified, and of what code, with which libraries.

    Attributes:
        version: of the package.
        commit: hash of the commit that was checked out, followed by "with changes" where the package had been changed
            since; None outside a repository.
        sources: first digits of the SHA-256 of the samplers, models and backends.
        torch, processor: on what the samples were drawn.
        cells: one line per cell and kind of passes.
    """

    version: str
    commit: str | None
    sources: str
    torch: str
    processor: str
    cells: tuple[Line, ...]

    @property
    def rejected(self) -> list[Line]:
        """The lines of the cells that are rejected."""
        return [line for line in self.cells if line.rejected]

    def to_json(self) -> str:
        """Write the certificate as JSON, one line per cell."""
        head = {name: value for name, value in asdict(self).items() if name != "cells"}
        lines = ",\n".join("  " + json.dumps(asdict(line)) for line in self.cells)
        return json.dumps(head, indent=1).removesuffix("\n}") + f',\n "cells": [\n{lines}\n ]\n}}\n'

    @classmethod
    def read(cls, path: Path) -> Certificate:
        """Read a certificate that `write` has written.

        Raises:
            ValueError: the file is no certificate.
        """
        try:
            values = json.loads(path.read_text())
            return cls(**values | {"cells": tuple(Line(**line) for line in values["cells"])})
        except (ValueError, TypeError, KeyError) as error:  # no JSON, or other JSON
            raise ValueError(f"{path} is no certificate; `tppsd certify` writes one ({error})") from None

    def write(self, path: Path) -> None:
        """Write the file, whole or not at all."""
        write_text(path, self.to_json())


def cells_of(how: How) -> list[Cell]:
    """Return the cells that a run with such passes certifies.

    With a closed form, nothing can be compiled; in reduced precision samples are judged by the distributions that come
    with them, of which the process without some marks has none.
    """
    if how.get("compiled") == OWN_ENCODER:
        return [*covering_cells("drafts of an own encoder"), *covering_cells("heads of an own encoder")]
    cells = [cell for cell in all_cells() if cell.is_compilable or not how]
    return [cell for cell in cells if cell.forbidden is None or "dtype" not in how]


def passes_of(how: How) -> str:
    """Return a name for such passes, fit for a file name: "eager", "compiled", "compiled-bfloat16" and so on."""
    compiled = {True: ["compiled"], OWN_ENCODER: ["compiled-own-encoder"]}.get(how.get("compiled", False), [])
    return "-".join([*compiled, *([how["dtype"]] if "dtype" in how else [])]) or "eager"


def new_certificate(lines: Iterable[Line]) -> Certificate:
    """Return the certificate of this code on this machine, with the verdicts over all of the lines together."""
    all_lines = list(lines)
    rejected = holm({f"{line.passes}/{line.cell}": line.p_value for line in all_lines}, LEVEL)
    judged = tuple(replace(line, rejected=rejected[f"{line.passes}/{line.cell}"]) for line in all_lines)
    return Certificate(tppsd.__version__, commit(), sources(), torch.__version__, platform.machine(), judged)


def with_lines_of(path: Path, lines: list[Line]) -> list[Line]:
    """Return the lines of the certificate at `path` that are of the same sources and of other passes, then `lines`.

    Without a file there, or where it is of other sources, these are just `lines`.
    """
    if not path.exists() or (before := Certificate.read(path)).sources != sources():
        return lines
    own = {line.passes for line in lines}
    return [line for line in before.cells if line.passes not in own] + lines


def sources(package: Path = PACKAGE) -> str:
    """Return the first twelve hexadecimal digits of the SHA-256 of the files whose exactness is certified."""
    digest = hashlib.sha256()
    for path in sorted(path for name in _CERTIFIED for path in package.joinpath(name).rglob("*")):
        if path.suffix in _NATIVE:
            digest.update(path.relative_to(package).as_posix().encode() + path.read_bytes())
    return digest.hexdigest()[:12]


def commit(package: Path = PACKAGE) -> str | None:
    """Return the hash of the commit that is checked out, marked where the package has changed since.

    None where the package is not tracked by a repository (it may be installed within another one), or without git.
    """

    def git(*words: str) -> str | None:
        """Return what a git command prints, None where it fails."""
        done = subprocess.run(["git", "-C", str(package), *words], capture_output=True, text=True, check=False)
        return done.stdout.strip() if done.returncode == 0 else None

    try:
        if git("ls-files", "--error-unmatch", "__init__.py") is None or (head := git("rev-parse", "HEAD")) is None:
            return None
        return f"{head} with changes" if git("status", "--porcelain", "--", ".") else head
    except OSError:  # no git
        return None


Result = dict[str, Any]  # of run_cell
Results = Iterator[tuple[Cell, Result]]  # as cells finish
Shown = Callable[[Results, int], Results]  # passes results on, of so many cells, and tells of them


def certify(
    cells: list[Cell],
    num_events: int,
    seed: int,
    processes: int,
    output: Path,
    how: How | None = None,
    shown: Shown = lambda results, _: results,
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
