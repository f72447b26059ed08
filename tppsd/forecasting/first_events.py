"""The times of the first events of paths, as control variates: their distribution is known in closed form."""

from __future__ import annotations

import torch
from torch import Tensor

from tppsd.models.protocol import EventDistribution

_FEWEST = 200  # expected paths with a first event before the end, from which on three coefficients cost little


class FirstEvents:
    """Keeps where the first event of each path lies in its distribution.

    Args:
        num_paths: of all histories.
        num_bins: of the forecast.

    Attributes:
        levels: u = G_0(tau_1), float64 (num_paths,), uniform on (0, 1), also where the first event comes too late.
        chances: G_0 of the bins' ends, the chance of an event by then, float64 (num_paths, num_bins); 0 for a path
            without a step.
    """

    def __init__(self, num_paths: int, num_bins: int) -> None:
        self.levels = torch.zeros(num_paths, dtype=torch.float64)
        self.chances = torch.zeros(num_paths, num_bins, dtype=torch.float64)
        self._is_new = torch.ones(num_paths, dtype=torch.bool)

    def add(self, path: Tensor, distributions: EventDistribution, ends: Tensor, inter_times: Tensor) -> None:
        """Take the first steps among steps that are the first of one call each.

        Args:
            path: int64 (num_steps,), different paths.
            distributions: (num_steps,), of the next event.
            ends: of the bins, float64 (num_steps, num_bins), since the event before.
            inter_times: float64 (num_steps,), since the event before.
        """
        new = self._is_new[path].nonzero().squeeze(1)
        if len(new) == 0:
            return
        times = torch.cat([ends[new], inter_times[new].unsqueeze(1)], 1).t()
        chances = -torch.expm1(distributions[new].log_survival(times)).t()
        # a silence so long that nothing is left of the distribution gives no number, and so no control variate
        self.chances[path[new]] = chances[:, :-1].nan_to_num(0.0)
        self.levels[path[new]] = chances[:, -1]
        self._is_new[path] = False

    def controls(self, bins: list[int], num_paths: int) -> Tensor:
        """Return three control variates for each end of a bin, (num_paths, num_histories, len(bins), 3).

        With c = G_0(end), v = u / c and i = 1{u <= c} they are i - c and the shifted Legendre polynomials i (2 v - 1)
        and i (6 v^2 - 6 v + 1): all have mean 0 as u is uniform. They are 0 where fewer than 200 paths of a history
        are expected to have an event by then: c does not depend on what is drawn.

        Args:
            bins: numbers of the bins.
            num_paths: of each history.
        """
        chances = self.chances[:, bins].view(-1, num_paths, len(bins)).transpose(0, 1)
        levels = self.levels.view(-1, num_paths, 1).transpose(0, 1)
        is_before = (levels <= chances).double()
        v = torch.where(levels <= chances, levels / chances.clamp_min(torch.finfo(torch.float64).tiny), 0.0)
        columns = [is_before - chances, is_before * (2 * v - 1), is_before * (6 * v * v - 6 * v + 1)]
        return torch.stack(columns, -1) * (num_paths * chances >= _FEWEST).unsqueeze(-1)
