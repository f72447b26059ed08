"""Small costs of nn.Module that add up when one event at a time is sampled: a leaf layer's call and attribute look-ups cost
as much as its arithmetic."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

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
    """Parameters, buffers and submodules as ordinary attributes, found without nn.Module.__getattr__, while a model is only read.

    Nothing may be assigned to the model meanwhile.
    """
    modules = list(model.modules()) if isinstance(model, nn.Module) else []
    added = []
    for module in modules:
        for group in (module._parameters, module._buffers, module._modules):
            for name, value in group.items():
                if name not in module.__dict__:
                    module.__dict__[name] = value
                    added.append((module, name))
    try:
        yield
    finally:
        for module, name in added:
            module.__dict__.pop(name, None)
