"""The dispatcher of the `tppsd` command: exit statuses and messages, with commands that do nothing."""

from __future__ import annotations

import os
import subprocess
import sys
from contextlib import redirect_stdout
from types import ModuleType

import pytest

from tppsd import __version__, cli


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch):
    """Register `tppsd fake`, whose main runs the given source; returns the module."""

    def register(body: str, module: str = "tppsd.commands.fake") -> ModuleType:
        fake = ModuleType(module)
        exec(f"def main(args):\n    {body}", fake.__dict__)
        monkeypatch.setitem(sys.modules, module, fake)
        monkeypatch.setitem(cli.COMMANDS, "fake", cli.Command(module, "for this test", "tppsd fake"))
        return fake

    return register


def test_help_lists_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--help"]) == cli.main([]) == 0
    page = capsys.readouterr().out
    assert all(f"\n  tppsd {name}" in page and command.help in page for name, command in cli.COMMANDS.items())


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out == f"tppsd {__version__}\n"


@pytest.mark.parametrize(
    ("typed", "hint"),
    [
        ("dmeo", "did you mean `tppsd demo`?"),
        ("xyz", "the commands are demo, inspect, convert, fit, validate, test, predict, verify, forecast, backtest"),
        ("--data", "as in `tppsd demo --data`"),
    ],
)
def test_unknown_command_is_one_sentence(typed: str, hint: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([typed]) == 2
    message = capsys.readouterr().err
    assert hint in message and message.count("\n") == 1


def test_arguments_are_passed_on(command, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = command("global seen; seen = args")
    assert cli.main(["fake", "--data", "x"]) == 0
    assert fake.seen == ["--data", "x"]
    monkeypatch.setattr(cli, "TRAINER_CLI", fake.__name__)  # the trainer's verbs share one main, which is told the verb
    assert cli.main(["fake", "--data", "x"]) == 0
    assert fake.seen == ["fake", "--data", "x"]


def test_mistakes_end_in_one_sentence(
    command, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    command("raise ValueError('row 3: marks[1] is 9, must be in 0..4')")
    monkeypatch.delenv("TPPSD_DEBUG", raising=False)
    assert cli.main(["fake"]) == 2
    assert capsys.readouterr().err == "tppsd fake: error: row 3: marks[1] is 9, must be in 0..4\n"
    monkeypatch.setenv("TPPSD_DEBUG", "1")
    with pytest.raises(ValueError, match="row 3"):
        cli.main(["fake"])


def test_missing_file_ends_in_one_sentence(command, capsys: pytest.CaptureFixture[str]) -> None:
    command("import pathlib; pathlib.Path('no-such-file').read_text()")
    assert cli.main(["fake"]) == 2
    assert "no-such-file" in capsys.readouterr().err


def test_errors_inside_a_library_keep_their_traceback(command) -> None:
    command("raise ValueError('too many values to unpack')", module="some_library.core")
    with pytest.raises(ValueError, match="unpack"):
        cli.main(["fake"])


@pytest.mark.parametrize(
    "body",
    [
        "raise KeyboardInterrupt",
        # as Lightning's Trainer ends
        "\n    try: raise KeyboardInterrupt\n    except KeyboardInterrupt: raise SystemExit(1)",
    ],
)
def test_interrupt_is_130_without_traceback(body: str, command, capsys: pytest.CaptureFixture[str]) -> None:
    command(body)
    assert cli.main(["fake"]) == 130
    assert capsys.readouterr().err == "\ntppsd fake: interrupted\n"


def test_exit_status_of_a_command_is_kept(command) -> None:
    command("raise SystemExit(2)")
    with pytest.raises(SystemExit, match="2"):
        cli.main(["fake"])


@pytest.mark.parametrize("arguments", [["--help"], ["fit", "--help-all"]])
def test_a_reader_who_leaves_is_no_error(arguments: list[str]) -> None:
    """As `| head` does. Mutants: the traceback of before; a pipe of another kind that is taken for the output's."""
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run([sys.executable, "-m", "tppsd", *arguments], stdout=writer, stderr=subprocess.PIPE, text=True)
    os.close(writer)
    assert (done.returncode, done.stderr) == (141, "")


def test_another_pipe_that_breaks_is_an_error(command) -> None:
    command("raise BrokenPipeError(32, 'a worker has gone')")
    with pytest.raises(BrokenPipeError, match="a worker"), open(os.devnull, "w") as output, redirect_stdout(output):
        cli.main(["fake"])
