"""The demo's results: one table, three figures, one summary.json, and where to go from there."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Any

import torch
from rich.console import Console
from rich.table import Table

from tppsd import plots
from tppsd.data.datamodule import EventDataModule

if TYPE_CHECKING:
    from tppsd.commands.demo import Settings

SCHEMA = 1
_MIN_HISTORY_WORTH = 0.01  # nats per event; below it, a share of it says nothing


def describe_data(data: EventDataModule) -> str:
    """One line on the data set."""
    sizes = ", ".join(f"{len(data.sequences(split)):,} {split}" for split in ("train", "validation", "test"))
    s = data.statistics
    return f"Data: [bold]{data.dataset_name}[/]: {sizes} sequences; {s.num_events:,} training events, {s.num_marks} marks"


def summarise(settings: Settings, data: EventDataModule, results: dict[str, Any]) -> dict[str, Any]:
    """The content of summary.json."""
    convention = "benchmark" if data.statistics.first_is_given else "window"
    summary: dict[str, Any] = {"schema": SCHEMA, "dataset": data.dataset_name}
    for name in ("target", "draft"):
        metrics, model = results[name]["metrics"], results[name]["module"].model
        summary[name] = {
            "nll_per_event": metrics[f"test/nll_{convention}"],
            "nll_time": metrics[f"test/nll_time_{convention}"],
            "nll_mark": metrics[f"test/nll_mark_{convention}"],
            "convention": convention,
            "history_share": _history_share(results, metrics["test/nll_window"]),
            "num_parameters": sum(p.numel() for p in model.parameters()),
            "num_layers": model.num_layers,
            "epochs": results[name]["epochs"],
        }
    summary["true_nll_per_event"] = results["true_nll"]
    summary["renewal_nll_per_event"] = results["renewal_nll"]
    for method in ("autoregressive", "speculative"):
        stats = results[method]["stats"]
        summary[method] = {"num_events": stats.num_events, "seconds": stats.seconds, "events_per_second": stats.events_per_second}
    stats = results["speculative"]["stats"]
    for key in ("acceptance_rate", "step_acceptance", "draft_length", "rule"):
        summary["speculative"][key] = stats[key]
    summary["speedup"] = stats.events_per_second / results["autoregressive"]["stats"].events_per_second
    for key in ("own_law_ks", "true_process_ks", "mark_pit_ks"):
        test = results["speculative"][key]
        summary[key] = None if test is None else test._asdict()
    return summary


def _history_share(results: dict[str, Any], nll: float) -> float | None:
    """(renewal - model) / (renewal - truth): what share of what history is worth the model has learnt."""
    if results["true_nll"] is None or results["renewal_nll"] - results["true_nll"] < _MIN_HISTORY_WORTH:
        return None
    return (results["renewal_nll"] - nll) / (results["renewal_nll"] - results["true_nll"])


def write(settings: Settings, data: EventDataModule, results: dict[str, Any], summary: dict[str, Any], console: Console) -> None:
    """Print the tables, write figures and summary, say what to try next."""
    console.print(_speed_table(results, summary))
    console.print(_likelihood_table(summary))
    figures = _figures(settings, data, results)
    path = settings.output / "summary.json"
    temporary = path.with_suffix(f".{os.getpid()}")
    temporary.write_text(json.dumps(summary, indent=2) + "\n")
    os.replace(temporary, path)
    console.print("\n[bold]Written[/]")
    for written in (results["speculative"]["folder"], results["autoregressive"]["folder"], *figures, path):
        console.print(f"  {written}")
    console.print(_next_steps(settings, data, results))


def _speed_table(results: dict[str, Any], summary: dict[str, Any]) -> Table:
    speculative = summary["speculative"]
    table = Table(
        title=f"Sampling: speculative is {summary['speedup']:.2f} times as fast, with the same law", title_justify="left"
    )
    for column in ("", "autoregressive", "speculative"):
        table.add_column(column, justify="left" if not column else "right")

    def row(name: str, *values: str) -> None:
        table.add_row(name, *values)

    both = [results[m] for m in ("autoregressive", "speculative")]
    row("events", *(f"{r['stats'].num_events:,}" for r in both))
    row("seconds", *(f"{r['stats'].seconds:.1f}" for r in both))
    row("events/s", *(f"{r['stats'].events_per_second:.0f}" for r in both))
    row("speed-up", "1", f"{summary['speedup']:.2f}")
    row("acceptance rate / per step", "", f"{speculative['acceptance_rate']:.3f} / {speculative['step_acceptance']:.3f}")
    row("own-law KS: D / p", *(_ks(r["own_law_ks"]) for r in both))
    if both[0]["mark_pit_ks"] is not None:
        row("mark PIT KS: D / p", *(_ks(r["mark_pit_ks"]) for r in both))
    if both[0]["true_process_ks"] is not None:
        row("true-process KS: D / p (shows model error too)", *(_ks(r["true_process_ks"]) for r in both))
    return table


def _ks(test: Any) -> str:
    return f"{test.statistic:.4f} / {test.p_value:.2g}"


def _likelihood_table(summary: dict[str, Any]) -> Table:
    convention = summary["target"]["convention"]
    table = Table(title=f"Test NLL per event ({convention} convention)", title_justify="left")
    for column in ("model", "NLL", "time", "mark", "history share"):
        table.add_column(column, justify="left" if column == "model" else "right")
    if summary["true_nll_per_event"] is not None:
        table.add_row("true process", f"{summary['true_nll_per_event']:.4f}", "", "", "1")
    for name in ("target", "draft"):
        m = summary[name]
        share = "" if m["history_share"] is None else f"{m['history_share']:.2f}"
        label = f"{name} ({m['num_layers']} layer{'s' if m['num_layers'] > 1 else ''})"
        table.add_row(label, f"{m['nll_per_event']:.4f}", f"{m['nll_time']:.4f}", f"{m['nll_mark']:.4f}", share)
    table.add_row("best renewal model (no history)", f"{summary['renewal_nll_per_event']:.4f}", "", "", "0")
    return table


def _figures(settings: Settings, data: EventDataModule, results: dict[str, Any]) -> list[Any]:
    statistics = data.statistics
    names, unit = statistics.mark_names, statistics.time_unit
    methods = ("autoregressive", "speculative")
    curves = {f"{m}, own law": results[m]["gaps"] for m in methods}
    if results["speculative"]["true_gaps"] is not None:
        curves["speculative, true process"] = results["speculative"]["true_gaps"]
    real = data.sequences("test")
    groups = {"real": real, **{m: results[m]["sequences"] for m in methods}}
    sequence = results["speculative"]["sequences"][0]
    start, stop = sequence.window_start, sequence.window_end
    times = torch.linspace(start, start + min(stop - start, 40 * statistics.time_scale), 1500, dtype=torch.float64)[1:]
    intensities = {"target": results["target"]["module"].model.intensity(sequence, times)}
    process = data.process_object
    if process is not None:
        intensities["true"] = process.intensity(sequence, times)
    shown = sequence.prefix(int((sequence.event_times <= times[-1]).sum()))
    stats = results["speculative"]["stats"]
    out = settings.output
    return [
        plots.save(plots.ks_plot(curves), out / "ks.png"),
        plots.save(plots.raster(groups, mark_names=names, time_unit=unit), out / "raster.png"),
        plots.save(plots.intensity_plot(times, intensities, shown, names, unit), out / "intensity.png"),
        plots.save(plots.accepted_counts_plot(stats.accepted_counts), out / "rounds.png"),
    ]


def _next_steps(settings: Settings, data: EventDataModule, results: dict[str, Any]) -> str:
    target, draft = results["target"]["path"], results["draft"]["path"]
    own = "tppsd demo --data PATH          your own events: a folder of Parquet/JSON splits, one file, or a hub id"
    return f"""
[bold]Next[/]
  {own}
  tppsd fit --data.path PATH      train with every option; see lightning_configs/
  python -c 'import tppsd; s = tppsd.sample("{target}", "{draft}", num_sequences=8, t_end=100.0); print(s.to_pandas())'
"""
