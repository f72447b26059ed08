"""Options of commands as people meet them: the page that lists them, the nearest to a mistyped one, and `--threads`."""

from __future__ import annotations

import difflib
import re
import shutil
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from importlib import import_module
from typing import Any, Literal, NamedTuple, Union, get_args, get_origin

INDENT, NAME_WIDTH, MAX_WIDTH = 2, 36, 110  # of a page of options, in letters
THREADS = (
    "processor threads that a process computes with, those of compiled samplers included (default: torch's choice, one "
    "per core, or what OMP_NUM_THREADS says)"
)
MOST_THREADS = 1024  # that torch is asked for: with 10^9 the first product of matrices would not end
# what other libraries call an option -> the last part of its name here
SYNONYMS = {
    "learning_rate": "optimizer.lr",
    "lr": "optimizer.lr",
    "weight_decay": "optimizer.weight_decay",
    "warmup": "lr_scheduler.warmup",
    "hidden_dim": "embed_dim",
    "hidden_size": "embed_dim",
    "d_model": "embed_dim",
    "heads": "num_heads",
    "layers": "num_layers",
    "epochs": "max_epochs",
    "steps": "max_steps",
    "gpus": "devices",
    "seed": "seed_everything",
    "checkpoint": "ckpt_path",
    "num_threads": "threads",
    "workers": "num_workers",
}


class Option(NamedTuple):
    """Holds what a page says of an option.

    Fields:
        name: as it is typed, such as --data.path; a bare word for what stands without an option.
        value: what follows it, such as PATH or {true,false}; empty for a switch.
        text: what it means.
        choices: the values that it takes, where they can be listed.
        others: further names of it.
    """

    name: str
    value: str
    text: str
    choices: tuple[str, ...] = ()
    others: tuple[str, ...] = ()


def names_of(options: Iterable[Option]) -> list[str]:
    """Return all names of options."""
    return [name for option in options for name in (option.name, *option.others)]


def options_of(parser: Any, skip: Sequence[str] = ()) -> list[Option]:
    """Return the options of a parser of argparse or jsonargparse, but those in `skip`.

    An option whose default is an object, as `optimizer`, is followed by the arguments that the default sets; one that
    takes a class of this package stands for the arguments of that class.
    """
    found = []
    for action in parser._actions:  # neither library has a public way to list them
        name = next((one for one in action.option_strings if one.startswith("--")), action.dest)
        if name in skip or action.help == "==SUPPRESS==" or _is_of_the_parser_itself(action, name):
            continue
        kind, default = getattr(action, "_typehint", None), action.default
        if isinstance(default, dict) and "class_path" in default:
            found.append(Option(name, "CLASS", _text(action.help, default["class_path"].rsplit(".", 1)[-1])))
            found += _of_default(name, default)
            continue
        if (own := _class_of_this_package(kind)) is not None:
            found += options_of_class(own, name.removeprefix("--"))
            continue
        choices = _choices(kind) if action.choices is None else tuple(map(str, action.choices))
        is_switch = action.nargs == 0
        value = "" if is_switch or not action.option_strings else _value(action, kind, choices)
        more = [one for one in action.option_strings if one.startswith("--") and _spelt(one) != _spelt(name)]
        others = tuple(one for one in more if not one.endswith("+"))
        found.append(Option(name, value, _text(action.help, None if is_switch else default), choices, others))
    return found


def _is_of_the_parser_itself(action: Any, name: str) -> bool:
    """Say whether an option is one by which a library loads configurations or explains classes."""
    kind = type(action).__name__
    return kind in ("_ActionConfigLoad", "_ActionHelpClassPath", "_ActionPrintConfig") or name in ("--help", "help")


def options_of_class(kind: type, name: str, skip: frozenset[str | int] = frozenset()) -> list[Option]:
    """Return the arguments of a class as options under a name, such as --data.path of EventDataModule and "data"."""
    from jsonargparse import ArgumentParser

    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(kind, name, skip=set(skip), fail_untyped=False)
    return options_of(parser)


def _of_default(name: str, default: Mapping[str, Any]) -> list[Option]:
    """Return the arguments that a default of an option sets, each with what its class says of it."""
    module, _, kind = default["class_path"].rpartition(".")
    options = options_of_class(getattr(import_module(module), kind), name.removeprefix("--"), frozenset({1}))
    texts = {option.name: option.text for option in options}
    return [
        Option(f"{name}.{argument}", "NUMBER", _text(first_sentence(texts[f"{name}.{argument}"]), value))
        for argument, value in default.get("init_args", {}).items()
    ]


def _class_of_this_package(kind: Any) -> type | None:
    """Return the class of this package that an option takes, whose arguments are options of their own."""
    inner = [one for one in get_args(kind) if one is not type(None)] if _is_union(kind) else [kind]
    own = inner[0] if len(inner) == 1 else None
    return own if isinstance(own, type) and own.__module__.startswith("tppsd.") else None


def first_sentence(text: str | None) -> str:
    """Return the first sentence of a text, without what it says of its own default."""
    text = re.sub(r"\s*\(default: [^)]*\)|\s*Default: ``[^`]*``\.?", "", " ".join((text or "").split()))
    return re.split(r"(?<=[a-z`)])\.(?= |$)|(?<=[a-z]): (?=[A-Z])", text)[0]


def _text(text: str | None, default: Any) -> str:
    """Return the text of an option with its default, None as it is written in a configuration: null."""
    plain = " ".join((text or "").split()).rstrip(".")
    plain = re.sub(r"\b(None|True|False)\b", _as_written, plain)
    plain = plain.replace("%(default)s", str(default)).replace("%%", "%")
    is_said = "default:" in plain or default in (None, "==SUPPRESS==", [], ())
    if is_said or default == "":
        return plain
    shown = str(default).lower() if isinstance(default, bool) else default
    shown = ", ".join(map(str, shown)) if isinstance(shown, tuple | list) else shown
    return f"{plain} (default: {shown})".strip()


def _as_written(word: re.Match[str]) -> str:
    """Return None, True and False as YAML and the command line have them."""
    return {"None": "null", "True": "true", "False": "false"}[word[0]]


def _choices(kind: Any) -> tuple[str, ...]:
    """Return the values of a type that has only some."""
    if kind is bool:
        return "true", "false"
    if get_origin(kind) is Literal:
        return tuple(map(str, get_args(kind)))
    inner = [one for one in get_args(kind) if one is not type(None)] if _is_union(kind) else []
    return _choices(inner[0]) if len(inner) == 1 else ()


def _is_union(kind: Any) -> bool:
    return get_origin(kind) is Union or type(kind).__name__ == "UnionType"


def _value(action: Any, kind: Any, choices: Sequence[str]) -> str:
    """Return what stands for the value of an option on a page."""
    if isinstance(action.metavar, str) and action.metavar.isupper() and not action.metavar.startswith("["):
        many = " ..." if action.nargs == "+" else ""
        return action.metavar + many
    if choices and sum(map(len, choices)) < 40:
        return f"{{{','.join(choices)}}}"
    if kind is None:
        kind = action.type
    name = action.dest.rsplit(".", 1)[-1]
    if name in ("path", "target", "draft", "ckpt_path", "dirpath", "output_dir", "output", "run", "model", "config"):
        return "PATH"
    return _word(kind)


def _word(kind: Any) -> str:
    """Return the word for a type."""
    if _is_union(kind):
        words = [_word(one) for one in get_args(kind) if one is not type(None)]
        return "VALUE" if len(set(words)) != 1 else words[0]
    if kind is int or getattr(kind, "__name__", "") == "whole_number":
        return "N"
    if kind is float or getattr(kind, "__name__", "") == "positive_seconds":
        return "NUMBER"
    if get_origin(kind) in (list, tuple) or str(kind).startswith(("typing.Sequence", "collections.abc.Sequence")):
        return "[A,B,...]"
    return "TEXT" if kind is str else "VALUE"


def page(
    usage: str, about: str, groups: Mapping[str, Iterable[Option]], footer: str = "", width: int | None = None
) -> str:
    """Return a page of options: how the command is called, what it does, its options in groups, and examples."""
    width = min(MAX_WIDTH, width or shutil.get_terminal_size((100, 24)).columns)
    lines = [f"usage: {usage}", "", *textwrap.wrap(about, width)]
    for title, options in groups.items():
        lines += ["", f"{title}:"]
        for option in options:
            lines += _entry(option, width)
    return "\n".join([*lines, "", footer.rstrip(), ""]) if footer else "\n".join([*lines, ""])


def _entry(option: Option, width: int) -> list[str]:
    """Return the lines of an option: its name and value on the left, what it means on the right."""
    head = " " * INDENT + f"{', '.join([option.name, *option.others])} {option.value}".rstrip()
    text = textwrap.wrap(option.text, width - NAME_WIDTH - INDENT) or [""]
    pad = " " * (NAME_WIDTH + INDENT)
    if len(head) >= len(pad):
        return [head, *(pad + line for line in text)]
    return [(head.ljust(len(pad)) + text[0]).rstrip(), *(pad + line for line in text[1:])]


def nearest(option: str, known: Iterable[str]) -> str | None:
    """Return the known option that was meant by one that there is not, or None.

    It is looked for by what other libraries call it, then by its last part under another section, then by spelling.
    """
    names = [name for name in dict.fromkeys(known) if name.startswith("--")]
    asked = option.removeprefix("--").replace("-", "_")
    last = asked.rsplit(".", 1)[-1]
    section = asked.rpartition(".")[0]
    for ending in (SYNONYMS.get(last), last):
        ends = [name for name in names if ending and re.search(rf"(^--|\.){re.escape(ending)}$", _spelt(name))]
        if ends:  # rather the one of the same section
            return max(ends, key=lambda name: difflib.SequenceMatcher(None, section, name).ratio())
    by_spelling = {_spelt(name): name for name in names}
    found = difflib.get_close_matches(f"--{asked}", by_spelling, n=1, cutoff=0.75)
    if found:
        return by_spelling[found[0]]
    lasts = {name.rsplit(".", 1)[-1].removeprefix("--"): name for name in reversed(names)}
    found = difflib.get_close_matches(last, lasts, n=1, cutoff=0.75)
    return lasts[found[0]] if found else None


def _spelt(name: str) -> str:
    """Return the name of an option with one sort of dash within it."""
    return "--" + name.removeprefix("--").replace("-", "_")


def did_you_mean(option: str, known: Iterable[str]) -> str:
    """Return "; did you mean OPTION?", or nothing."""
    found = nearest(option, known)
    return f"; did you mean {found}?" if found else ""


def unrecognized(message: str, known: Iterable[str]) -> str:
    """Return the sentence about what a parser did not recognise, with the nearest option; other messages stay."""
    found = re.match(r"(?:.*: )?unrecognized arguments: (.*)", message)
    if found is None:
        return message
    words = found[1].split()
    option = next((word.split("=", 1)[0] for word in words if word.startswith("--")), None)
    if option is None:
        return f"{words[0]} is one word too many"
    return f"there is no option {option}{did_you_mean(option, known)}"


def use_threads(number: int | None) -> None:
    """Compute with so many threads from now on; None leaves it to torch.

    Raises:
        ValueError: it is less than one, or more than torch can start and share work among.
    """
    if number is None:
        return
    if not 1 <= number <= MOST_THREADS:
        raise ValueError(f"--threads {number} must be a whole number from 1 to {MOST_THREADS:,}")
    import torch

    torch.set_num_threads(number)
