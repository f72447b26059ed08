"""`tppsd throughput`: events per second of training, and what `fit` costs beside a bare PyTorch loop."""

from __future__ import annotations

import argparse
import logging
import sys
from functools import partial

from tppsd.commands.console import add_columns, at_least, open_events
from tppsd.progress import progress

DESCRIPTION = """Train each encoder for some steps twice, by `tppsd fit` and in a bare PyTorch loop over ready batches, and print
events per second of both. Nothing is kept."""


def main(args: list[str]) -> None:
    """Measure and print."""
    options = parse(args)
    import torch
    from rich.console import Console

    from tppsd.lightning.messages import quieten
    from tppsd.lightning.modules import TargetTPP
    from tppsd.profiling.training import padding, table, throughput

    quieten()
    logging.getLogger("lightning.pytorch.utilities.rank_zero").setLevel(logging.WARNING)  # it would announce every run
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    data = open_events(options.data, options.columns, options.unmarked, batch_size=options.batch_size)
    rows = []
    console = Console(width=None if sys.stdout.isatty() else 120)
    with progress(Console(stderr=True), "training", 2 * options.repeats * len(options.encoder)) as advance:
        for name in options.encoder:
            build = partial(TargetTPP, data.num_marks, name, num_layers=options.num_layers, compile=options.compile)
            rows.append(throughput(name, build, data, options.num_steps, options.repeats, advance))
    share = padding(data, options.num_steps)
    console.print(
        f"{data.dataset_name}, {options.num_layers} layers, batches of {options.batch_size} sequences, "
        f"{100 * share:.0f} % padding, {torch.get_num_threads()} thread(s){', compiled' if options.compile else ''}",
        highlight=False, soft_wrap=True,
    )  # fmt: skip
    console.print(table(rows))


def parse(args: list[str]) -> argparse.Namespace:
    """Command line -> options."""
    parser = argparse.ArgumentParser(prog="tppsd throughput", description=DESCRIPTION)
    add = parser.add_argument
    add("--data", default="multivariate_hawkes", help="process preset, folder or hub id (default: %(default)s)")
    add_columns(parser)
    add("--encoder", nargs="+", default=["thp", "sahp", "attnhp", "rotary"], help="which to train (default: all)")
    add("--num-layers", type=at_least(1), default=3, help="layers of the model (default: %(default)s)")
    add("--batch-size", type=at_least(1), default=16, help="sequences per step (default: %(default)s)")
    add("--num-steps", type=at_least(1), default=60, help="timed steps of a run (default: %(default)s)")
    add("--repeats", type=at_least(1), default=5, help="runs of each, by turns (default: %(default)s)")
    add("--compile", action="store_true", help="with torch.compile")
    add("--threads", type=at_least(1), help="torch threads (default: torch's own)")
    return parser.parse_args(args)
