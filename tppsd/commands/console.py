"""What commands share: the options of one target and one drafter, how data are opened, types of numbers."""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from tppsd.benchmark.plan import Plan
    from tppsd.benchmark.sources import Request


class Pair(NamedTuple):
    """A target, who drafts for it, and what is sampled: one request per run. `console` prints results, `messages` all
    else."""

    target: Any
    draft: Any
    plan: Plan
    requests: list[Request]
    console: Any
    messages: Any


def compiled(text: str) -> str:
    """Type of `--compile`, which stands alone for all passes, or before "draft"."""
    if text != "draft":
        raise argparse.ArgumentTypeError(f"{text} is not draft; without it, all passes are compiled")
    return text


def add_compile(parser: argparse.ArgumentParser) -> None:
    """`--compile`, of every sampler."""
    parser.add_argument(
        "--compile", nargs="?", type=compiled, const=True, metavar="draft",
        help="compiled passes, in every sampler; draft: all but the target's passes (a CPU needs a C++ compiler)",
    )  # fmt: skip


def at_least(minimum: int) -> Callable[[str], int]:
    """Type of an option: whole numbers from `minimum` on. argparse names the option in front of the refusal."""

    def whole_number(text: str) -> int:
        try:
            number = int(text)
        except ValueError:
            number = minimum - 1
        if number < minimum:
            raise argparse.ArgumentTypeError(f"{text} must be a whole number of at least {minimum}")
        return number

    return whole_number


def positive_seconds(text: str) -> float:
    """Type of an option: a time that can be spent."""
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not 0 < seconds < math.inf:
        raise argparse.ArgumentTypeError(f"{text} must be a positive number of seconds")
    return seconds


def add_columns(parser: argparse.ArgumentParser) -> None:
    """The options of events whose columns have other names than usual, or that have no marks: `columns` and
    `unmarked`."""
    add, others = parser.add_argument, "columns of other names than usual, such as time=hours mark=kind"
    add(
        "--columns", type=_field_and_column, action="extend", nargs="+", default=[], metavar="FIELD=COLUMN", help=others
    )
    add("--unmarked", action="store_true", help="the events have no marks, or theirs are left aside")


def _field_and_column(text: str) -> tuple[str, str]:
    field, _, column = text.partition("=")
    if not (field and column):
        raise argparse.ArgumentTypeError(f"{text} must be FIELD=COLUMN, such as time=hours")
    return field, column


def open_events(data: str, columns: list[tuple[str, str]], unmarked: bool, **arguments: Any) -> Any:
    """The EventDataModule of --data, --columns and --unmarked, read.

    Raises:
        FileNotFoundError, ValueError: it cannot be; the sentence says why, and what these options can do about it.
    """
    from tppsd.lightning.datamodule import EventDataModule
    from tppsd.processes.presets import PRESETS

    if (unmarked or columns) and data in PRESETS:
        option = "--unmarked" if unmarked else "--columns"
        raise ValueError(f"{option} is for events that are read; the process {data} has the marks and times it has")
    fields = [field for field, _ in columns]
    if twice := [field for field in fields if fields.count(field) > 1]:
        raise ValueError(f"--columns names two columns for {twice[0]}; name one")
    named: dict[str, str | None] = dict(columns)
    if unmarked:
        if "mark" in named:
            raise ValueError(f"--columns mark={named['mark']} and --unmarked do not go together; leave one of them out")
        named["mark"] = None
    source: dict[str, Any] = {"process": data} if data in PRESETS else {"path": data}
    module = EventDataModule(**source, columns=named or None, **arguments)
    try:
        _ = module.dataset
    except ValueError as error:
        if "columns=" not in str(error):
            raise
        hint = "on the command line --columns FIELD=COLUMN, and --unmarked for columns={'mark': None}"
        raise ValueError(f"{error} ({hint})") from error
    return module


def add_pair(parser: argparse.ArgumentParser, draft: str, num_events: int, fewest_events: int = 1) -> None:
    """The options that `open_pair` reads, with two defaults and the fewest events per sequence that will do."""
    add = parser.add_argument
    add("--target", required=True, help="checkpoint of the target")
    add("--draft", default=draft, help="checkpoint or name of a drafter without a model (default: %(default)s)")
    add("--data", help="process preset, folder or hub id whose test sequences are continued (default: from scratch)")
    add(
        "--num-events",
        type=at_least(fewest_events),
        default=num_events,
        help="events per sequence (default: %(default)s)",
    )
    add("--batch-size", type=at_least(1), default=1, help="rows in flight (default: %(default)s)")
    add("--threads", type=at_least(1), help="torch threads (default: torch's own)")
    add_compile(parser)
    add(
        "--dtype",
        choices=["float32", "bfloat16"],
        default="float32",
        help="of matrices, keys and values (default: %(default)s)",
    )


def open_pair(options: argparse.Namespace, num_runs: int) -> Pair:
    """Models and requests of the options.

    Raises:
        FileNotFoundError, ValueError: one of them cannot be read; the sentence says why.
    """
    import torch
    from rich.console import Console

    from tppsd.backends.cpp.compilable import check_passes
    from tppsd.benchmark.plan import Plan
    from tppsd.benchmark.sources import open_data, request
    from tppsd.sampling.options import SamplingOptions
    from tppsd.sampling.resolve import DRAFTER_NAMES, resolve_model

    if options.threads is not None:
        torch.set_num_threads(options.threads)
    target = resolve_model(options.target, "target")
    check_passes(target, **SamplingOptions(compile=options.compile, dtype=options.dtype).target_passes)
    draft = options.draft if options.draft in DRAFTER_NAMES else resolve_model(options.draft, "draft")
    plan = Plan(
        target=options.target, drafts=(options.draft,), num_events=options.num_events, repeats=num_runs,
        compile=options.compile or False, dtype=options.dtype,
    )  # fmt: skip
    data = None if options.data is None else open_data(plan, options.data)
    requests = [request(plan, data, run, options.batch_size) for run in range(num_runs)]
    console = Console(width=None if sys.stdout.isatty() else 120)
    return Pair(target, draft, plan, requests, console, Console(stderr=True))
