"""The options of reading for a command with argparse: one for each field of `ReadOptions`, with the same meaning."""

from __future__ import annotations

import argparse
import re
from dataclasses import fields
from typing import Any

from tppsd.data.options import ReadOptions

LEFT_OUT = ("columns",)  # has options of its own: FIELD=COLUMN and --unmarked
LISTS = ("fractions", "split_times", "time_format", "mark_bins", "mark_names")


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
