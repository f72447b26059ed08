"""Tests of independence of successive residuals over all batches and ranks."""

from __future__ import annotations

from tppsd.metrics.functional.independence import IndependenceResult, lag1_independence
from tppsd.metrics.residuals import MarkPIT, TimeRescalingKS


class GapIndependence(TimeRescalingKS):
    """Tests X2 = sum_ab (n_ab - n_a. n_.b / n)^2 / (n_a. n_.b / n) of successive 1 - exp(-z_i).

    The z_i are the carried-over gaps.

    Pairs follow the order of index, whatever batch, rank or order sequences arrive in; see
    `functional.lag1_independence`.
    Source: Anderson and Goodman, Ann. Math. Stat. 28 (1957).
    """

    def __init__(self, num_bins: int = 8) -> None:
        super().__init__()
        self.num_bins = num_bins

    def compute(self) -> IndependenceResult:  # type: ignore[override]
        """Return statistic, p-value, degrees of freedom and number of pairs over all ranks.

        Raises:
            ValueError: there are too few pairs.
        """
        return lag1_independence(self.uniforms(), self.num_bins)


class MarkIndependence(MarkPIT):
    """Tests X2 of successive randomised mark PITs, in the order of index; as `GapIndependence`."""

    def __init__(self, num_bins: int = 8) -> None:
        super().__init__()
        self.num_bins = num_bins

    def compute(self) -> IndependenceResult:  # type: ignore[override]
        """Return statistic, p-value, degrees of freedom and number of pairs over all ranks.

        Raises:
            ValueError: there are too few pairs.
        """
        return lag1_independence(self.uniforms(), self.num_bins)
