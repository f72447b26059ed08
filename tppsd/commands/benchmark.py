"""`tppsd benchmark`: samplers side by side in one process, warmed up, alternating, medians over repeats with their spread."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tppsd.commands.console import progress
from tppsd.sampling.options import RULES, TREE_RULES

if TYPE_CHECKING:
    from tppsd.benchmark.rows import Row

DESCRIPTION = """Time samplers side by side and test their samples: from checkpoints (--target, --draft), from data (--data:
models are trained once and kept in outputs/benchmark/checkpoints), or with random weights (--untrained). The tables and figures
of the TPP-SD paper are files: --config lightning_configs/benchmark/small/table1.yaml. Options win over files. Several
cells (data, encoders, batch sizes) end in a table of the fastest sampler of each."""


def main(args: list[str]) -> None:
    """Measure, or read what was measured, and print."""
    options = parse(args)
    from tppsd.benchmark.summary import markdown, read_rows, speedups, summaries

    rows = measure(options) if options.recorded is None else read_rows(options.recorded)
    cells = summaries(rows)
    if not options.json and (len(cells) > 1 or options.recorded is not None):
        print(markdown(cells))
    if options.figure is not None:
        from tppsd.plots import save, speedup_plot

        if not cells:
            raise ValueError("--figure has nothing to draw: no speculative sampler was timed beside the autoregressive one")
        save(speedup_plot(speedups(cells)), options.figure)


def measure(options: argparse.Namespace) -> list[Row]:
    """Run the plan and print its rows, as a table or one JSON object each."""
    import torch
    from rich.console import Console

    from tppsd.benchmark.plan import read_plan
    from tppsd.benchmark.run import run
    from tppsd.benchmark.table import print_table

    plan = read_plan(options.config, overrides(options))
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    messages = Console(stderr=True)  # what is being done; the table or JSON alone is the output
    measurements = []
    for cell in run(plan, messages.print, lambda text, total: progress(messages, text, total)):
        measurements += cell
        if options.json:
            print("\n".join(json.dumps(measured.row.to_dict()) for measured in cell), flush=True)
    rows = [measured.row for measured in measurements]
    if not options.json:
        print_table(plan, rows, Console(width=None if sys.stdout.isatty() else 240))
    if options.report is not None:
        from tppsd.report import write_report

        messages.print(f"report: {write_report(plan, measurements, options.report)}")
    return rows


def parse(args: list[str]) -> argparse.Namespace:
    """Command line -> options; those that were not given are None."""
    parser = argparse.ArgumentParser(prog="tppsd benchmark", description=DESCRIPTION)
    add = parser.add_argument
    add("--config", action="append", default=[], help="YAML file of a plan; may be repeated, later ones win")
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--target", help="checkpoint of the target")
    which.add_argument("--untrained", help="layers,heads of an untrained target instead, such as 20,8")
    which.add_argument("--target-size", help="layers,heads of a target to train on the data (default: 4,2)")
    add(
        "--draft", action="append", help="checkpoint, self, jacobi, poisson, or layers,heads of a draft to train; may be repeated"
    )
    add("--method", nargs="+", choices=["auto", "fixed_point"], help="also these; auto is offered the first draft model")
    add("--data", nargs="+", help="process presets, folders or hub ids")
    add("--data-root", help="folder that holds data sets under their short names, looked at before the hub")
    add("--encoder", nargs="+", help="thp, sahp, attnhp, rotary (default: thp)")
    add("--draft-length", type=_length, nargs="+", help="events drafted per round, or auto (default: 4 8)")
    add("--draft-passes", type=int, nargs="+", help="draft models also draft in so many passes over all events")
    add("--rule", nargs="+", choices=RULES + TREE_RULES, help="acceptance rules (default: joint; of trees, linear)")
    add("--candidates", nargs="+", metavar="K,K,...", help="candidate trees beside the chains, such as 4,2,1")
    add("--batch-size", type=int, nargs="+", help="rows in flight (default: 1)")
    add("--num-events", type=int, help="events per sequence (default: 200, or the window of the data)")
    add("--repeats", type=int, help="timed runs of each sampler (default: 7)")
    add("--seed", type=int, nargs="+", help="of training and sampling; results are means over seeds (default: 0)")
    add("--baseline", nargs="+", choices=["reencode", "draft"],
        help="also time encoding the history anew for each event, or the drafts on their own")  # fmt: skip
    add("--training-seconds", type=float, nargs=2, metavar=("TARGET", "DRAFT"), help="training times (default: 120 30)")
    add("--device", choices=["cpu", "cuda"], help="(default: cpu)")
    add("--threads", type=int, help="torch threads (default: torch's own)")
    add("--json", action="store_true", help="one JSON object per row")
    add("--report", type=Path, help="write a self-contained HTML page with figures")
    add("--figure", type=Path, help="draw the fastest sampler of every cell (.svg, .png, .pdf)")
    add("--recorded", type=Path, nargs="+", metavar="FILE", help="measure nothing: sum up the rows of earlier runs with --json")
    options = parser.parse_args(args)
    for option, given in (("--report", options.report), ("--json", options.json)):
        if options.recorded is not None and given:
            parser.error(f"{option} is for what is measured, and --recorded measures nothing: leave one of them out")
    if options.figure is not None and options.figure.suffix not in (".svg", ".png", ".pdf"):
        parser.error(f"--figure {options.figure} must end in .svg, .png or .pdf")
    return options


def overrides(options: argparse.Namespace) -> dict[str, Any]:
    """The keys of a plan that the command line sets."""
    named = {
        "data": options.data, "data_root": options.data_root, "encoders": options.encoder, "target": options.target,
        "draft_lengths": options.draft_length, "rules": options.rule, "batch_sizes": options.batch_size,
        "num_events": options.num_events, "repeats": options.repeats, "seeds": options.seed, "baselines": options.baseline,
        "device": options.device, "methods": options.method, "draft_passes": options.draft_passes,
    }  # fmt: skip
    values = {key: value for key, value in named.items() if value is not None}
    if options.candidates is not None:
        values["candidates"] = [widths(tree) for tree in options.candidates]
    for name, size in (("--untrained", options.untrained), ("--target-size", options.target_size)):
        if size is not None:
            values["target"] = _size(size, name)
    if options.untrained is not None:
        values["untrained"] = True
    if options.draft is not None:
        values["drafts"] = [_draft(draft) for draft in options.draft]
    if options.training_seconds is not None:
        values["training"] = dict(zip(("target_seconds", "draft_seconds"), options.training_seconds, strict=True))
    return values


def widths(tree: str) -> list[int]:
    """ "4,2,1" -> [4, 2, 1]."""
    try:
        return [int(width) for width in tree.split(",")]
    except ValueError:
        raise ValueError(f"--candidates {tree} must be whole numbers with commas between them, such as 4,2,1") from None


def _draft(draft: str) -> str | dict[str, int]:
    """A size where it looks like one, else a checkpoint or a name."""
    return _size(draft, "--draft") if draft.replace(",", "").isdigit() and not Path(draft).exists() else draft


def _length(text: str) -> int | str:
    return text if text == "auto" else int(text)


def _size(size: str, option: str) -> dict[str, int]:
    try:
        num_layers, num_heads = (int(part) for part in size.split(","))
    except ValueError:
        raise ValueError(f"{option} {size} must be layers,heads, such as 20,8") from None
    return {"num_layers": num_layers, "num_heads": num_heads}
