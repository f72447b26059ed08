"""`BacktestAfterFit`: the best model of a run is backtested when training has ended, and loggers get the tables."""

from __future__ import annotations

from pathlib import Path

from lightning.pytorch import Callback, LightningModule, Trainer

from tppsd.forecasting.backtest import backtest
from tppsd.forecasting.backtest_result import Backtest
from tppsd.forecasting.baselines import check_baselines
from tppsd.forecasting.origins import duration, find_origins
from tppsd.forecasting.questions import MIN_PATHS
from tppsd.lightning.checkpoints import best_checkpoint
from tppsd.lightning.datamodule import data_of
from tppsd.lightning.loggers import log_figure, log_table
from tppsd.models.checkpoint import load
from tppsd.sampling.checks import whole_number


class BacktestAfterFit(Callback):
    """Forecasts from within the sequences of a split with the best checkpoint, and logs how good that was.

    Every score of any mark at the horizon is logged as backtest/NAME (tppsd.backtest says what they are); W&B and
    TensorBoard also get the table of all scores (`backtest/scores`), the comparisons with Poisson, renewal and Hawkes
    processes (`backtest/comparisons`) and the reliability diagram (`backtest/reliability`).

    Args:
        horizon: length of the forecasts, in the data's unit of time, or such as "7d".
        origins: from when on: a fraction of each sequence, or "every 7d".
        num_paths: sampled continuations of each origin.
        split: of whose sequences; the test split is better kept for the end of a study.
        max_sequences: at most so many, from the first on.
        baselines: of poisson, renewal and hawkes; None = all that can be had.
        seed: of the sampling.
    """

    def __init__(
        self,
        horizon: float | str,
        origins: float | str = 0.5,
        num_paths: int = 100,
        split: str = "validation",
        max_sequences: int = 100,
        baselines: list[str] | None = None,
        seed: int = 0,
    ) -> None:
        self.horizon, self.origins, self.num_paths = horizon, origins, num_paths
        self.split, self.max_sequences, self.baselines, self.seed = split, max_sequences, baselines, seed

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Refuse what cannot be backtested, before anything is trained."""
        if stage != "fit":
            return
        data = data_of(trainer)
        if data is None or not data.sequences(self.split):
            raise ValueError(f"BacktestAfterFit has split = {self.split!r}, and the data have no sequence there")
        unit = data.statistics.time_unit
        horizon = duration(self.horizon, "horizon", unit)
        for name, least in (("num_paths", MIN_PATHS), ("max_sequences", 1)):
            whole_number(name, getattr(self, name), least)
        if self.baselines is not None:
            check_baselines(self.baselines)
        find_origins(data.sequences(self.split)[: self.max_sequences], self.origins, horizon, unit)

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Backtest the best checkpoint, on rank zero, and log what came of it."""
        checkpoint, data = best_checkpoint(trainer), data_of(trainer)
        if not trainer.is_global_zero or checkpoint is None or not checkpoint.best_model_path:
            return
        assert data is not None  # by setup
        found = backtest(
            load(Path(checkpoint.best_model_path)),
            data.sequences(self.split)[: self.max_sequences],
            self.horizon,
            self.origins,
            self.num_paths,
            baselines=self.baselines,
            training_sequences=data.sequences("train"),
            seed=self.seed,
        )
        log_backtest(trainer, found)


def log_backtest(trainer: Trainer, found: Backtest) -> None:
    """Hand a backtest to the loggers of a Trainer: scores as numbers, tables and the reliability diagram."""
    longest = found.horizons[-1]
    scores = {
        f"backtest/{row.metric}": row.value
        for row in found.scores
        if (row.model, row.mark, row.horizon) == ("target", "any", longest)
    }
    for logger in trainer.loggers:
        logger.log_metrics(scores, step=trainer.global_step)
    table = found.to_pandas()
    log_table(trainer, "backtest/scores", list(table.columns), table.values.tolist())
    rows = [[one.baseline, one.metric, one.mark, one.sentence()] for one in found.comparisons]
    log_table(trainer, "backtest/comparisons", ["baseline", "score", "mark", "in words"], rows)
    log_figure(trainer, "backtest/reliability", found.plot())
