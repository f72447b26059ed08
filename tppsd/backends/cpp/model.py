"""Models whose passes, distributions and draws are native code.

On a CPU the operators of a single token take ten times as long as its arithmetic.
"""

from __future__ import annotations

import copy
import ctypes
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from tppsd.backends.cpp.compiling import library
from tppsd.backends.cpp.distribution import CompiledDistribution, DistributionArithmetic
from tppsd.backends.cpp.prepack import LANES, PackedDecoder, PackedWeights
from tppsd.backends.cpp.structures import Chain, Int, Newest, Pass, Pointer
from tppsd.models.cache import KVCache, bounded_capacity
from tppsd.models.distribution import NextEventDistribution
from tppsd.models.mixture import LogNormalMixture
from tppsd.models.protocol import EventTokens, NoiseStreams
from tppsd.models.tree import depths_on, is_ancestor

if TYPE_CHECKING:
    from tppsd.models.transformer_tpp import TransformerTPP

_TINY = torch.finfo(torch.float64).tiny


def native_library() -> ctypes.CDLL:
    """Return the native library, compiled where it has not been.

    Raises:
        ValueError: there is no compiler, or it fails.
    """
    return library(Path(__file__).with_name("native") / "library.cpp")


class DecodedEvents(NamedTuple):
    """Holds events decoded one after another.

    Fields:
        inter_times, times: float64 (rows, n).
        marks: int64 (rows, n).
        num: int64 (rows,), how many of them there are.
        parameters: float64 (rows, n, width), of the distributions that they were drawn from; or (rows, 1, width), of
            the newest alone.
    """

    inter_times: Tensor
    times: Tensor
    marks: Tensor
    num: Tensor
    parameters: Tensor


class CompiledDecoder:
    """Is the decoder of a model, its weights packed for native code: distributions after contexts, draws and densities.

    Attributes:
        num_marks, num_layers, max_context, statistics: those of the model that was compiled.
        num_weights: numbers in that model's parameters.
    """

    def __init__(self, model: TransformerTPP, weights: PackedDecoder) -> None:
        self.num_marks, self.num_layers, self.max_context = model.num_marks, model.num_layers, model.max_context
        self.statistics, self._content_hash = copy.deepcopy(model.statistics), model.content_hash()
        self.num_weights = sum(parameter.numel() for parameter in model.parameters())
        self.library, self._weights, self.decoder = native_library(), weights, weights.decoder
        self._width = 3 * self.decoder.num_components + self.decoder.num_features
        self.decoder.log_mean, self.decoder.log_std = self.statistics.log_mean, self.statistics.log_std
        self._arithmetic = DistributionArithmetic(self.library, weights, self._example(model))

    def _example(self, model: TransformerTPP) -> NextEventDistribution:
        """Return an empty batch of the model's distributions, which says what all of them have in common."""
        nothing = torch.zeros(0, self.decoder.num_components, dtype=torch.float64)
        mixture = LogNormalMixture(nothing, nothing, nothing, self.statistics.log_mean, self.statistics.log_std)
        marks = model.decoder.marks
        if marks is None:
            return NextEventDistribution(mixture)
        features = torch.zeros(0, self.decoder.num_features, dtype=torch.float64)
        return NextEventDistribution(mixture, features, copy.deepcopy(marks).in_double())

    def content_hash(self) -> str:
        """Return the SHA-256 (hex) of the model that was compiled, as `TransformerTPP.content_hash`."""
        return self._content_hash

    def distribution(self, context: Tensor) -> NextEventDistribution:
        """Return the distribution of the next event after each context (*batch, embed_dim), in float64 arithmetic."""
        context = context.contiguous()
        distributions = torch.empty(*context.shape[:-1], self._width, dtype=torch.float64)
        num = Int(distributions.numel() // self._width)
        self.library.distributions_after(
            ctypes.byref(self.decoder), Pointer(context.data_ptr()), num, Pointer(distributions.data_ptr())
        )
        return CompiledDistribution(self._arithmetic, distributions)

    def decode(
        self,
        distribution: NextEventDistribution,
        cache: KVCache,
        last_times: Tensor,
        uniforms: Tensor | NoiseStreams,
        keeps_distributions: bool,
        ends: Tensor | None = None,
        limits: Tensor | None = None,
        stops: Tensor | None = None,
    ) -> DecodedEvents:
        """Draw events one after another, each from the distribution after those before it.

        All but the newest of each row join the cache.

        Args:
            distribution: the distributions of the first events, (rows, 1).
            cache: of this model.
            last_times: float64 (rows,), after which they come.
            uniforms: float64 (rows, n, at least 3), n >= 1; or the streams that those of n events are drawn from.
            keeps_distributions: return the parameters of all distributions.
            ends, limits: float64 and int64 (rows,): drawing stops as soon as a row is past its end or has so many
                events. Rows that are drawn together stop together.
            stops: bool (num_marks,): drawing stops after an event of these marks as well; None = of none.
        """
        chain, decoded, _given = self._chain(
            distribution, last_times, uniforms, keeps_distributions, ends, limits, stops
        )
        self._run(chain, distribution, cache, decoded.marks.shape)
        return decoded

    def _run(self, chain: Chain, distribution: NextEventDistribution, cache: KVCache, shape: torch.Size) -> None:
        """Draw the events of a chain (rows, n), the first of each row from `distribution`."""
        raise NotImplementedError

    def _chain(
        self,
        distribution: NextEventDistribution,
        last_times: Tensor,
        uniforms: Tensor | NoiseStreams,
        keeps_distributions: bool,
        *given: Tensor | None,
    ) -> tuple[Chain, DecodedEvents, tuple[Tensor | None, ...]]:
        """Return what `decode` begins with.

        It is the structure that draws events, what they are written to, and what else the structure points to, which
        must live as long. `given` are ends, limits and stops, as of `decode`.
        """
        noise: tuple[Tensor | None, ...]
        if isinstance(uniforms, NoiseStreams):
            noise, (rows, num, num_uniforms) = (None, *uniforms[:2]), (len(uniforms.keys), uniforms.num, 0)
        else:
            noise, (rows, num, num_uniforms) = (uniforms, None, None), uniforms.shape
        if num == 0:  # there would be no room for the first event, which is drawn before any is counted
            raise ValueError("there are no uniforms for the first event")
        inter_times, times = torch.empty(2, rows, num, dtype=torch.float64).unbind(0)
        marks, num_drawn = torch.zeros(rows, num, dtype=torch.int64), torch.empty(rows, dtype=torch.int64)
        distributions = distribution.parameters.new_empty(rows, num if keeps_distributions else 1, self._width)
        distributions[:, :1] = distribution.parameters
        elapsed = None if distribution.elapsed is None else distribution.elapsed[:, 0]
        tensors = (*noise, last_times, elapsed, *given)
        read = tuple(None if tensor is None else tensor.contiguous() for tensor in tensors)
        written = (inter_times, times, distributions, marks, num_drawn)
        pointers = (None if tensor is None else tensor.data_ptr() for tensor in (*written, *read))
        chain = Chain(*pointers, num, num_uniforms, keeps_distributions)
        return chain, DecodedEvents(inter_times, times, marks, num_drawn, distributions), read


class CompiledTPP(CompiledDecoder):
    """Is an explicit snapshot of a TransformerTPP that owns its packed weights and can be sampled like it.

    It never changes: weights that are changed later are compiled anew.

    Args:
        model: of this package's encoders and decoders, float32, on a CPU (tppsd.backends.compile.why_not_compilable).
        dtype: of the matrices in the layers, of keys and of values: float32, or bfloat16, which is half as much to
            read. The arithmetic is float32.
    """

    _weights: PackedWeights

    def __init__(self, model: TransformerTPP, dtype: torch.dtype = torch.float32) -> None:
        super().__init__(model, PackedWeights(model, native_library().panel_width(), dtype))
        self.dtype, self.encoder, own = dtype, self._weights.encoder, self.statistics
        self.encoder.time_scale, self.encoder.log_mean, self.encoder.log_std = own.time_scale, own.log_mean, own.log_std
        self.encoder.min_inter_time = max(own.min_inter_time, _TINY)

    def new_cache(self, batch_size: int, capacity: int) -> KVCache:
        """Return an empty cache of keys and values of every layer, in the dtype of the compiled matrices."""
        own, like = self.encoder, torch.empty(0, dtype=self.dtype)
        capacity = bounded_capacity(capacity, self.max_context)
        head_dim = own.dim // own.num_heads
        return KVCache(own.num_layers, batch_size, capacity, own.num_heads, head_dim, like, self.max_context, LANES)

    def extend(self, tokens: EventTokens, cache: KVCache, parents: tuple[int, ...] | None = None) -> Tensor:
        """Append q tokens per row, a chain or nodes of a tree, at each row's own length.

        Returns:
            Contexts, float32 (batch, q, embed_dim).
        """
        tokens = tokens.map(Tensor.contiguous)
        rows, num_new = tokens.ids.shape
        cache.announce(num_new)
        depth, seen = _among_new(num_new, cache.parents, parents, cache.max_context or 0)
        contexts = torch.empty(rows, num_new, self.encoder.dim, dtype=torch.float32)
        num_before = cache.num_tokens
        one_pass = self.pass_of(cache, num_new, contexts, *tokens, cache.lengths, num_before, depth, seen)
        self.library.pass_tokens(ctypes.byref(self.encoder), ctypes.byref(one_pass))
        cache.end(parents)
        return contexts

    def pass_of(self, cache: KVCache, num_new: int, *tensors: Tensor | None) -> Pass:
        """Return the structure of a pass over `num_new` tokens per row, from the tensors in the order of its fields."""
        keys_values, rows = cache.tensors[0], len(cache.lengths)
        if cache.step != LANES or keys_values.dtype != self.dtype:  # vectors run to the end of a cache's entries
            raise TypeError("a compiled model needs a cache that its own new_cache has made")
        pointers = (None if tensor is None else tensor.data_ptr() for tensor in tensors)
        numbers = (rows, num_new, len(cache.parents), cache.max_context or 0)
        is_bf16, num_threads = self.dtype == torch.bfloat16, torch.get_num_threads()
        own = (keys_values.data_ptr(), cache.capacity, rows, is_bf16, num_threads)
        if (shared := cache.shared) is None:
            return Pass(*pointers, *numbers, *own)
        histories = shared.keys_values
        given = (histories, shared.slots, shared.lengths)
        return Pass(*pointers, *numbers, *own, *(x.data_ptr() for x in given), histories.shape[5], histories.shape[2])

    def _run(self, chain: Chain, distribution: NextEventDistribution, cache: KVCache, shape: torch.Size) -> None:
        rows, num = shape
        cache.announce(num - 1)
        contexts = torch.empty(rows, 1, self.encoder.dim, dtype=torch.float32)
        ids, lengths, num_before = torch.empty_like(cache.lengths), cache.lengths.clone(), cache.num_tokens
        time, inter_time = torch.empty(2, rows, dtype=torch.float64).unbind(0)
        depth, _ = _among_new(1, (), None, 0)
        each = self.pass_of(cache, 1, contexts, ids, time, inter_time, lengths, num_before, depth, None)
        self.library.decode(*map(ctypes.byref, (self.encoder, self.decoder, each, chain)))
        cache.lengths = lengths


class CompiledHeadTPP(CompiledDecoder):
    """Is a snapshot of a model whose encoder native code does not know.

    Its passes are the model's own; all that follows them is native.

    Args:
        model: a TransformerTPP with this package's decoder, float32, on a CPU.
    """

    dtype = torch.float32

    def __init__(self, model: TransformerTPP) -> None:
        super().__init__(model, PackedDecoder(model, native_library().panel_width()))
        self.model = copy.deepcopy(model).eval()

    def new_cache(self, batch_size: int, capacity: int) -> KVCache:
        """Return an empty cache, as the model makes it."""
        return self.model.new_cache(batch_size, capacity)

    def extend(self, tokens: EventTokens, cache: KVCache, parents: tuple[int, ...] | None = None) -> Tensor:
        """Run the model's own pass; contexts are as native code reads them, also under autocast."""
        return self.model.extend(tokens, cache, parents).float().contiguous()

    def _run(self, chain: Chain, distribution: NextEventDistribution, cache: KVCache, shape: torch.Size) -> None:
        """Draw all rows together, event by event."""
        rows, num = shape
        contexts = distribution.parameters  # of the first event none are asked for
        for j in range(num):
            tokens = EventTokens(
                torch.empty(rows, 1, dtype=torch.int64), *torch.empty(2, rows, 1, dtype=torch.float64).unbind(0)
            )
            newest = Newest(*(field.data_ptr() for field in tokens))
            structures, numbers = map(ctypes.byref, (self.decoder, chain, newest)), (rows, j, torch.get_num_threads())
            if self.library.decode_next(*structures, Pointer(contexts.data_ptr()), *map(Int, numbers)):
                return
            contexts = self.extend(tokens, cache)


@lru_cache(maxsize=256)
def _among_new(
    num_new: int, nodes: tuple[int, ...], parents: tuple[int, ...] | None, max_context: int
) -> tuple[Tensor, Tensor | None]:
    """Return how far below the committed tokens each new one lies, and which uncommitted ones it sees.

    Returns:
        Depths int64 (num_new,), and bool (num_new, len(nodes) + num_new), or None for a chain.
    """
    if parents is None:
        return torch.arange(num_new), None
    tree = nodes + parents
    near = torch.device("cpu")
    depth, seen = depths_on(tree, near), is_ancestor(tree, near)[-num_new:]
    if max_context:
        seen = seen & (depth > depth[-num_new:].unsqueeze(1) - max_context)
    return depth[-num_new:].contiguous(), seen.contiguous()
