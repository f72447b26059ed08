"""Scores of cases as rows of a table, from which they read back as they were: what a shard of a backtest holds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from tppsd.forecasting.case_scores import CaseScores
from tppsd.forecasting.path_events import TOLERANCES, TemporalMaps
from tppsd.forecasting.questions import MarkSet
from tppsd.metrics.functional.temporal_map import MatchedPredictions

if TYPE_CHECKING:
    import pyarrow

_OWN = ("case", "model", "note")  # beside the scores
_FIELDS = (
    "probs",
    "outcomes",
    "count_pits",
    "first_time_pits",
)  # by origin, set and horizon; no means
_PREDICTED = ("predicted_horizon", "predicted_mark", "predicted_score", "predicted_matched")
_NEXT_TIME, _NUM_TARGETS = "next_time_pit", "num_targets"


def case_table(scores: dict[str, CaseScores | str], first_case: int, num_cases: int) -> pyarrow.Table:
    """Return one row per case and model, the rows of a case together.

    Columns: case, model; a column for each score, a number or the list of those of all sets of marks and horizons;
    likewise probs, outcomes, count_pits and first_time_pits; next_time_pit; the predicted events of T-mAP, as lists of
    their horizon, mark, score and, as a bit per time difference, whether they are matched; num_targets, the events that
    came, by horizon and mark; note, why the model has no scores.

    Args:
        scores: of every model, or why it has none.
        first_case: number of the first case.
        num_cases: how many there are.
    """
    import pyarrow as pa

    cases = np.arange(first_case, first_case + num_cases)
    tables = []
    for name, found in scores.items():
        columns: dict[str, Any] = {"case": cases, "model": [name] * num_cases}
        if isinstance(found, str):
            columns["note"] = [found] * num_cases
        else:
            columns |= _columns(found) | {"note": pa.nulls(num_cases, pa.string())}
        tables.append(pa.table(columns))
    together = np.arange(num_cases * len(tables)).reshape(len(tables), num_cases).T.ravel()
    return pa.concat_tables(tables, promote_options="default").take(together)


def read_cases(
    tables: Sequence[pyarrow.Table], sets: Sequence[MarkSet], horizons: Sequence[float], num_marks: int
) -> dict[str, CaseScores | str]:
    """Return the scores of all cases in tables of `case_table`, or why a model has none, the first reason there is.

    Args:
        tables: in the order of their cases.
        sets, horizons: of the backtest.
        num_marks: of the data.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    table = pa.concat_tables(tables, promote_options="default")
    found: dict[str, CaseScores | str] = {}
    for name in table["model"].unique().to_pylist():
        own = table.filter(pc.equal(table["model"], name))
        reason = own["note"].drop_null()
        found[name] = reason[0].as_py() if len(reason) else _scores(own, sets, horizons, num_marks)
    return found


def _columns(scores: CaseScores) -> dict[str, Any]:
    columns = {name: _lists(values) if values.dim() > 1 else values.numpy() for name, values in scores.means.items()}
    columns |= {name: _lists(getattr(scores, name)) for name in _FIELDS}
    columns[_NEXT_TIME] = scores.next_time_pits.numpy()
    targets = torch.stack([maps.matched.num_targets for maps in scores.temporal_maps])  # (horizons, marks, cases)
    return columns | _predicted(scores) | {_NUM_TARGETS: _lists(targets.movedim(-1, 0))}


def _lists(values: Tensor) -> Any:
    """Return a column of lists, the values of each case (num_cases, ...)."""
    import pyarrow as pa

    flat = values.reshape(len(values), -1)
    return pa.ListArray.from_arrays(np.arange(len(flat) + 1, dtype=np.int32) * flat.shape[1], flat.numpy().ravel())


def _predicted(scores: CaseScores) -> dict[str, Any]:
    """Return the predicted events of every case, in the order in which they are ranked."""
    import pyarrow as pa

    bits = 2 ** torch.arange(len(TOLERANCES)).unsqueeze(1)
    parts = []
    for place, maps in enumerate(scores.temporal_maps):
        m = maps.matched
        for mark, (score, matched, owner) in enumerate(zip(m.scores, m.is_matched, m.forecast, strict=True)):
            ones = torch.ones_like(owner)
            parts.append((owner, place * ones, mark * ones, score, (matched.long() * bits).sum(0)))
    owners, *columns = (torch.cat(part) for part in zip(*parts, strict=True))
    order = owners.argsort(stable=True)
    counts = torch.bincount(owners, minlength=len(scores.probs))
    offsets = torch.nn.functional.pad(counts.cumsum(0), (1, 0)).numpy().astype(np.int32)
    kinds = (pa.int16(), pa.int32(), pa.float64(), pa.int16())
    return {
        name: pa.ListArray.from_arrays(offsets, pa.array(column[order].numpy()).cast(kind))
        for name, column, kind in zip(_PREDICTED, columns, kinds, strict=True)
    }


def _scores(own: pyarrow.Table, sets: Sequence[MarkSet], horizons: Sequence[float], num_marks: int) -> CaseScores:
    num, shape = len(own), (len(own), len(sets), len(horizons))

    def tensor(name: str, shape: tuple[int, ...]) -> Tensor:
        column = own[name].combine_chunks()
        flat = column.flatten() if len(shape) > 1 else column
        return torch.from_numpy(np.array(flat.to_numpy(zero_copy_only=False))).view(shape)

    others = {*_OWN, *_FIELDS, *_PREDICTED, _NEXT_TIME, _NUM_TARGETS}
    means = {}
    for name in own.column_names:
        if name not in others:
            is_list = hasattr(own.schema.field(name).type, "value_type")
            means[name] = tensor(name, shape if is_list else (num,))
    probs, outcomes, count_pits, first_time_pits = (tensor(name, shape) for name in _FIELDS)
    targets = tensor(_NUM_TARGETS, (num, len(horizons), num_marks))
    maps = _maps(own, targets, [one.marks for one in sets])
    return CaseScores(means, probs, outcomes, count_pits, first_time_pits, tensor(_NEXT_TIME, (num,)), maps)


def _maps(own: pyarrow.Table, targets: Tensor, sets: Sequence[tuple[int, ...]]) -> tuple[TemporalMaps, ...]:
    """Return the T-mAP of each horizon; `targets` are (num_cases, num_horizons, num_marks)."""
    lists = [own[name].combine_chunks() for name in _PREDICTED]
    places, marks, scores, matched = (torch.from_numpy(np.array(column.flatten())) for column in lists)
    owners = torch.from_numpy(np.repeat(np.arange(len(own)), np.array(lists[0].value_lengths())))
    bits = 2 ** torch.arange(len(TOLERANCES)).unsqueeze(1)
    found = []
    for place in range(targets.shape[1]):
        ranked = MatchedPredictions([], [], [], targets[:, place].t().contiguous())
        for mark in range(targets.shape[2]):
            which = ((places == place) & (marks == mark)).nonzero().squeeze(1)
            which = which[scores[which].argsort(descending=True, stable=True)]
            ranked.scores.append(scores[which])
            ranked.is_matched.append((matched[which].long() & bits) > 0)
            ranked.forecast.append(owners[which])
        found.append(TemporalMaps(ranked, tuple(sets)))
    return tuple(found)
