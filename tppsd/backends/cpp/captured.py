"""Cached passes, laws of contexts and chains of events replayed as CUDA graphs: a GPU that samples few sequences waits
for the launches of single operators."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from tppsd.backends.cpp.compiled import Drawn
from tppsd.backends.cpp.reduced import ReducedModel
from tppsd.models.attention import StaticPass
from tppsd.models.cache import KVCache
from tppsd.models.decoder import autocast_disabled
from tppsd.models.law import NextEventLaw
from tppsd.models.protocol import EventTokens

if TYPE_CHECKING:
    from tppsd.models.transformer_tpp import TransformerTPP

# Recording takes as long as several passes, so little is recorded: what comes a second time, for numbers of entries
# that are powers of two (up to twice those needed are read), in caches that stay with the model (and take up memory), a
# few of them.
_FEWEST_USED = 64
_MOST_TOKENS = 4096  # of a pass: with more it is not launches that take the time
_MOST_GRAPHS = 128
_MOST_SPARE = 4  # caches' tensors
_WARM_UPS = 2
_RECORDING = threading.Lock()  # one graph at a time is recorded in a process
_ASK_EVERY = 16  # events of a chain: whether any row is past its end


def roomy(num_entries: int) -> int:
    """The smallest power of two, from 64 on, that is no smaller."""
    return max(_FEWEST_USED, 1 << (num_entries - 1).bit_length())


class Graph:
    """A function of tensors, recorded with inputs at fixed addresses; a call copies others there and replays it. On a
    CPU, which records nothing, the function is called with those at the fixed addresses.

    Args:
        work: gives one tensor, reads nothing back from the device, and may be run more than once with the same inputs.
        inputs: an example.
        beside: another graph of this thread, whose memory and stream this one shares: they are never replayed at once.
    """

    _stream: torch.cuda.Stream
    _graph: torch.cuda.CUDAGraph

    def __init__(self, work: Callable[..., Tensor], inputs: tuple[Tensor, ...], beside: Graph | None = None) -> None:
        self._inputs = [given.clone(memory_format=torch.contiguous_format) for given in inputs]
        self._work = work  # a graph reads its tensors by their addresses
        self._replay: Callable[[], Tensor] = partial(work, *self._inputs)
        if inputs[0].is_cuda:
            with _RECORDING:
                self._replay = self._recorded(inputs[0].device, beside)

    def _recorded(self, device: torch.device, beside: Graph | None) -> Callable[[], Tensor]:
        work, own = self._replay, torch.cuda.current_stream(device)
        # one stream for all of them: each has a workspace of its own for matrix products
        self._stream = torch.cuda.Stream(device) if beside is None else beside._stream
        self._stream.wait_stream(own)
        with torch.cuda.stream(self._stream):
            for _ in range(_WARM_UPS):
                work()
        own.wait_stream(self._stream)
        self._graph = graph = torch.cuda.CUDAGraph()
        pool = None if beside is None else beside._graph.pool()
        # of this thread alone: others may be allocating
        with torch.cuda.graph(graph, pool, self._stream, capture_error_mode="thread_local"):
            output = work()

        def replay() -> Tensor:
            graph.replay()
            return output

        return replay

    def __call__(self, *inputs: Tensor) -> Tensor:
        """A copy of what the next replay overwrites."""
        for mine, given in zip(self._inputs, inputs, strict=True):
            mine.copy_(given)
        return self._replay().clone()


class Storage:
    """Keys and values at a fixed address, which graphs read and write, and the cache that they are of at present."""

    def __init__(self, keys_values: Tensor) -> None:
        self.keys_values = keys_values
        self._user: Callable[[], CapturedCache | None] = lambda: None

    def is_spare(self) -> bool:
        user = self._user()
        return user is None or user.storage is not self

    def lent(self, cache: CapturedCache) -> Tensor:
        """Its entries, cleared: what another cache left must not become 0 * NaN."""
        self._user, cache.storage = weakref.ref(cache), self
        return self.keys_values.zero_()


class CapturedCache(KVCache):
    """A KVCache in storage of a captured model. Rows that stay move to the front of it."""

    storage: Storage

    def __init__(self, owner: CapturedModel, *arguments: Any) -> None:
        self.owner = owner
        num_layers, num_rows, capacity, *others = arguments
        super().__init__(num_layers, num_rows, roomy(capacity), *others)

    def _zeros(self, like: Tensor, shape: list[int]) -> Tensor:
        return self.owner.storage(like, shape).lent(self)

    def keep_rows(self, rows: Tensor) -> None:
        whole = self.tensors[0]
        super().keep_rows(rows)
        self.tensors = [whole.narrow(2, 0, len(rows)).copy_(self.tensors[0])]


class CapturedModel(threading.local):
    """Encoder and decoder of a model on a CUDA device; in each thread another one, as a graph has one place for its
    inputs.

    Args:
        model: or a weak proxy of it.
        dtype: that of the weights, or another for passes as in tppsd.backends.cpp.reduced.
    """

    follows_silence = False  # chains begin with whole laws

    def __init__(self, model: TransformerTPP, dtype: torch.dtype = torch.float32) -> None:
        self._model, self.dtype = model, dtype
        self._passes = model if dtype == model.decoder.to_mixture.weight.dtype else ReducedModel(model, dtype)
        self._graphs: dict[Any, Graph | None] = {}  # the latest last; None: asked for once
        self._storages: list[Storage] = []
        self._replayed: dict[
            str, tuple[Any, ...]
        ] = {}  # the latest name of each kind of work that is not the model's own
        self._captured_of: Any = None

    def read_statistics(self, model: TransformerTPP) -> None:
        """Forget the graphs if numbers or addresses that are written down in them have changed."""
        addresses = [tensor.data_ptr() for tensor in (*model.parameters(), *model.buffers())]
        if (now := (model.statistics, addresses)) == self._captured_of:
            return
        self._graphs.clear()
        self._captured_of, weight = now, model.decoder.to_mixture.weight
        with torch.inference_mode():
            self._example = self._law(weight.new_zeros(1, weight.shape[1]))

    # --- what a sampler asks for -------------------------------------------------------------------------------------

    def new_cache(self, *arguments: Any) -> KVCache:
        """A KVCache of these arguments."""
        return CapturedCache(self, *arguments)

    @torch.inference_mode()
    def extend(self, tokens: EventTokens, cache: KVCache, parents: tuple[int, ...] | None) -> Tensor:
        """As TransformerTPP.extend. Trees, thousands of tokens and caches from elsewhere take the ordinary
        operators."""
        is_tree = parents is not None or cache.parents
        if (
            is_tree
            or tokens.ids.numel() > _MOST_TOKENS
            or not isinstance(cache, CapturedCache)
            or cache.owner is not self
        ):
            return self._passes.extend_by_operators(tokens, cache, parents)
        num_new = tokens.ids.shape[1]
        cache.announce(num_new)
        contexts = self._over(cache, "pass", self._contexts, num_new, *tokens, _counts(cache))
        cache.end()
        return contexts

    @torch.inference_mode()
    def law(self, contexts: Tensor) -> NextEventLaw:
        """As TransformerTPP.law, packed."""
        if contexts.shape[:-1].numel() > _MOST_TOKENS:
            return self._law(contexts).packed()
        return self._example.of(self._run(("law",), lambda given: self._law(given).parameters, contexts))

    @torch.inference_mode()
    def follow(
        self, law: NextEventLaw, cache: KVCache, last_times: Tensor, uniforms: Tensor, keeps_laws: bool,
        ends: Tensor | None = None, limits: Tensor | None = None,
    ) -> Drawn:  # fmt: skip
        """As CompiledModel.follow, but that all rows draw as many events, and some more than they want: now and then it
        is asked whether one is past its end, of limits never.

        A graph of one event is replayed for each: one of a whole chain would take as many times as long to record, for
        every length that chains have, and the next launch waits for none before it.
        """
        assert isinstance(cache, CapturedCache)
        cache.make_room(uniforms.shape[1] - 1)
        counts = _counts(cache)
        events = [self._run(("draw",), self._drawn, law.parameters.squeeze(1), last_times, uniforms[:, 0, :3])]
        for num in range(1, uniforms.shape[1]):
            if ends is not None and num % _ASK_EVERY == 0 and not (events[-1][:, 1] <= ends).all():
                break
            events.append(self._over(cache, "event", self._next, num, events[-1], uniforms[:, num, :3], counts))
            counts = counts + 1
        num = len(events)
        cache.announce(num - 1)
        cache.end()
        inter_times, times, marks, parameters = torch.stack(events, 1).split([1, 1, 1, events[0].shape[1] - 3], 2)
        inter_times, times, marks = (column.squeeze(2) for column in (inter_times, times, marks))
        whole = cache.lengths.new_full((len(marks),), num)
        return Drawn(inter_times, times, marks.long(), whole, parameters if keeps_laws else parameters[:, -1:])

    @property
    def example(self) -> NextEventLaw:
        """A law, another object whenever what was recorded is forgotten; `of` makes others of it."""
        return self._example

    def replayed(self, name: tuple[Any, ...], work: Callable[..., Tensor], *inputs: Tensor) -> Tensor:
        """`work` of the inputs, as a Graph wants both; `name` says what it is, and of what beside the inputs. Those of
        something
        else are forgotten: it may be gone."""
        if self._replayed.get(name[0]) != name:
            self._graphs = {key: graph for key, graph in self._graphs.items() if key[0][0] != name[0]}
            self._replayed[name[0]] = name
        return self._run(name, work, *inputs)

    # --- what is recorded ------------------------------------------------------------------------------------------

    def _contexts(
        self, cache_tensor: Tensor, num_used: int, ids: Tensor, times: Tensor, inter_times: Tensor, counts: Tensor
    ) -> Tensor:
        attention = StaticPass(cache_tensor, counts, ids.shape[1], num_used, self._model.max_context)
        return self._passes.encode(EventTokens(ids, times, inter_times), attention)

    def _law(self, contexts: Tensor) -> NextEventLaw:
        own = self._model.statistics
        return self._model.decoder(contexts, own.log_mean, own.log_std, double=True)

    def _drawn(self, parameters: Tensor, last_times: Tensor, uniforms: Tensor) -> Tensor:
        """An event of each row, float64 (rows, 3 + width): inter-time, time, mark and the law that they are drawn
        from."""
        inter_times, marks = self._example.of(parameters).sample(uniforms)
        return torch.cat([torch.stack([inter_times, last_times + inter_times, marks.double()], 1), parameters], 1)

    def _next(self, cache_tensor: Tensor, num_used: int, event: Tensor, uniforms: Tensor, counts: Tensor) -> Tensor:
        """The event after one that joins the cache, both as `_drawn`."""
        inter_times, times, marks = event[:, :3].split(1, 1)
        contexts = self._contexts(cache_tensor, num_used, marks.long() + 1, times, inter_times, counts)
        return self._drawn(self._law(contexts).parameters.squeeze(1), times.squeeze(1), uniforms)

    # --- graphs and storage ------------------------------------------------------------------------------------------

    def _over(
        self, cache: CapturedCache, name: str, work: Callable[..., Tensor], num_new: int, *inputs: Tensor
    ) -> Tensor:
        """`work` over the entries of a cache and `num_new` that it does not count yet."""
        num_used = min(roomy(cache.max_length + num_new), cache.capacity)
        return self._run((name, cache.storage, num_used), partial(work, cache.tensors[0], num_used), *inputs)

    def _run(self, name: tuple[Any, ...], work: Callable[..., Tensor], *inputs: Tensor) -> Tensor:
        """`work` of the inputs, by a graph from the second time on that it has inputs of these shapes."""
        key = (name, *(given.shape for given in inputs))
        is_new, graph = key not in self._graphs, self._graphs.pop(key, None)
        with autocast_disabled(inputs[0].device.type):
            if not is_new and graph is None:
                graph = Graph(work, inputs, next((other for other in self._graphs.values() if other is not None), None))
            result = work(*inputs) if graph is None else graph(*inputs)
        self._graphs[key] = graph
        if len(self._graphs) > _MOST_GRAPHS:
            del self._graphs[next(iter(self._graphs))]
        return result

    def storage(self, like: Tensor, shape: list[int]) -> Storage:
        """Some that no cache is in, of this shape."""
        spare = [storage for storage in self._storages if storage.is_spare()]
        found = next((storage for storage in spare if list(storage.keys_values.shape) == shape), None)
        if found is None:
            with torch.inference_mode(False):  # caches are written to in any mode
                found = Storage(like.detach().new_zeros(shape))
            for oldest in spare[: max(0, len(spare) - _MOST_SPARE)]:
                self._storages.remove(oldest)
                self._graphs = {key: graph for key, graph in self._graphs.items() if oldest not in key[0]}
        else:
            self._storages.remove(found)
        self._storages.append(found)
        return found


def _counts(cache: KVCache) -> Tensor:
    """As StaticPass takes them."""
    return torch.stack([cache.lengths, cache.num_tokens])
