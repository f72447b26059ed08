"""`tppsd completion`: what the shells themselves make of the scripts."""

from __future__ import annotations

import os
import pty
import select
import shutil
import subprocess
import time
from pathlib import Path

import pytest
from lightning_helpers import tppsd

COMPLETE = """
source "$1"; shift
COMP_WORDS=("$@"); COMP_CWORD=$(( $# - 1 )); COMP_LINE="$*"; COMP_POINT=${#COMP_LINE}
eval "$(complete -p tppsd | sed -E 's/.*-F ([^ ]+) .*/\\1/')"; printf '%s\\n' "${COMPREPLY[@]}"
"""
CASES = [
    (["f"], {"fit", "forecast"}),
    (["fit", "--data.pr"], {"--data.process"}),
    (["fit", "--model.optimizer.l"], {"--model.optimizer.lr"}),
    (["fit", "--model.encoder", ""], {"thp", "sahp", "attnhp", "rotary"}),
    (["predict", "--model.options.rul"], {"--model.options.rule"}),
    (["certify", "--thr"], {"--threads"}),
    (["inspect", "my-lo"], {"my-log.csv"}),
    (["fit", "--data.path", "my-lo"], {"my-log.csv"}),
    (["completion", ""], {"bash", "zsh"}),
]


@pytest.fixture(scope="module")
def scripts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The scripts of both shells, in a folder with a log."""
    import contextlib
    import io

    folder = tmp_path_factory.mktemp("completion")
    (folder / "my-log.csv").write_text("time\n1\n")
    for shell in ("bash", "zsh"):
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            assert tppsd("completion", shell) == 0
        (folder / f"_{shell}").write_text(printed.getvalue())
    (folder / "_zsh").rename(folder / "_tppsd")  # a file of zsh is called as what it completes
    return {"bash": folder / "_bash", "zsh": folder / "_tppsd"}


@pytest.mark.parametrize(
    ("words", "expected"), CASES, ids=lambda value: " ".join(sorted(value) if isinstance(value, set) else value)
)
def test_bash_completes(words: list[str], expected: set[str], scripts: dict[str, Path]) -> None:
    """The function that the script has registered is called as bash calls it when Tab is typed."""
    done = subprocess.run(
        ["bash", "-c", COMPLETE, "bash", scripts["bash"], "tppsd", *words],
        cwd=scripts["bash"].parent, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert set(done.stdout.split()) == expected


def test_zsh_completes(scripts: dict[str, Path]) -> None:
    """In a terminal of its own: Tab is typed, and what appears is read."""
    if shutil.which("zsh") is None:
        pytest.skip("there is no zsh on this machine")
    folder = scripts["zsh"].parent
    process, terminal = pty.fork()
    if process == 0:
        os.chdir(folder)
        os.environ |= {"TERM": "dumb", "PS1": "> "}
        os.execvp("zsh", ["zsh", "-f", "-i"])
    set_up = (
        f"unsetopt zle_bracketed_paste; fpath=({folder} $fpath); autoload -Uz compinit; compinit -u -D; print re''ady\n"
    )
    try:
        os.write(terminal, set_up.encode())
        assert "ready" in read_until(terminal, "ready")
        for typed, completed in (
            ("tppsd fit --data.proc", "--data.process"),
            ("tppsd foreca", "forecast"),
            ("tppsd fit --model.encoder rota", "rotary"),
            ("tppsd inspect my-l", "my-log.csv"),
        ):
            os.write(terminal, f"{typed}\t".encode())
            assert completed in read_until(terminal, completed)
            os.write(terminal, b"\x15\n")  # empty the line
    finally:
        os.close(terminal)
        os.waitpid(process, 0)


def read_until(terminal: int, text: str, seconds: float = 20.0) -> str:
    """What a terminal shows until `text` is in it, or until the time is over."""
    shown, deadline = "", time.monotonic() + seconds
    while text not in shown and time.monotonic() < deadline:
        if select.select([terminal], [], [], 0.2)[0]:
            shown += os.read(terminal, 4096).decode(errors="replace")
    return shown
