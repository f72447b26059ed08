"""From C++ source to a loaded library: compiled once per machine, by the compiler that is there."""

from __future__ import annotations

import ctypes
import hashlib
import os
import shlex
import shutil
import subprocess
import tempfile
from functools import cache
from pathlib import Path

_FLAGS = ("-std=c++17", "-O3", "-ffp-contract=fast", "-fno-math-errno", "-fno-trapping-math")
_NATIVE = "-march=native"  # not every compiler knows it for every processor
_LINKED = ("-shared", "-fPIC", "-pthread")


@cache
def library(source: Path) -> ctypes.CDLL:
    """The library of a C++ file and the headers beside it, from `$XDG_CACHE_HOME/tppsd` (default `~/.cache/tppsd`) or compiled
    into it.

    Its name there says of which sources, compiler and processor it is, so that machines may share a home.

    Raises:
        ValueError: there is no compiler, or it fails; the sentence says what it said.
    """
    command = [*_compiler(), *_FLAGS, _NATIVE]
    try:
        about = _macros(command)
    except ValueError:
        about = _macros(command := command[:-1])
    texts = [path.read_text() for path in (source, *sorted(source.parent.glob("*.h")))]
    name = hashlib.sha256("\0".join([*texts, *command, about]).encode()).hexdigest()[:16]
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "tppsd"
    path = folder / f"{source.stem}-{name}.so"
    if not path.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder) as build:  # several processes may be at it
            built = Path(build) / path.name
            _run([*command, *_LINKED, str(source), "-o", str(built)])
            os.replace(built, path)
    return ctypes.CDLL(str(path))


def _macros(command: list[str]) -> str:
    """All that are predefined: they tell compiler and processor."""
    return _run([*command, "-dM", "-E", "-x", "c++", os.devnull])


def _compiler() -> list[str]:
    """The command `$CXX`, or the first of the usual compilers."""
    if given := os.environ.get("CXX"):
        return shlex.split(given)
    for name in ("c++", "g++", "clang++"):
        if shutil.which(name):
            return [name]
    raise ValueError("compile = True needs a C++ compiler (c++, g++ or clang++, or the one that CXX names); none was found")


def _run(command: list[str]) -> str:
    try:
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout
    except FileNotFoundError:
        raise ValueError(f"compile = True needs a C++ compiler, but CXX = {command[0]!r} is not there") from None
    except subprocess.CalledProcessError as error:
        said = (error.stderr.strip().splitlines() or ["nothing"])[0]
        raise ValueError(f"compile = True: {command[0]} exited with {error.returncode} and said: {said}") from None
