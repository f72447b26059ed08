"""Options of `tppsd fit` with odd values: parsed, and what they configure is built, without training."""

from __future__ import annotations

import contextlib
import io
import random
import warnings
from functools import cache
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch

from tests.fuzz.judge import sentence_of
from tppsd import cli
from tppsd.arguments import MOST_THREADS
from tppsd.lightning.cli import TrainingCLI

ODD = ["-1", "0", "1e9", "1000000000", "nan", "inf", "1e400", "x", "[]", "{}", "null", "true", "1.5", "", "-0.5"]
ODD += ["99999999999999999999", "[1,2]", "[1,", "{a: b}", "☃", "2024-02-30", "x" * 10_000, "1e21", "0.0", "-inf"]
LOUD = ("trainer.strategy", "trainer.accelerator", "trainer.plugins")  # of one kind each, and slow to say no


class Complete(Exception):
    """Carries the configuration out of a command line that was understood."""


@cache
def names() -> tuple[str, ...]:
    """Return the names of all options that have one value."""

    def stop(self: TrainingCLI, *_: Any) -> None:
        raise Complete(list(self.config["fit"].keys()))

    with patch.object(TrainingCLI, "before_instantiate_classes", stop), contextlib.suppress(ValueError):
        try:
            cli.main(["fit", "--data.path", "x.csv"])
        except Complete as complete:
            keys = {key.replace(".init_args", "") for key in complete.args[0]}
            skipped = {"config", "data.path", "ckpt_path", "print_config", *LOUD}
            return tuple(sorted(k for k in keys if not k.endswith("class_path") and "__" not in k and k not in skipped))
    raise AssertionError("the command line was not understood")


def try_case(seed: int, folder: Path) -> str | None:
    """Run `tppsd fit` with one or two odd options until training would begin."""
    rng = random.Random(f"option {seed}")
    odd = [f"--{rng.choice(names())}={rng.choice(ODD)}" for _ in range(rng.randint(1, 2))]
    path = folder / "known.csv"
    if not path.exists():
        rows = [f"{i},{0.5 * j + 0.01 * i},{'abc'[(i + j) % 3]}" for i in range(30) for j in range(1, 6)]
        path.write_text("\n".join(["sequence,time,mark", *rows]))
    given = ["fit", "--data.path", str(path), "--model.embed_dim", "8", "--model.num_heads", "2", *odd]
    output, said = io.StringIO(), list[str]()

    def act() -> None:
        with (
            patch.object(TrainingCLI, "_run_subcommand", lambda *_: None),
            contextlib.redirect_stderr(output),
            contextlib.redirect_stdout(output),
            warnings.catch_warnings(),
        ):
            warnings.simplefilter("ignore")
            try:
                status = cli.main(given)
            except SystemExit as ended:
                status = int(ended.code or 0)
        lines = [line for line in output.getvalue().splitlines() if ": error: " in line]
        if status:
            assert status == 2 and len(lines) == 1, f"exit {status}, {output.getvalue()[-500:]!r}"
            assert len(lines[0]) < 2_000, f"a sentence of {len(lines[0]):,} characters"
            said.append(lines[0])

    threads = torch.get_num_threads()
    try:
        sentence_of(act, None)
        assert torch.get_num_threads() <= MOST_THREADS, f"{torch.get_num_threads():,} threads would not end"
    except AssertionError as error:
        raise AssertionError(f"{[word[:80] for word in odd]} {error}") from error
    finally:
        torch.set_num_threads(threads)  # a case's `--threads` is not for those that follow
    return said[0] if said else None
