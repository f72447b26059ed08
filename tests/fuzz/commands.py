"""Commands with odd options, to their end: predict, forecast, backtest, inspect, convert; on small models and logs."""

from __future__ import annotations

import contextlib
import io
import os
import random
import re
import shutil
import warnings
from collections.abc import Iterator
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch

import tppsd
from tests.fuzz.judge import damaged, memory_limit, sentence_of
from tests.fuzz.options import ODD
from tppsd import cli
from tppsd.arguments import MOST_THREADS, options_of
from tppsd.data.reading import read_dataset
from tppsd.forecasting.backtest_result import Backtest
from tppsd.lightning.cli import parser_of
from tppsd.lightning.datamodule import EventDataModule
from tppsd.lightning.forecast_job import Forecaster
from tppsd.lightning.help import options_by_name

COMMANDS = ("predict", "forecast", "backtest", "inspect", "convert")
WHOLE = ["-1", "0", "1", "2", "1000000000", "1000000000000", "99999999999999999999", "-9223372036854775809"]
NUMBERS = [*WHOLE[:5], "1e300", "5e-324", "1e-9", "0.5", "1e21", "-0.5", "nan", "inf", "1e400", "9e18"]
LISTS = [
    "[]",
    "[0]",
    "[1]",
    "[-1]",
    "[99]",
    "['a']",
    "[a, b]",
    "[1, 2]",
    "[1e300]",
    "[1e-9, 1]",
    "[nan]",
    "[1e300, 1e301]",
]
LISTS += [
    "[x, 7d]",
    "[0.5, 0.5]",
    "[0, 1, 1e-320]",
    "[[0, 1]]",
    "[[0, 1e300]]",
    "[[1900-01-01, 3000-01-01]]",
    "[1e18, 2e18]",
]
WORDS = [
    "7d",
    "1h",
    "1e300d",
    "-1h",
    "0d",
    "every 1e-9",
    "every 1e300",
    "every 7d",
    "every 1",
    "1,2",
    "1e9d",
    "a",
    "",
    "s",
]
WORDS += [
    "train",
    "validation",
    "%Y",
    "ns",
    "1900-01-01",
    "3000-01-01",
    "2024-03-02",
    "time",
    "0.1..1e300",
    "x",
    "self",
]
WORDS += [
    "poisson",
    "speculative",
    "fixed_point",
    "auto",
    "joint",
    "☃",
    "x" * 10_000,
    "99999999999999999999d",
    "every 1e-9d",
]
MAPPINGS = ["{mark: null}", "{time: mark}", "{mark: time, time: time}", "{a: b}", "{sequence: null}", "{time: x}"]
SKIPPED = {"config", "help-all", "source", "run", "model", "model.target", "data.path", "data.process", "output"}
SKIPPED |= {f"trainer.{name}" for name in ("strategy", "accelerator", "plugins", "devices", "num_nodes", "callbacks")}
SKIPPED |= {"trainer.logger", "trainer.profiler", "trainer.barebones", "trainer.model_registry", "start_timeout"}
SKIPPED |= {"data.num_workers", "trainer.default_root_dir", "trainer.enable_autolog_hparams", "report", "ckpt_path"}
DRAWN = 0.1  # of the cases; in the others the pages have no pictures


def prepare(folder: Path) -> None:
    """Write two logs, of numbers and of dates, a model of each, a run, and samples that continue the second."""
    for name, unit in (("numbers", 1.0), ("dates", 86_400.0)):
        rows = ["sequence,time,mark"]
        for i in range(20):
            for j in range(1, 8):
                time = 0.7 * j + 0.01 * i * (j % 3)
                stamp = f"2024-03-{1 + int(time):02}T{int(time % 1 * 24):02}:00:00"
                rows.append(f"{i},{stamp if unit > 1 else round(time, 3)},{'abc'[(i + j) % 3]}")
        (folder / f"{name}.csv").write_text("\n".join(rows))
        torch.manual_seed(0)
        model = tppsd.TransformerTPP(3, embed_dim=8, num_heads=2, num_layers=1, num_components=4)
        model.set_statistics(EventDataModule(str(folder / f"{name}.csv")).statistics)
        model.save(folder / f"{name}.ckpt")
    run = folder / "run"
    (run / "checkpoints").mkdir(parents=True)
    shutil.copy(folder / "numbers.ckpt", run / "checkpoints" / "best.ckpt")
    path = folder / "numbers.csv"
    (folder / "run.yaml").write_text(
        f"data:\n  class_path: tppsd.lightning.datamodule.EventDataModule\n  init_args:\n    path: {path}\n"
        "    time_unit: null\n    mark_names: null\n    fractions: [0.8, 0.1, 0.1]\n"
    )
    histories = read_dataset(folder / "dates.csv").sequences("test")
    samples = tppsd.sample(tppsd.load(folder / "dates.ckpt"), history=histories, num_sequences=2, horizon=2.0)
    samples.to_parquet(folder / "samples" / "train-00000-of-00001.parquet")


@cache
def options(command: str) -> dict[str, str]:
    """Return the options of a command by name, each with the kind of its value as the page of --help has it."""
    found = options_by_name(command, parser_of(command)).values() if command == "predict" else None
    return {
        name: option.value
        for option in found or options_of(_parser(command))
        if option.value and (name := option.name.removeprefix("--")) not in SKIPPED
    }


def odd_value(kind: str, rng: random.Random) -> str:
    """Return an odd value of a kind, or of any other in a quarter of the cases."""
    if rng.random() < 0.25:
        return rng.choice([*ODD, *WORDS, *LISTS])
    if kind.startswith("{"):
        return rng.choice([*kind.strip("{}").split(","), "x"])
    values = {"N": WHOLE, "NUMBER": NUMBERS, "[A,B,...]": LISTS, "VALUE": [*NUMBERS, *LISTS, *WORDS, *MAPPINGS]}
    return rng.choice(values.get(kind, [*WORDS, *NUMBERS]))


@cache
def _parser(command: str) -> Any:
    """Return the parser of a command, which is made once."""
    return import_module(f"tppsd.commands.{command}").parser()


def line(command: str, rng: random.Random, folder: Path) -> list[str]:
    """Return a command line with one or two odd options, to be given in a folder beside that of the files."""
    log = rng.choice(["numbers", "dates"])
    model, source = str(folder / f"{log}.ckpt"), str(folder / f"{log}.csv")
    if command == "predict":
        given = [f"--model.target={model}", "--model.max_events=20", "--writer.output_dir=out"]
        given += rng.choice([["--requests.num_events=3"], [f"--data.path={source}"]])
        if len(given) == 4 and rng.random() < 0.5:
            given += [f"--data.path={source}"] if "--requests" in given[3] else []
            given += ["--requests.continue_split=test", "--requests.given_events=2"]
    elif command in ("forecast", "backtest"):
        given = [source, f"--model={model}", "--horizon=1", "--num_paths=10", "--output=out", "--seed=0"]
        given += ["--max_histories=2"] if command == "forecast" else ["--baselines=[poisson]", "--split=test"]
        if rng.random() < 0.1:
            given[1] = f"--run={_run(rng, folder)}"
    else:
        given = [source]
        if command == "convert":
            given.append(rng.choice(["out.parquet", "out.arrow"]))
            if rng.random() < 0.2:
                given = [str(folder / "samples"), "out", "--magnitudes=[1, 2, 3]"]
    known = options(command)
    own = [name for name in known if not name.startswith("trainer.")]
    for _ in range(rng.randint(1, 2)):
        name = rng.choice(list(known) if rng.random() < 0.05 else own)
        value = odd_value(known[name], rng)
        if name == "requests.num_sequences" and value in ("1000000000", "1e9"):
            value = "1000000000000"  # 10^9 are a job of hours, and no mistake
        given.append(f"--{name}={value}")
    return [command, *given]


def _run(rng: random.Random, folder: Path) -> Path:
    """Return a run, of whose configuration some bytes are damaged in half of the cases."""
    whole = (folder / "run.yaml").read_bytes()
    (folder / "run" / "config.yaml").write_bytes(damaged(whole, rng) if rng.random() < 0.5 else whole)
    return folder / "run"


@contextlib.contextmanager
def surroundings(folder: Path, is_drawn: bool) -> Iterator[None]:
    """Run a case in an empty folder, with parsers that are made once, and with pictures if it `is_drawn`."""
    here, before = folder / "here", Path.cwd()
    here.mkdir()
    os.chdir(here)
    try:
        with contextlib.ExitStack() as stack:
            for command in COMMANDS[1:]:
                module = import_module(f"tppsd.commands.{command}")
                stack.enter_context(patch.object(module, "parser", lambda command=command: _parser(command)))
            if not is_drawn:
                stack.enter_context(patch.object(Forecaster, "figures", lambda *_: []))
                stack.enter_context(patch.object(Backtest, "to_html", lambda _, path: path.write_text("")))
            stack.enter_context(warnings.catch_warnings())
            warnings.simplefilter("ignore")
            yield
    finally:
        os.chdir(before)
        shutil.rmtree(here)


def try_case(seed: int, folder: Path, command: str | None = None) -> str | None:
    """Run a command with odd options; what it was to write is there as a whole, or not at all."""
    rng = random.Random(f"command {seed}")
    for name in COMMANDS[1:]:
        _parser(name)  # before anything is replaced
    if not (folder / "samples").exists():
        prepare(folder)
    given, said = line(command or rng.choice(COMMANDS), rng, folder), list[str]()
    output = io.StringIO()

    def act() -> None:
        with contextlib.redirect_stderr(output), contextlib.redirect_stdout(output):
            try:
                status = cli.main(given)
            except SystemExit as ended:
                status = int(ended.code or 0)
        text = output.getvalue()
        lines = [one for one in text.splitlines() if ": error: " in one]
        if status == 2 and given[0] == "inspect" and "With these options it is read so:" in text:
            lines = ["options mend it"]
        if status:
            assert status == 2 and len(lines) == 1, f"exit {status}, {text[-500:]!r}"
            assert len(lines[0]) < 2_000, f"a sentence of {len(lines[0]):,} characters"
            said.append(lines[0])
        left = [str(path) for path in Path().rglob("*") if re.fullmatch(r"\.lock|\..*\.\d+", path.name)]
        assert not left, f"left behind: {left}"

    threads = torch.get_num_threads()
    try:
        with surroundings(folder, rng.random() < DRAWN), memory_limit():
            sentence_of(act, None)
        assert torch.get_num_threads() <= MOST_THREADS, f"{torch.get_num_threads():,} threads would not end"
    except AssertionError as error:
        raise AssertionError(f"{[word[-80:] for word in given]} {error}") from error
    finally:
        torch.set_num_threads(threads)
    return said[0] if said else None
