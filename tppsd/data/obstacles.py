"""Obstacles to reading a source: all of them in one run, each with the option that mends it."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterable
from datetime import date
from typing import Any, ParamSpec, TypeVar

Args = ParamSpec("Args")
Found = TypeVar("Found")

_LONGEST = 80  # characters of a value that are shown


class DataError(ValueError):
    """Is one obstacle: a sentence for the user, and the options that would mend it.

    Attributes:
        options: option of `ReadOptions` -> value; the fields of `columns` of several obstacles are put together.
    """

    def __init__(self, message: str, **options: Any) -> None:
        super().__init__(message)
        self.options = options


class Obstacles:
    """Collects errors while reading goes on as far as it can, so that one run names all that must be mended."""

    def __init__(self) -> None:
        self.found: list[ValueError] = []

    def add(self, obstacle: ValueError) -> None:
        """Note an obstacle, once: the same in another row or split is mended by the same option."""
        if _kind(obstacle) not in map(_kind, self.found):
            self.found.append(obstacle)

    def tried(self, read: Callable[Args, Found], *args: Args.args, **options: Args.kwargs) -> Found | None:
        """Return what `read` returns; None where it raises a ValueError, which is noted."""
        try:
            return read(*args, **options)
        except ValueError as error:
            self.add(error)
            return None

    def raise_all(self, source: str) -> None:
        """Raise what was found: one obstacle as it is, several as a list that ends with the options for all of them.

        Raises:
            ValueError: there are obstacles.
        """
        if len(self.found) == 1:
            raise self.found[0]
        if not self.found:
            return
        texts = [str(error).removeprefix(source).lstrip(":, ") for error in self.found]
        lines = [f"  {number}. {shortened(text)}" for number, text in enumerate(texts, 1)]
        options, has_all = self.options(), all(map(_has_options, self.found))
        if options:
            lines.append(f"  Options that mend {'them' if has_all else 'some of them'}: {in_yaml(options)}")
        raise DataError(
            "\n".join([f"{source}: {len(self.found)} things are to mend:", *lines]), **(options if has_all else {})
        )

    def options(self) -> dict[str, Any]:
        """Return the options that mend what was found, as far as they are known."""
        merged: dict[str, Any] = {}
        for error in self.found:
            for name, value in getattr(error, "options", {}).items():
                merged[name] = merged.get(name, {}) | value if isinstance(value, dict) else value
        return merged


def quoted(value: Any) -> str:
    """Return a value of the data to be shown in a sentence, the beginning of it where it is long."""
    return brief(repr(str(value) if isinstance(value, date) else value))


def brief(text: str) -> str:
    """Return a text of the data, or its beginning where it is long."""
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}... ({len(text):,} characters)"


def shortened(sentence: str) -> str:
    """Return a sentence whose words of more than 200 characters, which somebody has given, end after 80."""
    return re.sub(r"\S{201,}", lambda word: f"{word[0][:80]}... ({len(word[0]):,} characters)", sentence)


def nearest(name: str, known: Iterable[str]) -> str:
    """Return the end of a sentence with the names that are most like one that is not known; empty without any."""
    by_lower = {one.lower(): one for one in known}
    found = difflib.get_close_matches(name.lower(), by_lower, n=3)
    names = ", ".join(brief(by_lower[one]) for one in found)
    return f"; the nearest {'is' if len(found) == 1 else 'are'} {names}" if found else ""


def _has_options(obstacle: ValueError) -> bool:
    return bool(getattr(obstacle, "options", None))


def _kind(obstacle: ValueError) -> str:
    """Return the message without its place and numbers."""
    return re.sub(r"[0-9]+", "0", str(obstacle).split(": ", 1)[-1])


def in_yaml(options: dict[str, Any]) -> str:
    """Return options on one line, as they stand in a configuration file, without the braces around them."""
    import yaml

    text: str = yaml.safe_dump(
        options, default_flow_style=True, sort_keys=False, width=10**6, allow_unicode=True
    ).strip()[1:-1]
    return text
