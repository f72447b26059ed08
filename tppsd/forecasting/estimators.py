"""Estimates from simulated paths and their standard errors: means, control variates, frequencies."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

_NORMAL = 1.959964  # 97.5 % quantile of the standard normal distribution


class Quantiles(NamedTuple):
    """Holds quantiles over paths, with distribution-free 95 % intervals, each float64 (num_histories, ..., num_levels).

    Fields: levels (num_levels,); values; lower, upper: order statistics between which the true quantile lies.
    """

    levels: Tensor
    values: Tensor
    lower: Tensor
    upper: Tensor

    @property
    def standard_error(self) -> Tensor:
        """Half the width of the interval over 1.96, (*batch, num_levels).

        It is inf where the interval has no upper end; 0 says that the whole interval is one count.
        """
        width = torch.where(self.upper.isinf(), torch.inf, self.upper - self.lower)
        return width / (2 * _NORMAL)


def quantiles_of(outcomes: Tensor, levels: Sequence[float]) -> Quantiles:
    """Return quantiles of outcomes (num_paths, *batch): values (*batch, num_levels)."""
    level = torch.as_tensor(levels, dtype=torch.float64).flatten()
    if not bool(((level > 0) & (level < 1)).all()) or len(level) == 0:
        raise ValueError(f"quantiles = {levels} must lie between 0 and 1")
    num, ordered = len(outcomes), outcomes.sort(0).values
    width = _NORMAL * (num * level * (1 - level)).sqrt()  # of the binomial number of paths below a quantile
    ranks = ((num * level).ceil() - 1, (num * level - width).floor() - 1, (num * level + width).ceil())
    values = (ordered[rank.long().clamp(0, num - 1)].movedim(0, -1) for rank in ranks)
    return Quantiles(level, *values)


_FEWEST = 20  # expected events from which on coefficients are fitted
_NUM_FOLDS = 5


class Estimate(NamedTuple):
    """Holds an estimate and its standard error, each (*batch,), float64.

    Fields: value; standard_error; estimator: the name of what was done; num_paths: paths behind it, 0 for closed forms;
    degrees_of_freedom: how well the paths show the standard error itself, (*batch,); None = exactly.
    """

    value: Tensor
    standard_error: Tensor
    estimator: str = "mean"
    num_paths: int = 0
    degrees_of_freedom: Tensor | None = None

    def interval(self, level: float = 0.95) -> tuple[Tensor, Tensor]:
        """Return lower and upper end of an interval of this level.

        It is Wilson's of a frequency, else value -+ t standard errors, t the quantile of Student's distribution with
        these degrees of freedom: 1.96 of many normal paths, and more where few paths make most of the variance.
        """
        if self.estimator == "frequency":
            return wilson_interval(self.value * self.num_paths, self.num_paths, level)
        half = self.standard_error * _normal_quantile(level)
        if self.degrees_of_freedom is not None:
            from scipy.special import stdtrit

            half = self.standard_error * torch.as_tensor(stdtrit(self.degrees_of_freedom.numpy(), (1 + level) / 2))
        return self.value - half, self.value + half


def mean_estimate(outcomes: Tensor) -> Estimate:
    """Estimate E Y by the mean over S paths.

        value = 1/S sum_s Y_s,   standard error = sqrt(sum_s (Y_s - value)^2 / (S (S - 1)))
        degrees of freedom = 2 S / (kurtosis(Y) - 1), at most S - 1

    The degrees of freedom are those of a chi-square distribution whose variance, beside its mean, is that of the sum of
    squares. They are S for normal outcomes, and few where the outcomes have a heavy tail.

    Args:
        outcomes: Y, (num_paths, *batch), i.i.d. along the first dimension, at least two.
    Source: Satterthwaite, Biometrics Bulletin 2 (1946), for the matching of moments; Cramer, Mathematical Methods of
        Statistics (1946), section 27.4, for the variance of a variance.
    """
    outcomes = _checked(outcomes)
    num, value = len(outcomes), outcomes.mean(0)
    squares = (outcomes - value).square()
    kurtosis = squares.square().mean(0) / squares.mean(0).square().clamp_min(torch.finfo(torch.float64).tiny)
    freedom = (2 * num / (kurtosis - 1).clamp_min(1.0)).clamp_max(num - 1)
    return Estimate(value, (squares.sum(0) / (num - 1) / num).sqrt(), num_paths=num, degrees_of_freedom=freedom)


def control_variate_estimate(
    outcomes: Tensor,
    martingales: Tensor,
    num_folds: int = _NUM_FOLDS,
    known: Tensor | None = None,
    controls: Tensor | None = None,
) -> Estimate:
    """Estimate E Y with control variates M of known mean 0, their coefficients fitted on other paths.

        value = 1/S sum_s R_s,   R_s = Y_s - beta_(-k(s)) . M_s,   standard error = sqrt(var(R) / S)
        beta_(-k) = argmin over beta of sum over s not in fold k of (Y_s - mean Y - beta . (M_s - mean M))^2

    k(s) = s mod num_folds. A coefficient never sees the path that it corrects, so E R_s = E Y exactly, for any number
    of paths (coefficients fitted to all paths are biased by terms of order 1 / S). beta = 0 is the plain mean. Up to
    the error of beta, of relative order num_martingales / S, the variance is the least that a linear correction has,
    and so never larger than the plain one. Martingales that do not vary, or that are combinations of others, get the
    smallest coefficients.

    Args:
        outcomes: Y, (num_paths, *batch), i.i.d. along the first dimension.
        martingales: M, (num_paths, *batch, num_martingales), of mean 0.
        num_folds: K, 2 to num_paths.
        known: (num_folds, *batch): where it is a number, beta_(-k) is (number, 0, ..., 0) instead of a fit, as where
            the other folds have too few events to fit anything to; NaN: fitted. It must not depend on fold k.
        controls: more control variates, of mean 0, (num_paths, *batch, num_controls) or broadcast to it, fitted in the
            same way to what the martingales leave; unused where 0 is known. All in one fit would take them for the
            martingales where the paths at hand cannot tell these apart.
    Source: Glasserman, Monte Carlo Methods in Financial Engineering (2003), section 4.1; Avramidis and Wilson, Ann.
        Oper. Res. 45 (1993), for splitting.
    """
    outcomes, martingales = _checked(outcomes), martingales.double()
    if martingales.shape[:-1] != outcomes.shape:
        raise ValueError(
            f"martingales have shape {tuple(martingales.shape)}; with outcomes {tuple(outcomes.shape)} it must be "
            f"{(*outcomes.shape, 'num_martingales')}"
        )
    if not 2 <= num_folds <= len(outcomes):
        raise ValueError(f"num_folds = {num_folds} must be 2 to the number of paths, {len(outcomes)}")
    fold = torch.arange(len(outcomes), device=outcomes.device) % num_folds
    corrected = torch.empty_like(outcomes)
    for k in range(num_folds):
        rest, own = fold != k, fold == k
        coefficients = _coefficients(outcomes[rest], martingales[rest])
        if known is not None:
            first = torch.zeros_like(coefficients)
            first[..., 0] = known[k]
            coefficients = torch.where(known[k].isnan().unsqueeze(-1), coefficients, first)
        left = outcomes - (martingales * coefficients).sum(-1)
        corrected[own] = left[own]
        if controls is not None:
            more = _coefficients(left[rest], controls[rest].expand(*left[rest].shape, -1))
            if known is not None:
                more = torch.where((known[k] == 0).unsqueeze(-1), 0.0, more)
            corrected[own] -= (controls[own] * more).sum(-1)
    return mean_estimate(corrected)._replace(estimator="control variates")


def step_sum_estimate(
    outcomes: Tensor,
    probabilities: Tensor,
    hazards: Tensor,
    is_binary: bool,
    controls: Tensor | None = None,
) -> Estimate:
    """Estimate E N of a number of events with the martingales N - sum p_i and N - integral of the intensity.

    The coefficients are fitted on other paths (`control_variate_estimate`). Where these expect fewer than 20 events, a
    fit would say nothing, and (1, 0) is taken, with which the estimate is the mean of sum p_i. Where fewer than 20 of
    them have no event, of an outcome of 0 or 1, it is (1, 0) or (0, 0), the share of paths, whichever has the smaller
    variance among them; the variance of a share counts one path more of either outcome, here and in the standard error.

    Args:
        outcomes: N, (num_paths, *batch).
        probabilities: sum over the steps of each path of p_i, the chance that the step is such an event, (num_paths,
            *batch).
        hazards: integral of the intensity of such events along each path, (num_paths, *batch).
        is_binary: N is 0 or 1.
        controls: as of `control_variate_estimate`.
    """
    fold = torch.arange(len(outcomes)) % _NUM_FOLDS
    rest = [fold != k for k in range(_NUM_FOLDS)]
    expected = torch.stack([probabilities[own].sum(0) for own in rest])
    known = torch.where(expected < _FEWEST, 1.0, torch.nan)
    martingales = torch.stack([outcomes - probabilities, outcomes - hazards], -1)
    if not is_binary:
        return control_variate_estimate(outcomes, martingales, _NUM_FOLDS, known, controls)
    without = 1 - outcomes
    num_without = torch.stack([without[own].sum(0) for own in rest])
    share = torch.stack([(without[own].sum(0) + 1) / (int(own.sum()) + 2) for own in rest])
    is_steady = torch.stack([probabilities[own].var(0) for own in rest]) < share * (1 - share)
    known = torch.where(num_without < _FEWEST, is_steady.double(), known)
    found = control_variate_estimate(outcomes, martingales, _NUM_FOLDS, known, controls)
    share = (without.sum(0) + 1) / (len(outcomes) + 2)
    least = torch.where((known == 0).any(0), (share * (1 - share) / len(outcomes)).sqrt(), 0.0)
    return found._replace(standard_error=torch.maximum(found.standard_error, least))


def wilson_interval(successes: Tensor, num_trials: int, level: float = 0.95) -> tuple[Tensor, Tensor]:
    """Return Wilson's score interval of a probability from a frequency, lower and upper end, each float64 (*batch,).

        (p + z^2 / (2 n) -+ z sqrt(p (1 - p) / n + z^2 / (4 n^2))) / (1 + z^2 / n),   p = successes / n

    z is the (1 + level) / 2 quantile of the standard normal distribution. Unlike p -+ z sqrt(p (1 - p) / n) it has a
    width where no path or every path has the event.

    Args:
        successes: number of paths with the event, (*batch,).
        num_trials: n, number of paths, at least 1.
        level: of the interval.
    Source: Wilson, JASA 22 (1927); Brown, Cai and DasGupta, Stat. Sci. 16 (2001).
    """
    if num_trials < 1:
        raise ValueError(f"num_trials = {num_trials} must be at least 1")
    z = _normal_quantile(level)
    frequency, scale = successes.double() / num_trials, z * z / num_trials
    centre = (frequency + scale / 2) / (1 + scale)
    half = (frequency * (1 - frequency) * scale + scale * scale / 4).sqrt() / (1 + scale)
    return (centre - half).clamp_min(0.0), (centre + half).clamp_max(1.0)


def _normal_quantile(level: float) -> float:
    """Return the (1 + level) / 2 quantile of the standard normal distribution."""
    return math.sqrt(2) * float(torch.erfinv(torch.tensor(level, dtype=torch.float64)))


def _coefficients(outcomes: Tensor, martingales: Tensor) -> Tensor:
    """Return least squares of Y on M with an intercept, (*batch, num_martingales); the shortest where not unique."""
    outcomes, martingales = outcomes - outcomes.mean(0), martingales - martingales.mean(0)
    scales = martingales.square().mean(0).sqrt()
    martingales = martingales / torch.where(scales > 0, scales, 1.0)
    gram = torch.einsum("s...i,s...j->...ij", martingales, martingales) / len(outcomes)
    products = torch.einsum("s...i,s...->...i", martingales, outcomes) / len(outcomes)
    solution = (torch.linalg.pinv(gram, rtol=1e-10, hermitian=True) @ products.unsqueeze(-1)).squeeze(-1)
    coefficients: Tensor = solution / torch.where(scales > 0, scales, 1.0)
    return coefficients


def _checked(outcomes: Tensor) -> Tensor:
    if len(outcomes) < 2:
        raise ValueError(f"a standard error needs at least 2 paths; got {len(outcomes)}")
    return outcomes.double()
