"""From C++ source to a loaded library: compiled once per machine, by the compiler that is there."""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import os
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from functools import cache
from pathlib import Path

_FLAGS = ("-std=c++17", "-O3", "-ffp-contract=fast", "-fno-math-errno", "-fno-trapping-math")
_NATIVE = "-march=native"  # not every compiler knows it for every processor
_LINKED = ("-shared", "-fPIC", "-pthread")


@cache
def library(source: Path) -> ctypes.CDLL:
    """The library of a C++ file and the headers beside it, from `$XDG_CACHE_HOME/tppsd` (default `~/.cache/tppsd`) or
    compiled into it; where nothing can be written there, for this process alone.

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
    name = f"{source.stem}-{hashlib.sha256(chr(0).join([*texts, *command, about]).encode()).hexdigest()[:16]}"
    for folder in _folders():
        try:
            return _kept(folder, name) or _built([*command, *_LINKED, str(source)], folder, name)
        except OSError:  # nothing can be written there
            continue
    raise ValueError("compile = True found no folder to compile in; name one in XDG_CACHE_HOME")


def _folders() -> Iterator[Path]:
    """Where libraries may be kept; last, where this one is lost with the process."""
    with contextlib.suppress(RuntimeError):  # there is no home
        yield Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "tppsd"
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder)


def _kept(folder: Path, name: str) -> ctypes.CDLL | None:
    """A library that is whole: its size is part of its name."""
    whole = (path for path in folder.glob(f"{name}-*.so") if path.stem == f"{name}-{path.stat().st_size}")
    path = next(whole, None)
    return None if path is None else ctypes.CDLL(str(path))


def _built(command: list[str], folder: Path, name: str) -> ctypes.CDLL:
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder) as build:  # several processes may be at it
        built = Path(build) / "library.so"
        _run([*command, "-o", str(built)])
        try:
            loaded = ctypes.CDLL(str(built))
        except OSError as error:
            raise ValueError(f"compile = True: what {command[0]} has made cannot be loaded: {error}") from None
        os.replace(built, folder / f"{name}-{built.stat().st_size}.so")
    return loaded


def _macros(command: list[str]) -> str:
    """All that are predefined: they tell compiler and processor."""
    return _run([*command, "-dM", "-E", "-x", "c++", os.devnull])


def _compiler() -> list[str]:
    """The command `$CXX`, or the first of the usual compilers."""
    given = os.environ.get("CXX", "")
    try:
        if words := shlex.split(given):
            return words
    except ValueError as error:
        raise ValueError(f"compile = True needs a C++ compiler, but CXX = {given!r} is no command: {error}") from None
    for name in ("c++", "g++", "clang++"):
        if shutil.which(name):
            return [name]
    raise ValueError(
        "compile = True needs a C++ compiler (c++, g++ or clang++, or the one that CXX names); none was found"
    )


def _run(command: list[str]) -> str:
    try:
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout
    except OSError as error:
        raise ValueError(
            f"compile = True needs a C++ compiler, but {command[0]!r} cannot be run: {error.strerror}"
        ) from None
    except subprocess.CalledProcessError as error:
        said = (error.stderr.strip().splitlines() or ["nothing"])[0]
        raise ValueError(f"compile = True: {command[0]} exited with {error.returncode} and said: {said}") from None
