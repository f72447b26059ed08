"""The command `tppsd demo` does the whole job in less than five minutes, from a picture of the data to a forecast.

It trains a target and a draft, says what was learnt, samples in several ways, compares speed and distribution, and
forecasts what has happened in the test split.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tppsd.commands.console import at_least, output_path, positive_seconds
from tppsd.commands.data_options import SourceParser, parse_source
from tppsd.data.options import ReadOptions


@dataclass
class Settings:
    """Holds the options of the demo.

    Attributes:
        data: folder or file of events, hub id, or process preset.
        output: folder of all results.
        target_seconds, draft_seconds: training times.
        num_sequences: how many sequences are sampled.
        seed: of data, training and sampling.
        reading: how events are read.
    """

    data: str
    output: Path
    target_seconds: float
    draft_seconds: float
    num_sequences: int
    seed: int
    reading: ReadOptions


DEFAULT_PROCESS = "multivariate_hawkes"
TARGET_SECONDS, DRAFT_SECONDS = 140.0, 40.0
NUM_SEQUENCES = 40


def parser() -> SourceParser:
    """Return the parser of the command line."""
    parser = SourceParser(
        "tppsd demo",
        "Train a target and a draft, sample speculatively and event by event, forecast, and show it on one page.",
        ("tppsd demo", "tppsd demo log.csv --columns '{sequence: user, time: hours, mark: kind}'"),
        has_threads=True,
        source=f"file, folder of split files, hub id, URL or process preset (default: {DEFAULT_PROCESS})",
    )
    add = parser.add_argument
    add("--output", type=output_path, default=Path("outputs/demo"), help="where results go")
    add("--target-seconds", type=positive_seconds, default=TARGET_SECONDS, help="training time of the target")
    add("--draft-seconds", type=positive_seconds, default=DRAFT_SECONDS, help="training time of the draft")
    add("--num-sequences", type=at_least(1), default=NUM_SEQUENCES, help="sequences to sample")
    add("--seed", type=at_least(0), default=0, help="of data, training and sampling")
    return parser


def parse(args: list[str]) -> Settings:
    """Read the options of the command line, and take the threads that it asks for."""
    options, data, reading = parse_source(parser(), args, DEFAULT_PROCESS)
    own = ("output", "target_seconds", "draft_seconds", "num_sequences", "seed")
    return Settings(data, reading=reading, **{name: options[name] for name in own})


def main(args: list[str]) -> None:
    """Run the demo and print its table."""
    settings = parse(args)
    started = time.perf_counter()
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
