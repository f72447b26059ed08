"""The shape of the house: light imports, public names, top-level files, dependencies that point downwards."""

from __future__ import annotations

import ast
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

import tppsd

ROOT = Path(__file__).resolve().parents[1]
HEAVY = {"datasets", "lightning", "matplotlib", "pandas", "pytorch_lightning", "scipy", "torchmetrics", "wandb"}
TOP_LEVEL = {
    *("pyproject.toml", "tppsd", "lightning_configs", "data", "tests", "notebooks", "README.md"),
    *("LICENSE", "Makefile", "CITATION.cff"),
}


def packages_after(statement: str) -> set[str]:
    """Top-level names of the modules that a fresh interpreter holds after `statement`."""
    code = f"{statement}\nimport sys\nprint('modules:', *{{name.partition('.')[0] for name in sys.modules}})"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return set(done.stdout.rpartition("modules:")[2].split())


def test_import_is_light() -> None:
    loaded = packages_after("import tppsd")
    assert not loaded & (HEAVY | {"torch"})


def test_core_needs_torch_and_einops_only() -> None:
    core = ["tppsd.metrics.functional", "tppsd.models.checkpoint", "tppsd.processes", "tppsd.sampling.sample"]
    assert not packages_after(f"import {', '.join(core)}") & HEAVY


def test_help_and_version_do_not_import_torch() -> None:
    loaded = packages_after(
        "from tppsd.cli import main\nmain(['--help'])\nmain(['--version'])\nmain(['no-such-command'])"
    )
    assert not loaded & (HEAVY | {"torch"})


def test_the_options_of_a_benchmark_cost_nothing() -> None:
    assert not packages_after("from tppsd.commands.benchmark import parse") & (HEAVY | {"torch"})


@pytest.mark.parametrize("name", tppsd.__all__)
def test_public_name_resolves(name: str) -> None:
    value = getattr(tppsd, name)
    assert value is not None and name in dir(tppsd)


def test_public_names_are_listed_once_and_completely() -> None:
    assert sorted(tppsd.__all__) == sorted(["__version__", *tppsd._SUBMODULES, *tppsd._MODULE_OF])
    unknown = "no_such_name"
    with pytest.raises(AttributeError, match="module 'tppsd' has no attribute 'no_such_name'"):
        getattr(tppsd, unknown)


def test_editors_and_the_interpreter_see_the_same_modules() -> None:
    """The imports under TYPE_CHECKING name the same homes as the table that is used at run time."""
    homes = {
        alias.name: node.module
        for block in ast.parse((ROOT / "tppsd/__init__.py").read_text()).body
        if isinstance(block, ast.If) and ast.unparse(block.test) == "TYPE_CHECKING"
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert homes == {**tppsd._MODULE_OF, **dict.fromkeys(tppsd._SUBMODULES, "tppsd")}


def test_citation_has_the_version_of_the_package() -> None:
    assert f"\nversion: {tppsd.__version__}\n" in (ROOT / "CITATION.cff").read_text()


def test_constraints_lie_within_the_declared_dependencies() -> None:
    from packaging.requirements import Requirement

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    declared = {requirement.name: requirement.specifier for requirement in map(Requirement, project["dependencies"])}
    lines = (ROOT / ".constraints.txt").read_text().splitlines()
    for pin in (Requirement(line) for line in lines if line and not line.startswith("#")):
        (version,) = (specifier.version for specifier in pin.specifier)
        assert version in declared[pin.name], f"{pin} is outside {pin.name}{declared[pin.name]}"


def test_top_level_entries() -> None:
    listing = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True)
    if listing.returncode != 0:
        pytest.skip("not a git checkout")
    entries = {name.partition("/")[0] for name in listing.stdout.split("\0") if name}
    assert {entry for entry in entries if not entry.startswith(".")} <= TOP_LEVEL


# layer -> what it must not import, wherever in a file the import stands
LIGHTNING = {"lightning", "pytorch_lightning", "tppsd.lightning"}
TOP = {"tppsd.commands", "tppsd.benchmark", "tppsd.report"}
FORBIDDEN = {
    "tppsd.data": {"tppsd.sampling", "tppsd.metrics", "tppsd.lightning", *TOP},
    "tppsd.processes": {"tppsd.sampling", "tppsd.metrics", *TOP, *LIGHTNING},
    "tppsd.models": {"tppsd.sampling", "tppsd.metrics", *TOP, *LIGHTNING},
    "tppsd.sampling": {*TOP, *LIGHTNING},
    "tppsd.metrics": {"tppsd.sampling", *TOP, *LIGHTNING},
    "tppsd.lightning": TOP,
    "tppsd.benchmark": {"tppsd.commands", "tppsd.report"},
}


def imported_modules(source: str, package: str) -> Iterator[tuple[int, str]]:
    """(line, absolute module name) of every import in `source`, a module of `package`; names from `tppsd` at their
    home."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            parent = ".".join(package.split(".")[: len(package.split(".")) - node.level + 1]) if node.level else ""
            base = ".".join(part for part in (parent, node.module) if part)
            for alias in node.names:
                home = tppsd._MODULE_OF.get(alias.name) if base == "tppsd" else None
                yield node.lineno, home or f"{base}.{alias.name}"


def within(module: str, packages: set[str]) -> bool:
    return any(module == package or module.startswith(f"{package}.") for package in packages)


@pytest.mark.parametrize("layer", FORBIDDEN)
def test_dependencies_point_downwards(layer: str) -> None:
    wrong = [
        f"{path.relative_to(ROOT)}:{line} imports {module}"
        for path in sorted(ROOT.joinpath(*layer.split(".")).rglob("*.py"))
        for line, module in imported_modules(path.read_text(), ".".join(path.relative_to(ROOT).parent.parts))
        if within(module, FORBIDDEN[layer])
    ]
    assert not wrong, "\n".join(wrong)


def test_import_check_sees_every_form() -> None:
    source = """
import lightning.pytorch as pl
def function():
    from ..sampling import options
    from .law import NextEventLaw
    from tppsd import sample
"""
    found = [module for _, module in imported_modules(source, "tppsd.models")]
    expected = ["lightning.pytorch", "tppsd.sampling.options", "tppsd.models.law.NextEventLaw", "tppsd.sampling.sample"]
    assert sorted(found) == sorted(expected)
