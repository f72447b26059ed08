"""Self-Attentive Hawkes Process encoder (Zhang et al., ICML 2020)."""

from __future__ import annotations

from torch import Tensor, nn

from tppsd.models.attention import AttentionPass
from tppsd.models.blocks import (
    EncoderInput,
    FixedPhases,
    TokenEmbedding,
    TransformerBlock,
    frequencies,
    layer_norm,
    sinusoids,
)


class SAHPEncoder(nn.Module):
    """Adds a time-shifted positional encoding to the embedding, then applies Transformer blocks.

    The encoding is sin and cos of omega_j i + w_j t_i with learnt w (eq. 8).
    """

    def __init__(
        self, num_tokens: int, embed_dim: int, num_heads: int, num_layers: int, feedforward_dim: int, dropout: float
    ) -> None:
        super().__init__()
        self.embedding = TokenEmbedding(num_tokens, embed_dim)
        self.phases = FixedPhases(embed_dim // 2)
        self.time_weights = nn.Parameter(frequencies(embed_dim // 2).float())
        self.blocks = nn.ModuleList(
            TransformerBlock(embed_dim, num_heads, feedforward_dim, dropout, num_layers) for _ in range(num_layers)
        )
        self.norm = nn.LayerNorm(embed_dim)

    def forward(self, inputs: EncoderInput, attention: AttentionPass) -> Tensor:
        """Return the contexts of tokens, (batch, length, embed_dim)."""
        embedded = self.embedding(inputs)
        positions = attention.positions(inputs.ids.shape[1], inputs.ids.device)
        phases = self.phases(positions.double()) + inputs.times.unsqueeze(-1) * self.time_weights.double()
        x = embedded + sinusoids(phases, embedded.dtype)
        for layer, block in enumerate(self.blocks):
            x = block(x, layer, attention)
        return layer_norm(self.norm, x)
