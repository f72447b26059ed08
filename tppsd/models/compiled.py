"""A cached pass in which all layers are one call of compiled code (stack.cpp): on a CPU the operators of a single token take
ten times as long as its arithmetic."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from tppsd.models.attention import CachedPass, EncoderPass
from tppsd.models.attnhp import AttNHPLayer
from tppsd.models.blocks import TransformerBlock
from tppsd.models.cache import KVCache
from tppsd.models.compiling import library
from tppsd.models.fast import kept
from tppsd.models.rotary import RotaryBlock
from tppsd.models.tree import depths, is_ancestor

_SOURCE = Path(__file__).with_name("stack.cpp")
LANES = 16  # widths and the capacities of caches are multiples of it
_KINDS: dict[type, int] = {TransformerBlock: 0, RotaryBlock: 1, AttNHPLayer: 2}

_Pointer, _Int = ctypes.c_void_p, ctypes.c_int64


class _Norm(ctypes.Structure):
    _fields_ = [("weight", _Pointer), ("bias", _Pointer), ("eps", ctypes.c_double)]


class _Linear(ctypes.Structure):
    _fields_ = [("weight", _Pointer), ("bias", _Pointer), ("in_", _Int), ("out", _Int)]


class _Layer(ctypes.Structure):
    _fields_ = [
        ("attention_norm", _Norm), ("to_qkv", _Linear), ("from_heads", _Linear),
        ("feedforward_norm", _Norm), ("expand", _Linear), ("contract", _Linear),
    ]  # fmt: skip


class _Stack(ctypes.Structure):
    _fields_ = [("kind", _Int), ("num_layers", _Int), ("dim", _Int), ("num_heads", _Int), ("layers", _Pointer)]


class _Pass(ctypes.Structure):
    _fields_ = [
        *((name, _Pointer) for name in ("x", "extra", "lengths", "depth", "seen")),
        *((name, _Int) for name in ("rows", "num_new", "num_nodes", "max_context")),
        ("cache", _Pointer), ("capacity", _Int), ("num_threads", _Int),
    ]  # fmt: skip


class CompiledStack:
    """The layers of an encoder, their weights laid out for `run_stack`.

    Args:
        blocks: of a compilable model.
    """

    def __init__(self, blocks: nn.ModuleList) -> None:
        first: Any = blocks[0]
        self._library = library(_SOURCE)
        self._panel = self._library.panel_width()
        self._kept: list[Tensor] = []  # what the pointers point to
        self._layers = (_Layer * len(blocks))(*(self._layer(block) for block in blocks))
        self._stack = _Stack(
            _KINDS[type(first)], len(blocks), first.from_heads.out_features, first.num_heads, ctypes.addressof(self._layers)
        )

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

    def work(self, cache: KVCache, num_new: int) -> tuple[int, int]:
        """(floating-point operations of matrix products, bytes read and written) of a pass over chains, about."""
        tokens, layer, dim = len(cache.lengths) * num_new, self._layers[0], self._stack.dim
        linears = (layer.to_qkv, layer.from_heads, layer.expand, layer.contract)
        weights = sum(linear.in_ * linear.out for linear in linears)
        keys = int(cache.lengths.sum())  # of every new token; those among the new ones themselves are few
        flops = 2 * tokens * weights + 4 * dim * num_new * keys
        numbers = weights + 2 * dim * keys + tokens * sum(linear.in_ + linear.out for linear in linears)
        return self._stack.num_layers * flops, 4 * self._stack.num_layers * numbers

    def run(self, x: Tensor, extra: Tensor | None, cache: KVCache, parents: tuple[int, ...] | None) -> Tensor:
        """All layers over the tokens x (rows, num_new, dim), which it replaces; keys and values go into the cache."""
        rows, num_new, _ = x.shape
        depth, seen = _among_new(num_new, cache.parents, parents, cache.max_context or 0)
        self._library.run_stack(
            ctypes.byref(self._stack),
            ctypes.byref(
                _Pass(
                    x.data_ptr(), None if extra is None else extra.data_ptr(), cache.lengths.data_ptr(), depth.data_ptr(),
                    None if seen is None else seen.data_ptr(), rows, num_new, len(cache.parents), cache.max_context or 0,
                    cache.tensors[0].data_ptr(), cache.capacity, torch.get_num_threads(),
                )
            ),
        )  # fmt: skip
        return x


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


class CompiledPass(EncoderPass):
    """The newest tokens of each row, as `CachedPass`, but all layers in one call."""

    def __init__(self, stack: CompiledStack, cache: KVCache, num_new: int, parents: tuple[int, ...] | None = None) -> None:
        self.stack, self.cache, self.parents = stack, cache, parents
        cache.announce(num_new)

    positions = CachedPass.positions

    def through(self, blocks: nn.ModuleList, x: Tensor, *extra: Any) -> Tensor:
        x = x.float().contiguous()  # autocast may have made it something else
        if not extra:
            return self.stack.run(x, None, self.cache, self.parents)
        together = torch.cat([part for each in extra for part in (each if isinstance(each, tuple) else (each,))], -1)
        return self.stack.run(x, together.float().expand(*x.shape[:2], -1).contiguous(), self.cache, self.parents)


def _blocks(model: Any) -> nn.ModuleList | None:
    """The layers of a model that compiled code knows."""
    encoder = getattr(model, "encoder", None)
    parts = encoder.children() if isinstance(encoder, nn.Module) else ()
    return next((part for part in parts if isinstance(part, nn.ModuleList) and type(part[0]) in _KINDS), None)


def why_not_compilable(model: Any, device: torch.device | None = None) -> str | None:
    """What compiled code would need instead of this model, on `device` (default: where it is); None: it can run it."""
    blocks: Any = _blocks(model)
    if blocks is None:
        return f"is for the layers of a TransformerTPP; this is a {type(model).__name__}"
    weight, dim = blocks[0].to_qkv.weight, blocks[0].from_heads.out_features
    device = device or weight.device
    if weight.dtype != torch.float32 or device.type != "cpu":
        return f"is for float32 weights on a CPU; these are {str(weight.dtype).removeprefix('torch.')} on {device}"
    return f"needs an embed_dim that is a multiple of {LANES}; this is {dim}" if dim % LANES else None


def check_compilable(model: Any, device: torch.device | None = None) -> None:
    """Refuse a target that compiled code cannot run on `device`, and compile that code where it has not been.

    Raises:
        ValueError: the target, or the compiler, will not do; the sentence says why.
    """
    if (reason := why_not_compilable(model, device)) is not None:
        raise ValueError(f"target: compile = True {reason}")
    library(_SOURCE)


@contextmanager
def compiled_passes(model: Any) -> Iterator[None]:
    """The cached passes of a compilable model, of which nothing changes meanwhile, are compiled ones."""
    own, before = kept(model), model.compiled_stack
    if own.compiled is None:
        blocks = _blocks(model)
        assert blocks is not None
        own.compiled = CompiledStack(blocks)
    model.compiled_stack = own.compiled
    try:
        yield
    finally:
        model.compiled_stack = before
