"""What samples of the process without some marks are judged by: the intensity of the marks that are left.

    Lambda(tau) = integral_0^tau g(s) f(allowed | s) / S(s) ds,     f(k | tau) = f(k | tau) / f(allowed | tau)

A mark that does not happen leaves the history, and so all distributions, as it is.
"""

from __future__ import annotations

import copy
from functools import cache
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from tppsd.data.batch import EventBatch
from tppsd.models.distribution import NextEventDistribution

# of Gauss-Legendre rules in log tau. Errors of exp(-Lambda), where the targets of the cells are well resolved 1e-7 and
# less, at worst 5e-4 of single intervals and 1e-5 on average, where a test of 10^6 residuals sees 1e-3
_NUM_PANELS, _NUM_NODES = 16, 6
_DEPTH = 6.0  # standard deviations of a component below its mean: 1e-9 of its mass lies lower


@cache
def _rule(num_panels: int, num_nodes: int) -> tuple[Tensor, Tensor]:
    """Return nodes in (0, 1) and weights of a composite rule, (num_panels, num_nodes)."""
    points, weights = np.polynomial.legendre.leggauss(num_nodes)
    nodes = (np.arange(num_panels)[:, None] + 0.5 * (points + 1)) / num_panels
    return torch.from_numpy(nodes), torch.from_numpy(np.tile(0.5 * weights / num_panels, (num_panels, 1)))


class AllowedTimes(NamedTuple):
    """Is the distribution of the time until the next event of an allowed mark, of distributions at hand.

    Fields: whole: distributions (*batch,) of the next event of any mark; is_allowed: bool (num_marks,).
    """

    whole: NextEventDistribution
    is_allowed: Tensor

    @property
    def mean_log(self) -> Tensor:
        """E[log tau] of an event of any mark, as a forecast from the history, (*batch,)."""
        return self.whole.inter_time.mean_log

    def double(self) -> AllowedTimes:
        """Return itself: the target is in float64."""
        return self

    def log_survival(self, inter_times: Tensor) -> Tensor:
        """Return minus the integral of the allowed marks' intensity until `inter_times` (*batch,), float64."""
        mixture, dim = self.whole.inter_time, inter_times.dim()
        ends = inter_times.clamp_min(torch.finfo(torch.float64).tiny).log().unsqueeze(-1)
        depths = mixture.means - _DEPTH * mixture.log_stds.exp()
        lowest = mixture.shift + mixture.scale * depths.amin(-1, keepdim=True)
        widths = (ends - lowest).clamp_min(0.0)
        spread, total = self.whole.unsqueeze(dim), torch.zeros_like(inter_times)
        for nodes, weights in zip(*_rule(_NUM_PANELS, _NUM_NODES), strict=True):  # little at a time, for memory
            taus = (lowest + widths * nodes).exp()
            log_hazard = spread.inter_time.log_prob(taus) + taus.log() - spread.inter_time.log_survival(taus)
            share = spread.mark_log_probs(taus)[..., self.is_allowed].exp().sum(-1)
            total -= (log_hazard.exp() * share) @ weights * widths.squeeze(-1)
        return total


class AllowedEvents(NamedTuple):
    """Is the distribution of the next event of an allowed mark, as far as residuals ask for it; fields as above."""

    whole: NextEventDistribution
    is_allowed: Tensor

    @property
    def inter_time(self) -> AllowedTimes:
        """The distribution of its time."""
        return AllowedTimes(self.whole, self.is_allowed)

    def at(self, positions: Tensor) -> AllowedEvents:
        """Select as `NextEventDistribution.at` does."""
        return AllowedEvents(self.whole.at(positions), self.is_allowed)

    def mark_log_probs(self, inter_times: Tensor) -> Tensor:
        """Return log-probabilities of the marks given that one of the allowed ones comes, (*batch, num_marks)."""
        log_probs = torch.where(self.is_allowed, self.whole.mark_log_probs(inter_times), -torch.inf)
        return log_probs - log_probs.logsumexp(-1, keepdim=True)


class WithoutMarks:
    """Maps an EventBatch to distributions of the next event, (batch, length + 1), of a target without some marks.

    Args:
        target: a model of whole batches.
        forbidden: marks that do not happen.
    """

    def __init__(self, target: Any, forbidden: tuple[int, ...]) -> None:
        self.target = copy.deepcopy(target).double().eval() if isinstance(target, nn.Module) else target
        self.is_allowed = torch.ones(target.num_marks, dtype=torch.bool)
        self.is_allowed[list(forbidden)] = False

    def __call__(self, batch: EventBatch) -> AllowedEvents:
        """Return the distributions of a batch."""
        return AllowedEvents(self.target(batch), self.is_allowed)
