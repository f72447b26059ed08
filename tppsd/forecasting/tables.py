"""The tidy table of a forecast: one row per number."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from torch import Tensor

from tppsd.data.stamps import clock_of_model

if TYPE_CHECKING:
    import pandas as pd

    from tppsd.forecasting.estimators import Quantiles
    from tppsd.forecasting.forecast import Forecast

COLUMNS = (
    "history", "id", "quantity", "mark", "from", "to", "level", "estimate", "standard_error",
    "lower", "upper", "at", "note",
    "estimator",
)  # fmt: skip
LATER = "later than the horizon"


def forecast_table(forecast: Forecast) -> pd.DataFrame:
    """Return the declared questions of a forecast and their answers.

    Columns: history (its place in the list, from `first_index` on) and id (its owner's name for it, null without one);
    quantity ("next_time" and "next_time_mean", "next_mark", "probability", "expected_count", "count_quantile",
    "first_time"); mark (a declared set's label, "any" for all marks; null for the time of the next event); from and to
    (the bin, or the span of a probability; timestamps where the data had some, else numbers on their clock); level (of
    a quantile); estimate (times are durations since the history was observed, in the data's unit); standard_error;
    lower and upper (95 %); at (the estimate as a timestamp or a number on the data's clock, for times); note ("later
    than the horizon"; where a mean is capped, and whether it is usable); estimator.
    """
    import pandas as pd

    table = _Table(forecast)
    next_time = forecast.next_time()
    table.add("next_time", [None], next_time.quantiles, levels=next_time.levels, estimator="closed form", is_time=True)
    mean, notes = next_time.mean.unsqueeze(1), next_time.mean_notes
    table.add("next_time_mean", [None], mean, estimator="closed form", is_time=True, notes=notes)
    names = [forecast.label(mark) for mark in range(forecast.num_marks)]
    table.add("next_mark", names, forecast.next_mark(), estimator="quadrature")
    labels, edges = [one.label for one in forecast.sets], forecast.edges.tolist()
    for end in edges[1:]:
        found = forecast.probability(within=end)
        table.add(
            "probability", labels, found.value, found.standard_error, found.interval(), (0.0, end), found.estimator
        )
    counts = forecast.expected_counts()
    for j, span in enumerate(itertools.pairwise(edges)):
        low, high = (end[..., j] for end in counts.interval())
        own = counts.value[..., j], counts.standard_error[..., j]
        table.add("expected_count", labels, *own, (low, high), span, counts.estimator)
    for one in forecast.sets:
        quantiles = forecast.count_quantiles(one.marks)
        for j, span in enumerate(itertools.pairwise(edges)):
            table.add_quantiles("count_quantile", one.label, quantiles, j, span)
        table.add_quantiles("first_time", one.label, forecast.first_time(one.marks), None, (0.0, forecast.horizon))
    return pd.concat(table.parts, ignore_index=True)[list(COLUMNS)]


class _Table:
    """Collects rows by quantity, and knows the clock of the data."""

    def __init__(self, forecast: Forecast) -> None:
        self.parts: list[pd.DataFrame] = []
        self.first_index = forecast.first_index
        self.ids = [history.id for history in forecast.histories]
        self.observed = np.array([history.window_end for history in forecast.histories])
        self._clock = clock_of_model(getattr(forecast.target, "statistics", None))

    def clock(self, times: np.ndarray) -> np.ndarray:
        """Times on the data's clock as timestamps where the data had some; NaT or NaN where they are not finite."""
        return self._clock.stamps(times) if self._clock.has_dates else np.where(np.isfinite(times), times, np.nan)

    def add(
        self,
        quantity: str,
        labels: Sequence[str | None],
        values: Tensor,
        errors: Tensor | None = None,
        interval: tuple[Tensor, Tensor] | None = None,
        span: tuple[float, float] | None = None,
        estimator: str = "",
        levels: Tensor | None = None,
        is_time: bool = False,
        notes: Sequence[str | None] | None = None,
    ) -> None:
        """Add values (num_histories, n): of n labels or, of one label, of n levels; with notes (num_histories * n,)."""
        import pandas as pd

        num, n = values.shape
        own = np.repeat(np.arange(num), n)
        blank = np.full(num * n, np.nan)
        estimates = values.numpy().ravel()
        if notes is None:
            notes = [LATER if later else None for later in np.isinf(estimates)]
        start, stop = (
            np.full(num * n, np.nan) if span is None else self.observed[own] + end for end in span or (0.0, 0.0)
        )
        self.parts.append(
            pd.DataFrame(
                {
                    "history": self.first_index + own,
                    "id": pd.Series([self.ids[i] for i in own], dtype=object),
                    "quantity": quantity,
                    "mark": pd.Series(list(labels) * (num * n // len(labels)), dtype=object),
                    "from": self.clock(start),
                    "to": self.clock(stop),
                    "level": blank if levels is None else np.tile(levels.numpy(), num),
                    "estimate": estimates,
                    "standard_error": blank if errors is None else errors.numpy().ravel(),
                    "lower": blank if interval is None else interval[0].numpy().ravel(),
                    "upper": blank if interval is None else interval[1].numpy().ravel(),
                    "at": self.clock(self.observed[own] + estimates if is_time else blank),
                    "note": pd.Series(notes, dtype=object),
                    "estimator": estimator,
                }
            )
        )

    def add_quantiles(
        self, quantity: str, label: str, found: Quantiles, j: int | None, span: tuple[float, float]
    ) -> None:
        """Add quantiles over paths, of bin j if they are by bin."""
        fields = (found.values, found.standard_error, found.lower, found.upper)
        values, errors, low, high = (field if j is None else field[:, j] for field in fields)
        self.add(quantity, [label], values, errors, (low, high), span, "order statistics", found.levels, j is None)
