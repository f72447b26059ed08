"""`tppsd profile`: where the time of a round goes, and how far that is from what the machine can do."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from tppsd.commands.console import add_pair, at_least, open_pair
from tppsd.progress import progress
from tppsd.sampling.options import RULES

DESCRIPTION = """Sample autoregressively and speculatively, and account for the time: step by step, and as shares of what the
machine's matrix products, memory and operator calls allow, which are measured first."""


def main(args: list[str]) -> None:
    """Measure the machine and both samplers, print the account."""
    options = parse(args)
    pair = open_pair(options, num_runs=1)
    import torch

    from tppsd.profiling.machine import Machine
    from tppsd.profiling.report import NUM_RUNS, profiled, table, written
    from tppsd.sampling.options import SamplingOptions
    from tppsd.sampling.resolve import model_device

    pair.messages.print("measuring the machine")
    machine = Machine.measured(model_device(pair.target))
    samplers = {
        "autoregressive": (None, SamplingOptions("autoregressive", **pair.plan.passes)),
        f"speculative, {_who_drafts(options)}": (
            pair.draft,
            SamplingOptions(
                "speculative", options.draft_length, options.rule, draft_passes=options.draft_passes, **pair.plan.passes
            ),
        ),
    }
    with progress(pair.messages, "sampling", NUM_RUNS * len(samplers)) as advance:
        profiles = {
            name: profiled(pair.target, draft, chosen, pair.requests[0], options.batch_size, advance)
            for name, (draft, chosen) in samplers.items()
        }
    pair.console.print(
        f"{torch.get_num_threads()} thread(s): {machine.flops / 1e9:.0f} GFLOP/s in float32 matrix products, "
        f"{machine.bytes / 1e9:.1f} GB/s copied, {1e6 * machine.operator:.1f} us per call of an operator",
        highlight=False, soft_wrap=True,
    )  # fmt: skip
    pair.console.print(table(profiles, machine))
    if options.json is not None:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(written(profiles, machine), indent=1) + "\n")
        pair.console.print(f"Written: {options.json}", highlight=False, soft_wrap=True)


def _who_drafts(options: argparse.Namespace) -> str:
    """For a heading: a checkpoint's path would be wider than the table."""
    from tppsd.sampling.resolve import DRAFTER_NAMES

    if options.draft in DRAFTER_NAMES:
        return str(options.draft)
    return "draft model" if options.draft_passes is None else f"draft model, passes: {options.draft_passes}"


def parse(args: list[str]) -> argparse.Namespace:
    """Command line -> options."""
    parser = argparse.ArgumentParser(prog="tppsd profile", description=DESCRIPTION)
    add_pair(parser, draft="jacobi", num_events=200)
    add = parser.add_argument
    add("--draft-length", type=at_least(1), default=16, help="events drafted per round (default: %(default)s)")
    add(
        "--draft-passes",
        type=at_least(1),
        help="passes of a draft model over all drafted events (default: one per event)",
    )
    add("--rule", default="joint", choices=RULES, help="acceptance rule (default: %(default)s)")
    add("--json", type=Path, metavar="FILE", help="also write the account there")
    return parser.parse_args(args)
