"""The demo's results: tables, figures, summary.json, and where to go from there."""

from __future__ import annotations

import json
import math
import os
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from rich.console import Console
from rich.table import Table

from tppsd import plots
from tppsd.commands.demo_sampling import COMPILED
from tppsd.commands.demo_training import layers
from tppsd.lightning.datamodule import EventDataModule
from tppsd.metrics.functional import history_share, lag1_correlation
from tppsd.sampling.stats import SamplingStats

if TYPE_CHECKING:
    from tppsd.commands.demo import Settings

SCHEMA = 1
_HEADERS = {
    "autoregressive": "auto-\nregressive",
    COMPILED: "the same,\ncompiled",
    "speculative": "speculative\ntrained draft",
    "speculative_jacobi": "speculative\nits own laws",
}
_SPECULATIVE = ("speculative", "speculative_jacobi")


def describe_data(data: EventDataModule) -> str:
    """One line on the data set."""
    sizes = ", ".join(f"{len(data.sequences(split)):,} {split}" for split in ("train", "validation", "test"))
    s = data.statistics
    return (
        f"Data: [bold]{data.dataset_name}[/]: {sizes} sequences; {s.num_events:,} training events, {s.num_marks} marks"
    )


def summarise(data: EventDataModule, results: dict[str, Any]) -> dict[str, Any]:
    """The content of summary.json."""
    convention = results["convention"]
    summary: dict[str, Any] = {"schema": SCHEMA, "dataset": data.dataset_name}
    for name in ("target", "draft"):
        metrics, model = results[name]["metrics"], results[name]["module"].model
        summary[name] = {
            "nll_per_event": metrics[f"test/nll_{convention}"],
            "nll_time": metrics[f"test/nll_time_{convention}"],
            "nll_mark": metrics[f"test/nll_mark_{convention}"],
            "convention": convention,
            "history_share": _history_share(results, metrics[f"test/nll_{convention}"]),
            "num_parameters": sum(p.numel() for p in model.parameters()),
            "num_layers": model.num_layers,
            "epochs": results[name]["epochs"],
        }
    summary["true_nll_per_event"] = results["true_nll"]
    summary["renewal_nll_per_event"] = results["renewal_nll"]
    counters = {name: _counters(results[name]["stats"]) for name in _ran(results)}
    fastest = fastest_sampler(results)
    summary["autoregressive"] = counters["autoregressive"]
    summary["speculative"] = counters[fastest]
    summary["speedup"] = _speedup(results, fastest)
    summary["speedup_by_drafter"] = {name: _speedup(results, name) for name in _SPECULATIVE}
    summary[COMPILED] = counters.get(COMPILED)
    summary["speedup_compiled"] = _speedup(results, COMPILED) if COMPILED in results else None
    for key in ("own_law_ks", "true_process_ks", "mark_pit_ks"):
        test = results[fastest][key]
        summary[key] = None if test is None else test._asdict()
    summary["lag1_correlation"] = {
        "data": lag1_correlation(data.sequences("test"))._asdict(),
        "samples": lag1_correlation(results[fastest]["sequences"])._asdict(),
    }
    return summary


def _ran(results: dict[str, Any]) -> list[str]:
    """Names of the samplers: compiled code needs a compiler."""
    return [name for name in _HEADERS if name in results]


def fastest_sampler(results: dict[str, Any]) -> str:
    """Name of the fastest speculative sampler."""
    return max(_SPECULATIVE, key=lambda name: results[name]["stats"].events_per_second)


def _speedup(results: dict[str, Any], name: str) -> float:
    return results[name]["stats"].events_per_second / results["autoregressive"]["stats"].events_per_second


def _counters(stats: SamplingStats) -> dict[str, Any]:
    names = ["num_events", "seconds", "events_per_second"]
    if stats.method == "speculative":
        names += ["acceptance_rate", "step_acceptance", "mean_draft_length", "rule", "drafter"]
    counters = {name: stats[name] for name in names}
    return counters | ({"draft_length": round(stats.mean_draft_length)} if stats.method == "speculative" else {})


def _history_share(results: dict[str, Any], nll: float) -> float | None:
    share = math.nan if results["true_nll"] is None else history_share(nll, results["renewal_nll"], results["true_nll"])
    return None if math.isnan(share) else share


def write(
    settings: Settings, data: EventDataModule, results: dict[str, Any], summary: dict[str, Any], console: Console
) -> None:
    """Print the tables, write figures and summary, say what to try next."""
    console.print(_speed_table(results, summary))
    console.print(_likelihood_table(summary))
    figures = _figures(settings, data, results)
    path = settings.output / "summary.json"
    temporary = path.with_suffix(f".{os.getpid()}")
    temporary.write_text(json.dumps(summary, indent=2) + "\n")
    os.replace(temporary, path)
    console.print("\n[bold]Written[/]")
    for written in (*(results[name]["folder"] for name in _ran(results)), *figures, path):
        console.print(f"  {written}")
    console.print(_next_steps(data, results), soft_wrap=True)


def _speed_table(results: dict[str, Any], summary: dict[str, Any]) -> Table:
    gain, compiled = f"{summary['speedup']:.2f} times as fast", summary["speedup_compiled"]
    if compiled is not None:
        gain = f"{gain} by drafts, {compiled:.1f} all compiled"
    table = Table(title=f"Sampling: {gain}, under the same law", title_justify="left")
    table.add_column("")
    names = _ran(results)
    for name in names:
        is_compiled = name == "speculative" and COMPILED in results
        table.add_column(_HEADERS[name] + ",\ncompiled" * is_compiled, justify="right")
    runs = [results[name] for name in names]
    stats = [run["stats"] for run in runs]
    drafts = [(s if s.method == "speculative" else None) for s in stats]
    table.add_row("events", *(f"{s.num_events:,}" for s in stats))
    table.add_row("seconds", *(f"{s.seconds:.1f}" for s in stats))
    table.add_row("events/s", *(f"{s.events_per_second:.0f}" for s in stats))
    table.add_row("[bold]speed-up[/]", *(f"[bold]{_speedup(results, name):.2f}[/]" for name in names))
    table.add_row("draft length, mean", *(s and f"{s.mean_draft_length:.1f}" for s in drafts))
    table.add_row("acceptance rate", *(s and f"{s.acceptance_rate:.3f}" for s in drafts))
    table.add_row("acceptance per step", *(s and f"{s.step_acceptance:.3f}" for s in drafts))
    for label, key in (
        ("own-law KS", "own_law_ks"),
        ("mark PIT KS", "mark_pit_ks"),
        ("true-law KS *", "true_process_ks"),
    ):
        if runs[0][key] is not None:  # D and p in rows of their own: the table fits in 80 columns
            table.add_row(f"{label}: D", *(f"{run[key].statistic:.4f}" for run in runs))
            table.add_row(f"{' ' * len(label)}  p", *(f"{run[key].p_value:.2g}" for run in runs))
    if runs[0]["true_process_ks"] is not None:
        table.caption = "* of the true process: shows what the target has not learnt, too"
    return table


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
        label = f"{name} ({layers(m['num_layers'])})"
        table.add_row(label, f"{m['nll_per_event']:.4f}", f"{m['nll_time']:.4f}", f"{m['nll_mark']:.4f}", share)
    table.add_row("best renewal model (no history)", f"{summary['renewal_nll_per_event']:.4f}", "", "", "0")
    return table


def _figures(settings: Settings, data: EventDataModule, results: dict[str, Any]) -> list[Any]:
    statistics = data.statistics
    names, unit = statistics.mark_names, statistics.time_unit
    fastest = fastest_sampler(results)
    shown_as = {"autoregressive": "autoregressive", "speculative": fastest}
    curves = {label: results[name]["gaps"] for label, name in shown_as.items()}
    if results[fastest]["true_gaps"] is not None:
        curves["speculative, against the true process"] = results[fastest]["true_gaps"]
    groups = {"data": data.sequences("test"), **{label: results[name]["sequences"] for label, name in shown_as.items()}}
    sequence = results[fastest]["sequences"][0]
    start, stop = sequence.window_start, sequence.window_end
    times = torch.linspace(start, start + min(stop - start, 40 * statistics.time_scale), 1500, dtype=torch.float64)[1:]
    intensities = {"target": results["target"]["module"].model.intensity(sequence, times)}
    process = data.process_object
    if process is not None:
        intensities["true"] = process.intensity(sequence, times)
    shown = sequence.prefix(int((sequence.event_times <= times[-1]).sum()))
    stats = results[fastest]["stats"]
    out = settings.output
    return [
        plots.save(plots.ks_plot(curves, title="Time rescaling under the target's law"), out / "ks.png"),
        plots.save(plots.raster(groups, mark_names=names, time_unit=unit), out / "raster.png"),
        plots.save(plots.intensity_plot(times, intensities, shown, names, unit), out / "intensity.png"),
        plots.save(plots.accepted_counts_plot(stats.accepted_counts), out / "rounds.png"),
    ]


def _next_steps(data: EventDataModule, results: dict[str, Any]) -> str:
    target, draft = (os.path.relpath(results[name]["path"]) for name in ("target", "draft"))
    end = "horizon=10.0" if data.process_object is None else "t_end=100.0"
    # `make demo` installs into a virtual environment that is not the shell's
    folder = "" if shutil.which("tppsd") else f"{os.path.relpath(Path(sys.executable).parent)}{os.sep}"
    if COMPILED in results:
        how, else_ = 'method="autoregressive", compile=True', ""
    else:
        how = f'draft="{draft}", draft_length="auto", draft_passes=2'
        else_ = "  With a C++ compiler here, compile=True samples several times as fast.\n"
    return f"""
[bold]Next[/]
  {folder}tppsd demo --data PATH       the same on your own events: a folder of splits, a file or a hub id
  {folder}tppsd fit --data.path PATH   train with every option; lightning_configs/README.md lists recipes
  {folder}python                       sample in three lines:
    import tppsd
    samples = tppsd.sample("{target}",
                           {how}, num_sequences=8, {end})
    samples.to_pandas()
{else_}"""
