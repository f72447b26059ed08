"""`tppsd backtest`: forecasts from many origins of a test split, scored beside those of classical baselines."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tppsd.commands.data_options import SourceParser, add_job_options, opened, parse_job, typed_options

if TYPE_CHECKING:
    from tppsd.data.statistics import DataStatistics
    from tppsd.forecasting.backtest_result import Backtest
    from tppsd.lightning.datamodule import EventDataModule
    from tppsd.models.transformer_tpp import TransformerTPP


def main(args: list[str]) -> None:
    """Backtest a checkpoint, print the scores of all marks together, and write table, JSON and page.

    It runs through the Trainer in chunks; killed and started again, it goes on where it stopped.

    Raises:
        FileNotFoundError, ValueError: an argument is wrong, or data and model do not belong together.
    """
    from tppsd.lightning.running import run_job

    own = parser()
    parsed = parse_job(own, args)

    from tppsd.data.marks import check_mark_names
    from tppsd.data.units import check_time_unit
    from tppsd.lightning.backtest_job import Backtester, BacktestWriter

    target, data = _opened(parsed)
    statistics, model = target.statistics, parsed.model or parsed.run
    check_mark_names(statistics.mark_names, data.statistics.mark_names, model)
    check_time_unit(statistics.time_unit, data.statistics.time_unit, model)
    sequences = data.sequences(parsed.split)
    if not sequences:
        raise ValueError(
            f"{data.dataset_name}: there is no split {parsed.split!r} to forecast; name another by --split"
        )
    module = Backtester(
        target,
        sequences,
        parsed.horizon,
        _origins(parsed.origins, statistics),
        parsed.num_paths,
        parsed.within or (),
        parsed.baselines,
        data.sequences("train"),
        parsed.draft,
        parsed.seed,
        parsed.batch_size,
        parsed.marks,
        parsed.max_events,
        parsed.history_lookback,
    )
    writer = BacktestWriter(parsed.output)
    if run_job(module, module.chunks(parsed.chunk_size), writer, own, parsed) and writer.found is not None:
        _say(writer.found)
        for path in writer.paths:
            print(f"Written: {path}")


def parser() -> SourceParser:
    """Return the parser of the command line."""
    about = "Score forecasts from many origins of a test split by what happened."
    examples = ("tppsd backtest --run outputs/fit/version_0 --horizon 7d --origins 'every 7d'",)
    parser = SourceParser("tppsd backtest", about, examples, True)
    add_job_options(parser, "outputs/backtest", "origin", "origins", num_paths=200, max_events=100_000)
    add = parser.add_argument
    add("--within", type=list[str] | None, default=None, help="further, shorter horizons, as a list: '[1d, 3d]'")
    add("--origins", type=str, default="0.5",
        help="from when on: a fraction of each sequence, 'every 7d', or times and timestamps with commas")  # fmt: skip
    add("--split", type=str, default="test", help="what is forecast: test, validation or train")
    add("--baselines", type=list[str] | None, default=None,
        help="of poisson, renewal and hawkes, as a list; [] for none (default: all)")  # fmt: skip
    add("--batch_size", type=int | None, default=None,
        help="paths that are sampled side by side; more are faster, and take more memory")  # fmt: skip
    return parser


def _opened(parsed: Any) -> tuple[TransformerTPP, EventDataModule]:
    """Return the model, and its data or others that are read as they were."""
    from tppsd.lightning.datamodule import EventDataModule

    target, source, options = opened(parsed)
    if source is None:  # they were simulated
        return target, EventDataModule.of_run(parsed.run, **typed_options(parsed))
    return target, EventDataModule(source, min_inter_time=target.statistics.min_inter_time, **options.given())


def _origins(text: str, statistics: DataStatistics) -> float | str | list[float]:
    """Return what `--origins` says: a fraction, "every 7d", or times on the clock of the data."""
    import numpy as np

    from tppsd.data.stamps import clock_of_model
    from tppsd.data.units import as_number

    number = as_number(text)
    if text.startswith("every"):
        return text
    if number is not None and 0 <= number < 1:
        return number
    clock = clock_of_model(statistics)
    return [float(clock.times(np.asarray(clock.tick(part.strip(), "origins")))) for part in text.split(",")]


def _say(found: Backtest) -> None:
    """Print the scores of all marks together at the longest horizon, and who beats whom."""
    from rich.console import Console
    from rich.table import Table

    console = Console(soft_wrap=True, highlight=False)
    unit = f" {found.time_unit}" if found.time_unit else ""
    title = f"{len(found.origins.times):,} origins, any mark within {found.horizons[-1]:g}{unit}"
    table = Table("score", *found.cases, title=title, title_justify="left")
    rows = {row[:2]: row for row in found.scores if row.mark == "any" and row.horizon == found.horizons[-1]}
    for metric in dict.fromkeys(metric for _, metric in rows):
        table.add_row(metric, *(f"{rows[name, metric].value:.4g}" for name in found.cases))
    console.print(table)
    for line in (*found.notes, *found.sentences()):
        console.print(line, markup=False)
