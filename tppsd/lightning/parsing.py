"""A parser that reports mistakes on the command line in one sentence, and names the option that was meant."""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Callable, Sequence
from importlib import import_module
from itertools import takewhile
from typing import Any, NoReturn

from lightning.pytorch.cli import LightningArgumentParser

from tppsd.arguments import did_you_mean, unrecognized
from tppsd.data.obstacles import shortened

_LOST = re.compile(r"module '[^']+' has no attribute '[^']+'|No module named '[^']+'")
_MISSING = re.compile(r"the following arguments are required: (\w+)\.(\S+)")


class OneSentenceParser(LightningArgumentParser):
    """Says what is wrong with an option, which was meant, and where all of them are listed.

    Attributes:
        page: makes the page of --help, where that is not jsonargparse's.
        known_options: lists the options that may be suggested.
    """

    page: Callable[[], str] | None = None
    known_options: Callable[[], Sequence[str]] | None = None

    def format_help(self, *formatter: Any) -> str:
        """Return the page of --help."""
        return super().format_help(*formatter) if self.page is None else self.page()

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Print what is wrong and how to list the options, and exit with status 2."""
        if not self.exit_on_error:  # somebody only tries
            super().error(message, ex)
        parser = getattr(ex, "subcommand_parser", None) or self
        command = " ".join(word for word in parser.prog.split() if not word.startswith("["))
        if missing := _MISSING.fullmatch(message):  # the parser of all verbs says so
            command = f"{command} {missing[1]}"
        listed = getattr(parser, "known_options", None)
        known: Sequence[str] = () if listed is None else listed()
        sentence = shortened(unrecognized(in_one_sentence(message, known), known))
        sys.stderr.write(f"{command}: error: {sentence} (`{command} --help` lists the options)\n")
        raise SystemExit(2)


def in_one_sentence(message: str, known: Sequence[str] = ()) -> str:
    """Return the innermost of what jsonargparse says of a value that fits none of the types of its option."""
    option = "--" + ".".join(re.findall(r'Parser key "([^"]+)":', message))
    if missing := _MISSING.fullmatch(message):
        return f"--{missing[2]} is required"
    if unknown := re.search(r"Option '([^']+)' is not accepted", message):
        wrong = f"{option}.{unknown[1]}"
        return f"there is no option {wrong}{did_you_mean(wrong, [*_of_class(option, message), *known])}"
    if lost := _LOST.search(message):
        return f"{option} names a class that is not there: {lost[0]}"
    nested = re.search(r"NestedArg\(key='([^']+)'", message)
    if nested and not option.endswith(f".{nested[1]}"):  # else it is the option itself, as what holds it is given it
        return f"there is no option {option}.{nested[1]}: {option} takes one value"
    inner = _innermost(message)
    given, kinds = re.search(r"(?:Got|Given) value: (.*?)(?:\. Got value: .*)?$", inner, re.M), _kinds(inner)
    if given is None or not kinds:
        return " ".join(message.split())
    return f"{option} = {given[1]} is wrong; it must be {' or '.join(kinds)}"


def _innermost(message: str) -> str:
    """Return what is indented under the last option named; the alternatives around it are of what holds that option."""
    lines = message.splitlines()
    start = max((i for i, line in enumerate(lines) if "Parser key" in line), default=0)
    margin = len(lines[start]) - len(lines[start].lstrip())
    return "\n".join(takewhile(lambda line: not line.strip() or line[: margin + 1].isspace(), lines[start + 1 :]))


def _kinds(inner: str) -> list[str]:
    """Return what the value might have been, in plain words; null only beside something else."""
    classes = [f"a {name}, by class_path and init_args" for name in re.findall(r"Not a valid subclass of (\w+)", inner)]
    expected = re.findall(r"Expected an? (?!path but)(.+?)(?:\. Got value: .*)?$", inner, re.M)
    kinds = list(dict.fromkeys([*classes, *map(_plainly, expected)]))
    return [] if kinds == ["null"] else kinds


def _plainly(kind: str) -> str:
    if kind.startswith("dot import path"):
        return "the path of a class"
    names = {"int": "a whole number", "float": "a number", "str": "a word", "bool": "true or false", "NoneType": "null"}
    kind = re.sub(r"<class '([^']+)'>", lambda found: names.get(found[1], found[1].rsplit(".", 1)[-1]), kind)
    return re.sub(r"typing\.Literal\[(.*)\]", lambda found: f"one of {found[1]}" if "," in found[1] else found[1], kind)


def _of_class(option: str, message: str) -> list[str]:
    """Return the options of the class in question."""
    found = re.search(r"class_path '([^']+)\.([^'.]+)'", message)
    if found is None:
        return []
    kind = getattr(import_module(found[1]), found[2])
    return [f"{option}.{name}" for name in inspect.signature(kind).parameters]
