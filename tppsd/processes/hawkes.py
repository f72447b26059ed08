"""Hawkes processes with exponential kernels; a univariate one is the case of one mark."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from tppsd.processes.base import Process

Matrix = float | Sequence[Sequence[float]]  # a float stands for the same value everywhere


class Hawkes(Process):
    """lambda*_m(t) = mu_m + sum_n alpha_mn sum_{t_j < t, k_j = n} exp(-beta_mn (t - t_j)).

    Nothing excites the process before the window starts, except a given first event.

    Args:
        mu: background rates, (num_marks,), or a float for an unmarked process; not all zero.
        alpha: alpha[m][n] >= 0, jump of the intensity of mark m at an event of mark n.
        beta: decay rates beta[m][n] > 0.
    """

    def __init__(self, mu: float | Sequence[float], alpha: Matrix, beta: Matrix) -> None:
        self.mu = torch.as_tensor(mu, dtype=torch.float64).reshape(-1)
        self.num_marks = len(self.mu)
        self.state_size = self.num_marks**2
        self.alpha = self._matrix("alpha", alpha)
        self.beta = self._matrix("beta", beta)
        if not (self.mu >= 0).all() or not 0 < self.mu.sum() < math.inf:
            raise ValueError(f"mu = {self.mu.tolist()} must have no negative entry and a positive one, all finite")
        if not ((self.alpha >= 0).all() and (self.beta > 0).all() and (self.alpha + self.beta).isfinite().all()):
            raise ValueError(
                f"alpha = {self.alpha.tolist()} must be >= 0 and beta = {self.beta.tolist()} > 0 everywhere, and both finite"
            )
        branching_ratio = float(torch.linalg.eigvals(self.alpha / self.beta).abs().max())
        if branching_ratio >= 1:
            raise ValueError(f"the largest eigenvalue of alpha / beta is {branching_ratio:.3g}; it must be below 1")

    def _matrix(self, name: str, values: Matrix) -> Tensor:
        matrix = torch.as_tensor(values, dtype=torch.float64)
        shape = (self.num_marks, self.num_marks)
        if matrix.dim() and matrix.shape != shape:
            raise ValueError(f"{name} has shape {tuple(matrix.shape)}; with this mu it must be {shape} or a float")
        return matrix.expand(shape)

    def __repr__(self) -> str:
        return f"Hawkes(mu={self.mu.tolist()}, alpha={self.alpha.tolist()}, beta={self.beta.tolist()})"

    def start_state(self, t_start: Tensor) -> Tensor:
        """The state is the decayed count s_mn = sum_{k_j = n} exp(-beta_mn (t - t_j)), flattened."""
        return torch.zeros(*t_start.shape, self.state_size, dtype=torch.float64)

    def advance(self, state: Tensor, inter_times: Tensor, marks: Tensor) -> Tensor:
        """s_i = exp(-beta tau_i) s_{i-1} + [k_i = n], for all i at once: after a pass, s_i holds the newest 2 * `width`
        terms."""
        arrivals = (marks.unsqueeze(-1) == torch.arange(self.num_marks)).double()  # (*batch, length, n)
        arrivals = arrivals.unsqueeze(-2).expand(*marks.shape, self.num_marks, self.num_marks)  # (*batch, length, m, n)
        counts = torch.cat([self._matrices(state).unsqueeze(-3), arrivals], -3)  # (*batch, 1 + length, m, n)
        spans = torch.cat([inter_times.new_zeros(*marks.shape[:-1], 1), inter_times], -1)  # time covered by those terms
        width = 1
        while width < spans.shape[-1]:
            decay = torch.exp(-self.beta * spans[..., width:, None, None])
            newer = counts[..., width:, :, :] + decay * counts[..., :-width, :, :]
            counts = torch.cat([counts[..., :width, :, :], newer], -3)
            spans = torch.cat([spans[..., :width], spans[..., width:] + spans[..., :-width]], -1)
            width *= 2
        return counts[..., 1:, :, :].flatten(-2)

    def log_intensity_after(self, state: Tensor, elapsed: Tensor) -> Tensor:
        decayed = self._matrices(state) * torch.exp(-self.beta * elapsed[..., None, None])
        return (self.mu + (self.alpha * decayed).sum(-1)).log()

    def compensator_after(self, state: Tensor, elapsed: Tensor) -> Tensor:
        spent = -torch.expm1(-self.beta * elapsed[..., None, None]) * self._matrices(state)
        return self.mu.sum() * elapsed + (self.alpha / self.beta * spent).flatten(-2).sum(-1)

    def _matrices(self, state: Tensor) -> Tensor:
        return state.unflatten(-1, (self.num_marks, self.num_marks))
