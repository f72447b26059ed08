"""What has been worked out of a model's weights, of use as long as these are the same numbers.

Neither identity nor version counters tell whether weights are the same (averages are put into place by `.data.copy_`),
so a snapshot keeps the numbers themselves and compares them, which takes a small part of what compiling takes. Nothing
is stored in the model.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn


class Snapshot:
    """The numbers in a model's parameters and buffers, and what was made of them.

    Attributes:
        not_finite: name of the first parameter with values that are not finite, or None.
        content_hash: of the model, where it has one.
        compiled: compiled models by dtype, once they have been asked for.
    """

    def __init__(self, model: nn.Module) -> None:
        self._tensors = [(tensor, tensor.detach().clone()) for tensor in _tensors(model)]
        self._parts = _parts(model)
        self._statistics = getattr(model, "statistics", None)
        parameters = model.named_parameters()
        self.not_finite = next((name for name, p in parameters if not torch.isfinite(p.detach()).all()), None)
        own_hash: Any = getattr(model, "content_hash", None)
        self.content_hash: str | None = own_hash() if callable(own_hash) else None
        self.compiled: dict[torch.dtype, Any] = {}

    def fits(self, model: nn.Module) -> bool:
        """Does the model consist of the same parts, numbers and statistics as when the snapshot was made?"""
        tensors = list(_tensors(model))
        if len(tensors) != len(self._tensors) or _parts(model) != self._parts:
            return False
        if getattr(model, "statistics", None) != self._statistics:
            return False
        return all(now is then and _equal(now, copy) for now, (then, copy) in zip(tensors, self._tensors, strict=True))


def _tensors(model: nn.Module) -> Iterator[Tensor]:
    for module in model.modules():
        for tensor in (*module._parameters.values(), *module._buffers.values()):
            if tensor is not None:
                yield tensor


def _parts(model: nn.Module) -> list[tuple[int, type]]:
    """Identity and class of every module; the model holds them as long as they are its own."""
    return [(id(module), type(module)) for module in model.modules()]


def _equal(now: Tensor, copy: Tensor) -> bool:
    return now.dtype == copy.dtype and now.device == copy.device and torch.equal(now, copy)


_SNAPSHOTS: WeakKeyDictionary[nn.Module, Snapshot] = WeakKeyDictionary()
_LOCK = threading.Lock()


def snapshot(model: nn.Module) -> Snapshot:
    """The model's snapshot, made anew if its weights have changed."""
    with _LOCK:
        found = _SNAPSHOTS.get(model)
    if found is None or not found.fits(model):
        found = Snapshot(model)
        with _LOCK:
            _SNAPSHOTS[model] = found
    return found


def content_hash(model: object) -> str | None:
    """The content hash of a model that has one, from its snapshot where it is a module."""
    if isinstance(model, nn.Module):
        return snapshot(model).content_hash
    own = getattr(model, "content_hash", None)
    return own() if callable(own) else None
