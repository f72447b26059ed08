"""The scores of `tppsd validate` and `tppsd test`: rounded and explained on the screen, in full in a file."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

NLL = "nats per event; lower is better"
WINDOW = "the window convention: all scored events, and the time after the last one"
BENCHMARK = "the benchmark convention of EasyTPP: without first events and ends of windows"
MEANINGS = {
    "nll": f"negative log-likelihood, {NLL}",
    "nll_time": "  its part of the times",
    "nll_mark": "  its part of the marks, given the times",
    "nll_window": f"negative log-likelihood, {NLL}; {WINDOW}",
    "nll_time_window": "  its part of the times",
    "nll_mark_window": "  its part of the marks, given the times",
    "nll_poisson": "that of a Poisson process: the rate alone, without a history",
    "nll_renewal": "that of the best renewal model: the time since the last event, without a history",
    "nll_hawkes": "that of a Hawkes process fitted to the training split",
    "nll_true": "that of the process that the data were simulated from: no model is better",
    "history_share": "what was learnt of the history: 0 as the renewal model, 1 as the true process",
    "nll_benchmark": f"negative log-likelihood by {BENCHMARK}",
    "nll_time_benchmark": "  its part of the times",
    "nll_mark_benchmark": "  its part of the marks, given the times",
    "nll_untied": "the same, without events at the time of the event before",
    "rmse_mean": "error of the mean as a forecast of the next inter-time, root mean square{unit}",
    "rmse_median": "error of the median, likewise",
    "crps": "continuous ranked probability score of the next inter-time{unit}; lower is better",
    "mean_unusable": "share of events whose forecast has more than half of its mean beyond the horizon",
    "horizon": "where the data end: longer inter-times count as this{unit}",
    "pit_ks": "calibration of inter-times: Kolmogorov-Smirnov distance of their PITs from uniform; 0 is best",
    "mark_accuracy": "share of marks that were the most probable one, given the time",
    "mark_accuracy_marginal": "share of marks that were the most probable one, before the time is known",
    "mark_ece": "calibration of marks: expected error of their probabilities; 0 is best",
    "kl": "Kullback-Leibler divergence of the draft from its target, nats per event",
    "step_acceptance": "probability that the target accepts a drafted event",
}


def rounded(value: float) -> str:
    """Return a number for people: four significant digits."""
    return f"{value:.4g}"


def explain(scores: Mapping[str, float], unit: str | None) -> list[tuple[str, str, str]]:
    """Return (name, rounded value, meaning) of every score, in the order of MEANINGS, others at the end.

    Args:
        scores: by name, such as test/nll_window.
        unit: of the data's time, None where it has no name.
    """
    by_name = {name.partition("/")[2] or name: value for name, value in scores.items()}
    names = [name for name in MEANINGS if name in by_name] + [name for name in by_name if name not in MEANINGS]
    in_unit = f", in {unit}" if unit else ", in the data's unit of time"
    return [(name, rounded(by_name[name]), MEANINGS.get(name, "").replace("{unit}", in_unit)) for name in names]


def print_scores(scores: Mapping[str, float], unit: str | None, split: str) -> None:
    """Print all scores as a table with what they mean."""
    from rich.console import Console
    from rich.table import Table

    table = Table(title=f"Scores on the {split} split", title_justify="left")
    table.add_column("score", no_wrap=True)
    table.add_column("value", justify="right", no_wrap=True)
    table.add_column("what it is")
    for row in explain(scores, unit):
        table.add_row(*row)
    Console(highlight=False).print(table)


def write_scores(path: Path, scores: Mapping[str, float], about: Mapping[str, Any]) -> None:
    """Write scores in full, with what they are of, as JSON; the file is whole or not there."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        temporary.write_text(json.dumps({**about, "scores": dict(scores)}, indent=1) + "\n", encoding="utf-8")
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def some_events(statistics: Any) -> str:
    """Return a horizon of some ten events, for an example."""
    return f"{10 * statistics.duration / max(1, statistics.num_events):.2g}"
