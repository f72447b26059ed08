"""Token embeddings, which every encoder adds up from a mark, an inter-time, and sinusoids of the time."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn


class EncoderInput(NamedTuple):
    """Holds tokens in the model's own units.

    Fields:
        ids: int64 (batch, length).
        times: float64 (batch, length), since `t_start` in mean inter-times.
        log_inter_times: (batch, length), standardised log tau, 0 at a start token.
    """

    ids: Tensor
    times: Tensor
    log_inter_times: Tensor


class TokenEmbedding(nn.Module):
    """Adds a mark embedding and a linear map of (x, tanh x), x = standardised log tau.

    The inter-time is an input of its own, because a difference of two absolute-time encodings is hard to learn.
    """

    def __init__(self, num_tokens: int, embed_dim: int) -> None:
        super().__init__()
        self.marks = nn.Embedding(num_tokens, embed_dim)
        self.inter_time = nn.Linear(2, embed_dim, bias=False)
        nn.init.normal_(self.marks.weight, std=0.5)

    def forward(self, inputs: EncoderInput) -> Tensor:
        """Return the embedded tokens, (batch, length, embed_dim)."""
        log_tau = inputs.log_inter_times.to(self.marks.weight.dtype)
        features = torch.stack([log_tau, torch.tanh(log_tau)], -1)
        embedded: Tensor = self.marks(inputs.ids) + self.inter_time(features)
        return embedded


def frequencies(num: int, longest: float = 1e4) -> Tensor:
    """Return angular frequencies 1 / longest^(j / num), j = 0..num-1, float64 (num,) (Vaswani et al., 2017)."""
    return torch.exp(-math.log(longest) * torch.arange(num, dtype=torch.float64) / num)


class FixedPhases(nn.Module):
    """Computes phases omega_j x of float64 values x.

    The frequencies stay float64 when the model's weights are cast: in float32 they would move the phases of late times.
    """

    frequencies: Tensor

    def __init__(self, num: int) -> None:
        super().__init__()
        self.register_buffer("frequencies", frequencies(num), persistent=False)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> FixedPhases:
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        self.frequencies = frequencies(len(self.frequencies)).to(self.frequencies.device)
        return self

    def forward(self, values: Tensor) -> Tensor:
        """Return the phases of float64 values (...), (..., num)."""
        return values.unsqueeze(-1) * self.frequencies


def sinusoids(phases: Tensor, dtype: torch.dtype) -> Tensor:
    """Return sin and cos of float64 phases (..., num), (..., 2 num), in `dtype`.

    Phases of late times would lose digits in float32.
    """
    return torch.cat([torch.sin(phases), torch.cos(phases)], -1).to(dtype)
