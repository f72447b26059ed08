"""Metrics of samples over all batches and ranks: acceptance, transport distance, and comparisons of two samplers.

A batch may hold draws of either of two samplers.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

from tppsd.data.sequences import EventSequence
from tppsd.metrics.functional.acceptance import acceptance_rate, events_per_round, step_acceptance
from tppsd.metrics.functional.permutation import PermutationResult, permutation_test
from tppsd.metrics.functional.transport import (
    HYPRO_COSTS,
    Ground,
    earth_movers_distance,
    transport_distance,
    wasserstein_distance,
)


class AcceptanceStatistics(Metric):
    """Adds up accepted counts and gives the rates that follow from them.

    acceptance_rate = accepted / drafted, step_acceptance = accepted / tested, events_per_round = (accepted + rounds) /
    rounds. The only state is the sum of `accepted_counts`, (drafted, accepted); see
    `tppsd.metrics.functional.acceptance`.
    """

    full_state_update = False
    accepted_counts: Tensor

    def __init__(self, max_draft_length: int = 64) -> None:
        super().__init__()
        size = max_draft_length + 1
        self.add_state("accepted_counts", torch.zeros(size, size, dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, accepted_counts: Tensor) -> None:
        """Add the rounds of one call, int64 (drafted, accepted), of any size up to max_draft_length + 1."""
        rows, columns = accepted_counts.shape
        size = len(self.accepted_counts)
        if max(rows, columns) > size:
            raise ValueError(
                f"accepted_counts has shape {(rows, columns)}; max_draft_length = {size - 1} allows "
                f"at most {(size, size)}"
            )
        padded = F.pad(accepted_counts.to(self.accepted_counts), (0, size - columns, 0, size - rows))
        self.accepted_counts = self.accepted_counts + padded

    def compute(self) -> dict[str, float]:
        """Return acceptance_rate, step_acceptance and events_per_round; NaN without drafts or rounds."""
        return {
            "acceptance_rate": acceptance_rate(self.accepted_counts),
            "step_acceptance": step_acceptance(self.accepted_counts),
            "events_per_round": events_per_round(self.accepted_counts),
        }


class OptimalTransportDistance(Metric):
    """Averages sum_marks min_alignments [c * #{not aligned} + sum |t - t'|] over pairs of sequences and costs c.

    In the data's unit of time, like the costs; see `functional.transport_distance`. Source: Mei, Qin and Eisner (ICML
    2019).

    Args:
        costs: c, of a deletion or insertion.
    """

    full_state_update = False
    higher_is_better = False
    total: Tensor
    num_pairs: Tensor

    def __init__(self, costs: Sequence[float] = HYPRO_COSTS) -> None:
        super().__init__()
        self.costs = tuple(costs)
        self.add_state("total", torch.zeros(len(self.costs), dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("num_pairs", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, first: Iterable[EventSequence], second: Iterable[EventSequence]) -> None:
        """Add pairs, such as continuations and what really followed, both without their history."""
        for one, other in zip(first, second, strict=True):
            self.total = self.total + transport_distance(one, other, self.costs).to(self.total)
            self.num_pairs = self.num_pairs + 1

    def compute(self) -> Tensor:
        """Return the mean distance, float64 (); NaN without pairs."""
        return self.total.mean() / self.num_pairs


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
        # As in `calibration`: a rank without data sends empty, flat tensors of `self.dtype`, and all must be alike.
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
