"""The command `tppsd benchmark` times samplers side by side in one process, after a warm-up and in turn.

It reports medians over repeats with their spread.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tppsd.arguments import use_threads
from tppsd.commands.console import CommandParser, add_compile, add_threads, output_path, positive_seconds
from tppsd.progress import progress
from tppsd.sampling.options import RULES, TREE_RULES

if TYPE_CHECKING:
    from tppsd.benchmark.plan import Plan
    from tppsd.benchmark.rows import Measurement

DESCRIPTION = """Time samplers side by side and test their samples: from checkpoints (--target, --draft), from data
(--data: models are trained once and kept in outputs/benchmark/checkpoints), or with random weights (--untrained). The
tables and figures of the TPP-SD paper are files: --config lightning_configs/benchmark/small/table1.yaml. Options win
over files. Several cells (data, encoders, batch sizes) end in a table of the fastest sampler of each."""
EXAMPLES = (
    "tppsd benchmark --untrained 20,8 --draft 1,1",
    "tppsd benchmark --target target.ckpt --draft draft.ckpt --batch-size 1 16 --threads 1",
)


def main(args: list[str]) -> None:
    """Measure and print."""
    options = parse(args)
    from tppsd.benchmark.plan import read_plan
    from tppsd.benchmark.table import markdown, summaries

    if options.report is not None:
        check_writable("--report", options.report)
    plan = read_plan(options.config, overrides(options))
    measurements = measure(plan, options)
    cells = summaries([measured.row for measured in measurements])
    if not options.json and len(cells) > 1:
        print(markdown(cells))
    if options.report is not None:
        from tppsd.benchmark.report import write_report

        print(f"Written: {write_report(plan, measurements, options.report)}", file=sys.stderr)
    elif not options.json:
        print("Nothing is written; --json > rows.jsonl keeps the rows, --report page.html draws them", file=sys.stderr)


def check_writable(option: str, path: Path) -> None:
    """Refuse a file that cannot be written, before anything is measured.

    Tried by a nameless file in the folder that is to hold it.

    Raises:
        ValueError: it names a folder, or a place where nothing can be written.
    """
    try:
        if path.is_dir():
            raise ValueError(f"{option} {path} is a folder; name a file")
        folder = next(parent for parent in path.absolute().parents if parent.exists())
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise ValueError(
            f"{option} {path} cannot be written ({error.strerror}); name a file in a folder that can"
        ) from error


def measure(plan: Plan, options: argparse.Namespace) -> list[Measurement]:
    """Run the plan and print its rows, as a table or one JSON object each."""
    from rich.console import Console

    from tppsd.backends.compile import check_compiler
    from tppsd.benchmark.run import run
    from tppsd.benchmark.table import print_table

    use_threads(options.threads)
    if plan.compile is True and plan.device == "cpu":  # before anything is trained
        check_compiler()
    messages = Console(stderr=True)  # what is being done; the table or JSON alone is the output
    measurements: list[Measurement] = []
    for cell in run(plan, messages.print, lambda text, total: progress(messages, text, total)):
        measurements += cell
        if options.json:
            print("\n".join(json.dumps(measured.row.to_dict()) for measured in cell), flush=True)
    if not options.json:
        rows = [measured.row for measured in measurements]
        print_table(plan, rows, Console(width=None if sys.stdout.isatty() else 240))
    return measurements


def parser() -> CommandParser:
    """Return the parser of the command line."""
    parser = CommandParser("tppsd benchmark", DESCRIPTION, EXAMPLES)
    add = parser.add_argument
    add("--config", action="append", default=[], help="YAML file of a plan; may be repeated, later ones win")
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--target", help="checkpoint of the target")
    which.add_argument("--untrained", help="layers,heads of an untrained target instead, such as 20,8")
    which.add_argument("--target-size", help="layers,heads of a target to train on the data (default: 4,2)")
    add(
        "--draft",
        action="append",
        help="checkpoint, self, jacobi, poisson, or layers,heads of a draft to train; may be repeated",
    )
    add(
        "--method", nargs="+", choices=["auto", "fixed_point"], help="also these; auto is offered the first draft model"
    )
    add("--data", nargs="+", help="process presets, folders or hub ids")
    add("--data-root", help="folder that holds data sets under their short names, looked at before the hub")
    add("--encoder", nargs="+", help="thp, sahp, attnhp, rotary (default: thp)")
    add("--draft-length", type=_length, nargs="+", help="events drafted per round, or auto (default: 4 8)")
    add("--draft-passes", type=int, nargs="+", help="draft models also draft in so many passes over all events")
    add("--rule", nargs="+", choices=RULES + TREE_RULES, help="acceptance rules (default: joint; of trees, linear)")
    add("--candidates", nargs="+", metavar="K,K,...", help="candidate trees beside the chains, such as 4,2,1")
    add("--batch-size", type=int, nargs="+", help="running sequences (default: 1)")
    add("--num-events", type=int, help="events per sequence (default: 200, or the window of the data)")
    add("--repeats", type=int, help="timed runs of each sampler (default: 7)")
    add("--seed", type=int, nargs="+", help="of training and sampling; results are means over seeds (default: 0)")
    add(
        "--baseline",
        nargs="+",
        choices=["reencode", "draft", "eager"],
        help="also time encoding the history anew for each event, the drafts on their own, or eager sampling",
    )
    add(
        "--training-seconds",
        type=positive_seconds,
        nargs=2,
        metavar=("TARGET", "DRAFT"),
        help="training times (default: 120 30)",
    )
    add_compile(parser)
    add(
        "--dtype",
        choices=["float32", "bfloat16"],
        help="of matrices, keys and values, in every sampler (default: float32)",
    )
    add("--device", choices=["cpu", "cuda"], help="where models run (default: cpu)")
    add_threads(parser)
    add("--json", action="store_true", help="one JSON object per row")
    add("--report", type=output_path, help="write a self-contained HTML page with figures")
    return parser


def parse(args: list[str]) -> argparse.Namespace:
    """Read the options of the command line; those that were not given are None."""
    return parser().parse_args(args)


def overrides(options: argparse.Namespace) -> dict[str, Any]:
    """Return the keys of a plan that the command line sets."""
    named = {
        "data": options.data, "data_root": options.data_root, "encoders": options.encoder, "target": options.target,
        "draft_lengths": options.draft_length, "rules": options.rule, "batch_sizes": options.batch_size,
        "num_events": options.num_events, "repeats": options.repeats, "seeds": options.seed,
        "baselines": options.baseline,
        "device": options.device, "compile": options.compile, "dtype": options.dtype, "methods": options.method,
        "draft_passes": options.draft_passes,
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
    """Read a tree: "4,2,1" becomes [4, 2, 1]."""
    try:
        return [int(width) for width in tree.split(",")]
    except ValueError:
        raise ValueError(f"--candidates {tree} must be whole numbers with commas between them, such as 4,2,1") from None


def _draft(draft: str) -> str | dict[str, int]:
    """Return a size where the text looks like one, else the text, which names a checkpoint or a drafter."""
    return _size(draft, "--draft") if draft.replace(",", "").isdigit() and not Path(draft).exists() else draft


def _length(text: str) -> int | str:
    """Read a draft length: "auto" or a whole number."""
    return text if text == "auto" else int(text)


def _size(size: str, option: str) -> dict[str, int]:
    """Read the size of a model: "20,8" are 20 layers and 8 heads."""
    try:
        num_layers, num_heads = (int(part) for part in size.split(","))
    except ValueError:
        raise ValueError(f"{option} {size} must be layers,heads, such as 20,8") from None
    return {"num_layers": num_layers, "num_heads": num_heads}
