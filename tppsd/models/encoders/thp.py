"""Transformer Hawkes Process encoder (Zuo et al., ICML 2020), causal."""

from __future__ import annotations

from torch import Tensor, nn

from tppsd.models.attention import AttentionPass
from tppsd.models.blocks import EncoderInput, FixedPhases, TokenEmbedding, TransformerBlock, layer_norm, sinusoids


class THPEncoder(nn.Module):
    """Adds sinusoids of the absolute time to the token embedding (eq. 2 and 3), then applies Transformer blocks."""

    def __init__(
        self, num_tokens: int, embed_dim: int, num_heads: int, num_layers: int, feedforward_dim: int, dropout: float
    ) -> None:
        super().__init__()
        self.embedding = TokenEmbedding(num_tokens, embed_dim)
        self.phases = FixedPhases(embed_dim // 2)
        self.blocks = nn.ModuleList(
            TransformerBlock(embed_dim, num_heads, feedforward_dim, dropout, num_layers) for _ in range(num_layers)
        )
        self.norm = nn.LayerNorm(embed_dim)

    def forward(self, inputs: EncoderInput, attention: AttentionPass) -> Tensor:
        """Return the contexts of tokens, (batch, length, embed_dim)."""
        embedded = self.embedding(inputs)
        x = embedded + sinusoids(self.phases(inputs.times), embedded.dtype)
        for layer, block in enumerate(self.blocks):
            x = block(x, layer, attention)
        return layer_norm(self.norm, x)
