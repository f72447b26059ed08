"""Comparisons of two samples, the draws of two samplers, over all batches and ranks.

A batch may hold draws of either.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

from tppsd.metrics.functional.permutation import PermutationResult, permutation_test
from tppsd.metrics.functional.wasserstein import Ground, earth_movers_distance, wasserstein_distance

Sampler = Literal["first", "second"]


class NextEventDistances(NamedTuple):
    """Holds D^t in the data's unit of time and D^k without unit, both means over histories, and the number of these."""

    time: float
    mark: float
    num_histories: int


def _number(sampler: Sampler) -> int:
    if sampler not in ("first", "second"):
        raise ValueError(f"sampler = {sampler!r} is unknown; it is 'first' or 'second'")
    return int(sampler == "second")


class LikelihoodDiscrepancy(Metric):
    """Computes |mean_s L_s of the first sample - mean_s L_s of the second|, nats per sequence.

    See `functional.likelihood_discrepancy`.

    Source: TPP-SD (arXiv 2507.09252), section 5.1.
    """

    full_state_update = False
    higher_is_better = False
    totals: Tensor
    num_sequences: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.add_state("totals", torch.zeros(2, dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("num_sequences", torch.zeros(2, dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, log_likelihoods: Tensor, sampler: Sampler) -> None:
        """Add sequences of one sampler: their log-likelihoods (batch,) under one model."""
        chosen = torch.arange(2, device=self.totals.device) == _number(sampler)
        self.totals = self.totals + chosen * log_likelihoods.detach().double().sum()
        self.num_sequences = self.num_sequences + chosen * log_likelihoods.numel()

    def compute(self) -> Tensor:
        """Return nats per sequence, float64 (); NaN where a sample is empty."""
        return (self.totals / self.num_sequences).diff().abs().squeeze(0)


class _Draws(Metric):
    """Keeps columns of numbers with the sampler (0 or 1) and an index, as flat float64 tensors."""

    full_state_update = False
    sampler: list[Tensor]
    index: list[Tensor]
    values: list[Tensor]

    def __init__(self, num_columns: int) -> None:
        super().__init__()
        self.num_columns = num_columns
        # As in `residuals`: a rank without data sends empty, flat tensors of `self.dtype`, and all must be alike.
        self.set_dtype(torch.float64)
        for name in ("sampler", "index", "values"):
            self.add_state(name, [], dist_reduce_fx="cat")

    def _add(self, index: Tensor, columns: Tensor, sampler: Sampler) -> None:
        if columns.shape != (len(index), self.num_columns):
            raise ValueError(
                f"rows of shape {tuple(columns.shape)} for {len(index)} indices; they must be "
                f"{(len(index), self.num_columns)}"
            )
        index = index.to(self.device, torch.float64)
        self.sampler.append(torch.full_like(index, _number(sampler)))
        self.index.append(index)
        self.values.append(columns.detach().to(self.device, torch.float64).flatten())

    def _rows(self) -> tuple[Tensor, Tensor, Tensor]:
        """Return sampler (n,), index (n,) and values (n, num_columns) on the CPU, in the order of index."""
        if not len(self.index):
            return torch.empty(0), torch.empty(0), torch.empty(0, self.num_columns)
        sampler, index, values = (dim_zero_cat(state).cpu() for state in (self.sampler, self.index, self.values))
        order = index.argsort(stable=True)
        return sampler[order], index[order], values.view(-1, self.num_columns)[order]


class NextEventDistance(_Draws):
    """Averages distances between two samplers' draws of the event that follows, over histories.

    They are D^t = W_1 and D^k = earth mover's distance.

    See `functional.wasserstein_distance` and `functional.earth_movers_distance`; neither is 0 for two samples of one
    distribution.
    Source: TPP-SD (arXiv 2507.09252), section 5.1, which takes one history and N draws.

    Args:
        ground: cost of moving a mark, "index" (the paper's |k - l|) or "discrete" (total variation).
    """

    higher_is_better = False

    def __init__(self, ground: Ground = "index") -> None:
        super().__init__(num_columns=2)
        self.ground: Ground = ground

    def update(self, index: Tensor, times: Tensor, marks: Tensor, sampler: Sampler) -> None:
        """Add draws of one sampler, each once.

        Args:
            index: of the history, (num_draws,).
            times: (inter-)times of the events, (num_draws,).
            marks: their marks, (num_draws,).
            sampler: who drew them.
        """
        self._add(index, torch.stack([times.double(), marks.double()], 1), sampler)

    def compute(self) -> NextEventDistances:
        """Return the distances over all ranks; NaN and 0 without draws.

        Raises:
            ValueError: only one sampler has continued a history.
        """
        sampler, index, values = self._rows()
        distances = []
        for history in index.unique():
            first, second = (values[(index == history) & (sampler == number)] for number in (0, 1))
            if not len(first) or not len(second):
                raise ValueError(
                    f"history {int(history)} has draws of one sampler only; a distance needs draws of both"
                )
            mark = earth_movers_distance(first[:, 1].long(), second[:, 1].long(), self.ground)
            distances.append([wasserstein_distance(first[:, 0], second[:, 0]), mark])
        time, mark = torch.tensor(distances, dtype=torch.float64).view(-1, 2).mean(0).tolist()
        return NextEventDistances(time, mark, len(distances))


class SequencePermutationTest(_Draws):
    """Tests whether whole sequences of two samplers have one distribution, by Cramer-von Mises statistics.

    p = (1 + #{permuted statistic >= observed}) / (1 + num_permutations).

    Rows, such as those of `functional.event_counts`, are put in the order of index before they are permuted, so that
    neither batches nor ranks change the p-value; a row that comes twice counts once. See `functional.permutation_test`.

    Args:
        num_columns: of the rows.
        num_permutations, seed: of the test.
    """

    def __init__(self, num_columns: int = 1, num_permutations: int = 999, seed: int = 0) -> None:
        super().__init__(num_columns)
        self.num_permutations, self.seed = num_permutations, seed

    def update(self, index: Tensor, rows: Tensor, sampler: Sampler) -> None:
        """Add sequences of one sampler.

        Args:
            index: in its sample, (batch,).
            rows: one row of statistics each, (batch, num_columns).
            sampler: who drew them.
        """
        self._add(index, rows, sampler)

    def compute(self) -> PermutationResult:
        """Return the test over all ranks.

        Raises:
            ValueError: a sample is empty.
        """
        sampler, index, values = self._rows()
        samples = []
        for mine in (sampler == 0, sampler == 1):
            is_new = index[mine].diff(prepend=torch.tensor([torch.nan])) != 0
            samples.append(values[mine][is_new])
        return permutation_test(samples[0], samples[1], self.num_permutations, self.seed)
