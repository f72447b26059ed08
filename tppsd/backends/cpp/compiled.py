"""Cached passes, laws of contexts and whole chains of events as calls of compiled code (native/): on a CPU the
operators of a single token take ten times as long as its arithmetic."""

from __future__ import annotations

import ctypes
from functools import lru_cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from tppsd.backends.cpp.compiled_law import CompiledLaw, LawArithmetic
from tppsd.backends.cpp.compiling import library
from tppsd.backends.cpp.packing import LANES, PackedDecoder, PackedWeights
from tppsd.backends.cpp.structures import Chain, Int, Pass, Pointer, Work
from tppsd.models.cache import KVCache
from tppsd.models.law import NextEventLaw
from tppsd.models.mixture import LogNormalMixture
from tppsd.models.tree import depths_on, is_ancestor

if TYPE_CHECKING:
    from tppsd.models.protocol import EventTokens
    from tppsd.models.transformer_tpp import TransformerTPP

_TINY = torch.finfo(torch.float64).tiny


def native_library() -> ctypes.CDLL:
    """Compiled where it has not been.

    Raises:
        ValueError: there is no compiler, or it fails.
    """
    return library(Path(__file__).with_name("native") / "library.cpp")


class Drawn(NamedTuple):
    """Events drawn one after another.

    Fields: inter_times, times float64 and marks int64 (rows, n); num int64 (rows,): how many of them there are;
        parameters
    float64 (rows, n, width): the laws that they were drawn from, or of the newest alone (rows, 1, width).
    """

    inter_times: Tensor
    times: Tensor
    marks: Tensor
    num: Tensor
    parameters: Tensor


class CompiledDecoder:
    """Laws of contexts, wherever these come from: the decoder of a model, its weights laid out for compiled code."""

    def __init__(self, weights: PackedDecoder) -> None:
        self.library, self._weights, self.decoder = native_library(), weights, weights.decoder
        self._width = 3 * self.decoder.num_components + self.decoder.num_features

    def read_statistics(self, model: TransformerTPP) -> None:
        """Take over what is no weight and may have changed."""
        own, decoder, marks = model.statistics, self.decoder, model.decoder.marks
        decoder.log_mean, decoder.log_std = own.log_mean, own.log_std
        nothing = torch.zeros(0, decoder.num_components, dtype=torch.float64)
        mixture = LogNormalMixture(nothing, nothing, nothing, own.log_mean, own.log_std)
        features = None if marks is None else torch.zeros(0, decoder.num_features, dtype=torch.float64)
        example = NextEventLaw(mixture, features, None if marks is None else marks.in_double())
        self._arithmetic = LawArithmetic(self.library, self._weights, example)

    def law(self, contexts: Tensor) -> NextEventLaw:
        """As TransformerTPP.law, packed."""
        contexts = contexts.contiguous()
        laws = torch.empty(*contexts.shape[:-1], self._width, dtype=torch.float64)
        num = Int(laws.numel() // self._width)
        self.library.laws_after(ctypes.byref(self.decoder), Pointer(contexts.data_ptr()), num, Pointer(laws.data_ptr()))
        return CompiledLaw(self._arithmetic, laws)

    def _chain(
        self,
        law: CompiledLaw,
        last_times: Tensor,
        uniforms: Tensor,
        keeps_laws: bool,
        ends: Tensor | None,
        limits: Tensor | None,
    ) -> tuple[Chain, Drawn, tuple[Tensor | None, ...]]:
        """As `follow` of a model begins: the structure that draws events, what they are written to, what else it points
        to."""
        rows, num = uniforms.shape[:2]
        inter_times, times = torch.empty(2, rows, num, dtype=torch.float64).unbind(0)
        marks, num_drawn = torch.zeros(rows, num, dtype=torch.int64), torch.empty(rows, dtype=torch.int64)
        laws = law.parameters.new_empty(rows, num if keeps_laws else 1, self._width)
        laws[:, :1] = law.parameters
        silence = None if law.elapsed is None else law.elapsed[:, 0]
        tensors = (uniforms, last_times, silence, ends, limits)
        given = tuple(None if tensor is None else tensor.contiguous() for tensor in tensors)
        written = (inter_times, times, laws, marks, num_drawn)
        pointers = (None if tensor is None else tensor.data_ptr() for tensor in (*written, *given))
        return (
            Chain(*pointers, num, uniforms.shape[2], keeps_laws),
            Drawn(inter_times, times, marks, num_drawn, laws),
            given,
        )

    def work(self, cache: KVCache, num_new: int) -> Work:
        """Of the pass over the newest `num_new` tokens of every row, a chain, about."""
        keys = int(cache.lengths.clamp_max(cache.max_context or cache.capacity).sum())
        return self.work_of_pass(len(cache.lengths) * num_new, num_new, keys)

    def work_of_pass(self, num_tokens: int, num_new: int, keys: int) -> Work:
        """Of what operators do, no call knows."""
        return Work(0, 0)

    def work_of_laws(self, num_laws: int) -> Work:
        """Of working them out."""
        own = self.decoder
        each = Work.of_linears((own.to_mixture, own.from_context, own.to_logits), num_laws)
        return Work(each.flops, each.bytes + 8 * self._width * num_laws)

    def work_of_draws(self, num: int) -> Work:
        """Of that many draws or densities."""
        return self._arithmetic.work(num)

    def work_of_chain(self, cache: KVCache, drawn: Drawn) -> Work:
        """Of what `follow` has done."""
        num_passes, rows = int(drawn.num.max()) - 1, len(drawn.num)
        parts = num_passes * [self.work(cache, 1), self.work_of_laws(rows)] + (num_passes + 1) * [
            self.work_of_draws(rows)
        ]
        return Work.total(parts)


class CompiledModel(CompiledDecoder):
    """Encoder and decoder of a compilable model, their weights laid out for compiled code.

    Args:
        dtype: in which the matrices of layers, and keys and values, are kept: float32, or bfloat16, which is half as
            much to read. The arithmetic is float32.
    """

    _weights: PackedWeights
    new_cache = staticmethod(partial(KVCache, step=LANES))
    follows_silence = True  # chains may begin with laws that are given a silence

    def __init__(self, model: TransformerTPP, dtype: torch.dtype = torch.float32) -> None:
        super().__init__(PackedWeights(model, native_library().panel_width(), dtype))
        self.dtype, self.encoder = dtype, self._weights.encoder

    def read_statistics(self, model: TransformerTPP) -> None:
        """Likewise."""
        super().read_statistics(model)
        own, encoder = model.statistics, self.encoder
        encoder.time_scale, encoder.log_mean, encoder.log_std = own.time_scale, own.log_mean, own.log_std
        encoder.min_inter_time = max(own.min_inter_time, _TINY)

    def extend(self, tokens: EventTokens, cache: KVCache, parents: tuple[int, ...] | None) -> Tensor:
        """As TransformerTPP.extend."""
        tokens = tokens.map(Tensor.contiguous)
        rows, num_new = tokens.ids.shape
        cache.announce(num_new)
        depth, seen = _among_new(num_new, cache.parents, parents, cache.max_context or 0)
        contexts, num_before = torch.empty(rows, num_new, self.encoder.dim, dtype=torch.float32), cache.num_tokens
        one_pass = self.pass_of(cache, num_new, contexts, *tokens, cache.lengths, num_before, depth, seen)
        self.library.pass_tokens(ctypes.byref(self.encoder), ctypes.byref(one_pass))
        cache.end(parents)
        return contexts

    def pass_of(self, cache: KVCache, num_new: int, *tensors: Tensor | None) -> Pass:
        """Over `num_new` tokens of each row, from what it points to, in the order of its fields."""
        keys_values, rows = cache.tensors[0], len(cache.lengths)
        assert cache.step == LANES and keys_values.dtype == self.dtype  # vectors run to the end of a cache's entries
        return Pass(
            *(None if tensor is None else tensor.data_ptr() for tensor in tensors),
            rows, num_new, len(cache.parents), cache.max_context or 0,
            keys_values.data_ptr(), cache.capacity, rows, self.dtype == torch.bfloat16, torch.get_num_threads(),
        )  # fmt: skip

    def follow(
        self, law: CompiledLaw, cache: KVCache, last_times: Tensor, uniforms: Tensor, keeps_laws: bool,
        ends: Tensor | None = None, limits: Tensor | None = None,
    ) -> Drawn:  # fmt: skip
        """Events one after another, each from the law after those before it; all but the newest of each row join the
        cache.

        Args:
            law: of the first events, (rows, 1).
            last_times: float64 (rows,), after which they come.
            uniforms: float64 (rows, n, at least 3).
            keeps_laws: return the laws of all events.
            ends, limits: float64 and int64 (rows,): drawing stops as soon as a row is past its end or has so many
                events. Rows that are drawn together stop together. (Captured chains may stop later, so that what is
                beyond them is dropped by whoever draws.)
        """
        chain, drawn, _given = self._chain(law, last_times, uniforms, keeps_laws, ends, limits)
        rows, num = uniforms.shape[:2]
        cache.announce(num - 1)
        contexts = torch.empty(rows, 1, self.encoder.dim, dtype=torch.float32)
        ids, lengths, num_before = torch.empty_like(cache.lengths), cache.lengths.clone(), cache.num_tokens
        time, inter_time = torch.empty(2, rows, dtype=torch.float64).unbind(0)
        depth, _ = _among_new(1, (), None, 0)
        each_pass = self.pass_of(cache, 1, contexts, ids, time, inter_time, lengths, num_before, depth, None)
        self.library.follow(*map(ctypes.byref, (self.encoder, self.decoder, each_pass, chain)))
        cache.lengths = lengths
        return drawn

    def work_of_pass(self, num_tokens: int, num_new: int, keys: int) -> Work:
        """Over so many tokens of all rows, `num_new` of each, which look at so many keys of all rows."""
        layer, dim, num_layers = self._weights.layers[0], self.encoder.dim, self.encoder.num_layers
        each = Work.of_linears((layer.to_qkv, layer.from_heads, layer.expand, layer.contract), num_tokens)
        of_keys = 2 * self.dtype.itemsize * dim * keys  # and values
        return Work(num_layers * (each.flops + 4 * dim * num_new * keys), num_layers * (each.bytes + of_keys))


@lru_cache(maxsize=256)
def _among_new(
    num_new: int, nodes: tuple[int, ...], parents: tuple[int, ...] | None, max_context: int
) -> tuple[Tensor, Tensor | None]:
    """(depth int64 (num_new,), bool (num_new, len(nodes) + num_new) or None) of new tokens: how far below the committed
    ones each lies, and which of those not yet committed it sees; None for a chain."""
    if parents is None:
        return torch.arange(num_new), None
    tree = nodes + parents
    near = torch.device("cpu")
    depth, seen = depths_on(tree, near), is_ancestor(tree, near)[-num_new:]
    if max_context:
        seen = seen & (depth > depth[-num_new:].unsqueeze(1) - max_context)
    return depth[-num_new:].contiguous(), seen.contiguous()
