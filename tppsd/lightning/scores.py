"""The scores of `tppsd validate` and `tppsd test`: rounded and explained on the screen, in full in a file."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning.pytorch import Trainer

from tppsd.data.whole_files import write_text
from tppsd.lightning.datamodule import data_of
from tppsd.lightning.runs import run_of

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


def explain(scores: Mapping[str, float], unit: str | None) -> list[tuple[str, str, str]]:
    """Return (name, rounded value, meaning) of every score, in the order of MEANINGS, others at the end.

    Args:
        scores: by name, such as test/nll_window.
        unit: of the data's time, None where it has no name.
    """
    by_name = {name.partition("/")[2] or name: value for name, value in scores.items()}
    names = [name for name in MEANINGS if name in by_name] + [name for name in by_name if name not in MEANINGS]
    in_unit = f", in {unit}" if unit else ", in the data's unit of time"
    return [(name, f"{by_name[name]:.4g}", MEANINGS.get(name, "").replace("{unit}", in_unit)) for name in names]


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


def say_scores(trainer: Trainer, checkpoint: str | Path, next_verb: str) -> None:
    """Print the scores of a Trainer, write them beside the checkpoint, and name the next command, on rank zero.

    Args:
        trainer: after `validate` or `test`.
        checkpoint: that was scored.
        next_verb: what to try next: test, or forecast (of a simulated process, which has no log that goes on, predict).
    """
    if not trainer.is_global_zero:
        return
    verb = trainer.state.fn.value if trainer.state.fn is not None else "test"
    scores = {name: float(value) for name, value in trainer.callback_metrics.items()}
    data = data_of(trainer)
    assert data is not None  # the command line takes no other
    module: Any = trainer.lightning_module
    statistics = module.model.statistics
    print_scores(scores, statistics.time_unit, {"validate": "validation"}.get(verb, verb))
    path = Path(checkpoint).with_suffix(f".{verb}.json")
    following = _following(Path(checkpoint), next_verb, data.process is not None, statistics)
    try:
        about = {"checkpoint": str(checkpoint), "data": data.dataset_name, "scores": scores}
        write_text(path, json.dumps(about, indent=1) + "\n")
        print(f"In full: {path}. Next: {following}")
    except OSError as error:
        print(f"Not written: {path} ({error.strerror}). Next: {following}")


def _following(checkpoint: Path, verb: str, is_simulated: bool, statistics: Any) -> str:
    """Return the command to try next, with a horizon of some ten events."""
    if verb == "forecast" and is_simulated:
        verb = "predict"
    run = run_of(checkpoint)
    option = {"test": "--ckpt_path", "predict": "--model.target", "forecast": "LOG --model"}[verb]
    which = f"{option} {shlex.quote(str(checkpoint))}" if run is None else f"--run {shlex.quote(str(run))}"
    horizon = f"{10 * statistics.duration / max(1, statistics.num_events):.2g}"
    until = {"test": "", "predict": f" --requests.horizon {horizon}", "forecast": f" --horizon {horizon}"}[verb]
    return f"tppsd {verb} {which}{until}"
