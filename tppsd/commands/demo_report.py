"""The results of the demo: tables, a page with figures, summary.json, and where to go from there."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from rich.console import Console

from tppsd import plots
from tppsd.commands.demo_sampling import LOOP, is_compiled
from tppsd.commands.demo_tables import (
    SAMPLED,
    SPECULATIVE,
    DemoTable,
    fastest_sampler,
    fidelity_table,
    forecast_table,
    learnt,
    likelihood_table,
    loop_speedup,
    share_of_history,
    speed_table,
    speedup,
    told_apart,
)
from tppsd.data.whole_files import write_text
from tppsd.lightning.datamodule import EventDataModule
from tppsd.metrics.functional import lag1_correlation
from tppsd.plots.page import Page
from tppsd.sampling.stats import SamplingStats

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from tppsd.commands.demo import Settings

SCHEMA = 2


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
            "history_share": share_of_history(results, metrics[f"test/nll_{convention}"]),
            "num_parameters": sum(p.numel() for p in model.parameters()),
            "num_layers": model.num_layers,
            "epochs": results[name]["epochs"],
        }
    summary["true_nll_per_event"] = results["true_nll"]
    summary["renewal_nll_per_event"] = results["renewal_nll"]
    summary["learnt"] = learnt(results)
    counters = {name: _counters(results[name]["stats"]) for name in SAMPLED}
    fastest = fastest_sampler(results)
    summary["autoregressive"] = counters["autoregressive"]
    summary["speculative"] = counters[fastest]
    summary["speedup"] = speedup(results, fastest)
    summary["speedup_by_drafter"] = {name: speedup(results, name) for name in SPECULATIVE}
    summary["is_compiled"] = is_compiled()
    summary[LOOP] = results[LOOP]
    summary["speedup_over_papers_loop"] = summary["speedup"] / loop_speedup(results)
    for key in ("model_ks", "true_process_ks", "mark_pit_ks"):
        test = results[fastest][key]
        summary[key] = None if test is None else test._asdict()
    summary["lag1_correlation"] = {
        "data": lag1_correlation(data.sequences("test"))._asdict(),
        "samples": lag1_correlation(results[fastest]["sequences"])._asdict(),
    }
    summary["horizon"], scored = results["horizon"], results["backtest"]
    summary["backtest"] = None if scored is None else scored.to_dict()
    return summary


def what_was_learnt(results: dict[str, Any]) -> str:
    """Return, for the terminal, what the target has learnt of the history."""
    return f"\n[bold]What was learnt[/]\n{learnt(results)}"


def _counters(stats: SamplingStats) -> dict[str, Any]:
    """Return the counters of a sampler that go into summary.json."""
    names = ["num_events", "seconds", "events_per_second"]
    if stats.method == "speculative":
        names += ["acceptance_rate", "step_acceptance", "mean_draft_length", "rule", "drafter"]
    counters = {name: stats[name] for name in names}
    return counters | ({"draft_length": round(stats.mean_draft_length)} if stats.method == "speculative" else {})


def write(
    settings: Settings, data: EventDataModule, results: dict[str, Any], summary: dict[str, Any], console: Console
) -> None:
    """Print the tables, write the page and the summary, and say what to try next."""
    tables = [likelihood_table(summary), speed_table(results, summary), fidelity_table(results)]
    if results["backtest"] is not None:
        tables.append(forecast_table(results["backtest"], results["horizon"], data.statistics.time_unit))
    for table in tables:
        console.print(table.printed())
    if results["why_not"] is not None:
        console.print(f"Forecasts are not scored here: {results['why_not']}", markup=False, soft_wrap=True)
    written = _page(data, results, tables).write(settings.output / "report.html")
    path = write_text(settings.output / "summary.json", json.dumps(summary, indent=2) + "\n")
    console.print(_next_steps(data, results), soft_wrap=True)
    console.print("[bold]Written[/]")
    for name in SAMPLED:
        console.print(f"  {results[name]['folder']}")
    console.print(f"  {path}\n  {written}  [bold]<- open this page[/]", soft_wrap=True)


def _page(data: EventDataModule, results: dict[str, Any], tables: list[DemoTable]) -> Page:
    """Return the page: from a picture of the data to a forecast and how good such forecasts are."""
    names, unit = data.statistics.mark_names, data.statistics.time_unit
    likelihood, speed, fidelity, *forecasts = tables
    page = Page(f"tppsd demo: {data.dataset_name}")
    page.heading("1. The data")
    page.paragraph(describe_data(data).replace("[bold]", "").replace("[/]", ""))
    page.figure(plots.data_plot(data.sequences("test"), names, unit, title="The test split"))
    page.heading("2. What was learnt")
    page.lead(learnt(results))
    _add(page, likelihood)
    page.figure(_intensities(data, results))
    page.heading("3. Sampling")
    _add(page, speed)
    page.figure(_sequences(data, results))
    page.figure(plots.accepted_counts_plot(results[fastest_sampler(results)]["stats"].accepted_counts))
    page.heading("4. Is it the same distribution?")
    page.lead(told_apart(results))
    _add(page, fidelity)
    page.figure(_time_rescaling(results))
    page.heading("5. A forecast, and how good such forecasts are")
    if not forecasts:
        page.paragraph(f"Forecasts are not scored here: {results['why_not']}")
        return page
    shown, whole = results["shown"]
    page.paragraph(
        "Bands hold 50, 80 and 95 % of the sampled continuations; the line in steps is what came. Below: at how many "
        "origins an event came, against the probability that was forecast; on the diagonal, forecasts mean what they "
        "say."
    )
    page.figure(shown.plot([whole]))
    page.figure(results["backtest"].plot())
    _add(page, forecasts[0])
    return page


def _add(page: Page, table: DemoTable) -> None:
    """Add a table with its title and its note to a page."""
    page.lead(table.title)
    page.table(table.heads, table.rows)
    if table.note:
        page.paragraph(table.note)


def _sequences(data: EventDataModule, results: dict[str, Any]) -> Figure:
    """Draw sampled sequences beside those of the data."""
    fastest = fastest_sampler(results)
    sampled = {"autoregressive": results["autoregressive"], "speculative": results[fastest]}
    groups = {"data": data.sequences("test"), **{name: own["sequences"] for name, own in sampled.items()}}
    return plots.raster(groups, mark_names=data.statistics.mark_names, time_unit=data.statistics.time_unit)


def _time_rescaling(results: dict[str, Any]) -> Figure:
    """Draw the tests of the sampled times."""
    fastest = fastest_sampler(results)
    curves = {"autoregressive": results["autoregressive"]["gaps"], "speculative": results[fastest]["gaps"]}
    if results[fastest]["true_gaps"] is not None:
        curves["speculative, against the true process"] = results[fastest]["true_gaps"]
    return plots.ks_plot(curves, title="Time rescaling under the target's distribution")


def _intensities(data: EventDataModule, results: dict[str, Any]) -> Figure:
    """Draw intensities along a sequence of the test split, and the true ones where the process is known."""
    statistics = data.statistics
    sequence = max(data.sequences("test")[:20], key=len)
    start, stop = sequence.window_start, sequence.window_end
    times = torch.linspace(start, start + min(stop - start, 40 * statistics.time_scale), 1500, dtype=torch.float64)[1:]
    intensities = {"target": results["target"]["module"].model.intensity(sequence, times)}
    if data.process_object is not None:
        intensities["true"] = data.process_object.intensity(sequence, times)
    shown = sequence.prefix(int((sequence.event_times <= times[-1]).sum()))
    return plots.intensity_plot(times, intensities, shown, statistics.mark_names, statistics.time_unit)


def _next_steps(data: EventDataModule, results: dict[str, Any]) -> str:
    """Return what to try next, as text for the terminal."""
    target, draft = (os.path.relpath(results[name]["path"]) for name in ("target", "draft"))
    end = "horizon=10.0" if data.process_object is None else "t_end=100.0"
    # `make demo` installs into a virtual environment that is not the shell's
    folder = "" if shutil.which("tppsd") else f"{os.path.relpath(Path(sys.executable).parent)}{os.sep}"
    command, python = (shlex.quote(f"{folder}{name}") for name in ("tppsd", "python"))
    return f"""
[bold]Next[/]
  {command} inspect PATH           what is in your own log of events
  {command} demo --data PATH       the same on it: a folder of splits, a file or a hub id
  {command} fit --data.path PATH   train with every option; then forecast, backtest, predict
  {python}                       sample in three lines:
    import tppsd
    samples = tppsd.sample({target!r},
                           draft={draft!r}, num_sequences=8, {end})
    samples.to_pandas()
"""
