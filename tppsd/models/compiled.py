"""Cached passes and laws of contexts as calls of compiled code (native/): on a CPU the operators of a single token take ten times
as long as its arithmetic."""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from tppsd.models.attnhp import AttNHPEncoder, AttNHPLayer
from tppsd.models.blocks import TransformerBlock
from tppsd.models.cache import KVCache
from tppsd.models.compiling import library
from tppsd.models.decoder import IndependentMarks, TimeConditionalMarks
from tppsd.models.fast import kept
from tppsd.models.law import NextEventLaw
from tppsd.models.mixture import LOG_STD_RANGE, LogNormalMixture
from tppsd.models.rotary import RotaryBlock, RotaryEncoder
from tppsd.models.sahp import SAHPEncoder
from tppsd.models.thp import THPEncoder
from tppsd.models.tree import depths, is_ancestor

if TYPE_CHECKING:
    from tppsd.models.protocol import EventTokens
    from tppsd.models.transformer_tpp import TransformerTPP

LANES = 16  # widths and the capacities of caches are multiples of it
_SOURCE = Path(__file__).with_name("native") / "passes.cpp"
_TINY = torch.finfo(torch.float64).tiny
_KINDS: dict[type, int] = {THPEncoder: 0, SAHPEncoder: 0, RotaryEncoder: 1, AttNHPEncoder: 2}
_BLOCKS = {THPEncoder: TransformerBlock, SAHPEncoder: TransformerBlock, RotaryEncoder: RotaryBlock, AttNHPEncoder: AttNHPLayer}
_MARKS: dict[type, int] = {type(None): 0, IndependentMarks: 1, TimeConditionalMarks: 2}

_Pointer, _Int, _Double = ctypes.c_void_p, ctypes.c_int64, ctypes.c_double


def _fields(kind: Any, names: str) -> list[tuple[str, Any]]:
    return [(name, kind) for name in names.split()]


# What native/passes.cpp calls by these names, field by field.


class _Linear(ctypes.Structure):
    _fields_ = [*_fields(_Pointer, "weight bias"), *_fields(_Int, "in_ out")]


class _Norm(ctypes.Structure):
    _fields_ = [*_fields(_Pointer, "weight bias"), ("eps", _Double)]


class _Layer(ctypes.Structure):
    _fields_ = [
        ("attention_norm", _Norm), *_fields(_Linear, "to_qkv from_heads"),
        ("feedforward_norm", _Norm), *_fields(_Linear, "expand contract"),
    ]  # fmt: skip


class _Encoder(ctypes.Structure):
    _fields_ = [
        *_fields(_Int, "kind num_layers dim num_heads num_marks num_phases"), ("layers", _Pointer), ("norm", _Norm),
        *_fields(_Pointer, "marks inter_time of_time of_order"), *_fields(_Double, "time_scale log_mean log_std min_inter_time"),
    ]  # fmt: skip


class _Pass(ctypes.Structure):
    _fields_ = [
        *_fields(_Pointer, "contexts ids times inter_times lengths num_before depth seen"),
        *_fields(_Int, "rows num_new num_nodes max_context"), ("cache", _Pointer), *_fields(_Int, "capacity num_threads"),
    ]  # fmt: skip


class _Decoder(ctypes.Structure):
    _fields_ = [
        *_fields(_Int, "marks num_components num_features"), *_fields(_Linear, "to_mixture from_context to_logits"),
        *_fields(_Double, "least_log_std largest_log_std"),
    ]  # fmt: skip


class CompiledModel:
    """Encoder and decoder of a compilable model, their weights laid out for compiled code."""

    def __init__(self, model: TransformerTPP) -> None:
        self._library = library(_SOURCE)
        self._panel = self._library.panel_width()
        self._kept: list[Tensor] = []  # what the pointers point to
        encoder: Any = model.encoder
        blocks = _blocks(encoder)
        self._layers = (_Layer * len(blocks))(*map(self._layer, blocks))
        of_time, of_order = _phases(encoder)
        self._encoder = _Encoder(
            _KINDS[type(encoder)], len(blocks), model.config["embed_dim"], model.config["num_heads"], model.num_marks,
            len(of_time), ctypes.addressof(self._layers), self._norm(encoder.norm), self._pointer(encoder.embedding.marks.weight),
            self._pointer(encoder.embedding.inter_time.weight.t()), self._pointer(of_time), self._pointer(of_order),
        )  # fmt: skip
        self._decoder = self._heads(model)
        self._width = 3 * self._decoder.num_components + self._decoder.num_features

    def _heads(self, model: TransformerTPP) -> _Decoder:
        heads, marks = model.decoder, model.decoder.marks
        decoder = _Decoder(_MARKS[type(marks)], heads.num_components, 0, self._linear(heads.to_mixture))
        if marks is not None:
            decoder.from_context = self._linear(marks.from_context)
            decoder.num_features = marks.from_context.out_features
        if isinstance(marks, IndependentMarks):
            decoder.to_logits, decoder.num_features = self._linear(marks.to_logits), model.num_marks
        decoder.least_log_std, decoder.largest_log_std = LOG_STD_RANGE
        return decoder

    def _layer(self, block: Any) -> _Layer:
        if isinstance(block, AttNHPLayer):
            return _Layer(self._norm(block.norm), self._linear(block.to_qkv), self._linear(block.from_heads))
        layer = _Layer(self._norm(block.attention_norm), self._linear(block.to_qkv), self._linear(block.from_heads))
        layer.feedforward_norm, layer.contract = self._norm(block.feedforward_norm), self._linear(block.contract)
        layer.expand = self._linear(block.to_gate_and_value, 2) if isinstance(block, RotaryBlock) else self._linear(block.expand)
        return layer

    def _pointer(self, values: Tensor | None) -> int | None:
        if values is None:
            return None
        self._kept.append(values.detach().contiguous())
        return self._kept[-1].data_ptr()

    def _norm(self, norm: nn.LayerNorm | nn.RMSNorm) -> _Norm:
        return _Norm(self._pointer(norm.weight), self._pointer(getattr(norm, "bias", None)), norm.eps)

    def _linear(self, layer: nn.Linear, num_parts: int = 1) -> _Linear:
        """Inputs and each of `num_parts` equal parts of the outputs padded with zeros to multiples of 16; panel by panel."""
        weight = torch.cat([_padded(part) for part in layer.weight.detach().chunk(num_parts)])  # (out, in)
        bias = None if layer.bias is None else torch.cat([_padded(part, 1) for part in layer.bias.detach().chunk(num_parts)])
        panels = torch.cat([panel.t().flatten() for panel in weight.split(self._panel)])
        return _Linear(self._pointer(panels), self._pointer(bias), weight.shape[1], weight.shape[0])

    def read_statistics(self, model: TransformerTPP) -> None:
        """Take over what is no weight and may have changed."""
        own, encoder = model.statistics, self._encoder
        encoder.time_scale, encoder.log_mean, encoder.log_std = own.time_scale, own.log_mean, own.log_std
        encoder.min_inter_time = max(own.min_inter_time, _TINY)
        marks = model.decoder.marks
        nothing = torch.zeros(0, self._decoder.num_components, dtype=torch.float64)
        mixture = LogNormalMixture(nothing, nothing, nothing, own.log_mean, own.log_std)
        features = None if marks is None else torch.zeros(0, self._decoder.num_features, dtype=torch.float64)
        self._law = NextEventLaw(mixture, features, None if marks is None else marks.in_double())

    def extend(self, tokens: EventTokens, cache: KVCache, parents: tuple[int, ...] | None) -> Tensor:
        """As TransformerTPP.extend."""
        tokens = tokens.map(Tensor.contiguous)
        rows, num_new = tokens.ids.shape
        cache.announce(num_new)
        depth, seen = _among_new(num_new, cache.parents, parents, cache.max_context or 0)
        num_before = cache.num_tokens
        contexts = torch.empty(rows, num_new, self._encoder.dim, dtype=torch.float32)
        self._library.run_pass(
            ctypes.byref(self._encoder),
            ctypes.byref(
                _Pass(
                    contexts.data_ptr(), tokens.ids.data_ptr(), tokens.times.data_ptr(), tokens.inter_times.data_ptr(),
                    cache.lengths.data_ptr(), num_before.data_ptr(), depth.data_ptr(), None if seen is None else seen.data_ptr(),
                    rows, num_new, len(cache.parents), cache.max_context or 0,
                    cache.tensors[0].data_ptr(), cache.capacity, torch.get_num_threads(),
                )
            ),
        )  # fmt: skip
        cache.end(parents)
        return contexts

    def law(self, contexts: Tensor) -> NextEventLaw:
        """As TransformerTPP.law, packed."""
        contexts = contexts.contiguous()
        laws = torch.empty(*contexts.shape[:-1], self._width, dtype=torch.float64)
        num = _Int(laws.numel() // self._width)
        self._library.write_laws(ctypes.byref(self._decoder), _Pointer(contexts.data_ptr()), num, _Pointer(laws.data_ptr()))
        return self._law.of(laws)

    def work(self, cache: KVCache, num_new: int) -> tuple[int, int]:
        """(floating-point operations of matrix products, bytes read and written) of a pass over chains, about."""
        tokens, layer, dim = len(cache.lengths) * num_new, self._layers[0], self._encoder.dim
        flops, num_bytes = _work((layer.to_qkv, layer.from_heads, layer.expand, layer.contract), tokens)
        # of every new token; those among the new ones themselves are few
        keys = int(cache.lengths.clamp_max(cache.max_context or cache.capacity).sum())
        num_layers = self._encoder.num_layers
        return num_layers * (flops + 4 * dim * num_new * keys), num_layers * (num_bytes + 8 * dim * keys)

    def work_of_laws(self, num_laws: int) -> tuple[int, int]:
        """The same of as many laws."""
        own = self._decoder
        flops, num_bytes = _work((own.to_mixture, own.from_context, own.to_logits), num_laws)
        return flops, num_bytes + 8 * self._width * num_laws


def _work(linears: tuple[Any, ...], num: int) -> tuple[int, int]:
    """(floating-point operations, bytes) of `num` vectors through each of some linear layers."""
    weights = sum(linear.in_ * linear.out for linear in linears)
    return 2 * num * weights, 4 * (weights + num * sum(linear.in_ + linear.out for linear in linears))


def _blocks(encoder: Any) -> nn.ModuleList:
    return encoder.layers if isinstance(encoder, AttNHPEncoder) else encoder.blocks


def _phases(encoder: Any) -> tuple[Tensor, Tensor]:
    """float64 (num_phases,) each: angular frequencies of time and of the number of events, whose phases are added."""
    if isinstance(encoder, RotaryEncoder):
        of_time, of_order = encoder.log_frequencies.detach().double().exp()
        nothing = torch.zeros_like(of_time)
        return torch.cat([of_time, nothing]), torch.cat([nothing, of_order])
    frequencies = encoder.phases.frequencies
    if isinstance(encoder, SAHPEncoder):
        return encoder.time_weights.detach().double(), frequencies
    return frequencies, torch.zeros_like(frequencies)


def _padded(values: Tensor, num_dims: int = 2) -> Tensor:
    """With zeros behind, to multiples of 16 along the last or the last two dimensions."""
    missing = [(-size) % LANES for size in reversed(values.shape[-num_dims:])]
    return nn.functional.pad(values, [pad for size in missing for pad in (0, size)])


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


def why_not_compilable(model: Any, device: torch.device | None = None) -> str | None:
    """What compiled code would need instead of this model, on `device` (default: where it is); None: it can run it."""
    from tppsd.models.transformer_tpp import TransformerTPP  # which imports this module

    if type(model) is not TransformerTPP:  # nor a subclass, which may compute something else
        return f"is for a TransformerTPP; this is a {type(model).__name__}"
    encoder, marks = model.encoder, model.decoder.marks
    if type(encoder) not in _KINDS or {type(block) for block in _blocks(encoder)} != {_BLOCKS[type(encoder)]}:
        return f"is for the encoders of this package and their layers; this has a {type(encoder).__name__}"
    if type(marks) not in _MARKS:
        return f"is for the mark decoders of this package; this has a {type(marks).__name__}"
    for weight in model.parameters():
        on = device or weight.device
        if weight.dtype != torch.float32 or on.type != "cpu":
            return f"is for float32 weights on a CPU; these are {str(weight.dtype).removeprefix('torch.')} on {on}"
    dim = model.config["embed_dim"]
    return f"needs an embed_dim that is a multiple of {LANES}; this is {dim}" if dim % LANES else None


def check_compilable(model: Any, device: torch.device | None = None) -> None:
    """Refuse a target that compiled code cannot run on `device`, and compile that code where it has not been.

    Raises:
        ValueError: the target, or the compiler, will not do; the sentence says why.
    """
    if (reason := why_not_compilable(model, device)) is not None:
        raise ValueError(f"target: compile = True {reason}")
    check_compiler()


def check_compiler() -> None:
    """Compile what has not been.

    Raises:
        ValueError: there is no compiler, or it fails.
    """
    library(_SOURCE)


class _Active(threading.local):
    """Models with compiled passes, by identity, in each thread: another one may sample the same model without."""

    def __init__(self) -> None:
        self.models: dict[int, CompiledModel] = {}


_ACTIVE = _Active()


def compiled_now(model: TransformerTPP) -> CompiledModel | None:
    """What computes the model's cached passes and laws in this thread, within `compiled_passes`."""
    return _ACTIVE.models.get(id(model))


@contextmanager
def compiled_passes(model: TransformerTPP) -> Iterator[None]:
    """The cached passes and laws of a compilable model, of which nothing changes meanwhile, are compiled ones."""
    own, active = kept(model), _ACTIVE.models
    if own.compiled is None:
        own.compiled = CompiledModel(model)
    own.compiled.read_statistics(model)
    before, active[id(model)] = active.get(id(model)), own.compiled
    try:
        yield
    finally:
        del active[id(model)]
        if before is not None:
            active[id(model)] = before
