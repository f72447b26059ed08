"""Classical models that forecasts are measured against: Poisson, renewal and Hawkes, fitted to a training split."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import torch

from tppsd.data.sequences import EventSequence
from tppsd.data.statistics import DataStatistics
from tppsd.models.protocol import EventModel
from tppsd.models.resolve import resolve_model
from tppsd.processes.hawkes import Hawkes
from tppsd.processes.hawkes_bounded import fit_bounded

NAMES = ("poisson", "renewal", "hawkes")


def poisson_process(statistics: DataStatistics) -> Hawkes:
    """Return the Poisson process with the rate and, smoothed by one event of each, the marks of a training split."""
    assert statistics.rate is not None
    counts = torch.tensor(statistics.mark_counts, dtype=torch.float64) + 1
    return Hawkes(statistics.rate * counts / counts.sum(), 0.0, 1.0)


def baseline_models(
    wanted: Iterable[str] | Mapping[str, EventModel] | None,
    training: Sequence[EventSequence] | None,
    target: EventModel,
    seed: int = 0,
) -> tuple[dict[str, EventModel], list[str]]:
    """Return baselines by name, fitted where they are not given, and notes on those that cannot be had.

    Args:
        wanted: names of `NAMES`; or models by name; None = all of `NAMES` that can be had.
        training: sequences that baselines are fitted to. Without them "poisson" takes the target's statistics.
        target: the model that they stand beside.
        seed: of the renewal model's fit.

    Raises:
        ValueError: a name is unknown, a baseline that was asked for cannot be had, or one has other marks.
    """
    if isinstance(wanted, Mapping):
        models = {name: resolve_model(model, f"baselines[{name!r}]") for name, model in wanted.items()}
        for name, model in models.items():
            if model.num_marks != target.num_marks:
                raise ValueError(
                    f"baselines[{name!r}] has {model.num_marks} marks, the target {target.num_marks}; they must agree"
                )
        return models, []
    names = NAMES if wanted is None else check_baselines(wanted)
    statistics = _statistics(training, target)
    found: dict[str, EventModel] = {}
    notes: list[str] = []
    for name in names:
        fitted = _fitted(name, training, statistics, seed)
        if isinstance(fitted, str):
            if wanted is not None:
                raise ValueError(f"baselines: {fitted}")
            notes.append(fitted)
        else:
            found[name] = fitted
    return found, notes


def check_baselines(names: Iterable[str]) -> tuple[str, ...]:
    """Return names of `NAMES`.

    Raises:
        ValueError: one is unknown.
    """
    several = tuple(names)
    for name in several:
        if name not in NAMES:
            raise ValueError(f"baselines: {name!r} is unknown; choose from {NAMES}, or give models by name")
    return several


def _statistics(training: Sequence[EventSequence] | None, target: EventModel) -> DataStatistics | None:
    own: DataStatistics | None = getattr(target, "statistics", None)
    if not training:
        return own
    return DataStatistics.of(training, target.num_marks, 0.0 if own is None else own.min_inter_time)


def _fitted(
    name: str, training: Sequence[EventSequence] | None, statistics: DataStatistics | None, seed: int
) -> EventModel | str:
    """Return the model, or why there is none."""
    if name == "poisson":
        if statistics is None or statistics.rate is None:
            return "'poisson' needs training_sequences, or a target that carries the statistics of some"
        return poisson_process(statistics)
    if not training or statistics is None:
        return f"{name!r} is fitted to the training split; give training_sequences"
    if name == "renewal":
        from tppsd.models.renewal import fit_renewal

        with torch.inference_mode(False), torch.enable_grad():
            return fit_renewal(training, statistics, seed=seed)
    with torch.inference_mode(False):
        fit = fit_bounded(training, statistics)
    return "'hawkes' is not fitted: there are too many marks" if fit is None else fit.process
