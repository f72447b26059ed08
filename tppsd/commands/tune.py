"""`tppsd tune`: which draft length, or which tree of candidates, is fastest for this target, draft and machine."""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from tppsd.commands.console import Pair, add_pair, at_least, open_pair
from tppsd.progress import progress

if TYPE_CHECKING:
    from tppsd.sampling.stats import SamplingStats
    from tppsd.sampling.tree import Tree

DESCRIPTION = """Find the fastest chain or candidate tree: time passes by their number of tokens, measure what is accepted by
depth and by number of candidates, compare the expected speed of all shapes, and time the best few against each other."""

AUTOREGRESSIVE = "method='autoregressive'"


def main(args: list[str]) -> None:
    """Measure, search, time, print."""
    options = parse(args)
    if options.draft == "jacobi":
        raise ValueError("--draft jacobi drafts chains only: sample with draft_length='auto', which finds their length")
    pair = open_pair(options, num_runs=options.repeats)
    from tppsd.benchmark.measuring import alternate
    from tppsd.benchmark.samplers import samplers
    from tppsd.tuning.measure import PILOTS, acceptance, costs
    from tppsd.tuning.shapes import best

    with progress(pair.messages, "measuring passes and acceptance", len(PILOTS) * (1 + options.repeats)) as advance:
        pilots = [_pilot(pair, tree, options.batch_size, advance) for tree in PILOTS]
        accepted = acceptance(pilots)
        measured = costs(
            pair.target, pair.draft, options.batch_size, options.num_events // 2, pilots, **pair.plan.passes
        )
    found = best(accepted, measured, options.num_best, options.num_best)

    lengths = tuple(tree.depth for tree, _ in found if tree.is_chain)
    trees = tuple(tree.candidates for tree, _ in found if not tree.is_chain)
    chosen = samplers(
        replace(pair.plan, draft_lengths=lengths, candidates=trees), pair.target, {options.draft: pair.draft}
    )
    with progress(pair.messages, f"timing the best {len(found)}", len(chosen) * (1 + options.repeats)) as advance:
        timed = alternate(chosen, pair.requests, options.batch_size, 1000, advance)
    predicted = {tree.candidates: options.batch_size * speed for tree, speed in found}
    draft = repr(pair.draft) if isinstance(pair.draft, str) else "draft"
    further = "".join(f", {name}={value!r}" for name, value in pair.plan.passes.items())
    _print(pair.console, timed, predicted, accepted, draft, further)


def parse(args: list[str]) -> argparse.Namespace:
    """Command line -> options."""
    parser = argparse.ArgumentParser(prog="tppsd tune", description=DESCRIPTION)
    add_pair(parser, draft="self", num_events=100, fewest_events=2)  # of a first event there is nothing to draft by
    add = parser.add_argument
    add("--num-best", type=at_least(1), default=3, help="chains and trees that are timed (default: %(default)s each)")
    add("--repeats", type=at_least(1), default=5, help="timed runs of each (default: %(default)s)")
    return parser.parse_args(args)


def _pilot(pair: Pair, tree: Tree, batch_size: int, advance: Callable[[], None]) -> SamplingStats:
    """Statistics of all requests under one shape; the first is sampled once more before, to warm up."""
    from tppsd.sampling.options import SamplingOptions
    from tppsd.sampling.sample import sample
    from tppsd.sampling.stats import SamplingStats

    options, runs = SamplingOptions(candidates=tree.candidates, **pair.plan.passes), []
    for seed, one in enumerate([pair.requests[0], *pair.requests]):
        runs.append(
            sample(pair.target, pair.draft, options=options, seed=seed, batch_size=batch_size, **one.arguments()).stats
        )
        advance()
    return SamplingStats.total(runs[1:])


def _print(
    console: Any, timed: list[Any], predicted: dict[tuple[int, ...], float], accepted: Any, draft: str, further: str
) -> None:
    """The table, and what to pass to `sample`, `draft` included."""
    from rich.table import Table

    by_depth = ", ".join(f"{p:.2f}" for p in accepted.by_depth)
    shares = ", ".join(f"{accepted.at(0, k):.2f} of {k}" for k in sorted(accepted.rejection))
    console.print(
        f"One candidate is accepted with probability {by_depth} at depths 1, 2, ...", highlight=False, soft_wrap=True
    )
    console.print(
        f"At the first step at least one is accepted with probability {shares}.", highlight=False, soft_wrap=True
    )
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
    arguments = (fastest if fastest == AUTOREGRESSIVE else f"{draft}, {fastest}") + further
    console.print(
        f"Fastest: tppsd.sample(target, {arguments}), {speedups[fastest]:.2f} times as fast as autoregressive sampling.",
        highlight=False, soft_wrap=True,
    )  # fmt: skip


def _options(sampler: Any) -> str:
    """What `sample` is to be told."""
    if sampler.candidates is not None:
        return f"candidates={sampler.candidates}"
    return AUTOREGRESSIVE if sampler.draft_length is None else f"draft_length={sampler.draft_length}"


def _numbers(timed: Any, predicted: dict[tuple[int, ...], float], speedup: float) -> list[str]:
    """The columns that only drafts have."""
    from tppsd.sampling.stats import SamplingStats

    sampler = timed.sampler
    if sampler.draft_length is None:
        return ["", "1", "1", ""]
    stats = SamplingStats.total(timed.samples.stats)
    expected = predicted[sampler.candidates or (1,) * sampler.draft_length]
    return [f"{expected:.0f}", f"{speedup:.2f}", f"{stats.events_per_round:.2f}", f"{stats.step_acceptance:.3f}"]
