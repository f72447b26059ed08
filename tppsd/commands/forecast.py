"""`tppsd forecast SOURCE`: what comes after every sequence of a log, as a table and as a page to look at."""

from __future__ import annotations

import os
import shlex
from dataclasses import replace
from itertools import chain, islice
from typing import TYPE_CHECKING

from tppsd.commands.data_options import SourceParser, add_job_options, opened, parse_job

if TYPE_CHECKING:
    from tppsd.data.log import EventLog
    from tppsd.data.reading import EventDataset
    from tppsd.data.sequences import EventSequence


def main(args: list[str]) -> None:
    """Forecast what follows the sequences of a source, and write forecast.parquet, forecast.csv and forecast.html.

    With `--format csep` also the paths of each history, as a catalogue forecast.

    It runs through the Trainer in chunks; killed and started again, it goes on where it stopped.

    Raises:
        FileNotFoundError, ValueError: the model or the log cannot be read, or an option does not fit them.
    """
    from tppsd.lightning.running import run_job

    own = parser()
    parsed = parse_job(own, [_plain(word) for word in args])
    if parsed.given_until is not None and parsed.given_fraction is not None:
        raise ValueError("--given_until and --given_fraction both say what a history is; give one of them")

    if parsed.magnitudes is not None and parsed.format is None:
        raise ValueError("--magnitudes says what --format csep writes; give both, or leave it out")

    from tppsd.data.catalogs import CatalogFormat, check_format
    from tppsd.data.log import read_log
    from tppsd.data.reading import to_dataset
    from tppsd.lightning.forecast_job import Forecaster
    from tppsd.lightning.forecast_writer import ForecastWriter
    from tppsd.sampling.checks import whole_number

    check_format(parsed.format)
    if parsed.max_histories is not None:
        whole_number("--max_histories", parsed.max_histories, 1)
    target, source, options = opened(parsed)
    if source is None:
        raise ValueError(f"--run {parsed.run}: was trained on a simulated process; give a SOURCE to forecast")
    catalogs = None if parsed.format is None else CatalogFormat.of(target.statistics, parsed.magnitudes)
    is_split = parsed.split is not None or options.split_times is not None
    log = read_log(source, options, is_split)
    if parsed.given_until is not None:
        log = _uncut(log, parsed.split)
    dataset = to_dataset(log)
    if parsed.given_until is None:
        histories, observed = _histories(dataset, parsed.split, parsed.given_fraction, parsed.max_histories)
    else:
        histories, observed = _until(dataset, parsed.split, parsed.given_until, parsed.max_histories)
    module = Forecaster(
        target,
        histories,
        _length(parsed.horizon, dataset),
        parsed.num_paths,
        parsed.marks,
        parsed.bins,
        parsed.draft,
        parsed.stop_marks,
        parsed.seed,
        observed,
        parsed.max_events,
        None if parsed.history_lookback is None else _length(parsed.history_lookback, dataset, "--history_lookback"),
        catalogs,
    )
    writer = ForecastWriter(parsed.output, dataset.name)
    if run_job(module, module.chunks(parsed.chunk_size), writer, own, parsed):
        for path in writer.paths:
            print(f"Written: {path}")
        if parsed.run is not None:
            run, horizon = shlex.quote(parsed.run), shlex.quote(parsed.horizon)
            print(f"Next: is it any good? tppsd backtest --run {run} --horizon {horizon}")


def parser() -> SourceParser:
    """Return the parser of the command line."""
    examples = ("tppsd forecast --run outputs/fit/version_0 --horizon 7d",
                "tppsd forecast log.csv --model best.ckpt --horizon 30 --output outputs/forecast")  # fmt: skip
    parser = SourceParser("tppsd forecast", "Forecast what comes after every sequence of a log.", examples, True)
    add_job_options(parser, "outputs/forecast", "history", "histories", num_paths=1000, max_events=1_000_000)
    add = parser.add_argument
    add("--bins", type=int, default=4, help="parts of the horizon, with counts of their own")
    add("--stop_marks", type=list[int | str] | None, default=None, help="marks that end a sequence")
    add("--split", type=str | None, default=None, help="train, validation or test (default: all of them)")
    add("--given_fraction", type=float | None, default=None,
        help="a history is this share of the events of its sequence, and the rest is drawn beside the forecast "
        "(default: all of them)")  # fmt: skip
    add("--given_until", type=str | None, default=None,
        help="forecast as of this time, a timestamp or a number: what came until then is given, and the rest is drawn "
        "beside the forecast; also --given.until")  # fmt: skip
    add("--format", type=str | None, default=None,
        help="csep: also write the paths of each history as a catalogue forecast, OUTPUT/csep/START.csv (default: "
        "none)")  # fmt: skip
    add("--magnitudes", type=list[float] | None, default=None,
        help="of marks 0, 1 and so on, for --format csep (default: the lower edges of mark_bins, where the model's "
        "marks are these)")  # fmt: skip
    add("--max_histories", type=int | None, default=None, help="at most so many, from the first on")
    return parser


def _histories(
    dataset: EventDataset, split: str | None, fraction: float | None, most: int | None
) -> tuple[list[EventSequence], list[EventSequence] | None]:
    """Return what is continued, and what has come after it where a part of each sequence is held back."""
    splits = list(dataset.splits) if split is None else [split]
    sequences = list(islice(chain.from_iterable(map(dataset.sequences, splits)), most))  # builds no more than these
    if not sequences:
        raise ValueError(f"{dataset.name}: there is no sequence to continue")
    if fraction is None:
        return sequences, None
    if not 0 < fraction <= 1:
        raise ValueError(f"--given_fraction {fraction} must lie between 0 and 1")
    given = [max(int(s.first_is_given), int(fraction * len(s))) for s in sequences]
    return [sequence.prefix(num) for sequence, num in zip(sequences, given, strict=True)], sequences


def _plain(word: str) -> str:
    """Return a word of the command line with --given.until and --given.fraction as the options that they are."""
    return "--given_" + word.removeprefix("--given.") if word.startswith("--given.") else word


def _uncut(log: EventLog, split: str | None) -> EventLog:
    """Return a log without its cuts into windows and splits by time, so that each sequence has one history."""
    if split is not None:
        if log.window is not None or log.options.split_times is not None:
            raise ValueError(
                f"--split {split} is cut by time, and --given_until says itself where a history ends; leave --split out"
            )
        return log
    from tppsd.data.tables import SPLITS

    parts = dict(zip(SPLITS, log.whole, strict=False))
    return replace(log, parts=parts, marks={name: log.vocabulary.encode(part) for name, part in parts.items()})


def _until(
    dataset: EventDataset, split: str | None, until: str, most: int | None
) -> tuple[list[EventSequence], list[EventSequence] | None]:
    """Return what was known of each sequence at a time, and the sequences themselves where they go on after it."""
    import numpy as np

    from tppsd.data.units import Clock
    from tppsd.forecasting.anchors import as_of

    clock = Clock.stored(dataset.time_unit, dataset.time_origin)
    time = float(clock.times(np.asarray(clock.tick(until, "--given_until"))))
    splits = list(dataset.splits) if split is None else [split]
    found = as_of([sequence for name in splits for sequence in dataset.sequences(name)], time)
    left_out = [f"{found.num_later:,} begin later"] if found.num_later else []
    if found.num_ended:
        left_out.append(f"{found.num_ended:,} were observed until an earlier time (t_end says until when)")
    if not found.histories:
        raise ValueError(f"--given_until {until}: no sequence was observed then; {' and '.join(left_out)}")
    if left_out and os.environ.get("LOCAL_RANK", "0") == "0":  # of the processes of a node one says it
        print(f"As of {until} {len(found.histories):,} sequences are forecast; {' and '.join(left_out)}")
    sequences = found.sequences[:most]
    goes_on = any(sequence.window_end > time for sequence in sequences)
    return found.histories[:most], sequences if goes_on else None


def _length(text: str, dataset: EventDataset, option: str = "--horizon") -> float:
    """Return a length of time in the data's unit."""
    from tppsd.data.units import Clock

    clock = Clock.stored(dataset.time_unit, dataset.time_origin)
    length = clock.length(clock.duration(text, option))
    assert length is not None
    return length
