"""The command `tppsd demo` does the whole job in less than five minutes, from a picture of the data to a forecast.

It trains a target and a draft, says what was learnt, samples in several ways, compares speed and distribution, and
forecasts what has happened in the test split.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tppsd.arguments import THREADS, use_threads
from tppsd.commands.console import (
    CommandParser,
    add_columns,
    add_reading_options,
    add_threads,
    at_least,
    output_path,
    positive_seconds,
    take_reading_options,
)


@dataclass
class Settings:
    """Holds the options of the demo.

    Attributes:
        data: folder or file of events, hub id, or process preset.
        columns: pairs of a field and the column that it is read from, where that is not the usual one.
        unmarked: the events have no marks, or theirs are left aside.
        output: folder of all results.
        target_seconds, draft_seconds: training times.
        num_sequences: how many sequences are sampled.
        seed: of data, training and sampling.
        threads: of training; None = torch's choice.
        reading: options of `tppsd.data.options.ReadOptions` that were given.
    """

    data: str
    columns: list[tuple[str, str]]
    unmarked: bool
    output: Path
    target_seconds: float
    draft_seconds: float
    num_sequences: int
    seed: int
    threads: int | None
    reading: dict[str, Any]


DEFAULT_PROCESS = "multivariate_hawkes"
TARGET_SECONDS, DRAFT_SECONDS = 140.0, 40.0
NUM_SEQUENCES = 40


def parser() -> CommandParser:
    """Return the parser of the command line."""
    parser = CommandParser(
        "tppsd demo",
        "Train a target and a draft, sample speculatively and event by event, forecast, and show it on one page.",
        ("tppsd demo", "tppsd demo --data log.csv --columns sequence=user time=hours mark=kind"),
    )
    add = parser.add_argument
    add(
        "--data",
        default=DEFAULT_PROCESS,
        help="folder or file of events, hub id, or process preset (default: %(default)s)",
    )
    add_columns(parser)
    add("--output", type=output_path, default=Path("outputs/demo"), help="where results go (default: %(default)s)")
    seconds: dict[str, Any] = {"type": positive_seconds, "metavar": "SECONDS"}
    add(
        "--target-seconds", **seconds, default=TARGET_SECONDS, help="training time of the target (default: %(default)s)"
    )
    add("--draft-seconds", **seconds, default=DRAFT_SECONDS, help="training time of the draft (default: %(default)s)")
    add("--num-sequences", type=at_least(1), default=NUM_SEQUENCES, help="sequences to sample (default: %(default)s)")
    add("--seed", type=at_least(0), default=0, help="of data, training and sampling (default: %(default)s)")
    add_threads(parser, f"of training: {THREADS}; sampling, one sequence at a time, has one")
    add_reading_options(parser)
    return parser


def parse(args: list[str]) -> Settings:
    """Read the options of the command line."""
    options = parser().parse_args(args)
    return Settings(reading=take_reading_options(options), **vars(options))


def main(args: list[str]) -> None:
    """Run the demo and print its table."""
    settings = parse(args)
    started = time.perf_counter()
    use_threads(settings.threads)
    from rich.console import Console

    console = Console()
    console.print("[bold]tppsd demo[/]: loading libraries (a few seconds) ...")
    from tppsd.commands import demo_forecasting, demo_report, demo_sampling, demo_training

    data = demo_training.open_data(settings, console)
    demo_sampling.check_histories(data)
    console.print(demo_report.describe_data(data))
    results: dict[str, Any] = demo_training.train_models(settings, data, console)
    console.print(demo_report.what_was_learnt(results), soft_wrap=True)
    results |= demo_sampling.sample_all_ways(settings, data, results, console)
    results |= demo_forecasting.forecast_test_split(settings, data, results, console)
    summary = demo_report.summarise(data, results)
    demo_report.write(settings, data, results, summary, console)
    console.print(f"[dim]The demo took {time.perf_counter() - started:.0f} s.[/]")
