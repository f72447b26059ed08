"""The forecasts of the demo: what comes after the middle of test sequences, against what came."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from rich.console import Console

from tppsd.forecasting.backtest import backtest
from tppsd.forecasting.backtest_result import Backtest
from tppsd.forecasting.baselines import poisson_process
from tppsd.forecasting.forecast import Forecast, forecast
from tppsd.lightning.datamodule import EventDataModule

if TYPE_CHECKING:
    from tppsd.commands.demo import Settings

ORIGINS = 100  # about so many, over all test sequences
MAX_SEQUENCES = 100  # of the test split
EVENTS = 3  # expected within the horizon
PATHS, SHOWN_PATHS = 100, 500  # continuations of each origin, and of the one that is drawn
MAX_EVENTS = 5_000  # of one path: a badly trained model may explode


def forecast_test_split(
    settings: Settings, data: EventDataModule, results: dict[str, Any], console: Console
) -> dict[str, Any]:
    """Backtest the target beside two baselines, and forecast one sequence from its middle.

    Returns:
        horizon, backtest, shown (a forecast and the whole of its sequence); why_not instead, where forecasts cannot be
        scored.
    """
    console.print("\n[bold]Forecasting[/] the test sequences from within ...")
    target = results["target"]["module"].model.eval()
    sequences = data.sequences("test")[:MAX_SEQUENCES]
    lengths = torch.tensor([s.window_end - s.scored_from for s in sequences], dtype=torch.float64)
    horizon = float(f"{min(EVENTS * data.statistics.time_scale, 0.4 * float(lengths.median())):.2g}")
    per_sequence = math.ceil(ORIGINS / len(sequences))
    origins: float | str = 0.5 if per_sequence == 1 else f"every {float(lengths.median()) / (per_sequence + 1):.6g}"
    baselines = {"Poisson": poisson_process(data.statistics), "renewal": results["renewal"]}
    arguments: dict[str, Any] = {"seed": settings.seed, "max_events": MAX_EVENTS}
    try:
        with torch.inference_mode():
            scored = backtest(
                target, sequences, horizon, origins, PATHS, baselines=baselines, progress=True, **arguments
            )
            shown = _shown(target, scored, sequences, horizon, arguments)
    except ValueError as error:  # short sequences, or a model that explodes: the rest of the demo stands
        return {"horizon": horizon, "backtest": None, "shown": None, "why_not": str(error)}
    return {"horizon": horizon, "backtest": scored, "shown": shown, "why_not": None}


def _shown(
    target: Any, scored: Backtest, sequences: Sequence[Any], horizon: float, arguments: dict[str, Any]
) -> tuple[Forecast, Any]:
    """Return the forecast from an origin with a long history, and what came."""
    from tppsd.forecasting.origins import history_until

    places = list(zip(scored.origins.sequence.tolist(), scored.origins.times.tolist(), strict=True))
    histories = [history_until(sequences[i], time) for i, time in places]
    chosen = max(range(len(places)), key=lambda i: min(len(histories[i]), 100))
    made = forecast(target, [histories[chosen]], horizon, SHOWN_PATHS, **arguments)
    return made, sequences[places[chosen][0]]
