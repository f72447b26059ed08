"""Other builds of the compiled code: for older processors, and wrong ones that tests must catch."""

from __future__ import annotations

import os
import shutil
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

IS_SANITIZED = "-fsanitize" in os.environ.get("CXX", "")  # by `make sanitize`
needs_a_plain_build = pytest.mark.skipif(IS_SANITIZED, reason="sanitizers end a process that allocates too much")

SOURCE = Path(compiling.__file__).with_name("native") / "library.cpp"


def compiled_by(command: list[str], folder: Path, monkeypatch: pytest.MonkeyPatch, source: Path = SOURCE) -> None:
    """From now on, without the flags for this very processor."""
    if IS_SANITIZED:
        pytest.skip("with sanitizers, which make compiling slow, only the build that is shipped is run")
    monkeypatch.setenv("CXX", " ".join(command))
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder))
    monkeypatch.setattr(compiling, "_NATIVE", "-DNARROW")
    monkeypatch.setattr(model, "library", lambda _: library.__wrapped__(source))


def compiled_wrong(right: str, wrong: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From now on, with `wrong` in place of `right`, which is there once; groups of rows are small. Compiled in half
    the time."""
    monkeypatch.setattr(compiling, "_FLAGS", tuple(flag.replace("-O3", "-O1") for flag in compiling._FLAGS))
    copy = Path(shutil.copytree(SOURCE.parent, folder / "native"))
    texts = {path: path.read_text() for path in copy.iterdir()}
    assert sum(text.count(right) for text in texts.values()) == 1
    for path, text in texts.items():
        path.write_text(text.replace(right, wrong).replace("GROUP = 128", "GROUP = 8").replace("MOST = 16", "MOST = 4"))
    compiled_by(compiling._compiler(), folder, monkeypatch, copy / "library.cpp")
