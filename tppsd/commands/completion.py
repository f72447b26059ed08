"""`tppsd completion bash | zsh` prints a script by which the shell completes commands, options and their values by Tab.

The script lists the options of this version, so that nothing is imported while somebody types; print it again after an
update.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from importlib import import_module

from tppsd.arguments import Option, options_of
from tppsd.cli import COMMANDS, TRAINER_CLI
from tppsd.commands.console import CommandParser

SHELLS = ("bash", "zsh")
PATHS = ("PATH", "FILE", "PAGE.html")  # values that the shell completes as files
PATH_WORDS = ("source", "output", "folder")  # the same, of words without an option


def parser() -> CommandParser:
    """Return the parser of the command line."""
    own = CommandParser(
        "tppsd completion",
        "Print a script by which the shell completes commands, options and their values by Tab. It lists the options "
        "of this version: print it again after an update.",
        (
            "mkdir -p ~/.local/share/bash-completion/completions",
            "tppsd completion bash > ~/.local/share/bash-completion/completions/tppsd",
            "mkdir -p ~/.zfunc && tppsd completion zsh > ~/.zfunc/_tppsd",
            "echo 'fpath+=~/.zfunc; autoload -Uz compinit && compinit' >> ~/.zshrc",
        ),
    )
    own.add_argument("shell", choices=SHELLS, help="bash or zsh")
    return own


def main(args: list[str]) -> None:
    """Print the script of a shell."""
    shell = parser().parse_args(args).shell
    import shtab

    print(shtab.complete(commands(), shell))


def commands() -> argparse.ArgumentParser:
    """Return one parser of all commands, for what can be typed alone: it has no types and no defaults."""
    root = argparse.ArgumentParser("tppsd", description="Transformer temporal point processes")
    root.add_argument("--version", action="store_true", help="the version of tppsd")
    verbs = root.add_subparsers()
    for name, command in COMMANDS.items():
        _add(verbs.add_parser(name, help=command.help), _options(name))
    return root


def _options(name: str) -> Iterable[Option]:
    """Return all options of a command."""
    if COMMANDS[name].module != TRAINER_CLI:
        return options_of(import_module(COMMANDS[name].module).parser())
    from tppsd.lightning.cli import parser_of
    from tppsd.lightning.help import options_by_name

    return options_by_name(name, parser_of(name)).values()


def _add(verb: argparse.ArgumentParser, options: Iterable[Option]) -> None:
    """Add options to the parser of a command, each with what can be typed after it."""
    import shtab

    for option in options:
        is_option, text = option.name.startswith("--"), option.text.split(". ")[0].replace("%", "%%")[:100]
        is_switch = is_option and not option.value
        how: dict[str, str | tuple[str, ...]] = {"action": "store_true"} if is_switch else {}
        if option.choices:
            how["choices"] = option.choices
        added = verb.add_argument(option.name, *option.others, help=text, **how)  # type: ignore[arg-type]
        if option.value in PATHS or option.name in PATH_WORDS:
            added.complete = shtab.FILE  # type: ignore[attr-defined]  # where shtab looks
