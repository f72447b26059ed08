"""The list of planted mistakes."""

from __future__ import annotations

import shlex
import tomllib
from pathlib import Path
from typing import NamedTuple

LIST = Path(__file__).with_name("mistakes.toml")


class Mistake(NamedTuple):
    """Is one wrong line.

    Fields:
        path: of its file, within the package.
        old, new: text that stands in the file once, and what takes its place.
        tests: arguments of pytest, whose files lie in tests/.
        survives: why no test can or need catch it; "" = one must.
    """

    path: str
    old: str
    new: str
    tests: str
    survives: str

    @property
    def is_native(self) -> bool:
        """Whether the native code must be compiled for it."""
        return "/native/" in self.path

    def plant(self, text: str) -> str:
        """Return the text of the file with the mistake.

        Raises:
            ValueError: the file has changed: the old text is not there once.
        """
        if (count := text.count(self.old)) != 1:
            raise ValueError(f"{self.path}: the text {self.old!r} stands there {count} times, not once")
        return text.replace(self.old, self.new)


def mistakes() -> list[Mistake]:
    """Return all mistakes, in the order of the list."""
    return [
        Mistake(file["path"], one["old"], one["new"], one.get("tests", file["tests"]), one.get("survives", ""))
        for file in tomllib.loads(LIST.read_text())["file"]
        for one in file["mistakes"]
    ]


def pytest_arguments(tests: str, folder: str = "tests") -> list[str]:
    """Return the arguments of pytest: files in their folder, options as they are.

    Nightly tests are left out, unless there is an option -m that says otherwise.
    """
    words = shlex.split(tests)
    whole = [] if "-m" in words else ["-m", "not nightly"]
    return [f"{folder}/{word}" if word.endswith(".py") else word for word in words] + whole
