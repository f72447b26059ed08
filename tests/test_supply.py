"""What is shipped is whole: wheel, source distribution, declared dependencies, workflows and hooks."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path
from typing import Any

import pytest
import yaml
from lowest_versions import lowest_versions
from packaging.requirements import Requirement

from tppsd import cli

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
NAME_OF = {"yaml": "PyYAML"}  # a module -> its distribution, where the names differ
WORKFLOWS = sorted((ROOT / ".github/workflows").glob("*.yml"))
NOT_SHIPPED = {".ci"}


# --- dependencies ----------------------------------------------------------------------------------------------------


def imported(folders: list[str], root: Path = ROOT) -> set[str]:
    """Top-level names of all modules that the Python files of the folders import, wherever the import stands."""
    found = set()
    for folder in folders:
        for path in (root / folder).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.Import):
                    found |= {alias.name.partition(".")[0] for alias in node.names}
                elif isinstance(node, ast.ImportFrom) and not node.level:
                    found.add(str(node.module).partition(".")[0])
    return found


def undeclared(modules: set[str], own: set[str], declared: list[str]) -> set[str]:
    """Those among the modules that are neither Python's, nor our own, nor of a declared distribution."""
    names = {Requirement(text).name.lower() for text in declared}
    others = modules - set(sys.stdlib_module_names) - own
    return {module for module in others if NAME_OF.get(module, module).lower().replace("_", "-") not in names}


def test_whatever_the_package_imports_is_declared() -> None:
    extras = PROJECT["optional-dependencies"]
    of_users = [text for extra, texts in extras.items() if extra not in ("test", "docs") for text in texts]
    assert not undeclared(imported(["tppsd"]), {"tppsd"}, [*PROJECT["dependencies"], *of_users])


def test_whatever_the_tests_import_is_declared() -> None:
    own = {"tppsd", "tests", *(path.stem for folder in ("tests", "docs") for path in (ROOT / folder).rglob("*.py"))}
    declared = PROJECT["dependencies"] + PROJECT["optional-dependencies"]["test"]
    assert not undeclared(imported(["tests"]), own, declared)


def test_a_missing_declaration_is_found(tmp_path: Path) -> None:
    (tmp_path / "tppsd").mkdir()
    (tmp_path / "tppsd/module.py").write_text(
        "import os\ndef f():\n    import yaml.nodes\n    from numpy import array\n"
    )
    assert undeclared(imported(["tppsd"], tmp_path), set(), ["numpy>=1"]) == {"yaml"}


def test_every_dependency_has_a_lowest_version_that_is_installed_or_older() -> None:
    from importlib.metadata import version

    from packaging.version import Version

    assert len(lowest_versions()) == len(PROJECT["dependencies"])
    for name, lowest in lowest_versions().items():
        assert Version(version(name)) >= Version(lowest), name


# --- wheel and source distribution -----------------------------------------------------------------------------------


def committed() -> list[str]:
    """Files under version control, or all files where there is none: in an unpacked source distribution."""
    listing = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True)
    if listing.returncode == 0:
        return [name for name in listing.stdout.split("\0") if name and (ROOT / name).exists()]
    files = (path.relative_to(ROOT).as_posix() for path in ROOT.rglob("*") if path.is_file())
    return [name for name in files if "__pycache__" not in name and ".egg-info" not in name]


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the wheel and the source distribution of a copy of the working tree."""
    folder = tmp_path_factory.mktemp("built")
    source, out = folder / "source", folder / "dist"
    out.mkdir()
    for name in committed():
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        if (ROOT / name).is_symlink():
            (source / name).symlink_to((ROOT / name).readlink())
        else:
            (source / name).write_bytes((ROOT / name).read_bytes())
    for what in ("sdist", "wheel"):
        code = f"from hatchling import build; build.build_{what}({str(out)!r})"
        done = subprocess.run([sys.executable, "-c", code], cwd=source, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
    return out


def shipped(archive: Path) -> set[str]:
    """The files in a wheel, or in a source distribution without its top folder."""
    if archive.suffix == ".whl":
        with zipfile.ZipFile(archive) as wheel:
            return set(wheel.namelist())
    with tarfile.open(archive) as sdist:
        return {member.name.partition("/")[2] for member in sdist.getmembers() if member.isfile()}


def configs() -> set[str]:
    files = (path for path in (ROOT / "lightning_configs").rglob("*") if path.is_file())
    return {path.relative_to(ROOT).as_posix() for path in files}


def test_the_wheel_has_the_package_with_its_configurations_and_nothing_else(built: Path) -> None:
    names = shipped(next(built.glob("*.whl")))
    code = {name for name in committed() if name.startswith("tppsd/") and not (ROOT / name).is_symlink()}
    wanted = code | {f"tppsd/{name}" for name in configs()}
    assert {name for name in names if ".dist-info/" not in name} == wanted
    assert "tppsd/py.typed" in names and "tppsd/lightning_configs/trainer/cpu.yaml" in names


def test_the_source_distribution_has_what_is_committed(built: Path) -> None:
    names = shipped(next(built.glob("*.tar.gz")))
    missing = {name for name in committed() if name not in names and not (ROOT / name).is_symlink()}
    assert {name.partition("/")[0] for name in missing} <= NOT_SHIPPED, sorted(missing)
    assert {"tests/support/small_models.py", "tests/conftest.py", ".constraints.txt"} <= names
    assert {f"tppsd/{name}" for name in configs()} <= names


def test_the_tests_of_the_source_distribution_pass(built: Path, tmp_path: Path) -> None:
    """Some of them, with helpers and configurations; all are collected."""
    with tarfile.open(next(built.glob("*.tar.gz"))) as sdist:
        sdist.extractall(tmp_path, filter="data")
    (folder,) = tmp_path.iterdir()
    environment = {**os.environ, "PYTHONPATH": str(folder)}
    pytest_of = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"]
    some = ["test_packaging.py", "test_sequences.py", "test_recipes.py", "test_event_distributions.py"]
    for arguments in (["--collect-only"], ["-m", "not slow", *(f"tests/{name}" for name in some)]):
        done = subprocess.run([*pytest_of, *arguments], cwd=folder, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout[-3000:]


# --- configurations where the repository is not ----------------------------------------------------------------------


def test_configurations_are_found_in_the_package_from_any_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    name = "lightning_configs/trainer/cpu.yaml"
    inside = str(Path(cli.__file__).parent / name)
    given = ["--config", name, f"--config={name}", "--name", name, "--config", "lightning_configs/none.yaml"]
    found = ["--config", inside, f"--config={inside}", "--name", name, "--config", "lightning_configs/none.yaml"]
    assert cli.with_packaged_configs(given) == found
    (tmp_path / name).parent.mkdir(parents=True)
    (tmp_path / name).write_text("")
    assert cli.with_packaged_configs(given) == given, "a file that is here wins"


def test_a_command_reads_a_configuration_of_the_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    arguments = ["--config", "lightning_configs/trainer/cpu.yaml", "--data.path", "x.csv", "--print_config"]
    with pytest.raises(SystemExit) as ended:
        cli.main(["fit", *arguments])
    assert not ended.value.code and "accelerator: cpu" in capsys.readouterr().out


# --- workflows and hooks ---------------------------------------------------------------------------------------------


def parsed(path: Path) -> dict[Any, Any]:
    content = yaml.safe_load(path.read_text())
    assert isinstance(content, dict)
    return content


def make_targets() -> set[str]:
    return set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))


def commands_of(workflow: dict[Any, Any]) -> list[str]:
    """Every command of every job, once for each entry of the matrix that it names."""
    commands = []
    for job in workflow["jobs"].values():
        matrix = job.get("strategy", {}).get("matrix", {})
        for run in (step["run"] for step in job["steps"] if "run" in step):
            for value in matrix.get("target", [""]):
                commands.append(run.replace("${{ matrix.target }}", value))
    return commands


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_workflows_run_what_the_makefile_has(path: Path) -> None:
    """A workflow has no logic of its own: whatever it runs can be run here."""
    commands = commands_of(parsed(path))
    assert commands
    for command in commands:
        made = re.fullmatch(r"make ([a-z]+) PYTHON=python", command)
        assert made and made[1] in make_targets(), command


def test_workflows_cover_what_is_supported() -> None:
    workflows = {path.stem: parsed(path) for path in WORKFLOWS}
    run = {command.split()[1] for workflow in workflows.values() for command in commands_of(workflow)}
    assert {"lint", "test", "lowest", "docs", "certify", "mutants", "fuzz", "audit"} <= run
    matrix = workflows["tests"]["jobs"]["test"]["strategy"]["matrix"]
    classifiers = [line.split(" :: ")[-1] for line in PROJECT["classifiers"] if "Python :: 3." in line]
    assert matrix["python"] == classifiers and len(matrix["os"]) == 2
    assert (
        f">={workflows['tests']['jobs']['lowest']['steps'][1]['with']['python-version']}" == PROJECT["requires-python"]
    )
    assert "schedule" in workflows["nightly"][True]  # YAML reads the key `on` as true


def test_hooks_run_tools_that_the_tests_need() -> None:
    (repository,) = parsed(ROOT / ".pre-commit-config.yaml")["repos"]
    tools = {Requirement(text).name for text in PROJECT["optional-dependencies"]["test"]}
    assert repository["repo"] == "local"
    for hook in repository["hooks"]:
        words = hook["entry"].split()
        assert words[:2] == [".venv/bin/python", "-m"] and words[2] in tools
