"""What computes a model's cached passes and laws in place of its own float32 operators, and while it does."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal

import torch

from tppsd.backends.cpp.captured import CapturedModel
from tppsd.backends.cpp.compiled import CompiledModel
from tppsd.backends.cpp.operated import OperatedModel
from tppsd.backends.cpp.reduced import ReducedModel
from tppsd.models.fast import kept

if TYPE_CHECKING:
    from tppsd.models.transformer_tpp import TransformerTPP

StandIn = CompiledModel | CapturedModel | OperatedModel | ReducedModel
Compiled = bool | Literal["laws"]  # passes and laws, laws alone, or nothing


class _Active(threading.local):
    """Those of models, by identity, in each thread: another one may sample the same model without."""

    def __init__(self) -> None:
        self.models: dict[int, StandIn] = {}


_ACTIVE = _Active()


def stand_in(model: object) -> StandIn | None:
    """The model's in this thread, within `standing_in`."""
    return _ACTIVE.models.get(id(model))


def _made(model: TransformerTPP, compiled: Compiled, dtype: torch.dtype) -> StandIn:
    proxy: Any = weakref.proxy(model)  # what is kept of a model must not keep the model
    if compiled == "laws":
        return OperatedModel(proxy)
    if not compiled:
        return ReducedModel(proxy, dtype)
    if next(model.parameters()).device.type == "cpu":
        return CompiledModel(model, dtype)
    return CapturedModel(proxy, dtype)


@contextmanager
def standing_in(model: TransformerTPP, compiled: Compiled = True, dtype: torch.dtype = torch.float32) -> Iterator[None]:
    """The cached passes and laws of a model, of which nothing changes meanwhile, are compiled ones (on a CUDA device
    captured ones), or in `dtype`, or both; or its laws alone are compiled.

    Args:
        model: one that is fit for it (tppsd.backends.cpp.compilable).
    """
    own, active = kept(model).stand_ins, _ACTIVE.models
    if (compiled, dtype) not in own:
        own[compiled, dtype] = _made(model, compiled, dtype)
    own[compiled, dtype].read_statistics(model)
    before, active[id(model)] = active.get(id(model)), own[compiled, dtype]
    try:
        yield
    finally:
        del active[id(model)]
        if before is not None:
            active[id(model)] = before
