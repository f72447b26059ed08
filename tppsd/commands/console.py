"""What commands share: their parser, the options --threads and --compile, and types of paths and numbers."""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

from tppsd.arguments import MOST_THREADS, THREADS, Option, names_of, options_of, page, unrecognized
from tppsd.data.obstacles import shortened
from tppsd.data.paths import local_path


class OnePage(argparse.ArgumentParser):
    """Reports mistakes in one sentence with the option that was meant, and lists options on one page.

    It is for parsers of argparse and of jsonargparse, which are given `examples`: calls of the command.
    """

    examples: tuple[str, ...]

    def on_the_page(self) -> dict[str, list[Option]]:
        """Return title -> options, as the page has them."""
        raise NotImplementedError

    def format_help(self, *_: Any) -> str:
        """Return the page of --help."""
        words = [option.name.upper() for option in options_of(self) if not option.name.startswith("--")]
        groups = {title: options for title, options in self.on_the_page().items() if options}
        usage = " ".join([self.prog, *words, "[OPTIONS]"] if "Options" in groups else [self.prog, *words])
        about = " ".join((self.description or "").split())
        return page(usage, about, groups, "\n".join(["Examples:", *(f"  {example}" for example in self.examples)]))

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Say what is wrong in one sentence, and where all options are listed."""
        sentence = shortened(unrecognized(" ".join(message.split()), names_of(options_of(self))))
        sys.stderr.write(f"{self.prog}: error: {sentence} (`{self.prog} --help` lists the options)\n")
        raise SystemExit(2)


class CommandParser(OnePage):
    """Reads a command line without a source of data.

    Args:
        prog: the command, as `tppsd benchmark`.
        description: what it does.
        examples: calls of it, for its page.
    """

    def __init__(self, prog: str, description: str, examples: tuple[str, ...]) -> None:
        super().__init__(prog=prog, description=description, allow_abbrev=False)
        self.examples = examples

    def on_the_page(self) -> dict[str, list[Option]]:
        """Return those of argparse."""
        return {
            (group.title or "options").capitalize(): options_of(_Group(group._group_actions))
            for group in self._action_groups
        }


class _Group:
    """Holds the options of a group, as a parser does."""

    def __init__(self, actions: list[argparse.Action]) -> None:
        self._actions = actions


def add_threads(parser: argparse.ArgumentParser, text: str = THREADS) -> None:
    """Add the option `--threads`, which is of every command that computes."""
    parser.add_argument("--threads", type=at_least(1, MOST_THREADS), metavar="N", help=text)


def output_path(text: str) -> Path:
    """Return the value of an option that names a file or folder to write, which is a local one."""
    try:
        return local_path(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def compile_mode(text: str) -> bool | str:
    """Return the value of `--compile`: "auto", True or False."""
    modes: dict[str, bool | str] = {"auto": "auto", "true": True, "false": False}
    if text not in modes:
        raise argparse.ArgumentTypeError(f"{text} is none of {', '.join(modes)}")
    return modes[text]


def add_compile(parser: argparse.ArgumentParser) -> None:
    """Add the option `--compile`, which is of every sampler."""
    parser.add_argument(
        "--compile", nargs="?", type=compile_mode, const=True, metavar="auto|true|false",
        help="compiled sampling: auto (default) compiles what can be, true insists, false samples in eager PyTorch",
    )  # fmt: skip


def at_least(minimum: int, maximum: int | None = None) -> Callable[[str], int]:
    """Return the type of an option that takes whole numbers from `minimum` on, up to `maximum`.

    argparse names the option in front of the refusal.
    """

    def whole_number(text: str) -> int:
        """Read the number, or refuse the text."""
        try:
            number = int(text)
        except ValueError:
            number = minimum - 1
        if number < minimum or (maximum is not None and number > maximum):
            where = f"of at least {minimum}" if maximum is None else f"from {minimum} to {maximum:,}"
            raise argparse.ArgumentTypeError(f"{text} must be a whole number {where}")
        return number

    return whole_number


def positive_seconds(text: str) -> float:
    """Read a time that can be spent; the type of an option."""
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not 0 < seconds < math.inf:
        raise argparse.ArgumentTypeError(f"{text} must be a positive number of seconds")
    return seconds
