"""Functions that commands share: how data are opened, the option `--compile`, and types of numbers."""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tppsd.data.paths import local_path


def compile_mode(text: str) -> bool | str:
    """Return the value of `--compile`: "auto", True or False."""
    modes: dict[str, bool | str] = {"auto": "auto", "true": True, "false": False}
    if text not in modes:
        raise argparse.ArgumentTypeError(f"{text} is none of {', '.join(modes)}")
    return modes[text]


def output_path(text: str) -> Path:
    """Return the value of an option that names a file or folder to write, which is a local one."""
    try:
        return local_path(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def add_compile(parser: argparse.ArgumentParser) -> None:
    """Add the option `--compile`, which is of every sampler."""
    parser.add_argument(
        "--compile", nargs="?", type=compile_mode, const=True, metavar="auto|true|false",
        help="compiled sampling: auto (default) compiles what can be, true insists, false samples in eager PyTorch",
    )  # fmt: skip


def at_least(minimum: int) -> Callable[[str], int]:
    """Return the type of an option that takes whole numbers from `minimum` on.

    argparse names the option in front of the refusal.
    """

    def whole_number(text: str) -> int:
        """Read the number, or refuse the text."""
        try:
            number = int(text)
        except ValueError:
            number = minimum - 1
        if number < minimum:
            raise argparse.ArgumentTypeError(f"{text} must be a whole number of at least {minimum}")
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
