"""What a certificate is: the results of all cells with their verdicts, and the sources that they are of.

Compiled passes and bfloat16 have certificates of their own, of the cells whose targets are networks, and compiled
drafts under targets by operators one of cells of their own.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
from pathlib import Path
from typing import Any

import torch

import tppsd
from tppsd.certification.cells import Cell, all_cells, covering_cells
from tppsd.certification.judge import holm

LEVEL = 0.01  # chance that a right sampler is rejected in any cell of a run
PARTIAL = "certificate-partial.json"  # of some cells alone
PACKAGE = Path(tppsd.__file__).parent
_SCHEMA = 1

How = dict[str, Any]  # arguments of run_cell: what of the passes is not as by default
Certificate = dict[str, Any]  # fit for JSON


def cells_of(how: How) -> list[Cell]:
    """Of a certificate of such passes."""
    if how.get("compiled") == "draft":
        return [*covering_cells("compiled drafts"), *covering_cells("compiled laws")]
    return [cell for cell in all_cells() if cell.is_compilable or not how]


def file_name(how: How) -> str:
    """Of the certificate of such passes."""
    return f"{called('certificate', how)}.json"


def called(name: str, how: How) -> str:
    """What is of such passes alone."""
    compiled = {True: ["compiled"], "draft": ["compiled-draft"]}.get(how.get("compiled", False), [])
    return "-".join([name, *compiled, *([how["dtype"]] if "dtype" in how else [])])


def file_name_of(certificate: Certificate) -> str:
    """A few cells must not pass for a certificate, nor replace one."""
    how = {name: certificate["run"][name] for name in ("compiled", "dtype") if name in certificate["run"]}
    is_whole = {row["name"] for row in certificate["cells"]} == {cell.name for cell in cells_of(how)}
    return file_name(how) if is_whole else PARTIAL


def new_certificate(run: dict[str, Any], rows: list[dict[str, Any]]) -> Certificate:
    """Of the results of cells, one row each, and of the run that made them."""
    return {"schema": _SCHEMA, "run": run, "machine": machine(), "family_wise_level": LEVEL, **verdicts(rows)}


def verdicts(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Of the results of all cells together."""
    rejected = holm({row["name"]: row["p_value"] for row in rows}, LEVEL)
    return {"exact": not any(rejected.values()), "cells": [{**row, "exact": not rejected[row["name"]]} for row in rows]}


def machine() -> dict[str, str]:
    """On which results are made."""
    return {"python": platform.python_version(), "torch": torch.__version__, "processor": platform.machine()}


def sources_hash(package: Path = PACKAGE) -> str:
    """SHA-256 of the files whose exactness is certified: the samplers and the models."""
    digest = hashlib.sha256()
    for path in sorted(
        [*package.glob("sampling/*.py"), *package.glob("models/**/*.py"), *package.glob("models/**/native/*")]
    ):
        digest.update(path.name.encode() + path.read_bytes())
    return digest.hexdigest()


def sources_of(certificate: Certificate) -> set[str]:
    """Of which sources all of its cells are."""
    carried_over = {certificate["same_samples"]["sources"]} if "same_samples" in certificate else set()
    is_mixed = any("sources" in row for row in certificate["cells"])
    return carried_over if is_mixed else carried_over | {certificate["run"]["sources"]}


def read_certificate(path: Path) -> Certificate:
    """From JSON.

    Raises:
        ValueError: it does not say of which sources it is.
    """
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


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text(json.dumps(content, indent=1) + "\n")
    os.replace(temporary, path)
