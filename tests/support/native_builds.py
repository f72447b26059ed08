"""Other builds of the native code: for older processors, and wrong ones that tests must catch."""

from __future__ import annotations

import os
import shutil
from functools import cache
from pathlib import Path

import pytest

from tppsd.backends.cpp import compiling, model
from tppsd.backends.cpp.compiling import library

try:
    compiling._compiler()
    HAS_COMPILER = True
except ValueError:
    HAS_COMPILER = False
needs_a_compiler = pytest.mark.skipif(not HAS_COMPILER, reason="compiled passes need a C++ compiler")

IS_SANITIZED = os.environ.get("CXX", "").endswith("/sanitized")  # by `make sanitize`
needs_a_plain_build = pytest.mark.skipif(IS_SANITIZED, reason="sanitizers end a process that allocates too much")

SOURCE = Path(compiling.__file__).with_name("native") / "library.cpp"


def optimize_less(monkeypatch: pytest.MonkeyPatch, level: str = "-O0") -> None:
    """Compile quickly from now on."""
    monkeypatch.setattr(compiling, "_FLAGS", tuple(flag.replace("-O3", level) for flag in compiling._FLAGS))


def compiled_by(command: list[str], folder: Path, monkeypatch: pytest.MonkeyPatch, source: Path = SOURCE) -> None:
    """Build and use the native code, from now on, without the flags for this very processor.

    Models that have been compiled keep the library that they have. Equal sources are built once per run of the tests.

    Args:
        command: the compiler and its first options.
        folder: of this test alone; builds are kept beside it.
    """
    if IS_SANITIZED:
        pytest.skip("with sanitizers, which make compiling slow, only the build that is shipped is run")
    monkeypatch.setenv("CXX", " ".join(command))
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder.parent / "builds"))
    monkeypatch.setattr(compiling, "_NATIVE", "-DNARROW")
    built = cache(lambda: library.__wrapped__(source))
    monkeypatch.setattr(model, "library", lambda _: built())


def compiled_wrong(right: str, wrong: str, folder: Path, monkeypatch: pytest.MonkeyPatch, level: str = "-O0") -> None:
    """Use, from now on, a build with `wrong` in place of `right`, which is there once.

    Groups of rows are small. It is compiled without optimization, in a third of the time; with `level` "-O1" it takes
    half of the time to compile, and large models run many times as fast.
    """
    optimize_less(monkeypatch, level)
    copy = Path(shutil.copytree(SOURCE.parent, folder / "native"))
    texts = {path: path.read_text() for path in copy.iterdir()}
    assert sum(text.count(right) for text in texts.values()) == 1
    for path, text in texts.items():
        path.write_text(text.replace(right, wrong).replace("GROUP = 128", "GROUP = 8").replace("MOST = 16", "MOST = 4"))
    compiled_by(compiling._compiler(), folder, monkeypatch, copy / "library.cpp")
