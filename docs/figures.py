"""Draw the pictures of the documentation: `python docs/figures.py` writes them to docs/images/.

The picture of speculative sampling needs no training: target and draft are Hawkes processes, so that it is the same on
every machine. Those of results are of the JSON lines that their tables are made from (docs/tables.py).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import tables
from matplotlib.figure import Figure
from torch import Tensor

import tppsd
from tppsd.processes import Hawkes, ProcessModel
from tppsd.sampling.drafters.base import Committed
from tppsd.sampling.drafters.model import ModelDrafter
from tppsd.sampling.recorder import Recorder
from tppsd.sampling.requests import Wanted
from tppsd.sampling.sample import SamplingJob

IMAGES = Path(__file__).resolve().parent / "images"
TARGET = ProcessModel(Hawkes(mu=1.0, alpha=1.4, beta=2.0))
DRAFT = ProcessModel(Hawkes(mu=2.0, alpha=0.2, beta=1.0))
END, DRAFT_LENGTH, SEED = 12.0, 5, 5
ACCEPTED, REJECTED, RECOVERED = "#0072b2", "#999999", "#d55e00"  # Okabe and Ito 2008


class Round(NamedTuple):
    """One round of one sequence: the drafted times, how many were accepted, and the time of the event behind them."""

    drafted: Tensor
    num_accepted: int
    last: float


class Watched(ModelDrafter):
    """A drafter that keeps what became of its drafts."""

    rounds: list[Round]

    def commit(self, done: Committed) -> None:
        """See Drafter."""
        last = float(done.state.last_times[0])
        self.rounds.append(Round(done.draft.times[0].clone(), int(done.num_accepted[0]), last))
        super().commit(done)


def sampled_rounds() -> list[Round]:
    """The rounds of one sequence of a Hawkes process, drafted by another one that is less excitable."""
    rounds: list[Round] = []

    def drafter(runner: Any) -> Watched:
        watched = Watched(DRAFT, 1, runner.histories, stops_at_end=True)
        watched.rounds = rounds
        return watched

    options = {"method": "speculative", "draft_length": DRAFT_LENGTH}
    job = SamplingJob(TARGET, DRAFT, None, options, 1, SEED, 1000, Recorder(False, False), drafter=drafter)
    job.sampled(job.plan(Wanted(t_end=END)))
    return rounds


def rounds_picture() -> Figure:
    """Every round on a line of its own, and the sequence that comes out."""
    rounds = [each for each in sampled_rounds() if not len(each.drafted) or each.drafted[0] < END]
    figure = Figure(figsize=(8.0, 3.6), layout="constrained")
    axes = figure.add_subplot()
    sequence: list[float] = []
    for number, (drafted, num_accepted, last) in enumerate(rounds):
        y = len(rounds) - number
        axes.axhline(y, color="#eeeeee", linewidth=1, zorder=0)
        kept = drafted[:num_accepted].tolist()
        axes.scatter(drafted[num_accepted:], [y] * (len(drafted) - num_accepted), 34, "none", edgecolors=REJECTED)
        axes.scatter(kept, [y] * len(kept), 34, ACCEPTED)
        axes.scatter([last], [y], 40, RECOVERED, marker="D")
        sequence += [*kept, last]
    for name, color, marker, face in (
        ("drafted and accepted", ACCEPTED, "o", ACCEPTED),
        ("drafted, not used", REJECTED, "o", "none"),
        ("drawn by the target", RECOVERED, "D", RECOVERED),
    ):
        axes.scatter([], [], 34, face, edgecolors=color, marker=marker, label=name)
    axes.vlines([time for time in sequence if time <= END], -0.45, 0.35, color="#333333", linewidth=1.5)
    axes.set_xlim(0, END)
    axes.set_yticks([0, *range(1, len(rounds) + 1)], ["sample", *(f"{len(rounds) - y}" for y in range(len(rounds)))])
    axes.set_ylabel("round: one pass of the target each")
    axes.set_xlabel("time")
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside upper center", ncols=3, frameon=False, fontsize=9)
    return figure


def drafts_over_compiled_picture() -> Figure:
    """The fastest sampler with a draft over compiled sampling without one, with the range of the runs."""
    rows = tables.read("drafts_over_compiled").rows
    figure = Figure(figsize=(8.0, 4.2), layout="constrained")
    axes = figure.add_subplot()
    for depth, colour, shift in (("20 layers", ACCEPTED, -0.15), ("3 or 1 layers", RECOVERED, 0.15)):
        cells = [row[f"{depth}: over it"] for row in rows]
        middle, low, high = ([float(cell[key]) for cell in cells] for key in ("median", "min", "max"))
        places = [place + shift for place in range(len(rows))]
        axes.hlines(places, low, high, color=colour, linewidth=1.2, alpha=0.5)
        axes.scatter(middle, places, 30, colour, label=f"{depth}: median, smallest to largest run")
    axes.axvline(1, color="#333333", linewidth=0.9, linestyle=":")
    axes.set_xscale("log", base=2)
    axes.set_xticks([0.5, 0.75, 1, 1.5, 2, 3], ["0.5", "0.75", "1", "1.5", "2", "3"])
    axes.set_yticks(range(len(rows)), [f"{row['data']}, {row['encoder']}" for row in rows])
    axes.invert_yaxis()
    axes.set_xlabel("speed-up over compiled event-by-event sampling, one sequence at a time")
    axes.set_title("The best draft over compiled sampling", loc="left", fontsize=11)
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside lower center", ncols=2, frameon=False, fontsize=9)
    return figure


def shared_histories_picture() -> Figure:
    """Milliseconds per path, with a copy of the history's cache for each and with one for all."""
    rows = [row for row in tables.read("shared_histories").rows if str(row["layers"]) == "8"]
    figure = Figure(figsize=(6.4, 2.9), layout="constrained")
    axes = figure.add_subplot()
    for name, colour, shift in (("copied caches", REJECTED, -0.2), ("shared", ACCEPTED, 0.2)):
        heights = [float(row[f"{name}, ms per path"]) for row in rows]
        bars = axes.bar([place + shift for place in range(len(rows))], heights, 0.38, color=colour, label=name)
        axes.bar_label(bars, [f"{height:g}" for height in heights], fontsize=8.5, padding=2)
    axes.set_xticks(range(len(rows)), [str(row["new events per path"]) for row in rows])
    axes.set_xlabel("new events per path")
    axes.set_ylabel("time [ms per path]")
    axes.set_title("100 histories of 275 events, 8 layers, compiled, one thread", loc="left", fontsize=10)
    axes.spines[["top", "right"]].set_visible(False)
    axes.margins(y=0.15)
    axes.legend(frameon=False, fontsize=9)
    return figure


PICTURES = {
    "rounds": rounds_picture,
    "drafts_over_compiled": drafts_over_compiled_picture,
    "shared_histories": shared_histories_picture,
}


def main() -> None:
    """Draw all pictures."""
    IMAGES.mkdir(exist_ok=True)
    for name, draw in PICTURES.items():
        print(f"written: {tppsd.plots.save(draw(), IMAGES / f'{name}.png')}")


if __name__ == "__main__":
    main()
