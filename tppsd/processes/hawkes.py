"""Hawkes processes with exponential kernels; a univariate one is the case of one mark."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from tppsd.data.batch import EventBatch
from tppsd.data.sequences import EventSequence
from tppsd.models.cache import RowCache
from tppsd.models.protocol import EventTokens
from tppsd.processes.base import Process
from tppsd.processes.event_model import ProcessDistribution, ProcessModel
from tppsd.processes.excitation import decayed_sums

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
        from tppsd.processes.hawkes_fit import maximum_likelihood

        return maximum_likelihood(sequences, num_marks, decays, optimise_decays, pseudo_events).process

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
