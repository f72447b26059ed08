"""`tppsd tune`: which draft length, or which tree of candidates, is fastest for this target, draft and machine."""

from __future__ import annotations

import argparse
import statistics
import sys
from dataclasses import replace
from typing import Any

DESCRIPTION = """Find the fastest chain or candidate tree: time passes by their number of tokens, measure what is accepted by
depth and by number of candidates, compare the expected speed of all shapes, and time the best few against each other."""


def main(args: list[str]) -> None:
    """Measure, search, time, print."""
    options = parse(args)
    import torch
    from rich.console import Console

    from tppsd.benchmark.measuring import alternate
    from tppsd.benchmark.plan import Plan
    from tppsd.benchmark.samplers import samplers
    from tppsd.benchmark.sources import open_data, request
    from tppsd.sampling.resolve import DRAFTER_NAMES, resolve_model
    from tppsd.tuning.measure import PILOTS, acceptance, costs
    from tppsd.tuning.shapes import best

    if options.threads is not None:
        torch.set_num_threads(options.threads)
    console, messages = Console(width=None if sys.stdout.isatty() else 120), Console(stderr=True)
    target: Any = resolve_model(options.target, "target")
    draft = options.draft if options.draft in DRAFTER_NAMES else resolve_model(options.draft, "draft")
    plan = Plan(target=options.target, drafts=(options.draft,), num_events=options.num_events, repeats=options.repeats)
    data = None if options.data is None else open_data(plan, options.data)
    asked = [request(plan, data, run, options.batch_size) for run in range(options.repeats)]

    messages.print("measuring passes and acceptance")
    pilots = [_pilot(target, draft, tree, asked, options.batch_size) for tree in PILOTS]
    accepted = acceptance(pilots)
    measured = costs(target, draft, options.batch_size, options.num_events // 2, pilots)
    found = best(accepted, measured, options.num_best, options.num_best)

    messages.print(f"timing the best {len(found)}")
    lengths = tuple(tree.depth for tree, _ in found if tree.is_chain)
    plan = replace(plan, draft_lengths=lengths, candidates=tuple(tree.candidates for tree, _ in found if not tree.is_chain))
    timed = alternate(samplers(plan, target, {"draft": draft}), asked, options.batch_size, 1000, lambda: None)
    predicted = {tree.candidates: options.batch_size * speed for tree, speed in found}
    _print(console, timed, predicted, accepted)


def parse(args: list[str]) -> argparse.Namespace:
    """Command line -> options."""
    parser = argparse.ArgumentParser(prog="tppsd tune", description=DESCRIPTION)
    add = parser.add_argument
    add("--target", required=True, help="checkpoint of the target")
    add("--draft", default="self", help="checkpoint, self or poisson (default: %(default)s)")
    add("--data", help="process preset, folder or hub id whose test sequences are continued (default: from scratch)")
    add("--num-events", type=int, default=100, help="events per sequence (default: %(default)s)")
    add("--batch-size", type=int, default=1, help="rows in flight (default: %(default)s)")
    add("--num-best", type=int, default=3, help="chains and trees that are timed (default: %(default)s each)")
    add("--repeats", type=int, default=5, help="timed runs of each (default: %(default)s)")
    add("--threads", type=int, help="torch threads (default: torch's own)")
    return parser.parse_args(args)


def _pilot(target: Any, draft: Any, tree: Any, asked: list[Any], batch_size: int) -> Any:
    """Statistics of all requests under one shape; the first is sampled once more before, to warm up."""
    from tppsd.sampling.options import SamplingOptions
    from tppsd.sampling.sample import sample
    from tppsd.sampling.samples import SamplingStats

    options = SamplingOptions(candidates=tree.candidates)
    runs = [
        sample(target, draft, options=options, seed=seed, batch_size=batch_size, **one.arguments()).stats
        for seed, one in enumerate([asked[0], *asked])
    ]
    return SamplingStats.total(runs[1:])


def _print(console: Any, timed: list[Any], predicted: dict[tuple[int, ...], float], accepted: Any) -> None:
    """The table, and what to pass to `sample`."""
    from rich.table import Table

    by_depth = ", ".join(f"{p:.2f}" for p in accepted.by_depth)
    shares = ", ".join(f"{accepted.at(0, k):.2f} of {k}" for k in sorted(accepted.rejection))
    console.print(f"One candidate is accepted with probability {by_depth} at depths 1, 2, ...", highlight=False, soft_wrap=True)
    console.print(f"At the first step at least one is accepted with probability {shares}.", highlight=False, soft_wrap=True)
    table = Table(title="Fastest shapes", title_justify="left")
    for column in ("options", "events/s", "predicted", "speed-up", "events per round", "accepted per step"):
        table.add_column(column, justify="left" if column == "options" else "right")
    baseline = statistics.median(timed[0].seconds_per_event)
    speedups = {}
    for one in timed:
        seconds = statistics.median(one.seconds_per_event)
        options = _options(one.sampler)
        speedups[options] = baseline / seconds
        table.add_row(options, f"{1 / seconds:.0f}", *_numbers(one, predicted, baseline / seconds))
    console.print(table)
    fastest = max(speedups, key=speedups.__getitem__)
    console.print(
        f"Fastest: tppsd.sample(target, draft, {fastest}), {speedups[fastest]:.2f} times as fast as autoregressive sampling.",
        highlight=False, soft_wrap=True,
    )  # fmt: skip


def _options(sampler: Any) -> str:
    """What `sample` is to be told."""
    if sampler.candidates is not None:
        return f"candidates={sampler.candidates}"
    return "method='autoregressive'" if sampler.draft_length is None else f"draft_length={sampler.draft_length}"


def _numbers(timed: Any, predicted: dict[tuple[int, ...], float], speedup: float) -> list[str]:
    """The columns that only drafts have."""
    from tppsd.sampling.samples import SamplingStats

    sampler = timed.sampler
    if sampler.draft_length is None:
        return ["", "1", "1", ""]
    stats = SamplingStats.total(timed.samples.stats)
    expected = predicted[sampler.candidates or (1,) * sampler.draft_length]
    return [f"{expected:.0f}", f"{speedup:.2f}", f"{stats.events_per_round:.2f}", f"{stats.step_acceptance:.3f}"]
