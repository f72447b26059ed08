"""The kinds of jobs that are shared out in chunks and resumed: what their files are called, and what they hold.

It knows no Lightning.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple


class JobKind(NamedTuple):
    """Says how the files of one command look.

    Fields:
        command: of `tppsd`, which a job's record names; records without one are of predict.
        content: what a file holds, in messages.
        again: what happens to a file that is damaged, in messages.
        option: by which the folder is given.
        folder: of the shards, inside the job's folder: "" or a name that ends in "/", hidden from those who read the
            job's folder as data.
        prefix: of the shards' names.
        item_column: the column with the number of the item that a row is of.
        is_unique: an item has one row, else at least one.
        results: files beside the shards that are made of them at the end.
        attached: folder of files that are written with a shard and belong to it, inside the job's folder: a name that
            ends in "/"; "" where there are none.
    """

    command: str
    content: str
    again: str
    option: str
    folder: str
    prefix: str
    item_column: str
    is_unique: bool
    results: tuple[str, ...] = ()
    attached: str = ""


PREDICT = JobKind("predict", "samples", "sampled again", "--writer.output_dir", "", "train", "seq_idx", True)
FORECAST = JobKind(
    "forecast", "forecasts", "forecast again", "--output", ".shards/", "forecast", "history", False,
    ("forecast.parquet", "forecast.csv", "forecast.html"), "csep/",
)  # fmt: skip
BACKTEST = JobKind(
    "backtest", "scores", "scored again", "--output", ".shards/", "scores", "case", False,
    ("scores.parquet", "scores.csv", "scores.json", "origins.csv", "backtest.html"),
)  # fmt: skip
_KINDS = {kind.command: kind for kind in (PREDICT, FORECAST, BACKTEST)}


def kind_of(job: Mapping[str, Any]) -> JobKind:
    """Return the kind of a job by its record."""
    return _KINDS.get(str(job.get("command")), PREDICT)
