"""The account of one or several samplers side by side."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from rich.table import Table

from tppsd.benchmark.sources import Request
from tppsd.profiling.account import STEPS, Account
from tppsd.profiling.counters import Counts, counted
from tppsd.profiling.machine import Machine
from tppsd.sampling.options import SamplingOptions
from tppsd.sampling.resolve import model_device
from tppsd.sampling.sample import sample
from tppsd.sampling.stats import SamplingStats

_REPEATS = 3
NUM_RUNS = _REPEATS + 3  # of a sampler: to warm up, alone, watched, counted


@dataclass(frozen=True)
class Profile:
    """One sampler: statistics of an undisturbed run (the fastest of a few), seconds by step of a watched run of the
    same draws, and counts of a third."""

    stats: SamplingStats
    seconds: dict[str, float]
    counts: Counts

    def per_round(self, step: str) -> float:
        """Seconds of a step, of a round of all rows. Watching costs time: the steps are shares of the undisturbed
        run."""
        share = self.seconds[step] / sum(self.seconds.values())
        return share * self.stats.seconds / self.stats.num_target_passes


def profiled(
    target: Any, draft: Any, options: SamplingOptions, request: Request, batch_size: int, advance: Callable[[], None]
) -> Profile:
    """Sample a request NUM_RUNS times; `advance` is called after each."""

    def run() -> SamplingStats:
        stats = sample(target, draft, options=options, seed=1, batch_size=batch_size, **request.arguments()).stats
        advance()
        return stats

    run()
    stats = min((run() for _ in range(_REPEATS)), key=lambda stats: stats.seconds)
    account = Account(model_device(target))
    with account.watching():
        run()
    return Profile(stats, account.seconds, counted(run))


def limits(profile: Profile, machine: Machine) -> dict[str, float]:
    """Share of the run's time that each of its parts would take alone, at the machine's limit."""
    seconds = profile.stats.seconds
    return {
        "matrix products at full rate": profile.counts.flops / machine.flops / seconds,
        "bytes at full bandwidth": profile.counts.bytes / machine.bytes / seconds,
        "calls of operators": profile.counts.operators * machine.operator / seconds,
    }


def table(profiles: dict[str, Profile], machine: Machine) -> Table:
    """A column per sampler."""
    shown = Table(title="Where the time goes", title_justify="left")
    shown.add_column("milliseconds per round (share)")
    for name in profiles:
        shown.add_column(name, justify="right")

    def add(title: str, cells: list[str], ends: bool = False) -> None:
        shown.add_row(title, *cells, end_section=ends)

    every = list(profiles.values())
    for step in STEPS:
        whole = [sum(profile.per_round(s) for s in STEPS) for profile in every]
        parts = [profile.per_round(step) for profile in every]
        cells = [
            f"{1e3 * part:.2f} ({part / all_:4.0%})" if part else "" for part, all_ in zip(parts, whole, strict=True)
        ]
        if any(cells):
            add(step, cells)
    shown.add_section()
    stats = [profile.stats for profile in every]
    rounds = [s.num_target_passes for s in stats]
    events = [s.num_events for s in stats]
    add("a round", [f"{1e3 * s.seconds / n:.2f}" for s, n in zip(stats, rounds, strict=True)])
    add("events per round and row", [f"{s.events_per_round:.2f}" for s in stats])
    add("an event", [f"{1e3 * s.seconds / n:.3f}" for s, n in zip(stats, events, strict=True)], ends=True)
    counts = [profile.counts for profile in every]
    add("operators per round", [f"{c.operators / n:,.0f}" for c, n in zip(counts, rounds, strict=True)])
    add("megabytes per event", [f"{c.bytes / 1e6 / n:.2f}" for c, n in zip(counts, events, strict=True)])
    add("megaflops per event", [f"{c.flops / 1e6 / n:.2f}" for c, n in zip(counts, events, strict=True)], ends=True)
    shares = [limits(profile, machine) for profile in every]
    for name in shares[0]:
        add(f"{name} would take", [f"{share[name]:.0%}" for share in shares])
    return shown


def written(profiles: dict[str, Profile], machine: Machine) -> dict[str, Any]:
    """The same for JSON."""
    return {
        "machine": asdict(machine),
        "samplers": {
            name: {
                "stats": profile.stats.to_dict(),
                "seconds_per_round": {step: profile.per_round(step) for step in STEPS},
                "counts": asdict(profile.counts),
                "limits": limits(profile, machine),
            }
            for name, profile in profiles.items()
        },
    }
