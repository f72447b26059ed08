"""Cached passes by a model's own operators, with laws and whole chains of events as calls of compiled code: for
encoders that no compiled code knows."""

from __future__ import annotations

import ctypes
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from tppsd.backends.cpp.compiled import CompiledDecoder, Drawn, native_library
from tppsd.backends.cpp.compiled_law import CompiledLaw
from tppsd.backends.cpp.packing import PackedDecoder
from tppsd.backends.cpp.structures import Int, Newest, Pointer
from tppsd.models.cache import KVCache
from tppsd.models.protocol import EventTokens

if TYPE_CHECKING:
    from tppsd.models.transformer_tpp import TransformerTPP


class OperatedModel(CompiledDecoder):
    """A model with compilable laws, whatever its encoder is.

    Args:
        model: or a weak proxy of it.
    """

    new_cache = KVCache
    dtype = torch.float32
    follows_silence = True

    def __init__(self, model: TransformerTPP) -> None:
        super().__init__(PackedDecoder(model, native_library().panel_width()))
        self._model = model

    def extend(self, tokens: EventTokens, cache: KVCache, parents: tuple[int, ...] | None) -> Tensor:
        """As TransformerTPP.extend, as compiled code reads contexts: under autocast they may be of another type."""
        return self._model.extend_by_operators(tokens, cache, parents).float().contiguous()

    def follow(
        self, law: CompiledLaw, cache: KVCache, last_times: Tensor, uniforms: Tensor, keeps_laws: bool,
        ends: Tensor | None = None, limits: Tensor | None = None,
    ) -> Drawn:  # fmt: skip
        """As CompiledModel.follow, of all rows together."""
        chain, drawn, _given = self._chain(law, last_times, uniforms, keeps_laws, ends, limits)
        rows, num = uniforms.shape[:2]
        call, contexts = self.library.follow_next, law.parameters  # of the first event none are asked for
        for j in range(num):
            tokens = EventTokens(
                *(torch.empty(rows, 1, dtype=dtype) for dtype in (torch.int64, torch.float64, torch.float64))
            )
            newest = Newest(*(field.data_ptr() for field in tokens))
            structures, numbers = (
                map(ctypes.byref, (self.decoder, chain, newest)),
                map(Int, (rows, j, torch.get_num_threads())),
            )
            if call(*structures, Pointer(contexts.data_ptr()), *numbers):
                return drawn
            contexts = self.extend(tokens, cache, None)
        return drawn
