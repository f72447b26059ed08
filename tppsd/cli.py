"""The `tppsd` command: finds the module of a command, runs it, and turns errors into one sentence."""

from __future__ import annotations

import difflib
import os
import sys
from importlib import import_module
from pathlib import Path
from typing import NamedTuple

from tppsd import __version__


class Command(NamedTuple):
    """Says where a command lives: a module with `main(args)`, imported only when the command runs."""

    module: str
    help: str


CONFIGS = "lightning_configs/"  # a folder of the package as well as of the repository
TRAINER_CLI = "tppsd.lightning.cli"  # one LightningCLI for all its verbs: it wants the verb as first argument

GROUPS = {
    "Start here": {
        "demo": Command(
            "tppsd.commands.demo", "train a target and a draft, sample both ways, compare speed and distribution"
        ),
        "inspect": Command("tppsd.commands.inspect", "say what was understood of a log of events, and what is in it"),
        "convert": Command("tppsd.commands.convert", "write a log of events to the Parquet file that everything reads"),
    },
    "Measure": {
        "backtest": Command(
            "tppsd.commands.backtest", "forecast from many origins of a test split, and score what happened"
        ),
        "benchmark": Command(
            "tppsd.commands.benchmark",
            "time samplers side by side and test their samples; the tables of the TPP-SD paper",
        ),
        "certify": Command("tppsd.commands.certify", "test every sampler for exactness, at a million events per cell"),
    },
    "Train and sample, configured by YAML files (lightning_configs/) and options": {
        "fit": Command(TRAINER_CLI, "train a target or a draft model"),
        "validate": Command(TRAINER_CLI, "score a checkpoint on the validation split"),
        "test": Command(TRAINER_CLI, "score a checkpoint on the test split"),
        "predict": Command(TRAINER_CLI, "sample sequences from checkpoints and write them to Parquet"),
        "forecast": Command("tppsd.commands.forecast", "say what comes after every sequence of a log, with error bars"),
        "verify": Command("tppsd.commands.verify", "check the files that predict has written, against their manifest"),
    },
}
COMMANDS = {name: command for group in GROUPS.values() for name, command in group.items()}

HELP_FOOTER = """\
Options:
  -h, --help  this page; after a command: the options of that command
  --version   the version of tppsd

Examples:
  tppsd demo                      a few minutes on two cores, nothing else needed
  tppsd demo --data easytpp/taxi  the same on real events: a folder of splits or a hub id
  tppsd fit --help                what can be configured

A mistake in the input ends in one sentence; TPPSD_DEBUG=1 shows the traceback as well."""


def main(args: list[str] | None = None) -> int:
    """Run `tppsd ARGS` (default: the process's own arguments) and return its exit status.

    0: done; 1: what was tested or verified is not as it must be; 2: a mistake in the input, or work that could not be
    done, said in one sentence; 130: interrupted by Ctrl-C; 143: stopped by SIGTERM.
    """
    name, *rest = (sys.argv[1:] if args is None else args) or ["--help"]
    if name in ("-h", "--help"):
        print(help_page())
    elif name == "--version":
        print(f"tppsd {__version__}")
    elif name in COMMANDS:
        return run(name, rest)
    else:
        return fail("tppsd", unknown_command(name))
    return 0


def run(name: str, args: list[str]) -> int:
    """Run one command, with mistakes and Ctrl-C as exit statuses instead of tracebacks."""
    module = COMMANDS[name].module
    # OpenMP threads that spin while they wait starve each other on shared cores: two threads trained 14 times slower
    # than one
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    args = with_packaged_configs(args)
    try:
        import_module(module).main([name, *args] if module == TRAINER_CLI else args)
    except KeyboardInterrupt:
        return interrupted(name)
    except SystemExit as error:
        if isinstance(error.__context__, KeyboardInterrupt):  # Lightning's Trainer shuts down, then exits with 1
            return interrupted(name)
        if (message := getattr(error, "message", None)) is not None:  # ended by SIGTERM, and says how to go on
            print(f"tppsd {name}: {message}", file=sys.stderr)
            return int(error.code or 1)
        raise
    except (OSError, TypeError, ValueError) as error:
        if os.environ.get("TPPSD_DEBUG") == "1" or not meant_for_the_user(error):
            raise
        return fail(f"tppsd {name}", str(error))
    return 0


def with_packaged_configs(args: list[str]) -> list[str]:
    """Return the arguments with `lightning_configs/FILE` as the path of the installed file, where no such file is here.

    So the commands of the documentation work in any folder. Only what follows `--config` is looked at.
    """
    found = list(args)
    for i, argument in enumerate(args):
        option, equals, value = argument.rpartition("=") if argument.startswith("--config=") else ("", "", argument)
        if option or (i > 0 and args[i - 1] == "--config"):
            packaged = Path(__file__).parent / value
            if value.startswith(CONFIGS) and not Path(value).exists() and packaged.exists():
                found[i] = f"{option}{equals}{packaged}"
    return found


def meant_for_the_user(error: Exception) -> bool:
    """Say whether an error is a mistake in the input: a file that cannot be used, or what this package raised itself.

    An error from inside a library needs its traceback.
    """
    if isinstance(error, FileNotFoundError) or (isinstance(error, OSError) and error.filename is not None):
        return True
    traceback = error.__traceback__
    while traceback is not None and traceback.tb_next is not None:
        traceback = traceback.tb_next
    return traceback is not None and traceback.tb_frame.f_globals.get("__name__", "").startswith("tppsd.")


def interrupted(name: str) -> int:
    """Say that a command was interrupted, and return the exit status for it."""
    print(f"\ntppsd {name}: interrupted", file=sys.stderr)
    return 130  # 128 + SIGINT, as shells have it


def fail(where: str, message: str) -> int:
    """Write an error to stderr, and return the exit status of a mistake in the input."""
    from tppsd.data.obstacles import shortened

    print(f"{where}: error: {shortened(message)}", file=sys.stderr)
    return 2


def unknown_command(name: str) -> str:
    """Return the sentence about a command that does not exist, with the nearest one that does."""
    if name.startswith("-"):
        return f"{name} must follow a command, as in `tppsd demo {name}`; `tppsd --help` lists the commands"
    nearest = difflib.get_close_matches(name, COMMANDS, n=1)
    hint = f"did you mean `tppsd {nearest[0]}`?" if nearest else f"the commands are {', '.join(COMMANDS)}"
    return f"there is no command {name!r}; {hint}"


def help_page() -> str:
    """Return the page of `tppsd --help`."""
    lines = ["usage: tppsd COMMAND [OPTIONS]", "", "Speculative sampling of Transformer temporal point processes.", ""]
    for title, commands in GROUPS.items():
        lines.append(f"{title}:")
        lines += [f"  {name:<10}  {command.help}" for name, command in commands.items()]
        lines.append("")
    return "\n".join([*lines, HELP_FOOTER])
