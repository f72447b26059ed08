"""Cached passes, laws of contexts and whole chains of events as calls of compiled code (native/): on a CPU the operators of a
single token take ten times as long as its arithmetic."""

from __future__ import annotations

import ctypes
from functools import lru_cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from tppsd.models.cache import KVCache
from tppsd.models.law import NextEventLaw
from tppsd.models.mixture import LogNormalMixture
from tppsd.models.stand_ins.compiled_law import CompiledLaw, LawArithmetic
from tppsd.models.stand_ins.compiling import library
from tppsd.models.stand_ins.packing import LANES, PackedWeights
from tppsd.models.stand_ins.structures import Chain, Int, Pass, Pointer, Work
from tppsd.models.tree import depths, is_ancestor

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

    Fields: inter_times, times float64 and marks int64 (rows, n); num int64 (rows,): how many of them there are; parameters
    float64 (rows, n, width): the laws that they were drawn from, or of the newest alone (rows, 1, width).
    """

    inter_times: Tensor
    times: Tensor
    marks: Tensor
    num: Tensor
    parameters: Tensor


class CompiledModel:
    """Encoder and decoder of a compilable model, their weights laid out for compiled code.

    Args:
        dtype: in which the matrices of layers, and keys and values, are kept: float32, or bfloat16, which is half as much to
            read. The arithmetic is float32.
    """

    new_cache = staticmethod(partial(KVCache, step=LANES))

    def __init__(self, model: TransformerTPP, dtype: torch.dtype = torch.float32) -> None:
        self.dtype, self._library = dtype, native_library()
        self._weights = PackedWeights(model, self._library.panel_width(), dtype)
        self._encoder, self._decoder = self._weights.encoder, self._weights.decoder
        self._width = 3 * self._decoder.num_components + self._decoder.num_features

    def read_statistics(self, model: TransformerTPP) -> None:
        """Take over what is no weight and may have changed."""
        own, encoder, decoder = model.statistics, self._encoder, self._decoder
        encoder.time_scale, encoder.log_mean, encoder.log_std = own.time_scale, own.log_mean, own.log_std
        encoder.min_inter_time = max(own.min_inter_time, _TINY)
        decoder.log_mean, decoder.log_std = own.log_mean, own.log_std
        marks = model.decoder.marks
        nothing = torch.zeros(0, decoder.num_components, dtype=torch.float64)
        mixture = LogNormalMixture(nothing, nothing, nothing, own.log_mean, own.log_std)
        features = None if marks is None else torch.zeros(0, decoder.num_features, dtype=torch.float64)
        example = NextEventLaw(mixture, features, None if marks is None else marks.in_double())
        self._arithmetic = LawArithmetic(self._library, self._weights, example)

    def extend(self, tokens: EventTokens, cache: KVCache, parents: tuple[int, ...] | None) -> Tensor:
        """As TransformerTPP.extend."""
        tokens = tokens.map(Tensor.contiguous)
        rows, num_new = tokens.ids.shape
        cache.announce(num_new)
        depth, seen = _among_new(num_new, cache.parents, parents, cache.max_context or 0)
        contexts, num_before = torch.empty(rows, num_new, self._encoder.dim, dtype=torch.float32), cache.num_tokens
        one_pass = self._pass(cache, contexts, *tokens, cache.lengths, num_before, depth, seen)
        self._library.pass_tokens(ctypes.byref(self._encoder), ctypes.byref(one_pass))
        cache.end(parents)
        return contexts

    def _pass(self, cache: KVCache, *tensors: Tensor | None) -> Pass:
        """From what it points to, in the order of its fields."""
        keys_values = cache.tensors[0]
        assert tensors[0] is not None and cache.step == LANES  # vectors run to the end of a cache's entries
        assert keys_values.dtype == self.dtype
        rows, num_new = tensors[0].shape[:2]
        return Pass(
            *(None if tensor is None else tensor.data_ptr() for tensor in tensors),
            rows, num_new, len(cache.parents), cache.max_context or 0,
            keys_values.data_ptr(), cache.capacity, self.dtype == torch.bfloat16, torch.get_num_threads(),
        )  # fmt: skip

    def law(self, contexts: Tensor) -> NextEventLaw:
        """As TransformerTPP.law, packed."""
        contexts = contexts.contiguous()
        laws = torch.empty(*contexts.shape[:-1], self._width, dtype=torch.float64)
        num = Int(laws.numel() // self._width)
        self._library.laws_after(ctypes.byref(self._decoder), Pointer(contexts.data_ptr()), num, Pointer(laws.data_ptr()))
        return CompiledLaw(self._arithmetic, laws)

    def follow(
        self, law: CompiledLaw, cache: KVCache, last_times: Tensor, uniforms: Tensor, keeps_laws: bool,
        ends: Tensor | None = None, limits: Tensor | None = None,
    ) -> Drawn:  # fmt: skip
        """Events one after another, each from the law after those before it; all but the newest of each row join the cache.

        Args:
            law: of the first events, (rows, 1).
            last_times: float64 (rows,), after which they come.
            uniforms: float64 (rows, n, at least 3).
            keeps_laws: return the laws of all events.
            ends, limits: float64 and int64 (rows,): drawing stops as soon as a row is past its end or has so many events. Rows
                that are drawn together stop together. (Captured chains may stop later, so that what is beyond them is dropped
                by whoever draws.)
        """
        rows, num = uniforms.shape[:2]
        cache.announce(num - 1)
        contexts = torch.empty(rows, 1, self._encoder.dim, dtype=torch.float32)
        ids, lengths, num_before = torch.empty_like(cache.lengths), cache.lengths.clone(), cache.num_tokens
        time, inter_time = torch.empty(2, rows, dtype=torch.float64).unbind(0)
        depth, _ = _among_new(1, (), None, 0)
        each_pass = self._pass(cache, contexts, ids, time, inter_time, lengths, num_before, depth, None)
        inter_times, times = torch.empty(2, rows, num, dtype=torch.float64).unbind(0)
        marks, num_drawn = torch.zeros(rows, num, dtype=torch.int64), torch.empty_like(lengths)
        laws = law.parameters.new_empty(rows, num if keeps_laws else 1, self._width)
        laws[:, :1] = law.parameters
        given = tuple(None if tensor is None else tensor.contiguous() for tensor in (uniforms, last_times, ends, limits))
        written = (inter_times, times, laws, marks, num_drawn)
        pointers = (None if tensor is None else tensor.data_ptr() for tensor in (*written, *given))
        chain = Chain(*pointers, num, uniforms.shape[2], keeps_laws)
        self._library.follow(*map(ctypes.byref, (self._encoder, self._decoder, each_pass, chain)))
        cache.lengths = lengths
        return Drawn(inter_times, times, marks, num_drawn, laws)

    def work(self, cache: KVCache, num_new: int) -> Work:
        """Of the pass over the newest `num_new` tokens of every row, a chain, about."""
        tokens, layer, dim = len(cache.lengths) * num_new, self._weights.layers[0], self._encoder.dim
        each = Work.of_linears((layer.to_qkv, layer.from_heads, layer.expand, layer.contract), tokens)
        keys = int(cache.lengths.clamp_max(cache.max_context or cache.capacity).sum())
        num_layers = self._encoder.num_layers
        of_keys = 2 * self.dtype.itemsize * dim * keys  # and values
        return Work(num_layers * (each.flops + 4 * dim * num_new * keys), num_layers * (each.bytes + of_keys))

    def work_of_laws(self, num_laws: int) -> Work:
        """Of working them out."""
        own = self._decoder
        each = Work.of_linears((own.to_mixture, own.from_context, own.to_logits), num_laws)
        return Work(each.flops, each.bytes + 8 * self._width * num_laws)

    def work_of_chain(self, cache: KVCache, drawn: Drawn) -> Work:
        """Of what `follow` has done."""
        num_passes, rows = int(drawn.num.max()) - 1, len(drawn.num)
        parts = num_passes * [self.work(cache, 1), self.work_of_laws(rows)] + (num_passes + 1) * [self._arithmetic.work(rows)]
        return Work(sum(part.flops for part in parts), sum(part.bytes for part in parts))


@lru_cache(maxsize=256)
def _among_new(
    num_new: int, nodes: tuple[int, ...], parents: tuple[int, ...] | None, max_context: int
) -> tuple[Tensor, Tensor | None]:
    """(depth int64 (num_new,), bool (num_new, len(nodes) + num_new) or None) of new tokens: how far below the committed ones
    each lies, and which of those not yet committed it sees; None for a chain."""
    if parents is None:
        return torch.arange(num_new), None
    tree = nodes + parents
    depth = torch.tensor(depths(tree))
    seen = is_ancestor(tree)[-num_new:]
    if max_context:
        seen = seen & (depth > depth[-num_new:].unsqueeze(1) - max_context)
    return depth[-num_new:].contiguous(), seen.contiguous()
