"""Draw the pictures of the documentation: `python docs/figures.py` writes them to docs/images/.

The picture of speculative sampling needs no training: target and draft are Hawkes processes, so that it is the same on
every machine.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

from matplotlib.figure import Figure
from torch import Tensor

import tppsd
from tppsd.processes import Hawkes, ProcessModel
from tppsd.sampling.drafters.base import Draft
from tppsd.sampling.drafters.model import ModelDrafter
from tppsd.sampling.recorder import Recorder
from tppsd.sampling.sample import SamplingJob
from tppsd.sampling.state import BatchState

IMAGES = Path(__file__).resolve().parent / "images"
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

    def commit(
        self, draft: Draft, num_accepted: Tensor, state: BatchState, distributions: Any, seen_marks: Tensor
    ) -> None:
        """See Drafter."""
        self.rounds.append(Round(draft.times[0].clone(), int(num_accepted[0]), float(state.last_times[0])))
        super().commit(draft, num_accepted, state, distributions, seen_marks)


def sampled_rounds() -> list[Round]:
    """The rounds of one sequence of a Hawkes process, drafted by another one that is less excitable."""
    target = ProcessModel(Hawkes(mu=1.0, alpha=1.4, beta=2.0))
    draft = ProcessModel(Hawkes(mu=2.0, alpha=0.2, beta=1.0))
    rounds: list[Round] = []

    def drafter(runner: Any) -> Watched:
        watched = Watched(draft, 1, runner.cache.capacity, runner.histories, stops_at_end=True)
        watched.rounds = rounds
        return watched

    options = {"method": "speculative", "draft_length": DRAFT_LENGTH}
    job = SamplingJob(target, draft, None, options, 1, SEED, 1000, Recorder(False, False), drafter=drafter)
    job.finished(job.plan(t_end=END))
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


def main() -> None:
    """Draw all pictures."""
    IMAGES.mkdir(exist_ok=True)
    tppsd.plots.save(rounds_picture(), IMAGES / "rounds.png")
    print(f"written: {IMAGES / 'rounds.png'}")


if __name__ == "__main__":
    main()
