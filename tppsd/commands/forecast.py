"""`tppsd forecast SOURCE`: what comes after every sequence of a log, as a table and as a page to look at."""

from __future__ import annotations

from itertools import chain, islice
from typing import TYPE_CHECKING

from tppsd.commands.data_options import SourceParser, opened, parse_job

if TYPE_CHECKING:
    from tppsd.data.reading import EventDataset
    from tppsd.data.sequences import EventSequence


def main(args: list[str]) -> None:
    """Forecast what follows the sequences of a source, and write forecast.parquet, forecast.csv and forecast.html.

    It runs through the Trainer in chunks; killed and started again, it goes on where it stopped.

    Raises:
        FileNotFoundError, ValueError: the model or the log cannot be read, or an option does not fit them.
    """
    from tppsd.lightning.running import run_job

    own = parser()
    parsed = parse_job(own, args)

    from tppsd.data.log import read_log
    from tppsd.data.reading import to_dataset
    from tppsd.lightning.forecast_job import Forecaster
    from tppsd.lightning.forecast_writer import ForecastWriter
    from tppsd.sampling.checks import whole_number

    if parsed.max_histories is not None:
        whole_number("--max_histories", parsed.max_histories, 1)
    target, source, options = opened(parsed)
    if source is None:
        raise ValueError(f"--run {parsed.run}: was trained on a simulated process; give a SOURCE to forecast")
    is_split = parsed.split is not None or options.split_times is not None
    dataset = to_dataset(read_log(source, options, is_split))
    histories, observed = _histories(dataset, parsed.split, parsed.given_fraction, parsed.max_histories)
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
    )
    writer = ForecastWriter(parsed.output, dataset.name)
    if run_job(module, module.chunks(parsed.chunk_size), writer, own, parsed):
        for path in writer.paths:
            print(f"Written: {path}")


def parser() -> SourceParser:
    """Return the parser of the command line."""
    examples = ("tppsd forecast --run outputs/fit/version_0 --horizon 7d",
                "tppsd forecast log.csv --model best.ckpt --horizon 30 --output outputs/forecast")  # fmt: skip
    from tppsd.lightning.running import add_trainer_options

    parser = SourceParser("tppsd forecast", "Forecast what comes after every sequence of a log.", examples, True)
    _add_options(parser)
    add_trainer_options(parser)
    return parser


def _add_options(parser: SourceParser) -> None:
    parser.add_argument(
        "--run", type=str | None, default=None, help="folder of a run of fit: its best checkpoint, and its data"
    )
    parser.add_argument("--model", type=str | None, default=None, help="checkpoint, where SOURCE gives the data")
    parser.add_argument(
        "--draft", type=str | None, default=None, help="checkpoint of a draft, or the name of a drafter"
    )
    parser.add_argument(
        "--horizon", type=str | None, default=None, help="length of the forecast: a number of units, or 7d"
    )
    parser.add_argument(
        "--output", type=str, default="outputs/forecast", help="folder for the table and the page, and for what is done"
    )
    parser.add_argument("--num_paths", type=int, default=1000, help="sampled continuations of each history")
    parser.add_argument("--bins", type=int, default=4, help="parts of the horizon, with counts of their own")
    parser.add_argument("--marks", type=list[int | str] | None, default=None,
                        help="marks to forecast, by index or name (default: each)")  # fmt: skip
    parser.add_argument("--stop_marks", type=list[int | str] | None, default=None, help="marks that end a sequence")
    parser.add_argument(
        "--split", type=str | None, default=None, help="train, validation or test (default: all of them)"
    )
    parser.add_argument("--given_fraction", type=float | None, default=None,
                        help="a history is this share of the events of its sequence, and the rest is drawn beside the "
                        "forecast (default: all of them)")  # fmt: skip
    parser.add_argument("--max_histories", type=int | None, default=None, help="at most so many, from the first on")
    parser.add_argument("--seed", type=int, default=0, help="of the paths")
    parser.add_argument("--chunk_size", type=int | None, default=None,
                        help="histories that are done and written together (default: some 20,000 paths)")  # fmt: skip


def _histories(
    dataset: EventDataset, split: str | None, fraction: float | None, most: int | None
) -> tuple[list[EventSequence], list[EventSequence] | None]:
    """Return what is continued, and what has come after it where a part of each sequence is held back."""
    if most is not None and most < 1:
        raise ValueError(f"--max_histories {most} must be at least 1")
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


def _length(text: str, dataset: EventDataset) -> float:
    """Return a length of time in the data's unit."""
    from tppsd.data.units import Clock

    clock = Clock.stored(dataset.time_unit, dataset.time_origin)
    length = clock.length(clock.duration(text, "--horizon"))
    assert length is not None
    return length
