"""The shape of the house: light imports, public names, top-level files, dependencies that point downwards."""

from __future__ import annotations

import ast
import subprocess
import sys
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from conftest import TIERS, left_out

import tppsd

ROOT = Path(__file__).resolve().parents[1]
HEAVY = {"datasets", "lightning", "matplotlib", "pandas", "pytorch_lightning", "scipy", "torchmetrics", "wandb"}
TOP_LEVEL = {
    *("pyproject.toml", "tppsd", "lightning_configs", "data", "tests", "notebooks", "README.md"),
    *("LICENSE", "Makefile", "CITATION.cff", "CHANGELOG.md", "CONTRIBUTING.md", "docs"),
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


def test_sampling_is_made_of_few_modules() -> None:
    """`import tppsd; tppsd.sample` loads what a request passes through: no encoders, drafts, trees or native code."""
    code = "import sys, tppsd\ntppsd.sample\nprint(*(name for name in sys.modules if name.startswith('tppsd')))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    loaded = set(done.stdout.split())
    assert {"tppsd.sampling.job", "tppsd.sampling.engine"} <= loaded and len(loaded) <= 35, sorted(loaded)
    unused = {
        "tppsd.models.encoders",
        "tppsd.models.transformer_tpp",
        "tppsd.sampling.speculative",
        "tppsd.sampling.tree.rule",
        "tppsd.sampling.auto",
    }
    assert not loaded & (unused | {"tppsd.backends.cpp.model", "tppsd.lightning", "tppsd.metrics"})


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
TOP = {"tppsd.commands", "tppsd.benchmark"}
FORBIDDEN = {
    "tppsd.data": {"tppsd.sampling", "tppsd.metrics", "tppsd.lightning", *TOP},
    "tppsd.processes": {"tppsd.sampling", "tppsd.metrics", *TOP, *LIGHTNING},
    "tppsd.models": {"tppsd.sampling", "tppsd.metrics", *TOP, *LIGHTNING},
    "tppsd.sampling": {*TOP, *LIGHTNING},
    "tppsd.metrics": {"tppsd.sampling", *TOP, *LIGHTNING},
    "tppsd.lightning": TOP,
    "tppsd.benchmark": {"tppsd.commands"},
    "tppsd.plots": {"tppsd.lightning", "tppsd.certification", *TOP},
}


def imported_modules(source: str, package: str) -> Iterator[tuple[int, str]]:
    """(line, absolute module name) of every import in `source`, a module of `package`; names from `tppsd` at their
    home."""
    yield from imports_in(ast.walk(ast.parse(source)), package)


def imports_in(nodes: Iterable[ast.AST], package: str) -> Iterator[tuple[int, str]]:
    """Those among `nodes`, as in imported_modules."""
    for node in nodes:
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
    from .distribution import NextEventDistribution
    from tppsd import sample
"""
    found = [module for _, module in imported_modules(source, "tppsd.models")]
    expected = [
        "lightning.pytorch",
        "tppsd.sampling.options",
        "tppsd.models.distribution.NextEventDistribution",
        "tppsd.sampling.sample",
    ]
    assert sorted(found) == sorted(expected)


# --- import circles --------------------------------------------------------------------------------------------------

# Within a package: a class has a method for what a module beside it does, which makes objects of that class.
KNOWN_CIRCLES: list[set[str]] = [
    {"tppsd.models.checkpoint", "tppsd.models.transformer_tpp"},  # TransformerTPP.save, and load
    {"tppsd.processes.hawkes", "tppsd.processes.hawkes_fit"},  # Hawkes.fit, and fit_hawkes
]


def at_run_time(node: ast.AST) -> Iterator[ast.AST]:
    """The nodes of a module, functions included, without the branches that only type checkers read."""
    if isinstance(node, ast.If) and ast.unparse(node.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING"):
        children: Iterable[ast.AST] = node.orelse
    else:
        yield node
        children = ast.iter_child_nodes(node)
    for child in children:
        yield from at_run_time(child)


def import_graph(sources: Mapping[str, str]) -> dict[str, set[str]]:
    """Per module, the modules that it imports wherever in it the import stands.

    Args:
        sources: by module name; packages as `package.__init__`.
    """
    graph: dict[str, set[str]] = {}
    for name, source in sources.items():
        graph[name] = set()
        for _, imported in imports_in(at_run_time(ast.parse(source)), name.rpartition(".")[0]):
            parts = imported.split(".")
            prefixes = [".".join(parts[:end]) for end in range(len(parts), 0, -1)]
            homes = (home for prefix in prefixes for home in (prefix, f"{prefix}.__init__") if home in sources)
            if (home := next(homes, name)) != name:
                graph[name].add(home)
    return graph


def circles(graph: Mapping[str, set[str]]) -> list[set[str]]:
    """Groups of modules that import each other, directly or by way of others."""

    def reached(start: str) -> set[str]:
        found, waiting = set[str](), list(graph[start])
        while waiting:
            if (module := waiting.pop()) not in found:
                found.add(module)
                waiting += graph[module]
        return found

    reach = {module: reached(module) for module in graph}
    groups = {
        frozenset(other for other in graph if other in reach[module] and module in reach[other])
        for module in graph
        if module in reach[module]
    }
    return sorted(map(set, groups), key=sorted)


def own_sources() -> dict[str, str]:
    """The source of every module of the package, by name."""
    return {
        ".".join(path.relative_to(ROOT).with_suffix("").parts): path.read_text()
        for path in ROOT.joinpath("tppsd").rglob("*.py")
    }


def by_package(graph: Mapping[str, set[str]]) -> dict[str, set[str]]:
    """The imports between the packages of `tppsd`, such as data and models, and the modules beside them."""

    def package(module: str) -> str:
        return ".".join(module.split(".")[:2])

    packages: dict[str, set[str]] = {package(module): set() for module in graph}
    for module, imported in graph.items():
        packages[package(module)] |= {package(other) for other in imported} - {package(module)}
    return packages


@pytest.mark.parametrize("level", ["modules", "packages"])
def test_there_is_no_import_circle(level: str) -> None:
    graph = import_graph(own_sources())
    found = circles(graph if level == "modules" else by_package(graph))
    unknown = [circle for circle in found if not any(circle <= known for known in KNOWN_CIRCLES)]
    assert not unknown, "\n".join(" <-> ".join(sorted(circle)) for circle in unknown)


def test_circles_are_found_in_functions_and_through_packages() -> None:
    sources = {
        "tppsd.a": "from tppsd.b import f",
        "tppsd.b": "def f():\n    from . import c\n    return c",
        "tppsd.c": "if True:\n    from tppsd.p import name",
        "tppsd.p.__init__": "from .inner import name",
        "tppsd.p.inner": "import tppsd.a\nname = 1",
        "tppsd.typed": "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from tppsd.other import x",
        "tppsd.other": "import tppsd.typed",
    }
    assert circles(import_graph(sources)) == [{"tppsd.a", "tppsd.b", "tppsd.c", "tppsd.p.__init__", "tppsd.p.inner"}]


# --- tiers of tests --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("tier", TIERS)
def test_the_tests_that_a_tier_thins_out_exist(tier: str) -> None:
    """A test that is renamed would slip into the quick tier."""
    folder = ROOT / "tests"
    for file, tests in TIERS[tier].items():
        if (folder / file).exists():
            missing = [name for name in tests if f"def {name}(" not in (folder / file).read_text()]
            assert not missing, f"tests/tiers.toml: {file} has no {', '.join(missing)}"


@pytest.mark.parametrize("num_kept", range(9))
def test_so_many_cases_stay_in_a_tier_and_lie_apart(num_kept: int) -> None:
    cases: Any = list(range(7))
    kept = [case for case in cases if case not in left_out(cases, num_kept)]
    gaps = {later - earlier for earlier, later in pairwise(kept)}
    assert len(kept) == min(num_kept, 7) and (not gaps or max(gaps) - min(gaps) <= 1)
