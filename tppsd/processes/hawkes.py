"""Hawkes processes with exponential kernels; a univariate one is the case of one mark."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from tppsd.data.batch import EventBatch
from tppsd.data.sequences import EventSequence
from tppsd.models.cache import RowCache
from tppsd.models.protocol import EventTokens
from tppsd.processes.base import Process
from tppsd.processes.event_model import ProcessDistribution, ProcessModel
from tppsd.processes.excitation import decayed_sums
from tppsd.processes.hawkes_fit import HawkesParameters, fit_parameters

Nested = float | Sequence[Any] | Tensor  # nested sequences of floats

_AT_ONCE = 2**21  # products of an intensity in memory
_PRINTED = 32  # entries of alpha that `repr` spells out


class Hawkes(Process):
    """Has lambda*_m(t) = mu_m + sum_d sum_n alpha_dmn sum_{t_j < t, k_j = n} exp(-beta_dmn (t - t_j)).

    Nothing excites the process before the window starts, except a given first event. It is an EventModel as it stands:
    `tppsd.sample` takes it as a target or as a draft. `Hawkes.fit` finds its parameters.

    Args:
        mu: background rates, (num_marks,), or a float for an unmarked process; not all zero.
        alpha: alpha[m][n] >= 0, jump of the intensity of mark m at an event of mark n; with several decays
            alpha[d][m][n]. A float stands for the same value everywhere.
        beta: decay rates beta[m][n] > 0 or beta[d][m][n], as alpha has it, or one for each of several decays, beta[d].
            A float stands for the same value everywhere.
        is_stable: refuse a branching ratio of 1 or more, with which the number of events explodes as time goes on. On
            finite windows such a process is well defined, and may be what fits best.
    """

    def __init__(
        self, mu: float | Sequence[float] | Tensor, alpha: Nested, beta: Nested, is_stable: bool = True
    ) -> None:
        self.mu = torch.as_tensor(mu, dtype=torch.float64).reshape(-1)
        self.num_marks = len(self.mu)
        self.alpha, self.beta = self._kernels(
            torch.as_tensor(alpha, dtype=torch.float64), torch.as_tensor(beta, dtype=torch.float64)
        )
        if not (self.mu >= 0).all() or not 0 < self.mu.sum() < math.inf:
            raise ValueError(f"mu = {self.mu.tolist()} must have no negative entry and a positive one, all finite")
        if not ((self.alpha >= 0).all() and (self.beta > 0).all() and (self.alpha + self.beta).isfinite().all()):
            raise ValueError(
                f"alpha = {self.alpha.tolist()} must be >= 0 and beta = {self.beta.tolist()} > 0 everywhere, "
                "and both finite"
            )
        if is_stable and self.branching_ratio >= 1:
            raise ValueError(
                f"the largest eigenvalue of alpha / beta is {self.branching_ratio:.3g}; it must be below 1 "
                "unless is_stable=False"
            )
        self._set_terms()

    @classmethod
    def fit(
        cls,
        sequences: Sequence[EventSequence] | EventBatch,
        num_marks: int | None = None,
        decays: Sequence[float] | Tensor | None = None,
        optimise_decays: bool = False,
        pseudo_events: float = 0.0,
    ) -> Hawkes:
        """Fit a process with a sum of exponential kernels by maximum likelihood.

        Args:
            sequences: the data, in any unit of time; rates come out per unit.
            num_marks: number of marks; None = 1 + the largest that occurs.
            decays: beta_d > 0, one for each kernel; None = a geometric grid from the data.
            optimise_decays: move the decays to a maximum nearby.
            pseudo_events: events of each mark added to the background, so that none is impossible.

        `tppsd.processes.fit_hawkes` takes the same, explains it, and also returns the log-likelihood.
        """
        return _fit(fit_parameters(sequences, num_marks, decays, optimise_decays, pseudo_events)).process

    def _kernels(self, alpha: Tensor, beta: Tensor) -> tuple[Tensor, Tensor]:
        """Return alpha and beta, both (num_marks, num_marks) or (num_decays, num_marks, num_marks)."""
        square = (self.num_marks, self.num_marks)
        if beta.dim() == 1 and alpha.dim() == 3:
            beta = beta.view(-1, 1, 1)
        several = max(alpha.dim(), beta.dim()) == 3
        shape = (max(len(kernel) for kernel in (alpha, beta) if kernel.dim() == 3), *square) if several else square
        for name, kernel in (("alpha", alpha), ("beta", beta)):
            fits = kernel.dim() == 0 or kernel.shape == shape or (name == "beta" and kernel.shape == (shape[0], 1, 1))
            if not fits:
                raise ValueError(
                    f"{name} has shape {tuple(kernel.shape)}; with this mu it must be {square} or a float, "
                    f"and with several decays (num_decays, {square[0]}, {square[1]})"
                )
        return alpha.expand(shape), beta.expand(shape)

    def _set_terms(self) -> None:
        """Gather what decays alike: one term for each mark n and each decay rate with which it excites some mark."""
        beta, alpha = self.beta.view(-1, *self.beta.shape[-2:]), self.alpha.view(-1, *self.beta.shape[-2:])
        sources = torch.arange(self.num_marks).expand_as(beta)
        pairs = torch.stack([sources.double(), beta], -1).flatten(0, -2)
        pairs, term = pairs.unique(dim=0, return_inverse=True)
        self._sources, self._decays = pairs[:, 0].long(), pairs[:, 1].contiguous()
        self.state_size = len(pairs)
        self._jumps = alpha.new_zeros(self.num_marks, self.state_size)  # of each mark's intensity, by term
        targets = torch.arange(self.num_marks).view(-1, 1).expand_as(beta).flatten()
        self._jumps.index_put_((targets, term), alpha.flatten(), accumulate=True)
        self._offspring = self._jumps.sum(0) / self._decays  # expected events of all marks that one arrival triggers

    @property
    def branching_ratio(self) -> float:
        """The largest eigenvalue of sum_d alpha_d / beta_d: below 1, the process settles at a finite rate."""
        offspring = (self.alpha / self.beta).view(-1, self.num_marks, self.num_marks).sum(0)
        return float(torch.linalg.eigvals(offspring).abs().max())

    def __repr__(self) -> str:
        if self.alpha.numel() <= _PRINTED:
            return f"Hawkes(mu={self.mu.tolist()}, alpha={self.alpha.tolist()}, beta={self.beta.tolist()})"
        num_decays = 1 if self.alpha.dim() == 2 else len(self.alpha)
        return f"<Hawkes: {self.num_marks} marks, {num_decays} decays, branching ratio {self.branching_ratio:.3g}>"

    # --- a process -----------------------------------------------------------------------------------------------

    def start_state(self, t_start: Tensor) -> Tensor:
        """Return zeros: the state is, for every term, the decayed count s = sum_{k_j = n} exp(-beta (t - t_j))."""
        return torch.zeros(*t_start.shape, self.state_size, dtype=torch.float64)

    def advance(self, state: Tensor, inter_times: Tensor, marks: Tensor) -> Tensor:
        """Return s_i = exp(-beta tau_i) s_{i-1} + [k_i = n], for all i at once."""
        arrivals = (marks.unsqueeze(-1) == self._sources).double()  # (*batch, length, state_size)
        counts = torch.cat([state.unsqueeze(-2), arrivals], -2)
        spans = torch.cat([inter_times.new_zeros(*marks.shape[:-1], 1), inter_times], -1)
        return decayed_sums(counts, spans, self._decays)[..., 1:, :]

    def log_intensity_after(self, state: Tensor, elapsed: Tensor) -> Tensor:
        """Return the log-intensity of every mark; see Process."""
        decayed = state * torch.exp(-self._decays * elapsed.unsqueeze(-1))
        rows = decayed.reshape(-1, self.state_size).split(max(1, _AT_ONCE // self._jumps.numel()))
        # no matrix product: its rounding, and so a sample, would depend on the size of the batch
        excitation = torch.cat([(self._jumps * part.unsqueeze(-2)).sum(-1) for part in rows])
        return (self.mu + excitation.view(*decayed.shape[:-1], self.num_marks)).log()

    def compensator_after(self, state: Tensor, elapsed: Tensor) -> Tensor:
        """Return the integrated total intensity; see Process."""
        spent = -torch.expm1(-self._decays * elapsed.unsqueeze(-1)) * state
        compensator: Tensor = self.mu.sum() * elapsed + (self._offspring * spent).sum(-1)
        return compensator

    def expected_counts(self, history: EventSequence, horizons: Sequence[float]) -> Tensor:
        """Return the expected number of events of each mark within each horizon after the end of the history's window.

            d/dt E s_r = -beta_r E s_r + E lambda*_n,   d/dt E N_m = E lambda*_m,   lambda*_m = mu_m + sum_r jump_mr s_r

        The intensity is linear in the state, so that the expectations solve a linear differential equation: in closed
        form, by a matrix exponential (Oakes, J. Appl. Probab. 12 (1975)). The truth to test forecasts by.

        Args:
            history: the events so far, observed until its window's end.
            horizons: >= 0, in the unit of the times.

        Returns:
            float64 (num_marks, num_horizons).
        """
        size, last = self.state_size, self.state_size + self.num_marks
        motion = self.mu.new_zeros(last + 1, last + 1)  # of (E s, E N, 1)
        motion[:size, :size] = self._jumps[self._sources] - torch.diag(self._decays)
        motion[size:last, :size] = self._jumps
        motion[:size, last], motion[size:last, last] = self.mu[self._sources], self.mu
        since = history.window_end - (float(history.event_times[-1]) if len(history) else history.window_start)
        start = motion.new_zeros(last + 1)
        start[:size], start[last] = self._states(history)[-1] * torch.exp(-self._decays * since), 1.0
        return torch.stack([(torch.linalg.matrix_exp(motion * h) @ start)[size:last] for h in horizons], 1)

    # --- an EventModel (tppsd.models.protocol) -------------------------------------------------------------------

    def new_cache(self, batch_size: int, capacity: int) -> RowCache:
        """Return an empty cache, which holds the state after every token."""
        return ProcessModel(self).new_cache(batch_size, capacity)

    def extend(self, tokens: EventTokens, cache: RowCache, parents: tuple[int, ...] | None = None) -> Tensor:
        """Append q tokens per row and return the states after them, float64 (batch, q, state_size)."""
        return ProcessModel(self).extend(tokens, cache, parents)

    def distribution(self, context: Tensor) -> ProcessDistribution:
        """Return the distribution of the next event after each context (*batch, state_size)."""
        return ProcessModel(self).distribution(context)


class HawkesFit(NamedTuple):
    """Holds a fitted process and what is known of the fit.

    Attributes:
        process: the process; its `alpha` is (num_decays, num_marks, num_marks), its `beta` one decay rate per decay.
        log_likelihood: of the sequences under it, in nats (without the term of `pseudo_events`).
        num_events: number of events with a likelihood term.
        gap: no other mu and alpha with the same decays gain more than this, in nats.
    """

    process: Hawkes
    log_likelihood: float
    num_events: int
    gap: float

    @property
    def branching_ratio(self) -> float:
        """The `Hawkes.branching_ratio`: with 1 or more the process explodes as time goes on."""
        return self.process.branching_ratio


def fit_hawkes(
    sequences: Sequence[EventSequence] | EventBatch,
    num_marks: int | None = None,
    decays: Sequence[float] | Tensor | None = None,
    optimise_decays: bool = False,
    pseudo_events: float = 0.0,
) -> HawkesFit:
    """Fit lambda*_m(t) = mu_m + sum_d sum_n alpha_dmn sum_{t_j < t, k_j = n} exp(-beta_d (t - t_j)).

        log L = sum_i log lambda*_{k_i}(t_i) - sum_m [mu_m T + sum_dn alpha_dmn C_dn]
        A_dn(t) = sum_{t_j < t, k_j = n} exp(-beta_d (t - t_j)),   C_dn = integral of A_dn over the windows

    For fixed decays log L is concave in (mu, alpha) >= 0 and falls apart into one problem for each mark m. In terms of
    p = alpha C, the expected number of events of mark m that a term triggers, each is the fit of a mixture's weights
    (`mixture_weights`), solved to 1e-9 nats per event of its maximum. A is computed once, in time linear in the number
    of events. The decays are a grid, or start from one and are optimised with the exact gradient of the maximum, which
    is not concave in them: a local maximum.

    Args:
        sequences: with or without `t_start` and `t_end`; given events excite and have no term.
        num_marks: number of marks; None = 1 + the largest that occurs.
        decays: beta_d > 0, per unit of time; None = `default_decays`.
        optimise_decays: move the decays to a maximum nearby.
        pseudo_events: events of each mark that are added to the data and ascribed to the background, a fraction or
            more: they keep mu from vanishing where all events of a mark follow others, or none occurs (log L gains
            pseudo_events * sum_m log mu_m). 0 = maximum likelihood.

    Raises:
        ValueError: nothing to fit to, marks out of range, or decays that are not positive.

    Warns:
        UserWarning: the branching ratio is 1 or more.

    Source: Ozaki, Ann. Inst. Stat. Math. 31 (1979); Bacry, Mastromatteo and Muzy, "Hawkes processes in finance" (2015).
    """
    return _fit(fit_parameters(sequences, num_marks, decays, optimise_decays, pseudo_events))


def _fit(found: HawkesParameters) -> HawkesFit:
    process = Hawkes(found.mu, found.alpha, found.decays, is_stable=False)
    if process.branching_ratio >= 1:
        warnings.warn(
            f"the fitted Hawkes process has a branching ratio of {process.branching_ratio:.3g}: with 1 or more, the "
            "number of events explodes on windows that are long beside those it was fitted to",
            stacklevel=3,  # whoever called Hawkes.fit or fit_hawkes
        )
    return HawkesFit(process, found.log_likelihood, found.num_events, found.gap)
