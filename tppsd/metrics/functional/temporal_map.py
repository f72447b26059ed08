"""T-mAP of HoTPP: whether the right events are predicted at about the right times, over a whole horizon."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from typing import NamedTuple

import torch
from torch import Tensor


class TemporalMAP(NamedTuple):
    """Holds T-mAP, the same with marks weighted by their number of target events, and AP by mark and time difference.

    All are float64; the last is (num_marks, num_deltas).
    """

    value: Tensor
    weighted: Tensor
    average_precision: Tensor


class ForecastEvents(NamedTuple):
    """Holds what is predicted to follow one history, and what followed.

    Attributes:
        times: of the predicted events, (num_predicted,), since the history's end.
        scores: of every mark at each of them, such as log-probabilities, (num_predicted, num_marks).
        target_times: of the events that came, (num_targets,), since the history's end.
        target_marks: their marks, int64 (num_targets,).
    """

    times: Tensor
    scores: Tensor
    target_times: Tensor
    target_marks: Tensor


def temporal_map(
    forecasts: Sequence[ForecastEvents], horizon: float, deltas: Sequence[float], num_marks: int
) -> TemporalMAP:
    """Return the temporal mean average precision, in [0, 1]; higher is better.

        T-mAP = mean over delta of mean over marks k of AP_k(delta)
        AP_k = sum over thresholds h of (recall(h) - recall(h')) precision(h),   h' the next larger threshold

    Only events before `horizon` (strictly) take part. Every predicted event is a prediction of every mark k, with its
    score of k. With threshold h, the predictions of k with a score of at least h are matched with the events of k in
    the same continuation, one to one and at most delta apart, as many as possible: true positives; other predictions
    are false positives, other events false negatives. One matching, built in the order of the scores, has the largest
    size for all thresholds at once (sets of predictions that can be matched form a matroid). Predictions of all
    continuations are ranked together. A mark without an event, or without a matched prediction, has AP = 0. Equal
    scores are one threshold.

    Args:
        forecasts: one for each history.
        horizon: in the unit of the times.
        deltas: largest time differences of a match.
        num_marks: number of marks.
    Source: Karpukhin, Shipilov and Savchenko, "HoTPP benchmark: are we good at the long horizon events forecasting?"
        (arXiv 2406.14341), section 4. Their code (2025) gives AP = 0 to a mark all of whose predictions are matched;
        here it has the AP of the definition.

    Example:
        >>> came = torch.tensor([1.0, 3.0]), torch.tensor([0, 1])
        >>> scores = torch.tensor([[0.9, 0.1], [0.2, 0.8]])
        >>> close = ForecastEvents(torch.tensor([1.1, 3.2]), scores, *came)
        >>> round(float(temporal_map([close], horizon=5.0, deltas=[0.5], num_marks=2).value), 3)
        1.0
    """
    return match_predictions(forecasts, horizon, deltas, num_marks).temporal_map()


class MatchedPredictions(NamedTuple):
    """Predictions of every mark in descending order of their scores, and which of them are matched.

    It gives the T-mAP for any weights of the histories, as a bootstrap needs it, without another matching.

    Attributes:
        scores: by mark, (num_predictions,).
        is_matched: by mark, bool (num_deltas, num_predictions).
        forecast: by mark, int64 (num_predictions,), the place of each prediction's forecast.
        num_targets: events that came, int64 (num_marks, num_forecasts).
    """

    scores: list[Tensor]
    is_matched: list[Tensor]
    forecast: list[Tensor]
    num_targets: Tensor

    @classmethod
    def cat(cls, parts: Sequence[MatchedPredictions]) -> MatchedPredictions:
        """Join those of forecasts one after the other; the same as if all had been matched together."""
        firsts = [0, *accumulate(part.num_targets.shape[1] for part in parts)]
        found = cls([], [], [], torch.cat([part.num_targets for part in parts], 1))
        for mark in range(len(parts[0].scores)):
            scores = torch.cat([part.scores[mark] for part in parts])
            owner = torch.cat([part.forecast[mark] + first for part, first in zip(parts, firsts, strict=False)])
            order = scores.argsort(descending=True, stable=True)
            found.scores.append(scores[order])
            found.is_matched.append(torch.cat([part.is_matched[mark] for part in parts], 1)[:, order])
            found.forecast.append(owner[order])
        return found

    def temporal_map(self, weights: Tensor | None = None) -> TemporalMAP:
        """Return the T-mAP of forecasts that count `weights` (num_forecasts,) times each; None = once."""
        num_marks, num_forecasts = self.num_targets.shape
        weights = torch.ones(num_forecasts, dtype=torch.float64) if weights is None else weights.double()
        numbers = self.num_targets.double() @ weights
        precisions = torch.zeros(num_marks, len(self.is_matched[0]), dtype=torch.float64)
        for mark in range(num_marks):
            if numbers[mark]:
                own = weights[self.forecast[mark]]
                precisions[mark] = _average_precision(self.scores[mark], self.is_matched[mark], own, numbers[mark])
        by_mark = precisions.mean(1)
        return TemporalMAP(by_mark.mean(), by_mark @ numbers / numbers.sum(), precisions)


def match_predictions(
    forecasts: Sequence[ForecastEvents], horizon: float, deltas: Sequence[float], num_marks: int
) -> MatchedPredictions:
    """Match predictions with what came, for `temporal_map`, whose arguments these are.

    Example:
        >>> came = torch.tensor([1.0, 3.0]), torch.tensor([0, 1])
        >>> close = ForecastEvents(torch.tensor([1.1, 3.2]), torch.tensor([[0.9, 0.1], [0.2, 0.8]]), *came)
        >>> match_predictions([close], horizon=5.0, deltas=[0.5], num_marks=2).num_targets
        tensor([[1],
                [1]])
    """
    inside = [_before(forecast, horizon) for forecast in forecasts]
    owner = torch.arange(len(inside)).repeat_interleave(torch.tensor([len(f.times) for f in inside], dtype=torch.int64))
    found = MatchedPredictions([], [], [], torch.zeros(num_marks, len(inside), dtype=torch.int64))
    for mark in range(num_marks):
        targets = [f.target_times[f.target_marks == mark].sort().values for f in inside]
        found.num_targets[mark] = torch.tensor([len(times) for times in targets])
        scores = torch.cat([f.scores[:, mark].double() for f in inside])
        matched = [
            torch.cat([_matched(f.times, f.scores[:, mark], t, delta) for f, t in zip(inside, targets, strict=True)])
            for delta in deltas
        ]
        order = scores.argsort(descending=True, stable=True)
        found.scores.append(scores[order])
        found.is_matched.append(torch.stack(matched)[:, order])
        found.forecast.append(owner[order])
    return found


def _before(forecast: ForecastEvents, horizon: float) -> ForecastEvents:
    """Return the predicted and the true events before the horizon."""
    kept, came = forecast.times < horizon, forecast.target_times < horizon
    return ForecastEvents(
        forecast.times[kept], forecast.scores[kept], forecast.target_times[came], forecast.target_marks[came]
    )


def _matched(times: Tensor, scores: Tensor, targets: Tensor, delta: float) -> Tensor:
    """Match predictions by augmenting paths in descending order of the scores; bool (num_predicted,)."""
    result = torch.zeros(len(times), dtype=torch.bool)
    if not len(targets):
        return result
    reachable = [row.nonzero().flatten().tolist() for row in (times.unsqueeze(1) - targets).abs() <= delta]
    target_of: dict[int, int] = {}
    for prediction in scores.argsort(descending=True, stable=True).tolist():
        result[prediction] = _augment(prediction, reachable, target_of)
    return result


def _augment(prediction: int, reachable: list[list[int]], target_of: dict[int, int]) -> bool:
    """Match one more prediction, moving matched ones to other targets if need be; those matched stay matched."""
    owner = {target: matched for matched, target in target_of.items()}
    reached_by: dict[int, int] = {}  # target -> prediction
    queue = [prediction]
    for candidate in queue:
        for target in reachable[candidate]:
            if target in reached_by:
                continue
            reached_by[target] = candidate
            if target in owner:
                queue.append(owner[target])
                continue
            end: int | None = target
            while end is not None:  # along the path, each prediction takes the target by which it was left
                candidate = reached_by[end]
                target_of[candidate], end = end, target_of.get(candidate)
            return True
    return False


def _average_precision(scores: Tensor, is_matched: Tensor, weights: Tensor, num_targets: Tensor) -> Tensor:
    """Return the sum over distinct scores, from the largest, of recall gained times precision reached.

    Args:
        scores: (num_predictions,), falling.
        is_matched: bool (num_deltas, num_predictions).
        weights: of the predictions, (num_predictions,).
        num_targets: with their weights, ().

    Returns:
        (num_deltas,).
    """
    hits, numbers = (is_matched * weights).cumsum(1), weights.cumsum(0)
    is_last = torch.ones_like(scores, dtype=torch.bool)
    is_last[:-1] = scores[1:] != scores[:-1]
    hits, numbers = hits[:, is_last], numbers[is_last]
    gained = torch.diff(hits, prepend=hits.new_zeros(len(hits), 1), dim=1)
    return (gained * hits / numbers.clamp_min(torch.finfo(torch.float64).tiny)).sum(1) / num_targets
