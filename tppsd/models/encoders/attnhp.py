"""Attentive Neural Hawkes Process encoder (Mei et al., ICLR 2022), causal.

It has one key and value per event, layer and head.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tppsd.models.attention import Attention, AttentionPass
from tppsd.models.blocks import EncoderInput, FixedPhases, TokenEmbedding, layer_norm, linear, sinusoids, start_local


class AttNHPLayer(nn.Module):
    """Computes h + tanh(sum_j f(q, k_j) v_j / (1 + sum_j f(q, k_j))).

    q, k, v are linear in [1; z(t); LN(h)] (eq. 4 to 6). The sum runs over the events up to and including the query's
    own. The norm keeps deep stacks trainable; the paper has none.
    """

    def __init__(self, embed_dim: int, num_heads: int, dropout: float) -> None:
        super().__init__()
        self.num_heads, self.dropout = num_heads, dropout
        self.norm = nn.LayerNorm(embed_dim)
        self.to_qkv = nn.Linear(2 * embed_dim, 3 * embed_dim)  # its bias is the paper's leading 1
        start_local(self.to_qkv)
        self.from_heads = nn.Linear(embed_dim, embed_dim)

    def forward(self, h: Tensor, time_encoding: Tensor, layer: int, attention: AttentionPass) -> Tensor:
        """Apply the layer: h and time_encoding (batch, length, embed_dim) -> (batch, length, embed_dim)."""
        qkv = linear(self.to_qkv, torch.cat([time_encoding, layer_norm(self.norm, h)], -1))
        attended = attention.attend(layer, qkv, self.num_heads, Attention.ONE_PLUS_SUM)
        update = torch.tanh(linear(self.from_heads, attended))
        return h + F.dropout(update, self.dropout, self.training)


class AttNHPEncoder(nn.Module):
    """Stacks layers of AttNHP over token embeddings; the time encoding z(t) enters every layer, not the embedding."""

    def __init__(
        self, num_tokens: int, embed_dim: int, num_heads: int, num_layers: int, feedforward_dim: int, dropout: float
    ) -> None:
        super().__init__()
        self.embedding = TokenEmbedding(num_tokens, embed_dim)
        self.phases = FixedPhases(embed_dim // 2)
        self.layers = nn.ModuleList(AttNHPLayer(embed_dim, num_heads, dropout) for _ in range(num_layers))
        self.norm = nn.LayerNorm(embed_dim)

    def forward(self, inputs: EncoderInput, attention: AttentionPass) -> Tensor:
        """Return the contexts of tokens, (batch, length, embed_dim)."""
        h = self.embedding(inputs)
        time_encoding = sinusoids(self.phases(inputs.times), h.dtype)
        for layer_index, layer in enumerate(self.layers):
            h = layer(h, time_encoding, layer_index, attention)
        return layer_norm(self.norm, h)
