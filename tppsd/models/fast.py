"""Small costs of nn.Module that add up when one event at a time is sampled: a leaf layer's call and attribute look-ups
cost as much as its arithmetic."""

from __future__ import annotations

import copy
import ctypes
import operator
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TypeVar
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.nn import functional as F

_Module = TypeVar("_Module", bound=nn.Module)


def linear(layer: nn.Linear, x: Tensor) -> Tensor:
    """`layer(x)` without the module call."""
    return F.linear(x, layer.weight, layer.bias)


def layer_norm(layer: nn.LayerNorm, x: Tensor) -> Tensor:
    """`layer(x)` without the module call."""
    return torch.layer_norm(x, layer.normalized_shape, layer.weight, layer.bias, layer.eps)


class Kept:
    """What has been worked out of a model's weights, of use as long as they are the same numbers.

    Neither identity nor version counters tell whether they are (averages of weights are put into place by
    `.data.copy_`), so that the numbers themselves are kept and compared, which takes a small part of what working it
    out takes.

    Attributes:
        parts: its modules, without itself: it would never be freed.
        plain: for every module the attributes that `plain_attributes` adds.
        kinds: dtypes of the parameters, and where they are.
        num_weights: numbers in its parameters.
        not_finite: name of the first parameter with values that are not finite, or None.
        hashes: content hashes, by what else than the weights they are of.
        stand_ins: what computes its passes in its place (tppsd.backends.cpp), once that has been asked for.
        num_holders: of `held`.
    """

    def __init__(self, model: nn.Module) -> None:
        self.parts = list(model.modules())[1:]
        self._held = [_held_by(module) for module in (model, *self.parts)]
        self._numbers = [_Numbers(tensor) for held in self._held for tensor in held if isinstance(tensor, Tensor)]
        self.plain = [_plain(module) for module in (model, *self.parts)]
        named = [(name, parameter.detach()) for name, parameter in model.named_parameters()]
        self.kinds = {(values.dtype, values.device) for _, values in named}
        self.num_weights = sum(values.numel() for _, values in named)
        self.not_finite = next((name for name, values in named if not torch.isfinite(values).all()), None)
        self.hashes: dict[str, str] = {}
        self.stand_ins: dict[Any, Any] = {}
        self.num_holders = 0

    def fits(self, model: nn.Module) -> bool:
        """Are parts and numbers of the model still those?"""
        for module, mine in zip((model, *self.parts), self._held, strict=True):
            held = _held_by(module)
            if len(held) != len(mine) or not all(map(operator.is_, held, mine)):
                return False
        return all(numbers.fit() for numbers in self._numbers)


def _held_by(module: nn.Module) -> tuple[object, ...]:
    """Parts, parameters and buffers of its own."""
    return (*module._modules.values(), *module._parameters.values(), *module._buffers.values())


class _Numbers:
    """What a tensor holds, to be compared with what it holds later."""

    def __init__(self, tensor: Tensor) -> None:
        self._tensor, self._copy = tensor, tensor.detach().clone()
        is_plain = (
            type(tensor) in (Tensor, nn.Parameter) and tensor.device.type == "cpu"
        )  # others may be nowhere in memory
        self._is_flat = is_plain and tensor.is_contiguous() and self._copy.is_contiguous()
        self._place, self._num_bytes = self._copy.data_ptr(), self._copy.nbytes

    def fit(self) -> bool:
        """Has it the same?"""
        tensor, copy = self._tensor, self._copy
        if tensor.dtype != copy.dtype or tensor.device != copy.device or tensor.shape != copy.shape:
            return False
        if _compare is None or not self._is_flat or not tensor.is_contiguous():
            return torch.equal(tensor, copy)
        return _compare(tensor.data_ptr(), self._place, self._num_bytes) == 0


def _memcmp() -> Any:
    """That of the C library, which on a few thousand numbers takes less time than torch.equal; None where it is not
    found (on Windows, say). It tells 0 from -0, and takes a NaN for the same NaN."""
    try:
        function = ctypes.CDLL(None).memcmp
    except (OSError, TypeError, AttributeError):
        return None
    function.argtypes, function.restype = (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t), ctypes.c_int
    return function


_compare = _memcmp()
_KEPT: WeakKeyDictionary[nn.Module, Kept] = WeakKeyDictionary()


def kept(model: nn.Module) -> Kept:
    """What is kept of a model, worked out anew if its weights have changed."""
    found = _KEPT.get(model)
    if found is None or not (found.num_holders or found.fits(model)):
        found = _KEPT[model] = Kept(model)
    return found


@contextmanager
def held(model: object) -> Iterator[None]:
    """The model's weights stay what they are meanwhile, so that comparing them once is enough."""
    if not isinstance(model, nn.Module):
        yield
        return
    own = kept(model)
    own.num_holders += 1
    try:
        yield
    finally:
        own.num_holders -= 1


@contextmanager
def plain_attributes(model: object) -> Iterator[None]:
    """A model that is only read: parameters, buffers and submodules become ordinary attributes, found without
    nn.Module.__getattr__, and the matrices of linear layers lie the way in which small products are fastest.

    Nothing may be assigned to the model meanwhile. A module may keep more, by a method `kept_while_read() -> dict[str,
    Any]`.
    """
    plain, added = [], []
    if isinstance(model, nn.Module):
        own = kept(model)
        plain = list(zip((model, *own.parts), own.plain, strict=True))
    try:
        for module, attributes in plain:
            present, new = module.__dict__, attributes
            if not present.keys().isdisjoint(attributes):  # another reader has added some
                new = {name: value for name, value in attributes.items() if name not in present}
            present.update(new)
            added.append((present, new))
        yield
    finally:
        for present, new in added:
            for name in new:
                present.pop(name, None)


def _plain(module: nn.Module) -> dict[str, Any]:
    """What the module's __getattr__ would find."""
    attributes: dict[str, Any] = {**module._parameters, **module._buffers, **module._modules}
    if isinstance(module, nn.Linear) and module.weight.device.type == "cpu":
        attributes["weight"] = by_columns(module.weight)
    if callable(kept := getattr(module, "kept_while_read", None)):
        attributes |= kept()
    return attributes


def copied(model: _Module) -> _Module:
    """A copy, also of a model that is being read: without what `plain_attributes` has put before its parameters."""
    own = copy.deepcopy(model)
    for module in own.modules():
        for name in (*module._parameters, *module._buffers, *module._modules):
            module.__dict__.pop(name, None)
    return own


def make_plain(model: nn.Module) -> None:
    """`plain_attributes` for good, of a copy that nobody else has."""
    for module in model.modules():
        module.__dict__.update(_plain(module))


def by_columns(matrix: Tensor) -> Tensor:
    """The same matrix with its columns one after the other in memory: 25 events times a (64, 256) matrix take half the
    time."""
    return matrix.detach().t().contiguous().t()
