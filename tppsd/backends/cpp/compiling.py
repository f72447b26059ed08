"""Compiles C++ source to a library, once per machine, by the compiler that is there, and loads it."""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import logging
import os
import shlex
import shutil
import subprocess
import tempfile
from functools import cache
from pathlib import Path

from tppsd.backends.cpp.cache_folders import UntrustedFolderError, candidates, digest_of, is_whole, locked, prepared
from tppsd.backends.cpp.library import LayoutError, declare, declared_in

_FLAGS = ("-std=c++17", "-O3", "-ffp-contract=fast", "-fno-math-errno", "-fno-trapping-math")
_NATIVE = "-march=native"  # not every compiler knows it for every processor
_LINKED = ("-shared", "-fPIC", "-pthread")
_LOG = logging.getLogger(__name__)


@cache
def library(source: Path) -> ctypes.CDLL:
    """Load the library of a C++ file and the headers beside it, compiled where it has not been.

    It is kept in `$XDG_CACHE_HOME/tppsd` (default `~/.cache/tppsd`). Where that folder cannot be used (it has no space,
    it forbids execution, others can write to it), a folder for temporary files takes its place: one of this user, or
    one of this process alone. The library's name says of which sources, compiler and processor it is, so that machines
    may share a home, and ends with its own SHA-256 digest.

    Raises:
        ValueError: there is no compiler, or it fails; the sentence says what it said.
        LayoutError: the sources are of another version than this package.
    """
    command = [*_compiler(), *_FLAGS, _NATIVE]
    try:
        about = _macros(command)
    except ValueError:
        about = _macros(command := command[:-1])
    files = (source, *sorted(source.parent.glob("*.h")), *map(Path, declared_in()))
    texts = [path.read_text() for path in files]
    digest = hashlib.sha256(chr(0).join([*texts, *command, *_LINKED, about]).encode()).hexdigest()
    name = f"{source.stem}-{digest[:16]}"
    failures: list[Exception] = []
    for candidate in candidates():
        try:
            folder = prepared(candidate)
            return _kept(folder, name) or _built_once([*command, *_LINKED, str(source)], folder, name)
        except (OSError, ValueError) as error:  # the compiler, too, fails where there is no space
            level = logging.WARNING if isinstance(error, UntrustedFolderError) else logging.INFO
            _LOG.log(level, "compiled code is not kept in %s: %s", candidate, error)
            failures.append(error)
    for failure in failures:
        if isinstance(failure, ValueError):
            raise failure
    reasons = "; ".join(map(str, failures))
    raise ValueError(f"compile = True found no folder to compile in; name one in XDG_CACHE_HOME ({reasons})")


def _kept(folder: Path, name: str) -> ctypes.CDLL | None:
    """Return a library that is there, whole and this user's own; None where it must be compiled."""
    for path in folder.glob(f"{name}-*.so"):
        if is_whole(path, path.stem.rpartition("-")[2]):
            with contextlib.suppress(LayoutError):
                return declare(ctypes.CDLL(str(path)))
    return None


def _built_once(command: list[str], folder: Path, name: str) -> ctypes.CDLL:
    """Compiled by the first of several processes that want it; the others load what it has made."""
    with locked(folder) as is_locked:
        if (kept := _kept(folder, name)) is not None:
            return kept
        if is_locked:  # nobody else is compiling: what is there was left by a process that was killed
            for left in folder.glob("build-*"):
                shutil.rmtree(left, ignore_errors=True)
        return _built(command, folder, name)


def _built(command: list[str], folder: Path, name: str) -> ctypes.CDLL:
    """Compile, load, and only then give the library its name: no file is ever changed that a process has loaded."""
    with tempfile.TemporaryDirectory(dir=folder, prefix="build-") as build:
        built = Path(build) / "library.so"
        _run([*command, "-o", str(built)], TMPDIR=build)
        built.chmod(0o700)
        try:
            loaded = declare(ctypes.CDLL(str(built)))
        except OSError as error:
            raise ValueError(f"compile = True: what {command[0]} has made cannot be loaded: {error}") from None
        digest = digest_of(built)
        _sync(built)
        for other in folder.glob(f"{name}-*.so"):  # cut, corrupt or foreign ones
            with contextlib.suppress(OSError):
                other.unlink()
        os.replace(built, folder / f"{name}-{digest}.so")
        _sync(folder)
    return loaded


def _sync(path: Path) -> None:
    """Wait until a file or a folder is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _macros(command: list[str]) -> str:
    """Return all predefined macros: they tell compiler and processor."""
    return _run([*command, "-dM", "-E", "-x", "c++", os.devnull])


def _compiler() -> list[str]:
    """Return the command `$CXX`, or the first of the usual compilers."""
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


def _run(command: list[str], **variables: str) -> str:
    """Run a command with some environment variables set, and return what it prints."""
    try:
        environment = os.environ | variables
        return subprocess.run(command, check=True, capture_output=True, text=True, env=environment).stdout
    except OSError as error:
        raise ValueError(
            f"compile = True needs a C++ compiler, but {command[0]!r} cannot be run: {error.strerror}"
        ) from None
    except subprocess.CalledProcessError as error:
        lines = error.stderr.strip().splitlines() or ["nothing"]
        said = next((line for line in lines if "error" in line), lines[0])
        raise ValueError(f"compile = True: {command[0]} exited with {error.returncode} and said: {said}") from None
