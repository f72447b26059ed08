"""The command `tppsd demo` does the whole job in a few minutes.

It trains a target and a draft, samples in several ways, and compares speed and distribution.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

from tppsd.commands.console import add_columns, at_least, output_path, positive_seconds
from tppsd.commands.demo_settings import Settings
from tppsd.commands.reading_options import add_reading_options, take_reading_options

DEFAULT_PROCESS = "multivariate_hawkes"
TARGET_SECONDS, DRAFT_SECONDS = 170.0, 60.0
NUM_SEQUENCES = 40


def parse(args: list[str]) -> Settings:
    """Read the options of the command line."""
    parser = argparse.ArgumentParser(
        prog="tppsd demo",
        description="Train a target and a draft, sample speculatively and autoregressively, and compare both.",
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
    add_reading_options(parser)
    options = parser.parse_args(args)
    return Settings(reading=take_reading_options(options), **vars(options))


def main(args: list[str]) -> None:
    """Run the demo and print its table."""
    settings = parse(args)
    started = time.perf_counter()
    from rich.console import Console

    console = Console()
    console.print("[bold]tppsd demo[/]: loading libraries (a few seconds) ...")
    from tppsd.commands import demo_report, demo_sampling, demo_training

    data = demo_training.open_data(settings, console)
    demo_sampling.check_histories(data)
    console.print(demo_report.describe_data(data))
    results: dict[str, Any] = demo_training.train_models(settings, data, console)
    results |= demo_sampling.sample_all_ways(settings, data, results, console)
    summary = demo_report.summarise(data, results)
    demo_report.write(settings, data, results, summary, console)
    console.print(f"[dim]The demo took {time.perf_counter() - started:.0f} s.[/]")
