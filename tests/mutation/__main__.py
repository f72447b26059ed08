"""`python -m tests.mutation`: plant each mistake in a copy of the repository and run the tests that must catch it.

The working tree is left alone. Before the mistakes, every selection of tests must pass without one: a test that fails
anyway catches nothing. A mistake is caught when a test fails, crashes or does not end in time. The exit status is 1 if
one is not caught, unless the list explains it.
"""

from __future__ import annotations

import argparse
import importlib
import os
import shutil
import signal
import stat
import sys
import tempfile
import time
from pathlib import Path
from typing import NoReturn

from tests.mutation.mistakes import Mistake, mistakes, pytest_arguments

ROOT = Path(__file__).resolve().parents[2]
COPIED = ("tppsd", "tests", "docs", "lightning_configs", "notebooks", "pyproject.toml", "Makefile", ".constraints.txt")
# Imported once: every run of tests is a fork of this process, and begins with what takes most of a test's time.
PRELOADED = ("torch", "numpy", "pandas", "pyarrow", "scipy.stats", "lightning.pytorch", "torchmetrics", "pytest")
LONGEST = 300  # seconds of one run of tests; a mistake that makes loops endless is caught by them
PASSED, FAILED, NO_TESTS = 0, 1, 5  # exit statuses of pytest; 2: a module could not be imported


def main() -> int:
    """Run what the options ask for, print a line for each mistake, and return the exit status."""
    options = parse()
    for name in PRELOADED:
        importlib.import_module(name)
    chosen = [one for one in mistakes() if options.only in one.path]
    chosen = chosen[options.first : options.first + options.num]
    with tempfile.TemporaryDirectory(prefix="mutation-") as folder:
        copy = copied(Path(folder) / "copy")
        compiler = quick_compiler(Path(folder)) if any(one.is_native for one in chosen) else None
        wrong = 0
        if options.baseline:
            selections = dict.fromkeys((one.tests, one.is_native) for one in chosen)
            for tests, is_native in selections:
                status, seconds = run(copy, tests, compiler if is_native else None)
                if status != PASSED:
                    wrong += 1
                    print(f"FAILS WITHOUT A MISTAKE ({status}): {tests}\n{tail(copy)}", flush=True)
                else:
                    print(f"passes in {seconds:.0f} s: {tests}", flush=True)
        survivors = 0
        for number, one in enumerate(chosen, options.first):
            verdict, seconds = try_mistake(copy, one, compiler)
            survivors += verdict.startswith("SURVIVED")
            print(f"{number:3} {verdict} in {seconds:.0f} s: {one.path}: {one.new.strip()}", flush=True)
    print(f"{len(chosen)} mistakes, {survivors} not caught and not explained; {wrong} selections of tests fail anyway")
    return int(bool(survivors or wrong))


def parse() -> argparse.Namespace:
    """Read the options of the command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.mutation", description=__doc__)
    parser.add_argument("--only", default="", metavar="TEXT", help="mistakes in files with TEXT in their path")
    parser.add_argument("--first", type=int, default=0, help="number of the first mistake to try")
    parser.add_argument("--num", type=int, default=len(mistakes()), help="how many to try")
    parser.add_argument("--no-baseline", dest="baseline", action="store_false", help="plant mistakes at once")
    return parser.parse_args()


def copied(folder: Path) -> Path:
    """Copy what tests need of the repository."""
    folder.mkdir()
    for name in COPIED:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, folder / name, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
        elif (ROOT / name).exists():
            shutil.copy(ROOT / name, folder / name)
    return folder


def quick_compiler(folder: Path) -> str:
    """Return the command of a compiler that optimises little: wrong code need not be fast."""
    script = folder / "compile"
    script.write_text(f'#!/bin/sh\nexec {os.environ.get("CXX") or "c++"} "$@" -O1\n')
    script.chmod(script.stat().st_mode | stat.S_IXUSR)
    return str(script)


def try_mistake(copy: Path, one: Mistake, compiler: str | None) -> tuple[str, float]:
    """Plant a mistake, run its tests, take it out; return the verdict and the seconds."""
    path = copy / "tppsd" / one.path
    text = path.read_text()
    path.write_text(one.plant(text))
    try:
        status, seconds = run(copy, one.tests, compiler if one.is_native else None)
    finally:
        path.write_text(text)
    if status in (NO_TESTS, 4):
        return f"SURVIVED (pytest ran nothing, status {status})", seconds
    if status != PASSED:
        return "caught" if status in (FAILED, 2) else f"caught (status {status})", seconds
    return (f"survives ({one.survives})" if one.survives else "SURVIVED"), seconds


def run(copy: Path, tests: str, compiler: str | None) -> tuple[int, float]:
    """Run tests in a fork of this process, in the copy; return pytest's exit status, negative for a signal."""
    start = time.monotonic()
    child = os.fork()
    if child == 0:
        in_child(copy, tests, compiler)
    while True:
        pid, status = os.waitpid(child, os.WNOHANG)
        if pid:
            return os.waitstatus_to_exitcode(status), time.monotonic() - start
        if time.monotonic() - start > LONGEST:
            os.killpg(child, signal.SIGKILL)
        time.sleep(0.1)


def in_child(copy: Path, tests: str, compiler: str | None) -> NoReturn:
    """Run the tests and end this process with pytest's exit status."""
    status = 3
    try:
        os.setsid()  # a group of its own, which is ended together
        output = os.open(copy / "output.txt", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        for stream in (1, 2):
            os.dup2(output, stream)
        os.chdir(copy)
        os.environ.update(PYTHONPATH=str(copy), PYTHONDONTWRITEBYTECODE="1")
        sys.dont_write_bytecode = True
        if compiler is not None:  # a cache of its own: wrong libraries are not left in the user's
            os.environ.update(CXX=compiler, XDG_CACHE_HOME=str(copy / "cache"))
        for name in [name for name in sys.modules if name.split(".")[0] in ("tests", "tppsd")]:
            del sys.modules[name]
        sys.path[:] = [str(copy), *(path for path in sys.path if Path(path or ".").resolve() != ROOT)]
        import pytest

        status = int(pytest.main(["-x", "-q", "-p", "no:cacheprovider", *pytest_arguments(tests)]))
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def tail(copy: Path) -> str:
    """Return the last lines of what the tests printed."""
    return "\n".join((copy / "output.txt").read_text(errors="replace").splitlines()[-25:])


if __name__ == "__main__":
    raise SystemExit(main())
