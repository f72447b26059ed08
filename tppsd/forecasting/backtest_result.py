"""`Backtest`: what a backtest has found, as numbers, tables, sentences and a page."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tppsd.data.units import Clock
from tppsd.data.whole_files import write_text
from tppsd.forecasting.case_scores import CaseScores
from tppsd.forecasting.origins import Origins
from tppsd.forecasting.score_rows import Comparison, ScoreRow

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure


@dataclass(frozen=True, eq=False)
class Backtest:
    """Says how forecasts from many origins compare with what happened.

    Attributes:
        scores: one row per model, metric, set of marks and horizon.
        comparisons: of the target with each baseline, on the same origins.
        cases: model -> its scores, probabilities and PITs at every origin.
        labels: of the sets of marks; the last is "any".
        horizons: in units of time, increasing.
        origins: places of the sequences and times of the origins, and how many were left out.
        num_paths, seed: as given.
        time_unit: of the target's data, or None.
        notes: what a reader should know.
        time_origin: date of time 0 of the target's data, or None.
        ids: of the sequence of each origin, what its owner calls it, or None.
    """

    scores: tuple[ScoreRow, ...]
    comparisons: tuple[Comparison, ...]
    cases: Mapping[str, CaseScores]
    labels: tuple[str, ...]
    horizons: tuple[float, ...]
    origins: Origins
    num_paths: int
    seed: int
    time_unit: str | None
    notes: tuple[str, ...]
    time_origin: str | None = None
    ids: tuple[Any, ...] = ()

    def __repr__(self) -> str:
        horizons = ", ".join(f"{h:g}" for h in self.horizons)
        return f"Backtest({', '.join(self.cases)}; {len(self.origins.times)} origins, horizons {horizons})"

    def value(self, model: str, metric: str, mark: str = "any", horizon: float | None = None) -> float:
        """Return one score.

        Args:
            model: "target" or the name of a baseline.
            metric: its name in the table.
            mark: label of a set of marks.
            horizon: None = the longest.

        Raises:
            ValueError: there is no such row.
        """
        wanted = (model, metric, mark, self.horizons[-1] if horizon is None else horizon)
        for row in self.scores:
            if row[:4] == wanted:
                return row.value
        raise ValueError(f"there is no score of model, metric, mark and horizon {wanted}")

    def sentences(self, mark: str = "any") -> list[str]:
        """Say of every score whether the target beats each baseline, for a set of marks at the longest horizon."""
        chosen = (one for one in self.comparisons if one.mark == mark and one.horizon == self.horizons[-1])
        return [one.sentence(self.time_unit) for one in chosen]

    def to_pandas(self) -> pd.DataFrame:
        """Return the scores as a tidy table: model, metric, mark, horizon, value, low, high, num_origins."""
        import pandas as pd

        return pd.DataFrame(self.scores, columns=list(ScoreRow._fields))

    def by_origin(self) -> pd.DataFrame:
        """Return one row per model, origin, set of marks and horizon.

        Columns: model; sequence, its place in the list; id, its owner's name for it (null without one); origin (a
        timestamp where the data have dates); mark; horizon; probability and outcome of "an event within the horizon";
        count_pit; and every score that is a mean over origins, such as num_events, delta_1 and delta_2.
        """
        import pandas as pd

        clock = Clock.stored(self.time_unit, self.time_origin)
        times = self.origins.times.numpy()
        places = list(itertools.product(range(len(times)), range(len(self.labels)), range(len(self.horizons))))
        origin, label, horizon = np.array(places).T
        common = {
            "sequence": self.origins.sequence.numpy()[origin],
            "id": pd.Series([self.ids[i] if self.ids else None for i in origin], dtype=object),
            "origin": (clock.stamps(times) if clock.has_dates else times)[origin],
            "mark": np.array(self.labels, dtype=object)[label],
            "horizon": np.array(self.horizons)[horizon],
        }
        parts = []
        for model, scores in self.cases.items():
            values = {"probability": scores.probs, "outcome": scores.outcomes, "count_pit": scores.count_pits}
            values |= {name: own for name, own in scores.means.items() if own.dim() > 1}
            columns = {name: own.numpy().ravel() for name, own in values.items()}
            parts.append(pd.DataFrame({"model": model, **common, **columns}))
        return pd.concat(parts, ignore_index=True)

    def to_dict(self) -> dict[str, Any]:
        """Return settings, scores and comparisons as plain values; what is not a number is None."""
        return {
            "num_origins": len(self.origins.times),
            "num_sequences": len(self.origins.sequence.unique()),
            "num_left_out": self.origins.num_left_out,
            "num_outside": self.origins.num_outside,
            "horizons": list(self.horizons),
            "time_unit": self.time_unit,
            "num_paths": self.num_paths,
            "seed": self.seed,
            "notes": list(self.notes),
            "scores": [_plain(row) for row in self.scores],
            "comparisons": [_plain(row) for row in self.comparisons],
        }

    def to_json(self, path: str | Path) -> Path:
        """Write `to_dict` as a file, whole or not at all, make the folder if need be, and return the path."""
        return write_text(path, json.dumps(self.to_dict(), indent=1, allow_nan=False))

    def plot(self, mark: str | None = None, horizon: float | None = None) -> Figure:
        """Draw a reliability diagram, histograms of PITs and the coverage of intervals (tppsd.plots.backtest).

        Args:
            mark: label of a set of marks; None = any, and all sets and horizons together in the reliability diagram.
            horizon: one of the horizons; None = the longest.
        """
        from tppsd.plots.backtest import backtest_plot

        return backtest_plot(self, mark, horizon)

    def to_html(self, path: str | Path) -> Path:
        """Write one page with sentences, figures and tables, light and dark, and return the path."""
        from tppsd.plots.backtest import backtest_page

        return backtest_page(self).write(path)


def _plain(row: ScoreRow | Comparison) -> dict[str, Any]:
    return {name: None if isinstance(v, float) and not math.isfinite(v) else v for name, v in row._asdict().items()}
