"""A modern encoder: pre-norm, rotary embedding in continuous time, gated feed-forward layers.

Sources: rotary embedding, Su et al., arXiv 2104.09864; SwiGLU, Shazeer, arXiv 2002.05202; RMSNorm, Zhang and Sennrich,
    2019.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tppsd.models.attention import Attention, AttentionPass
from tppsd.models.blocks import EncoderInput, TokenEmbedding, linear, rms_norm, start_local

_FASTEST, _SLOWEST = 4.0, 4000.0  # periods, in mean inter-times and in events


class RotaryBlock(nn.Module):
    """Computes x + MHA(norm(x)), then x + W2 (SiLU(Wg norm(x)) * Wu norm(x)).

    Queries and keys are rotated by their time and order. Shapes: (batch, length, embed_dim) -> the same.
    """

    def __init__(self, embed_dim: int, num_heads: int, feedforward_dim: int, dropout: float, num_layers: int) -> None:
        super().__init__()
        self.num_heads, self.dropout = num_heads, dropout
        self.attention_norm = nn.RMSNorm(embed_dim, eps=1e-6)
        self.to_qkv = nn.Linear(embed_dim, 3 * embed_dim, bias=False)
        self.from_heads = nn.Linear(embed_dim, embed_dim, bias=False)
        self.feedforward_norm = nn.RMSNorm(embed_dim, eps=1e-6)
        hidden = feedforward_dim * 2 // 3  # the gate is a third matrix: as many parameters as without one
        self.to_gate_and_value = nn.Linear(embed_dim, 2 * hidden, bias=False)
        self.contract = nn.Linear(hidden, embed_dim, bias=False)
        start_local(self.to_qkv)
        for branch in (self.from_heads, self.contract):  # the residual stream keeps its scale at any depth (GPT-2)
            nn.init.normal_(branch.weight, std=(2 * num_layers * branch.in_features) ** -0.5)

    def forward(self, x: Tensor, rotation: tuple[Tensor, Tensor], layer: int, attention: AttentionPass) -> Tensor:
        """Apply the block as layer number `layer` of a pass: (batch, length, embed_dim) -> the same.

        Args:
            x: tokens.
            rotation: cos and sin of the phases, (batch, length, head_dim / 2).
            layer: number of the block.
            attention: how tokens see each other and their past.
        """
        qkv = linear(self.to_qkv, rms_norm(self.attention_norm, x))
        attended = attention.attend(layer, turned(qkv, rotation, self.num_heads), self.num_heads, Attention.SOFTMAX)
        x = x + F.dropout(linear(self.from_heads, attended), self.dropout, self.training)
        gate, value = linear(self.to_gate_and_value, rms_norm(self.feedforward_norm, x)).chunk(2, -1)
        return x + F.dropout(linear(self.contract, F.silu(gate) * value), self.dropout, self.training)


class RotaryEncoder(nn.Module):
    """Stacks blocks whose attention sees differences of time and of order alone, so that a window may be of any length.

    Within each head one half of the pairs of dimensions rotates with time, the other with the number of events, at
    learnt frequencies.
    """

    def __init__(
        self, num_tokens: int, embed_dim: int, num_heads: int, num_layers: int, feedforward_dim: int, dropout: float
    ) -> None:
        super().__init__()
        head_dim = embed_dim // num_heads
        if head_dim % 4:
            raise ValueError(
                f"embed_dim = {embed_dim} gives each of num_heads = {num_heads} heads {head_dim} dimensions; "
                "the rotary encoder needs a multiple of 4"
            )
        self.embedding = TokenEmbedding(num_tokens, embed_dim)
        periods = torch.logspace(math.log10(_FASTEST), math.log10(_SLOWEST), head_dim // 4)
        self.log_frequencies = nn.Parameter((2 * math.pi / periods).log().repeat(2, 1))  # of time, of order
        self.blocks = nn.ModuleList(
            RotaryBlock(embed_dim, num_heads, feedforward_dim, dropout, num_layers) for _ in range(num_layers)
        )
        self.norm = nn.RMSNorm(embed_dim, eps=1e-6)

    def forward(self, inputs: EncoderInput, attention: AttentionPass) -> Tensor:
        """Return the contexts of tokens, (batch, length, embed_dim)."""
        x = self.embedding(inputs)
        rotation = self._rotation(inputs, attention, x.dtype)
        for layer, block in enumerate(self.blocks):
            x = block(x, rotation, layer, attention)
        return rms_norm(self.norm, x)

    def _rotation(self, inputs: EncoderInput, attention: AttentionPass, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Return cos and sin (batch, length, head_dim / 2) of the phases.

        Phases are computed in float64: in float32 those of late times lose their digits.
        """
        order = attention.positions(inputs.ids.shape[1], inputs.ids.device).double().expand_as(inputs.times)
        of_time, of_order = self.log_frequencies.double().exp()
        phases = torch.cat([inputs.times.unsqueeze(-1) * of_time, order.unsqueeze(-1) * of_order], -1)
        return torch.cos(phases).to(dtype), torch.sin(phases).to(dtype)


def turned(qkv: Tensor, rotation: tuple[Tensor, Tensor], num_heads: int) -> Tensor:
    """Rotate dimensions (j, j + head_dim / 2) of every head of queries and keys by phase j; values stay as they are.

    Args:
        qkv: fused queries, keys and values, (batch, length, 3 dim).
        rotation: cos and sin of the phases, (batch or 1, length, head_dim / 2).
        num_heads: number of heads.
    """
    batch, length, width = qkv.shape
    cos, sin = (x.view(-1, length, 1, 1, x.shape[-1]) for x in rotation)
    parts = qkv.view(batch, length, 3, num_heads, width // (3 * num_heads))
    first, second = parts[:, :, :2].chunk(2, -1)
    rotated = torch.cat([first * cos - second * sin, second * cos + first * sin], -1)
    return torch.cat([rotated, parts[:, :, 2:]], 2).view(batch, length, width)
