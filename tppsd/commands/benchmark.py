"""`tppsd benchmark`: samplers side by side in one process, warmed up, alternating, medians over repeats with their spread."""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, Literal

import torch

from tppsd.data.sequences import EventBatch, EventSequence
from tppsd.models.checkpoint import load
from tppsd.models.transformer_tpp import TransformerTPP
from tppsd.sampling.options import RULES, SamplingOptions
from tppsd.sampling.resolve import DRAFTER_NAMES
from tppsd.sampling.sample import sample

AUTOREGRESSIVE: Literal["autoregressive"] = "autoregressive"


@dataclass(frozen=True)
class Row:
    """One line of the table: a sampler at one batch size.

    Attributes:
        milliseconds_per_event: median over repeats; low and high are the smallest and the largest of them.
        speedup: median over repeats of (autoregressive seconds per event / this sampler's), paired by repeat.
    """

    sampler: str
    batch_size: int
    num_events: int
    milliseconds_per_event: float
    low: float
    high: float
    speedup: float
    acceptance_rate: float | None = None
    step_acceptance: float | None = None
    events_per_round: float | None = None


def main(args: list[str]) -> None:
    """Measure and print."""
    options = parse(args)
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    target = load(options.target) if options.target else _untrained(options.untrained)
    rows = [row for batch_size in options.batch_size for row in measure(target, options, batch_size)]
    if options.json:
        print("\n".join(json.dumps(asdict(row)) for row in rows))
    else:
        _print(rows, target, options)


def parse(args: list[str]) -> argparse.Namespace:
    """Command line -> options."""
    parser = argparse.ArgumentParser(prog="tppsd benchmark", description=__doc__)
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("--target", help="checkpoint of the target")
    which.add_argument("--untrained", help="layers,heads of an untrained THP target instead, such as 20,8")
    parser.add_argument("--draft", action="append", default=[], help="checkpoint of a draft, self or poisson; may be repeated")
    parser.add_argument("--draft-length", type=int, nargs="+", default=[4, 8], help="(default: 4 8)")
    parser.add_argument("--rule", choices=RULES, default="joint", help="acceptance rule (default: %(default)s)")
    parser.add_argument("--batch-size", type=int, nargs="+", default=[1], help="rows in flight (default: 1)")
    parser.add_argument("--num-events", type=int, default=200, help="events per sequence (default: %(default)s)")
    parser.add_argument("--repeats", type=int, default=7, help="timed runs of each sampler (default: %(default)s)")
    parser.add_argument("--baseline", choices=["reencode"], help="also time encoding the history anew for each event")
    parser.add_argument("--threads", type=int, help="torch threads (default: torch's own)")
    parser.add_argument("--json", action="store_true", help="one JSON object per row")
    return parser.parse_args(args)


def measure(target: TransformerTPP, options: argparse.Namespace, batch_size: int) -> list[Row]:
    """Rows of all samplers at one batch size. Repeat r uses seed r; its first run, of another seed, is thrown away."""
    samplers = _samplers(target, options, batch_size)
    for run in samplers.values():
        run(10_000)
    seconds: dict[str, list[float]] = {name: [] for name in samplers}
    stats: dict[str, list[Any]] = {name: [] for name in samplers}
    for repeat in range(options.repeats):
        for name, run in samplers.items():  # alternating: a drift of the machine's speed meets all samplers alike
            started = time.perf_counter()
            outcome = run(repeat)
            elapsed = time.perf_counter() - started
            seconds[name].append(elapsed / (batch_size * options.num_events))
            stats[name].append(outcome)
    return [_row(name, batch_size, batch_size * options.num_events, seconds, stats[name]) for name in samplers]


def _samplers(target: TransformerTPP, options: argparse.Namespace, batch_size: int) -> dict[str, Callable[[int], Any]]:
    """Name -> function of a seed that samples `batch_size` sequences of `num_events` events and returns their statistics."""

    def with_options(draft: Any, chosen: SamplingOptions) -> Callable[[int], Any]:
        def run(seed: int) -> Any:
            size = {"num_sequences": batch_size, "num_events": options.num_events, "batch_size": batch_size}
            return sample(target, draft, options=chosen, seed=seed, **size).stats

        return run

    samplers: dict[str, Callable[[int], Any]] = {AUTOREGRESSIVE: with_options(None, SamplingOptions(AUTOREGRESSIVE))}
    for source in options.draft:
        draft: Any = source if source in DRAFTER_NAMES else load(source)
        for length in options.draft_length:
            chosen = SamplingOptions("speculative", length, options.rule)
            samplers[f"speculative, {_name(source)}, {length}"] = with_options(draft, chosen)
    if options.baseline == "reencode":
        samplers["reencode (uncached)"] = lambda seed: reencode(target, batch_size, options.num_events, seed)
    return samplers


@torch.inference_mode()
def reencode(target: TransformerTPP, batch_size: int, num_events: int, seed: int) -> EventBatch:
    """The loop that papers compare with: a full pass over the whole history for every event."""
    generator = torch.Generator().manual_seed(seed)
    batch = EventBatch.from_sequences([EventSequence.of([], t_start=0.0) for _ in range(batch_size)])
    for _ in range(num_events):
        law = target(batch)[:, -1].double()
        inter_times, marks = law.sample(torch.rand(batch_size, 3, generator=generator, dtype=torch.float64))
        batch = batch._replace(
            event_times=torch.cat([batch.event_times, (batch.last_times + inter_times).unsqueeze(1)], 1),
            inter_times=torch.cat([batch.inter_times, inter_times.unsqueeze(1)], 1),
            marks=torch.cat([batch.marks, marks.unsqueeze(1)], 1),
            mask=torch.cat([batch.mask, batch.mask.new_ones(batch_size, 1)], 1),
        )
    return batch


def _row(name: str, batch_size: int, num_events: int, seconds: dict[str, list[float]], stats: list[Any]) -> Row:
    own, baseline = seconds[name], seconds[AUTOREGRESSIVE]
    speedup = statistics.median(b / s for b, s in zip(baseline, own, strict=True))
    row = Row(name, batch_size, num_events, 1e3 * statistics.median(own), 1e3 * min(own), 1e3 * max(own), speedup)
    if not name.startswith("speculative"):
        return row
    totals = type(stats[0]).total(stats)
    rates = {rate: totals[rate] for rate in ("acceptance_rate", "step_acceptance", "events_per_round")}
    return Row(**{**asdict(row), **rates})


def _untrained(size: str) -> TransformerTPP:
    try:
        num_layers, num_heads = (int(part) for part in size.split(","))
    except ValueError:
        raise ValueError(f"--untrained {size} must be layers,heads, such as 20,8") from None
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return TransformerTPP(2, num_layers=num_layers, num_heads=num_heads).eval()


def _name(source: str) -> str:
    return source if source in DRAFTER_NAMES else f"draft {source}"


def _print(rows: list[Row], target: TransformerTPP, options: argparse.Namespace) -> None:
    from rich.console import Console
    from rich.table import Table

    title = f"{target.config['encoder']}, {target.num_layers} layers; {torch.get_num_threads()} threads, {options.repeats} runs"
    table = Table(title=title, title_justify="left")
    for column in ("sampler", "batch", "ms/event", "min - max", "events/s", "speed-up", "alpha", "per step", "per round"):
        table.add_column(column, justify="left" if column == "sampler" else "right", no_wrap=True)
    for row in rows:
        ms = row.milliseconds_per_event
        rates = [row.acceptance_rate, row.step_acceptance, row.events_per_round]
        cells = [row.sampler, str(row.batch_size), f"{ms:.3f}", f"{row.low:.3f} - {row.high:.3f}", f"{1e3 / ms:.0f}"]
        table.add_row(*cells, f"{row.speedup:.2f}", *("" if rate is None else f"{rate:.3f}" for rate in rates))
    Console(width=None if sys.stdout.isatty() else 150).print(table)
    if any(row.acceptance_rate is not None for row in rows):
        print("alpha: accepted / drafted; per step: accepted / tested; per round: events per target pass and sequence")
