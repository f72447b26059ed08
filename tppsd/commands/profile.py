"""`tppsd profile`: where the time of a round goes, and how far that is from what the machine can do."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

DESCRIPTION = """Sample autoregressively and speculatively, and account for the time: step by step, and as shares of what the
machine's matrix products, memory and operator calls allow, which are measured first."""


def main(args: list[str]) -> None:
    """Measure the machine and both samplers, print the account."""
    options = parse(args)
    import torch
    from rich.console import Console

    from tppsd.benchmark.plan import Plan
    from tppsd.benchmark.sources import open_data, request
    from tppsd.profiling.machine import Machine
    from tppsd.profiling.report import profiled, table, written
    from tppsd.sampling.options import SamplingOptions
    from tppsd.sampling.resolve import DRAFTER_NAMES, model_device, resolve_model

    if options.threads is not None:
        torch.set_num_threads(options.threads)
    console, messages = Console(width=None if sys.stdout.isatty() else 120), Console(stderr=True)
    target: Any = resolve_model(options.target, "target")
    draft = options.draft if options.draft in DRAFTER_NAMES else resolve_model(options.draft, "draft")
    plan = Plan(target=options.target, num_events=options.num_events)
    asked = request(plan, None if options.data is None else open_data(plan, options.data), 0, options.batch_size)

    messages.print("measuring the machine")
    machine = Machine.measured(model_device(target))
    profiles = {}
    for name, chosen in (
        ("autoregressive", SamplingOptions("autoregressive")),
        (f"speculative, {options.draft}", SamplingOptions("speculative", options.draft_length, options.rule)),
    ):
        messages.print(f"sampling: {name}")
        given = None if chosen.method == "autoregressive" else draft
        profiles[name] = profiled(target, given, chosen, asked, options.batch_size)
    console.print(
        f"{torch.get_num_threads()} thread(s): {machine.flops / 1e9:.0f} GFLOP/s in float32 matrix products, "
        f"{machine.bytes / 1e9:.1f} GB/s copied, {1e6 * machine.operator:.1f} us per call of an operator",
        highlight=False, soft_wrap=True,
    )  # fmt: skip
    console.print(table(profiles, machine))
    if options.json is not None:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(written(profiles, machine), indent=1) + "\n")
        console.print(f"Written: {options.json}", highlight=False, soft_wrap=True)


def parse(args: list[str]) -> argparse.Namespace:
    """Command line -> options."""
    parser = argparse.ArgumentParser(prog="tppsd profile", description=DESCRIPTION)
    add = parser.add_argument
    add("--target", required=True, help="checkpoint of the target")
    add("--draft", default="jacobi", help="checkpoint, self, jacobi or poisson (default: %(default)s)")
    add("--draft-length", type=int, default=16, help="events drafted per round (default: %(default)s)")
    add("--rule", default="joint", choices=("joint", "factorised", "block"), help="acceptance rule (default: %(default)s)")
    add("--data", help="process preset, folder or hub id whose test sequences are continued (default: from scratch)")
    add("--num-events", type=int, default=200, help="events per sequence (default: %(default)s)")
    add("--batch-size", type=int, default=1, help="rows in flight (default: %(default)s)")
    add("--threads", type=int, help="torch threads (default: torch's own)")
    add("--json", type=Path, metavar="FILE", help="also write the account there")
    return parser.parse_args(args)
