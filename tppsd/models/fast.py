"""Small costs of nn.Module that add up when one event at a time is sampled: a leaf layer's call and attribute look-ups cost
as much as its arithmetic."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def linear(layer: nn.Linear, x: Tensor) -> Tensor:
    """`layer(x)` without the module call."""
    return F.linear(x, layer.weight, layer.bias)


def layer_norm(layer: nn.LayerNorm, x: Tensor) -> Tensor:
    """`layer(x)` without the module call."""
    return torch.layer_norm(x, layer.normalized_shape, layer.weight, layer.bias, layer.eps)


@contextmanager
def plain_attributes(model: object) -> Iterator[None]:
    """A model that is only read: parameters, buffers and submodules become ordinary attributes, found without
    nn.Module.__getattr__, and the matrices of linear layers lie the way in which small products are fastest.

    Nothing may be assigned to the model meanwhile. A module may keep more, by a method `kept_while_read() -> dict[str, Any]`.
    """
    modules = list(model.modules()) if isinstance(model, nn.Module) else []
    plain = [(module, _plain(module)) for module in modules]
    added = []
    try:
        for module, attributes in plain:
            new = {name: value for name, value in attributes.items() if name not in module.__dict__}
            module.__dict__.update(new)
            added.append((module, new))
        yield
    finally:
        for module, new in added:
            for name in new:
                module.__dict__.pop(name, None)


def _plain(module: nn.Module) -> dict[str, Any]:
    """What the module's __getattr__ would find."""
    attributes: dict[str, Any] = {**module._parameters, **module._buffers, **module._modules}
    if isinstance(module, nn.Linear) and module.weight.device.type == "cpu":
        attributes["weight"] = by_columns(module.weight)
    if callable(kept := getattr(module, "kept_while_read", None)):
        attributes |= kept()
    return attributes


def by_columns(matrix: Tensor) -> Tensor:
    """The same matrix with its columns one after the other in memory: 25 events times a (64, 256) matrix take half the time."""
    return matrix.detach().t().contiguous().t()
