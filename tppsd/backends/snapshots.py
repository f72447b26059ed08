"""Snapshots of models: what has been worked out of the weights, valid as long as these are the same numbers.

Neither identity nor version counters tell whether weights are the same (averages are put into place by `.data.copy_`),
so a snapshot keeps the numbers themselves and compares them, which takes a small part of what compiling takes. Nothing
is stored in the model.
"""

from __future__ import annotations

import operator
import threading
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn


class Snapshot:
    """Holds the numbers in a model's parameters and buffers, and what was made of them.

    Attributes:
        not_finite: name of the first parameter with values that are not finite, or None.
        content_hash: the model's content hash, where it has one.
        compiled: compiled models by dtype, once they have been asked for.
    """

    def __init__(self, model: nn.Module) -> None:
        self._submodules = list(model.modules())[1:]  # without the model itself, which would never be freed
        self._held = [_held_by(module) for module in (model, *self._submodules)]
        self._types = [type(module) for module in (model, *self._submodules)]
        tensors = (held for own in self._held for held in own if isinstance(held, Tensor))
        self._tensors = [(tensor, tensor.detach().clone()) for tensor in tensors]
        self._statistics = getattr(model, "statistics", None)
        parameters = model.named_parameters()
        self.not_finite = next((name for name, p in parameters if not torch.isfinite(p.detach()).all()), None)
        own_hash: Any = getattr(model, "content_hash", None)
        self.content_hash: str | None = own_hash() if callable(own_hash) else None
        self.compiled: dict[torch.dtype, Any] = {}

    def fits(self, model: nn.Module) -> bool:
        """Say whether the model has the same parts, numbers and statistics as when the snapshot was made."""
        for module, held, kind in zip((model, *self._submodules), self._held, self._types, strict=True):
            now = _held_by(module)
            if type(module) is not kind or len(now) != len(held) or not all(map(operator.is_, now, held)):
                return False
        if getattr(model, "statistics", None) != self._statistics:
            return False
        return all(_equal(tensor, copy) for tensor, copy in self._tensors)


def _held_by(module: nn.Module) -> tuple[object, ...]:
    """Return a module's own submodules, parameters and buffers."""
    return (*module._modules.values(), *module._parameters.values(), *module._buffers.values())


def _equal(now: Tensor, copy: Tensor) -> bool:
    return now.dtype == copy.dtype and now.device == copy.device and torch.equal(now, copy)


_SNAPSHOTS: WeakKeyDictionary[nn.Module, Snapshot] = WeakKeyDictionary()
_LOCK = threading.Lock()


def snapshot(model: nn.Module) -> Snapshot:
    """Return the model's snapshot, made anew if its weights have changed."""
    with _LOCK:
        found = _SNAPSHOTS.get(model)
    if found is None or not found.fits(model):
        found = Snapshot(model)
        with _LOCK:
            _SNAPSHOTS[model] = found
    return found


def content_hash(model: object) -> str | None:
    """Return the content hash of a model that has one, from its snapshot where it is a module."""
    if isinstance(model, nn.Module):
        return snapshot(model).content_hash
    own = getattr(model, "content_hash", None)
    return own() if callable(own) else None
