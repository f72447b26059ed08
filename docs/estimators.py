"""Measure the estimators of forecasts: `python docs/estimators.py [agreement] [depth]` writes lines to docs/results/.

agreement: all estimators of one forecast against 10^6 plain paths of the same history, for a Transformer of a simulated
multivariate Hawkes process and, where the data set lies in shared/data/taxi, for one of taxi rides: plain_paths.jsonl.
depth: seconds and variances of the default estimator and of plain paths, for targets of 1 to 20 layers:
estimators_depth.jsonl. The targets are trained for a moment, so that histories matter. One thread, some minutes each.
"""

from __future__ import annotations

import json
import sys
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import torch
from torch import Tensor

import tppsd
from tppsd import EventDataModule, SamplingOptions, TransformerTPP, forecast
from tppsd.data.batch import EventBatch
from tppsd.data.sequences import EventSequence
from tppsd.data.statistics import DataStatistics
from tppsd.processes import Hawkes

ROOT = Path(__file__).resolve().parent.parent
RESULTS, TAXI = ROOT / "docs/results", ROOT.parent / "shared/data/taxi"
PROCESS = Hawkes(
    [0.4, 0.02, 0.2, 0.1],
    [[0.6, 0.0, 0.2, 0.1], [0.1, 0.3, 0.0, 0.0], [0.3, 0.0, 0.5, 0.2], [0.0, 0.6, 0.2, 0.4]], 2.0,
)  # fmt: skip
NUM_PLAIN, CHUNK, NUM_PATHS, NUM_ROWS = 1_000_000, 50_000, 50_000, 2_000
LIMIT = 3.3  # standard errors; a right estimate is further off once in 1,000 times
AUTOREGRESSIVE = SamplingOptions("autoregressive", compile=True)


# --- targets ----------------------------------------------------------------------------------------------------------


def simulated() -> list[EventSequence]:
    """Return sequences of the Hawkes process, some 40 events each."""
    return list(PROCESS.simulate(400, t_end=30.0, seed=0))


def trained(data: list[EventSequence], num_marks: int, num_layers: int, num_steps: int = 300) -> TransformerTPP:
    """Return a model of width 64 after so many steps of Adam on batches of 16 sequences."""
    torch.manual_seed(0)
    model = TransformerTPP(num_marks, "thp", num_layers=num_layers, embed_dim=64)
    model.set_statistics(DataStatistics.of(data, num_marks))
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    for _ in range(num_steps):
        batch = EventBatch.from_sequences([data[i] for i in torch.randint(len(data), (16,)).tolist()])
        loss = -model.log_likelihood(batch).sum() / model.num_scored(batch).sum()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    return model.eval()


# --- agreement with plain paths ---------------------------------------------------------------------------------------


class Plain(NamedTuple):
    """Holds plain estimates of sets of marks and ends, (num_sets, num_ends) each, and their standard errors."""

    shares: Tensor
    share_errors: Tensor
    counts: Tensor
    count_errors: Tensor


def plain_paths(model: Any, history: EventSequence, sets: list[list[int]], ends: list[float]) -> Plain:
    """Count events on 10^6 paths, chunk by chunk, each with a seed of its own; nothing here knows an estimator."""
    sums = torch.zeros(3, len(sets), len(ends), dtype=torch.float64)
    for chunk in range(NUM_PLAIN // CHUNK):
        samples = tppsd.sample(
            model, history=history, num_sequences=CHUNK, horizon=ends[-1], batch_size=NUM_ROWS, seed=10_000 + chunk,
            options=AUTOREGRESSIVE,
        )  # fmt: skip
        path = torch.arange(CHUNK).repeat_interleave(samples.offsets.diff())
        since = samples.flat_event_times - history.window_end
        for i, marks in enumerate(sets):
            for j, end in enumerate(ends):
                is_hit = torch.isin(samples.flat_marks, torch.tensor(marks)) & (since <= end)
                counts = torch.bincount(path[is_hit], minlength=CHUNK).double()
                sums[:, i, j] += torch.stack([(counts > 0).double().sum(), counts.sum(), counts.square().sum()])
    shares, counts, squares = sums / NUM_PLAIN
    return Plain(
        shares,
        (shares * (1 - shares) / NUM_PLAIN).sqrt(),
        counts,
        ((squares - counts.square()) / NUM_PLAIN).sqrt(),
    )


def scores(model: Any, history: EventSequence, horizon: float) -> tuple[dict[str, list[float]], Plain]:
    """Return by estimator the differences to plain paths in standard errors, both counted."""
    sets, ends = [*([mark] for mark in range(model.num_marks)), list(range(model.num_marks))], [horizon / 2, horizon]
    plain = plain_paths(model, history, sets, ends)
    found: dict[str, list[float]] = defaultdict(list)

    def compare(name: str, value: Tensor, error: Tensor, i: int, j: int, of: str) -> None:
        kept, kept_error = (plain.shares, plain.share_errors) if of == "P" else (plain.counts, plain.count_errors)
        if kept[i, j] * NUM_PLAIN >= 100:  # of fewer events a share is not normal
            spread = (error.square() + kept_error[i, j].square()).sqrt()
            found[name].append(float((value - kept[i, j]) / spread))

    def asked(seed: int, marks: Any = None) -> Any:
        return forecast(
            model, history, horizon, NUM_PATHS, marks, [0.0, *ends], options=AUTOREGRESSIVE, seed=seed,
            batch_size=NUM_ROWS,
        )  # fmt: skip

    together = asked(1)
    for j, end in enumerate(ends):
        for name, estimator in (("control variates (default)", "control_variates"), ("step sum", "step_sum")):
            chances = together.probability(within=end, estimator=estimator)
            counts = together.expected_counts(bins=[0.0, end], estimator=estimator)
            for i in range(len(sets)):
                compare(f"P(A): {name}", chances.value[0, i], chances.standard_error[0, i], i, j, "P")
                compare(f"E N: {name}", counts.value[0, i, 0], counts.standard_error[0, i, 0], i, j, "N")
        survival = together.next_time().survival([end])[0, 0]
        compare("P(next event): closed form", 1 - survival, torch.zeros(()), len(sets) - 1, j, "P")
    for i, marks in enumerate(sets[:-1]):  # paths of their own, which stop at A or have no A
        alone = asked(100 + i, marks=[])
        for j, end in enumerate(ends):
            for name, estimator in (
                ("P(A): paths that stop at A, control variates", "control_variates"),
                ("P(A): paths that stop at A, step sum", "step_sum"),
                ("P(A): process without A", "without"),
            ):
                one = alone.probability(marks, end, estimator)
                compare(name, one.value[0], one.standard_error[0], i, j, "P")
    return found, plain


def agreement() -> None:
    """Write plain_paths.jsonl."""
    targets: dict[str, tuple[Callable[[], list[EventSequence]], int, float]] = {
        "multivariate Hawkes": (simulated, 4, 1.0),
    }
    if TAXI.is_dir():
        targets["taxi"] = (lambda: list(EventDataModule(path=str(TAXI)).sequences("train")), 10, 0.25)
    rows, num, started = [], 0, time.process_time()
    for name, (read, num_marks, horizon) in targets.items():
        data = read()
        model, history = trained(data, num_marks, num_layers=2), data[7]
        history = history.prefix(20, float(history.event_times[19]) + horizon / 10)  # and a little time without events
        found, plain = scores(model, history, horizon)
        shares = plain.shares[:-1, -1]
        print(f"{name}: {float(plain.counts[-1, -1]):.2f} events, P(A) {shares.min():.2g} to {shares.max():.2g}")
        for estimator, z in found.items():
            num += len(z)
            inside = sum(abs(one) < 1.96 for one in z)
            largest = max(abs(one) for one in z)
            rows.append(
                {
                    "target": name,
                    "estimate": estimator,
                    "comparisons": len(z),
                    "within 1.96": inside,
                    "largest z": f"{largest:.2f}",
                }
            )
    measured = (
        f"two layers of width 64 after 300 training steps, {NUM_PATHS:,} paths of each estimate; each mark, and any, "
        "within a horizon of one to two events and within half of it, where plain paths had 100 events; z: the "
        "difference over its standard error, both counted; a right estimate is beyond 3.3 once in 1,000 times, one of "
        f"these {num} with a chance of at most {num / 1000:.2f}; float32, compiled; "
        "`python docs/estimators.py agreement`"
    )
    write("plain_paths", "Estimates against the frequencies and mean counts of 10^6 other, plain paths", measured, rows)
    print(f"{time.process_time() - started:.0f} s")
    if far := [row for row in rows if float(row["largest z"]) > LIMIT]:
        sys.exit(f"further off than {LIMIT} standard errors: {far}")


# --- depth ------------------------------------------------------------------------------------------------------------

DEPTHS, NUM_HISTORIES, OF_HISTORY, TURNS, STEPS = (1, 2, 8, 20), 12, 300, 3, 150


def microseconds(work: Callable[[int], Any], seed: int) -> float:
    """Return the processor time of a call per path."""
    started = time.process_time()
    work(seed)
    return (time.process_time() - started) * 1e6 / NUM_HISTORIES / OF_HISTORY


def depth() -> None:
    """Write estimators_depth.jsonl."""
    data = simulated()
    histories = [one.prefix(20, float(one.event_times[19]) + 0.05) for one in data if len(one) > 20][:NUM_HISTORIES]
    rows = []
    for num_layers in DEPTHS:
        model = tppsd.compile(trained(data, 4, num_layers, STEPS))
        for horizon in (1.0, 4.0):

            def plain(seed: int, model: Any = model, horizon: float = horizon) -> Any:
                return tppsd.sample(
                    model, history=histories, num_sequences=OF_HISTORY, horizon=horizon, options=AUTOREGRESSIVE,
                    seed=seed,
                )  # fmt: skip

            def summed(seed: int, model: Any = model, horizon: float = horizon) -> Any:
                found = forecast(model, histories, horizon, OF_HISTORY, options=AUTOREGRESSIVE, seed=seed)
                found.probability(), found.expected_counts()
                return found

            plain(TURNS), summed(TURNS)  # what is made once
            turns = [(microseconds(plain, turn), microseconds(summed, turn)) for turn in range(TURNS)]
            seconds, own_seconds = (median(values) for values in zip(*turns, strict=True))
            found = summed(TURNS)
            num_events = plain(TURNS).stats.num_events / NUM_HISTORIES / OF_HISTORY
            cost = own_seconds / seconds
            gains = [
                (ask(found, "frequency").standard_error / ask(found, "control_variates").standard_error)
                .square()[:, :4].flatten()
                for ask in (lambda f, e: f.probability(estimator=e), lambda f, e: f.expected_counts(estimator=e))
            ]  # fmt: skip
            rows.append(
                {
                    "layers": num_layers,
                    "events a path": f"{num_events:.1f}",
                    "plain": f"{seconds:.0f}",
                    "default": f"{own_seconds:.0f}",
                    "ratio of times": f"{cost:.1f}",
                    "variance ratio, P": short(gains[0]),
                    "gain per second, P": short(gains[0] / cost),
                    "variance ratio, E N": short(gains[1]),
                    "gain per second, E N": short(gains[1] / cost),
                }
            )
    measured = (
        f"width 64, 64 components, Transformers of a simulated Hawkes process of 4 marks after {STEPS} training steps, "
        f"marks that depend on the inter-time; {NUM_HISTORIES} histories of 20 events, {OF_HISTORY} paths each, their "
        f"encoding counted; median of {TURNS} turns; in the other columns the median over histories and marks (and "
        "what nine tenths of them exceed); compiled, float32, one thread of a busy machine; "
        "`python docs/estimators.py depth`"
    )
    table = (
        "Processor time of a path in microseconds, variance of plain paths over that of the default estimator at equal "
        "numbers of paths, and at equal times"
    )
    write("estimators_depth", table, measured, rows)


def short(values: Tensor) -> str:
    """Return the median of ratios and their first decile, to two digits or the whole."""
    numbers = (float(values.quantile(level)) for level in (0.5, 0.1))
    middle, low = (f"{number:,.0f}" if number >= 10 else f"{number:.1f}" for number in numbers)
    return f"{middle} ({low})"


def write(name: str, table: str, measured: str, rows: list[dict[str, Any]]) -> None:
    """Write a table's lines; `python docs/tables.py` then writes the page."""
    head = {"table": table, "measured": measured}
    text = "".join(json.dumps(line) + "\n" for line in (head, *rows))
    (RESULTS / f"{name}.jsonl").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    torch.set_num_threads(1)
    for word in sys.argv[1:] or ("agreement", "depth"):
        {"agreement": agreement, "depth": depth}[word]()
