"""Cached passes in bfloat16: a GPU multiplies such matrices several times as fast, and reads half as many bytes of
them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from tppsd.models.attention import AttentionPass, CachedPass
from tppsd.models.cache import KVCache
from tppsd.models.decoder import autocast_disabled
from tppsd.models.fast import copied, make_plain
from tppsd.models.law import NextEventLaw
from tppsd.models.protocol import EventTokens

if TYPE_CHECKING:
    from tppsd.models.transformer_tpp import TransformerTPP


class _OutOfReach(nn.Module):
    """A part of a model in its own dtype, whatever autocast does around it."""

    def __init__(self, part: nn.Module) -> None:
        super().__init__()
        self.part = part

    def forward(self, *inputs: Any) -> Any:
        with autocast_disabled(next(self.part.parameters()).device.type):
            return self.part(*inputs)


class ReducedModel:
    """A model whose layers multiply matrices in another dtype, in which keys and values are kept. Event times and their
    phases stay float64; the embedded tokens, the stream of them, norms and all that comes after the contexts stay
    float32.

    Unlike compiled code, which rounds matrices, keys and values alone, operators also round what these are multiplied
    with, and
    add up in an order that depends on the shape of a product: so that the law of an event depends a little on the pass
    that it was worked out in. Samples have the laws of the passes that were made for them (`return_laws` of
    tppsd.sample).

    Args:
        model: or a weak proxy of it.
        dtype: of products, keys and values.
    """

    new_cache = KVCache

    def __init__(self, model: TransformerTPP, dtype: torch.dtype) -> None:
        self._model, self.dtype = model, dtype
        self._encoder = copied(model.encoder).eval()
        embedding = _OutOfReach(self._encoder.embedding)
        del self._encoder.embedding
        for layer in self._encoder.modules():
            if isinstance(layer, nn.Linear):
                layer.to(dtype)
        self._encoder.embedding = embedding
        make_plain(self._encoder)

    def read_statistics(self, model: TransformerTPP) -> None:
        """The model's own are read."""

    def encode(self, tokens: EventTokens, attention: AttentionPass) -> Tensor:
        """As TransformerTPP.encode."""
        # weights are in place already: a cache of them would only be asked
        with torch.autocast(tokens.ids.device.type, self.dtype, cache_enabled=False):
            return self._encoder(self._model.encoder_input(tokens), attention)

    def extend_by_operators(self, tokens: EventTokens, cache: KVCache, parents: tuple[int, ...] | None) -> Tensor:
        """As TransformerTPP.extend."""
        contexts = self.encode(tokens, CachedPass(cache, tokens.ids.shape[1], self.dtype, parents))
        cache.end(parents)
        return contexts

    extend = extend_by_operators

    def law(self, contexts: Tensor) -> NextEventLaw:
        """As TransformerTPP.law."""
        return self._model.law_by_operators(contexts)
