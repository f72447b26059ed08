"""The `tppsd` command: finds the module of a command, runs it, and turns errors into one sentence."""

from __future__ import annotations

import contextlib
import difflib
import os
import select
import sys
from importlib import import_module
from pathlib import Path
from typing import NamedTuple

from tppsd import __version__


class Command(NamedTuple):
    """Says where a command lives: a module with `main(args)`, imported only when the command runs.

    Fields:
        module: its name.
        help: what the command does, in a few words.
        example: a call of it.
    """

    module: str
    help: str
    example: str


CONFIGS = "lightning_configs/"  # a folder of the package as well as of the repository
TRAINER_CLI = "tppsd.lightning.cli"  # one LightningCLI for all its verbs: it wants the verb as first argument

GROUPS = {
    "Start here": {
        "demo": Command("tppsd.commands.demo", "the whole job on one page, in 5 minutes", "tppsd demo"),
        "inspect": Command("tppsd.commands.inspect", "what is in a log of events", "tppsd inspect log.csv"),
        "convert": Command("tppsd.commands.convert", "write a log as Parquet", "tppsd convert log.csv log.parquet"),
    },
    "Train and sample": {
        "fit": Command(TRAINER_CLI, "train a target or a draft; writes RUN", "tppsd fit --data.path log.csv"),
        "validate": Command(TRAINER_CLI, "score it on the validation split", "tppsd validate --run RUN"),
        "test": Command(TRAINER_CLI, "score it on the test split", "tppsd test --run RUN"),
        "predict": Command(TRAINER_CLI, "sample sequences into Parquet files", "tppsd predict --run RUN"),
        "verify": Command("tppsd.commands.verify", "check the files of a job", "tppsd verify outputs/samples"),
    },
    "Forecast": {
        "forecast": Command(
            "tppsd.commands.forecast", "what comes next, with error bars", "tppsd forecast --run RUN --horizon 7d"
        ),
        "backtest": Command(
            "tppsd.commands.backtest", "score forecasts of what has happened", "tppsd backtest --run RUN --horizon 7d"
        ),
    },
    "Measure": {
        "benchmark": Command(
            "tppsd.commands.benchmark", "time samplers; the papers' tables", "tppsd benchmark --untrained 20,8"
        ),
        "certify": Command("tppsd.commands.certify", "test samplers for exactness", "tppsd certify --events 10000"),
    },
    "Around it": {
        "dashboard": Command("tppsd.commands.dashboard", "a workspace of W&B for runs", "tppsd dashboard PROJECT"),
        "completion": Command(
            "tppsd.commands.completion", "completion by Tab, for bash or zsh", "tppsd completion bash"
        ),
    },
}
COMMANDS = {name: command for group in GROUPS.values() for name, command in group.items()}
HELP_FOOTER = "RUN is a folder of fit, as outputs/fit/version_0. tppsd COMMAND --help: options"


def main(args: list[str] | None = None) -> int:
    """Run `tppsd ARGS` (default: the process's own arguments) and return its exit status.

    0: done; 1: what was tested or verified is not as it must be; 2: a mistake in the input, or work that could not be
    done, said in one sentence; 130: interrupted by Ctrl-C; 141: whoever read the output left; 143: stopped by SIGTERM.
    """
    try:
        status = dispatch(sys.argv[1:] if args is None else args)
        sys.stdout.flush()
    except BrokenPipeError:
        if not reader_left():
            raise
        return 141  # 128 + SIGPIPE, as shells have it
    except OSError as error:
        if not is_of_full_output(error):
            raise
        return output_is_full(error)
    return status


def dispatch(args: list[str]) -> int:
    """Run the command that the arguments name, and return its exit status."""
    name, *rest = args or ["--help"]
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
    except BrokenPipeError:
        raise  # `main` knows whether it is the output's
    except (OSError, TypeError, ValueError) as error:
        if os.environ.get("TPPSD_DEBUG") == "1" or is_of_full_output(error) or not meant_for_the_user(error):
            raise  # of a full output `main` tells, which flushes it
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


def reader_left() -> bool:
    """Say whether nobody reads the output any more, as after `| head`; what is left of it is then dropped."""
    looked = select.poll()
    looked.register(sys.stdout, 0)
    if not looked.poll(0):  # of a pipe, an error or a hang-up: another one broke
        return False
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # Python flushes again when it ends
    return True


def is_of_full_output(error: Exception) -> bool:
    """Say whether a disk is full, or a file as large as may be, to which the output goes or what a library logs."""
    from tppsd.data.whole_files import is_full

    return isinstance(error, OSError) and error.filename is None and is_full(error)


def output_is_full(error: OSError) -> int:
    """Say so, drop what is left of the output, and return the exit status."""
    from tppsd.data.whole_files import UnwritableError

    with contextlib.suppress(OSError, ValueError):  # not every output is a file
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # Python flushes again when it ends
    return fail("tppsd", str(UnwritableError(error.errno, str(error))))


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
    """Return the page of `tppsd --help`: an example of every command, on a screen of 24 lines of 80 letters."""
    lines = ["usage: tppsd COMMAND [OPTIONS]: train, sample and forecast with point processes"]
    width = max(len(command.example) for command in COMMANDS.values()) + 2
    for title, commands in GROUPS.items():
        lines.append(f"{title}:")
        lines += [f"  {command.example:<{width}}{command.help}" for command in commands.values()]
    return "\n".join([*lines, HELP_FOOTER])
