"""The next event after histories: its time and its mark, from its distribution alone."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from tppsd.data.statistics import DataStatistics
from tppsd.forecasting.integrals import elapsed_of, mark_integrals
from tppsd.models.distribution import NextEventDistribution
from tppsd.sampling.autoregressive import ModelRunner, given_elapsed
from tppsd.sampling.job import SamplingJob
from tppsd.sampling.requests import RequestPlan
from tppsd.sampling.state import BatchState

_CHUNK = 64  # histories that are encoded together
_UNUSABLE = 0.5  # share of a mean beyond its cap, from which on it is not usable
_NUM_NODES = 400  # of the mean of a distribution without a formula


def first_distributions(job: SamplingJob, plan: RequestPlan) -> Any:
    """Return the distributions (num_histories,) of the first events, given that none came until w.

    Args:
        job: that will sample their paths.
        plan: of one path per history.
    """
    found = []
    device = plan.histories.lengths.device
    with torch.inference_mode():
        for start in range(0, len(plan.requests), _CHUNK):
            requests = plan.requests[start : start + _CHUNK]
            rows = torch.arange(len(requests), device=device)
            state = BatchState(len(requests), device)
            runner = ModelRunner(job.models.target, len(requests), plan.histories)
            state.prefill(rows, rows, requests, plan.histories)
            runner.prefill(rows, requests)
            found.append(given_elapsed(runner.extend(state.last_token), state)[:, 0])
        return found[0] if len(found) == 1 else type(found[0]).cat(found, 0)


def next_mark_probs(distributions: Any, num_marks: int) -> Tensor:
    """Return the probability of each mark to be the next, whenever that is, float64 (num_distributions, num_marks)."""
    with torch.inference_mode():
        if isinstance(distributions, NextEventDistribution):
            mixture = distributions.double().inter_time
            last = (mixture.shift + 9 * mixture.scale * mixture.log_stds.exp() + mixture.scale * mixture.means).amax(-1)
            ends = last.clamp(-690.0, 690.0).exp().unsqueeze(-1)
        else:
            ends = distributions.inter_time.sample(
                torch.full((*distributions.batch_shape, 1), 1e-15, dtype=torch.float64)
            ).unsqueeze(-1)
        probs = mark_integrals(distributions, ends, torch.eye(num_marks, dtype=torch.bool))[0].squeeze(-1)
        return probs / probs.sum(-1, keepdim=True)


def next_mark_probs_at(distributions: Any, times: Tensor | Sequence[float], num_marks: int) -> Tensor:
    """Return f(k | tau), the probability of each mark should the next event come at given times, in closed form.

    Args:
        distributions: (num_distributions,), given that nothing came until the histories were observed.
        times: (n,), positive, since then.
        num_marks: of the target.

    Returns:
        float64 (num_distributions, n, num_marks).

    Raises:
        ValueError: a time is not positive.
    """
    several = torch.as_tensor(times, dtype=torch.float64).flatten()
    if not bool(((several > 0) & (several < math.inf)).all()):
        raise ValueError(f"at = {times} must be positive times since the history was observed")
    distributions = distributions.double()
    with torch.inference_mode():
        inter_times = several.view(-1, 1) + elapsed_of(distributions)
        probs: Tensor = distributions.unsqueeze(0).mark_log_probs(inter_times).exp()
        return probs.expand(*inter_times.shape, num_marks).transpose(0, 1)


class NextTime:
    """Is the time until the next event, since the history was observed: closed forms of its distribution.

    Args:
        distributions: (num_histories,), given that nothing came until the histories were observed.
        quantiles: levels, in (0, 1).
        statistics: of the target's training split; its horizon caps the mean.

    Attributes:
        levels: float64 (num_levels,).
        quantiles: float64 (num_histories, num_levels).
        mean_cap: time at which the mean is capped: a tail that no data have shown would decide it otherwise.
        time_unit: of the target's data, or None.
    """

    def __init__(
        self, distributions: Any, quantiles: Sequence[float], statistics: DataStatistics | None = None
    ) -> None:
        self.levels = torch.as_tensor(quantiles, dtype=torch.float64).flatten()
        if not bool(((self.levels > 0) & (self.levels < 1)).all()) or len(self.levels) == 0:
            raise ValueError(f"quantiles = {quantiles} must lie between 0 and 1")
        self._distributions = distributions.double()
        self._elapsed = elapsed_of(self._distributions)
        self.mean_cap = math.inf if statistics is None else statistics.horizon
        self.time_unit = None if statistics is None else statistics.time_unit
        with torch.inference_mode():
            self.quantiles = self._at(1 - self.levels)

    def _at(self, survival: Tensor) -> Tensor:
        """Times at which the survival function has these values, (num_histories, n)."""
        num = len(self._elapsed)
        mixture, levels = self._distributions.inter_time, survival.view(-1, 1).expand(-1, num)
        if isinstance(self._distributions, NextEventDistribution):
            inter_times = torch.stack([mixture.icdf(1 - level) for level in levels])
        else:
            inter_times = mixture.sample(levels.unsqueeze(-1))
        return (inter_times - self._elapsed).clamp_min(0.0).t()

    @property
    def mean(self) -> Tensor:
        """The mean E min(T, mean_cap), float64 (num_histories,); `mean_notes` says where it is not usable."""
        return self._mean(self.mean_cap)

    @property
    def mean_share_beyond(self) -> Tensor:
        """The share 1 - E min(T, mean_cap) / E T of the mean beyond the cap, float64 (num_histories,)."""
        if not math.isfinite(self.mean_cap):
            return torch.zeros_like(self._elapsed)
        return (1 - self.mean / self._mean(math.inf)).clamp(0.0, 1.0)

    @property
    def mean_notes(self) -> list[str | None]:
        """Says of every mean where it is capped, and whether it is usable; None where it is not capped.

        Where more than half of the uncapped mean lies beyond the cap, it says more of a tail that no data have shown
        than of the next event, as in `tppsd test`.
        """
        if not math.isfinite(self.mean_cap):
            return [None] * len(self._elapsed)
        at = f"{self.mean_cap:.4g}{f' {self.time_unit}' if self.time_unit else ''}"
        unusable = f"not usable: {{share:.0%}} of the mean lies beyond {at}, where the data end; take the median"
        shares = self.mean_share_beyond.tolist()
        return [unusable.format(share=one) if one > _UNUSABLE else f"capped at {at}" for one in shares]

    def _mean(self, cap: float) -> Tensor:
        with torch.inference_mode():
            if not isinstance(self._distributions, NextEventDistribution):
                levels = (torch.arange(_NUM_NODES, dtype=torch.float64) + 0.5) / _NUM_NODES
                return self._at(levels).clamp_max(cap).mean(-1)
            from tppsd.metrics.functional.capped import capped_mean

            mixture, elapsed = self._distributions.whole().inter_time, self._elapsed
            beyond = capped_mean(mixture, elapsed + cap if math.isfinite(cap) else math.inf)
            before = torch.where(elapsed > 0, capped_mean(mixture, elapsed.clamp_min(1e-290)), 0.0)
            return (beyond - before) / mixture.log_survival(elapsed).exp()

    def density(self, times: Tensor | Sequence[float]) -> Tensor:
        """Return the density of the time until the next event at times since then, (num_histories, n).

        Times count since the history was observed.
        """
        with torch.inference_mode():
            density: Tensor = self._distributions.unsqueeze(0).inter_time.log_prob(self._inter_times(times)).exp().t()
            return density

    def survival(self, times: Tensor | Sequence[float]) -> Tensor:
        """Return the probability of no event until times since the history was observed, (num_histories, n)."""
        with torch.inference_mode():
            survival: Tensor = self._distributions.unsqueeze(0).log_survival(self._inter_times(times)).exp().t()
            return survival

    def _inter_times(self, times: Tensor | Sequence[float]) -> Tensor:
        return torch.as_tensor(times, dtype=torch.float64).view(-1, 1) + self._elapsed
