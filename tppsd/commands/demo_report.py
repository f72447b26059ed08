"""The results of the demo: tables, a page with figures, summary.json, and where to go from there."""

from __future__ import annotations

import json
import math
import os
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from rich.console import Console
from rich.table import Table

from tppsd import plots
from tppsd.commands.demo_sampling import EAGER
from tppsd.commands.demo_training import layers
from tppsd.data.whole_files import write_text
from tppsd.lightning.datamodule import EventDataModule
from tppsd.metrics.functional import history_share, lag1_correlation
from tppsd.plots.page import Page
from tppsd.sampling.stats import SamplingStats

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from tppsd.commands.demo import Settings

SCHEMA = 1
_HEADERS = {
    "autoregressive": "auto-\nregressive",
    EAGER: "the same,\neager",
    "speculative": "speculative\ntrained draft",
    "speculative_jacobi": "speculative\nits own distributions",
}
_SPECULATIVE = ("speculative", "speculative_jacobi")


def describe_data(data: EventDataModule) -> str:
    """Return one line on the data set."""
    sizes = ", ".join(f"{len(data.sequences(split)):,} {split}" for split in ("train", "validation", "test"))
    s = data.statistics
    return (
        f"Data: [bold]{data.dataset_name}[/]: {sizes} sequences; {s.num_events:,} training events, {s.num_marks} marks"
    )


def summarise(data: EventDataModule, results: dict[str, Any]) -> dict[str, Any]:
    """Return the content of summary.json."""
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
    summary[EAGER] = counters.get(EAGER)
    summary["speedup_over_eager"] = summary["speedup"] / _speedup(results, EAGER) if EAGER in results else None
    for key in ("model_ks", "true_process_ks", "mark_pit_ks"):
        test = results[fastest][key]
        summary[key] = None if test is None else test._asdict()
    summary["lag1_correlation"] = {
        "data": lag1_correlation(data.sequences("test"))._asdict(),
        "samples": lag1_correlation(results[fastest]["sequences"])._asdict(),
    }
    return summary


def _ran(results: dict[str, Any]) -> list[str]:
    """Return the names of the samplers that ran; compiled code needs a compiler."""
    return [name for name in _HEADERS if name in results]


def fastest_sampler(results: dict[str, Any]) -> str:
    """Return the name of the fastest speculative sampler."""
    return max(_SPECULATIVE, key=lambda name: results[name]["stats"].events_per_second)


def _speedup(results: dict[str, Any], name: str) -> float:
    """Return how many times as many events per second as the autoregressive sampler one has drawn."""
    return float(results[name]["stats"].events_per_second / results["autoregressive"]["stats"].events_per_second)


def _counters(stats: SamplingStats) -> dict[str, Any]:
    """Return the counters of a sampler that go into summary.json."""
    names = ["num_events", "seconds", "events_per_second"]
    if stats.method == "speculative":
        names += ["acceptance_rate", "step_acceptance", "mean_draft_length", "rule", "drafter"]
    counters = {name: stats[name] for name in names}
    return counters | ({"draft_length": round(stats.mean_draft_length)} if stats.method == "speculative" else {})


def _history_share(results: dict[str, Any], nll: float) -> float | None:
    """Return the history share of a model, None where the true process is not known."""
    share = math.nan if results["true_nll"] is None else history_share(nll, results["renewal_nll"], results["true_nll"])
    return None if math.isnan(share) else share


def write(
    settings: Settings, data: EventDataModule, results: dict[str, Any], summary: dict[str, Any], console: Console
) -> None:
    """Print the tables, write the page and the summary, and say what to try next."""
    tables = [_speed_table(results, summary), _likelihood_table(summary)]
    page = Page(f"tppsd demo: {data.dataset_name}")
    for table in tables:
        console.print(table.printed())
        page.heading(table.title)
        page.table(table.heads, table.rows)
        if table.note:
            page.paragraph(table.note)
    for figure in _figures(data, results):
        page.figure(figure)
    written = page.write(settings.output / "report.html")
    path = write_text(settings.output / "summary.json", json.dumps(summary, indent=2) + "\n")
    console.print("\n[bold]Written[/]")
    for place in (*(results[name]["folder"] for name in _ran(results)), written, path):
        console.print(f"  {place}")
    console.print(_next_steps(data, results), soft_wrap=True)


class _Table(NamedTuple):
    """Holds a table for the terminal and for the page. `note` explains a mark in it, None where there is none."""

    title: str
    heads: list[str]
    rows: list[list[str]]
    note: str | None = None

    def printed(self) -> Table:
        """Return the table for the terminal."""
        table = Table(title=self.title, title_justify="left", caption=self.note)
        for i, head in enumerate(self.heads):
            table.add_column(head, justify="right" if i else "left")
        for row in self.rows:
            table.add_row(*row, style="bold" if row[0] == "speed-up" else "")
        return table


def _speed_table(results: dict[str, Any], summary: dict[str, Any]) -> _Table:
    """Return counters, speed and tests of all samplers."""
    gain, over_eager = (
        f"drafts are {summary['speedup']:.2f} times as fast as event by event",
        summary["speedup_over_eager"],
    )
    if over_eager is not None:
        gain = f"{gain} (both compiled; {over_eager:.0f} times as fast as eager)"
    names = _ran(results)
    heads = [_HEADERS[name] for name in names]
    runs = [results[name] for name in names]
    stats = [run["stats"] for run in runs]
    drafts = [(s if s.method == "speculative" else None) for s in stats]
    rows = [
        ["events", *(f"{s.num_events:,}" for s in stats)],
        ["seconds", *(f"{s.seconds:.1f}" for s in stats)],
        ["events/s", *(f"{s.events_per_second:.0f}" for s in stats)],
        ["speed-up", *(f"{_speedup(results, name):.2f}" for name in names)],
        ["draft length, mean", *("" if s is None else f"{s.mean_draft_length:.1f}" for s in drafts)],
        ["acceptance rate", *("" if s is None else f"{s.acceptance_rate:.3f}" for s in drafts)],
        ["acceptance per step", *("" if s is None else f"{s.step_acceptance:.3f}" for s in drafts)],
    ]
    for label, key in (
        ("model KS", "model_ks"),
        ("mark PIT KS", "mark_pit_ks"),
        ("true-distribution KS *", "true_process_ks"),
    ):
        if runs[0][key] is not None:  # D and p in rows of their own: the table fits in 80 columns
            rows.append([f"{label}: D", *(f"{run[key].statistic:.4f}" for run in runs)])
            rows.append([f"{' ' * len(label)}  p", *(f"{run[key].p_value:.2g}" for run in runs)])
    note = "* of the true process: shows what the target has not learnt, too"
    title = f"Sampling: {gain}, under the same distribution"
    return _Table(title, ["", *heads], rows, None if runs[0]["true_process_ks"] is None else note)


def _likelihood_table(summary: dict[str, Any]) -> _Table:
    """Return the test NLL of target and draft, between the true process and the best model without a history."""
    convention = summary["target"]["convention"]
    rows = []
    if summary["true_nll_per_event"] is not None:
        rows.append(["true process", f"{summary['true_nll_per_event']:.4f}", "", "", "1"])
    for name in ("target", "draft"):
        m = summary[name]
        share = "" if m["history_share"] is None else f"{m['history_share']:.2f}"
        label = f"{name} ({layers(m['num_layers'])})"
        rows.append([label, f"{m['nll_per_event']:.4f}", f"{m['nll_time']:.4f}", f"{m['nll_mark']:.4f}", share])
    rows.append(["best renewal model (no history)", f"{summary['renewal_nll_per_event']:.4f}", "", "", "0"])
    return _Table(
        f"Test NLL per event ({convention} convention)", ["model", "NLL", "time", "mark", "history share"], rows
    )


def _figures(data: EventDataModule, results: dict[str, Any]) -> list[Figure]:
    """Draw time rescaling, sequences, intensities, and what rounds accept."""
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
    return [
        plots.ks_plot(curves, title="Time rescaling under the target's distribution"),
        plots.raster(groups, mark_names=names, time_unit=unit),
        plots.intensity_plot(times, intensities, shown, names, unit),
        plots.accepted_counts_plot(results[fastest]["stats"].accepted_counts),
    ]


def _next_steps(data: EventDataModule, results: dict[str, Any]) -> str:
    """Return what to try next, as text for the terminal."""
    target, draft = (os.path.relpath(results[name]["path"]) for name in ("target", "draft"))
    end = "horizon=10.0" if data.process_object is None else "t_end=100.0"
    # `make demo` installs into a virtual environment that is not the shell's
    folder = "" if shutil.which("tppsd") else f"{os.path.relpath(Path(sys.executable).parent)}{os.sep}"
    how, else_ = f'draft="{draft}"', ""
    if EAGER not in results:
        else_ = "  With a C++ compiler here, the same samples come several times as fast.\n"
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
