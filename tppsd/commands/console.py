"""What commands share: their parser, how data are opened, options of reading, --threads, and types of numbers."""

from __future__ import annotations

import argparse
import math
import re
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any, NoReturn

from tppsd.arguments import MOST_THREADS, THREADS, names_of, options_of, page, unrecognized
from tppsd.data.obstacles import shortened
from tppsd.data.options import ReadOptions
from tppsd.data.paths import local_path

LEFT_OUT = ("columns",)  # has options of its own: FIELD=COLUMN and --unmarked
LISTS = ("fractions", "split_times", "time_format", "mark_bins", "mark_names")


class CommandParser(argparse.ArgumentParser):
    """Reports mistakes in one sentence with the option that was meant, and lists options on one page.

    Args:
        prog: the command, as `tppsd demo`.
        description: what it does.
        examples: calls of it, for its page.
    """

    def __init__(self, prog: str, description: str, examples: tuple[str, ...]) -> None:
        super().__init__(prog=prog, description=description, allow_abbrev=False)
        self.examples = examples

    def format_help(self) -> str:
        """Return the page of --help."""
        words = [option.name.upper() for option in options_of(self) if not option.name.startswith("--")]
        groups = {
            (group.title or "options").capitalize(): options
            for group in self._action_groups
            if (options := options_of(_Group(group._group_actions)))
        }
        usage = " ".join([self.prog, *words, "[OPTIONS]"] if "Options" in groups else [self.prog, *words])
        about = " ".join((self.description or "").split())
        return page(usage, about, groups, "\n".join(["Examples:", *(f"  {example}" for example in self.examples)]))

    def error(self, message: str) -> NoReturn:
        """Say what is wrong in one sentence, and where all options are listed."""
        sentence = shortened(unrecognized(message, names_of(options_of(self))))
        self.exit(2, f"{self.prog}: error: {sentence} (`{self.prog} --help` lists the options)\n")


class _Group:
    """Holds the options of a group, as a parser does."""

    def __init__(self, actions: list[argparse.Action]) -> None:
        self._actions = actions


def add_threads(parser: argparse.ArgumentParser, text: str = THREADS) -> None:
    """Add the option `--threads`, which is of every command that computes."""
    parser.add_argument("--threads", type=at_least(1, MOST_THREADS), metavar="N", help=text)


def add_reading_options(parser: argparse.ArgumentParser) -> None:
    """Add an option for each field of `ReadOptions`, such as --split-times.

    The name that `fit` has for it, --split_times, is the same.
    """
    group = parser.add_argument_group("how events are read, as in `tppsd inspect` and `tppsd fit`")
    texts = _texts()
    for option in fields(ReadOptions):
        if option.name in LEFT_OUT:
            continue
        names = list(dict.fromkeys([f"--{option.name.replace('_', '-')}", f"--{option.name}"]))
        kind: dict[str, Any] = {"default": None, "dest": option.name, "help": texts[option.name].replace("%", "%%")}
        if option.type == "bool":
            kind |= {"type": _flag, "nargs": "?", "const": True, "metavar": "true|false"}
        elif option.name == "observed":
            kind |= {"type": _interval, "nargs": "+", "metavar": "START..END"}
        elif option.name == "min_mark_count":
            kind |= {"type": int, "metavar": "N"}
        else:
            kind |= {"type": _value, "metavar": "VALUE"} | ({"nargs": "+"} if option.name in LISTS else {})
        group.add_argument(*names, **kind)


def take_reading_options(options: argparse.Namespace) -> dict[str, Any]:
    """Take what `add_reading_options` added out of a namespace: the options that were given."""
    given = {}
    for option in fields(ReadOptions):
        if option.name not in LEFT_OUT and (value := vars(options).pop(option.name)) is not None:
            given[option.name] = value
    return given


def _texts() -> dict[str, str]:
    """Return what the docstring of `ReadOptions` says of each option."""
    entries = re.findall(r"^ {8}(\w+): (.*?)(?=^ {8}\w|\Z)", ReadOptions.__doc__ or "", flags=re.M | re.S)
    return {name: " ".join(text.split()).rstrip(".") for name, text in entries}


def _value(text: str) -> float | str:
    try:
        return float(text)
    except ValueError:
        return text


def _flag(text: str) -> bool:
    if text not in ("true", "false"):
        raise argparse.ArgumentTypeError(f"{text} must be true or false")
    return text == "true"


def _interval(text: str) -> tuple[float | str, float | str]:
    edges = text.split("..")
    if len(edges) != 2:
        raise argparse.ArgumentTypeError(f"{text} must be START..END, such as 0..12 or 2024-01-01..2024-03-31")
    return _value(edges[0]), _value(edges[1])


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


def add_columns(parser: argparse.ArgumentParser) -> None:
    """Add the options `--columns` and `--unmarked`.

    They are for events whose columns have other names than usual, or that have no marks.
    """
    add, others = parser.add_argument, "columns of other names than usual, such as time=hours mark=kind"
    add(
        "--columns", type=_field_and_column, action="extend", nargs="+", default=[], metavar="FIELD=COLUMN", help=others
    )
    add("--unmarked", action="store_true", help="the events have no marks, or theirs are left aside")


def _field_and_column(text: str) -> tuple[str, str]:
    """Read FIELD=COLUMN; the type of an option."""
    field, _, column = text.partition("=")
    if not (field and column):
        raise argparse.ArgumentTypeError(f"{text} must be FIELD=COLUMN, such as time=hours")
    return field, column


def open_events(data: str, columns: list[tuple[str, str]], unmarked: bool, **arguments: Any) -> Any:
    """Read the events of --data, --columns and --unmarked, and return their EventDataModule.

    Raises:
        FileNotFoundError, ValueError: it cannot be; the sentence says why, and what these options can do about it.
    """
    from tppsd.lightning.datamodule import EventDataModule
    from tppsd.processes.presets import PRESETS

    if (unmarked or columns) and data in PRESETS:
        option = "--unmarked" if unmarked else "--columns"
        raise ValueError(f"{option} is for events that are read; the process {data} has the marks and times it has")
    fields = [field for field, _ in columns]
    if twice := [field for field in fields if fields.count(field) > 1]:
        raise ValueError(f"--columns names two columns for {twice[0]}; name one")
    named: dict[str, str | None] = dict(columns)
    if unmarked:
        if "mark" in named:
            raise ValueError(f"--columns mark={named['mark']} and --unmarked do not go together; leave one of them out")
        named["mark"] = None
    source: dict[str, Any] = {"process": data} if data in PRESETS else {"path": data}
    module = EventDataModule(**source, columns=named or None, **arguments)
    try:
        _ = module.dataset
    except ValueError as error:
        if "columns=" not in str(error):
            raise
        hint = "on the command line --columns FIELD=COLUMN, and --unmarked for columns={'mark': None}"
        raise ValueError(f"{error} ({hint})") from error
    return module
