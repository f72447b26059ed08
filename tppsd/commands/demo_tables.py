"""The tables of the demo, and what they come to in words."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

from rich.table import Table

from tppsd.commands.demo_sampling import LABELS, LOOP
from tppsd.commands.demo_training import layers
from tppsd.forecasting.backtest_result import Backtest
from tppsd.metrics.functional import history_share

SPECULATIVE = ("speculative", "speculative_jacobi")
SAMPLED = ("autoregressive", *SPECULATIVE)
_HARDLY = 0.01  # nats per event: less is hardly anything
_LEVEL = 0.01  # of all tests of the samples together


class DemoTable(NamedTuple):
    """Holds a table for the terminal and for the page. `note` explains a mark in it, None where there is none."""

    title: str
    heads: list[str]
    rows: list[list[str]]
    note: str | None = None

    def printed(self) -> Table:
        """Return the table for the terminal."""
        table = Table(title=self.title, title_justify="left", caption=self.note, caption_justify="left")
        for i, head in enumerate(self.heads):
            table.add_column(head, justify="right" if i else "left")
        for row in self.rows:
            table.add_row(*row)
        return table


def learnt(results: dict[str, Any]) -> str:
    """Say in words what the target has learnt of the history, by its NLL beside that of the best model without one."""
    nll, renewal = results["target"]["metrics"][f"test/nll_{results['convention']}"], results["renewal_nll"]
    beside = (
        f"{nll:.3f} nats per event on the test split, against {renewal:.3f} of the best renewal model, which knows the "
        "time since the last event and nothing else of the history (lower is better)"
    )
    true = results["true_nll"]
    if true is not None and renewal - true < _HARDLY:
        return (
            f"There is nothing to learn of the history of these events: the target scores {beside}; the true process "
            f"scores {true:.3f}."
        )
    if nll >= renewal:
        return (
            f"Nothing was learnt of the history: the target scores {beside}. Its samples have exactly its distribution "
            "all the same, but that is worse than the renewal model's, and its forecasts will hardly be better. Train "
            "it longer (--target-seconds), or on shorter windows (--window), or take the renewal model."
        )
    if nll > renewal - _HARDLY:
        return (
            f"Hardly anything was learnt of the history: the target scores {beside}. Either it needs more training "
            "(--target-seconds), or these events do not depend on more than the last one."
        )
    share = share_of_history(results, nll)
    known = "" if share is None else f", which is {100 * share:.0f} % of what the true process knows of it"
    return f"The history is worth {renewal - nll:.3f} nats per event: the target scores {beside}{known}."


def told_apart(results: dict[str, Any]) -> str:
    """Say whether a test tells samples from the target's distribution, at one level for all tests together."""
    tests = [results[name][key] for name in SAMPLED for key in ("model_ks", "mark_pit_ks")]
    values = [test.p_value for test in tests if test is not None]
    if min(values) * len(values) >= _LEVEL:
        return (
            f"No test tells the samples from the target's distribution: the smallest of {len(values)} p-values is "
            f"{min(values):.2g}. Exact samples have p below 0.05 in one test of twenty."
        )
    return (
        f"A test tells samples from the target's distribution: p = {min(values):.2g}, the smallest of {len(values)}. "
        "Exact samples come to that in less than one demo of a hundred; please report it, with summary.json."
    )


def fastest_sampler(results: dict[str, Any]) -> str:
    """Return the name of the fastest speculative sampler."""
    return max(SPECULATIVE, key=lambda name: results[name]["stats"].events_per_second)


def speedup(results: dict[str, Any], name: str) -> float:
    """Return how many times as many events per second as the autoregressive sampler one has drawn."""
    return float(results[name]["stats"].events_per_second / results["autoregressive"]["stats"].events_per_second)


def loop_speedup(results: dict[str, Any]) -> float:
    """Return the speed of the papers' loop over that of sampling with a cache, on the same request."""
    loop = results[LOOP]
    return float(loop["events_per_second"] / loop["cached_events_per_second"])


def share_of_history(results: dict[str, Any], nll: float) -> float | None:
    """Return the history share of a model, None where the true process is not known."""
    share = math.nan if results["true_nll"] is None else history_share(nll, results["renewal_nll"], results["true_nll"])
    return None if math.isnan(share) else share


def likelihood_table(summary: dict[str, Any]) -> DemoTable:
    """Return the test NLL of target and draft, between the true process and the best model without a history."""
    convention, has_truth = summary["target"]["convention"], summary["true_nll_per_event"] is not None
    rows = []
    if has_truth:
        rows.append(["true process", f"{summary['true_nll_per_event']:.4f}", "", "", "1"])
    for name in ("target", "draft"):
        m = summary[name]
        share = "" if m["history_share"] is None else f"{m['history_share']:.2f}"
        label = f"{name} ({layers(m['num_layers'])})"
        rows.append([label, f"{m['nll_per_event']:.4f}", f"{m['nll_time']:.4f}", f"{m['nll_mark']:.4f}", share])
    rows.append(["best renewal model (no history)", f"{summary['renewal_nll_per_event']:.4f}", "", "", "0"])
    heads = ["model", "NLL", "of times", "of marks", "history share"]
    if not has_truth:
        heads, rows = heads[:4], [row[:4] for row in rows]
    note = f"Negative log-likelihood in nats per event, {convention} convention; lower is better."
    if has_truth:
        note += " History share: 0 as the best model without a history, 1 as the true process."
    return DemoTable("Likelihood of the test split", heads, rows, note)


def speed_table(results: dict[str, Any], summary: dict[str, Any]) -> DemoTable:
    """Return speeds and what rounds accept, one row per sampler."""
    compiled = ", compiled" if summary["is_compiled"] else ""
    baseline = f"{'compiled ' if compiled else ''}event-by-event sampling with a cache"
    loop = results[LOOP]
    rows = [[LABELS[LOOP], f"{loop['events_per_second']:,.0f}", f"{loop_speedup(results):.2g}", "", ""]]
    for name in SAMPLED:
        stats, label = results[name]["stats"], LABELS[name] + compiled
        drafted = ["", ""]
        if stats.method == "speculative":
            drafted = [f"{stats.mean_draft_length:.1f}", f"{100 * stats.step_acceptance:.0f} %"]
        rows.append([label, f"{stats.events_per_second:,.0f}", f"{speedup(results, name):.2f}", *drafted])
    times = summary["speedup_over_papers_loop"]
    title = f"Speculative sampling is {summary['speedup']:.1f} times as fast as {baseline}, and {times:,.0f} times as "
    title += "fast as the papers' loop"
    note = (
        f"One sequence at a time on one thread. Speed-ups are over {baseline}; that of the papers' loop is on the same "
        f"{loop['num_events']} events. Accepted: the share of tested drafted events."
    )
    if not compiled:
        note += " No C++ compiler was found: with one, all but the papers' loop are several times as fast."
    return DemoTable(title, ["sampler", "events/s", "speed-up", "drafted\nper round", "accepted"], rows, note)


def fidelity_table(results: dict[str, Any]) -> DemoTable:
    """Return the tests of the samples, one row per sampler."""
    rows = []
    for name in SAMPLED:
        own = results[name]
        cells = [f"{own['model_ks'].num_events:,}"]
        for key in ("model_ks", "mark_pit_ks", "true_process_ks"):
            test = own[key]
            cells += ["", ""] if test is None else [f"{test.statistic:.4f}", f"{test.p_value:.2g}"]
        rows.append([LABELS[name].split(",")[0] + (" (itself)" if "jacobi" in name else ""), *cells])
    heads = ["samples", "events", "times: D", "p", "marks: D", "p", "true: D", "p"]
    note = "Kolmogorov-Smirnov tests of rescaled times and of marks under the target; true: of times under the true "
    note += "process, where it is known, which shows what the target has not learnt, too."
    if results["autoregressive"]["true_process_ks"] is None:
        heads, rows = heads[:6], [row[:6] for row in rows]
        note = note.partition("; true")[0] + "."
    if results["autoregressive"]["mark_pit_ks"] is None:
        heads, rows = [*heads[:4], *heads[6:]], [[*row[:4], *row[6:]] for row in rows]
    return DemoTable("Tests of the samples", heads, rows, note)


def forecast_table(scored: Backtest, horizon: float, unit: str | None) -> DemoTable:
    """Return scores of forecasts, the target's beside those of the baselines."""
    names = {
        "crps_of_counts": "number of events: CRPS", "brier_score": "an event: Brier score", "auroc": "an event: AUROC*",
        "coverage_80": "share inside 80 % intervals", "crps_of_next_time": "time of the next event: CRPS",
    }  # fmt: skip
    rows = []
    found = {row[:2]: row.value for row in scored.scores if (row.mark, row.horizon) == ("any", scored.horizons[-1])}
    for metric, label in names.items():
        if ("target", metric) in found:
            rows.append([label, *(f"{found.get((case, metric), math.nan):.3g}" for case in scored.cases)])
    span = f"{horizon:g}" + (f" {unit}" if unit else " units of time")
    title = f"Forecasts of any mark over {span}, at {len(scored.origins.times):,} origins in the test split"
    return DemoTable(
        title, ["score", *scored.cases], rows, "Lower is better, but * higher; 0.8 is right for the share."
    )
