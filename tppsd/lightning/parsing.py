"""A parser that reports mistakes on the command line in one sentence instead of a page of usage."""

from __future__ import annotations

import difflib
import inspect
import re
import sys
from importlib import import_module
from itertools import takewhile
from typing import Any, NoReturn

from lightning.pytorch.cli import LightningArgumentParser

from tppsd.data.obstacles import shortened

_LOST = re.compile(r"module '[^']+' has no attribute '[^']+'|No module named '[^']+'")
_MISSING = re.compile(r"the following arguments are required: (\w+)\.(\S+)")


class OneSentenceParser(LightningArgumentParser):
    """Says what is wrong with an option, and where all of them are listed."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Print what is wrong and how to list the options, and exit with status 2."""
        if not self.exit_on_error:  # somebody only tries
            super().error(message, ex)
        parser = getattr(ex, "subcommand_parser", None) or self
        command = " ".join(word for word in parser.prog.split() if not word.startswith("["))
        if missing := _MISSING.fullmatch(message):  # the parser of all verbs says so
            command = f"{command} {missing[1]}"
        sentence = shortened(in_one_sentence(message))
        sys.stderr.write(f"{command}: error: {sentence} (`{command} --help` lists the options)\n")
        raise SystemExit(2)


def in_one_sentence(message: str) -> str:
    """Return the innermost of what jsonargparse says of a value that fits none of the types of its option."""
    option = "--" + ".".join(re.findall(r'Parser key "([^"]+)":', message))
    if missing := _MISSING.fullmatch(message):
        return f"--{missing[2]} is required"
    if unknown := re.search(r"Option '([^']+)' is not accepted", message):
        return f"there is no option {option}.{unknown[1]}{_nearest(option, unknown[1], message)}"
    if lost := _LOST.search(message):
        return f"{option} names a class that is not there: {lost[0]}"
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


def _nearest(option: str, name: str, message: str) -> str:
    """Suggest the option of the class in question with the most similar name."""
    found = re.search(r"class_path '([^']+)\.([^'.]+)'", message)
    if found is None:
        return ""
    known: Any = inspect.signature(getattr(import_module(found[1]), found[2])).parameters
    near = difflib.get_close_matches(name, known, n=1)
    return f"; did you mean {option}.{near[0]}?" if near else ""
