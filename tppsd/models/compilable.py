"""Which models have compiled or captured passes, and while which of them do."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch

from tppsd.models.captured import CapturedModel
from tppsd.models.compiled import CompiledModel, native_library
from tppsd.models.fast import kept
from tppsd.models.packing import BLOCKS, LANES, MARKS, blocks_of

if TYPE_CHECKING:
    from tppsd.models.transformer_tpp import TransformerTPP

_PLACES = {"cpu": "a CPU", "cuda": "a CUDA device"}


def why_not_compilable(model: Any, device: torch.device | None = None) -> str | None:
    """What compiled code would need instead of this model, on `device` (default: where it is); None: it can run it."""
    from tppsd.models.transformer_tpp import TransformerTPP  # which imports this module

    if type(model) is not TransformerTPP:  # nor a subclass, which may compute something else
        return f"is for a TransformerTPP; this is a {type(model).__name__}"
    encoder, marks = model.encoder, model.decoder.marks
    if type(encoder) not in BLOCKS or {type(block) for block in blocks_of(encoder)} != {BLOCKS[type(encoder)]}:
        return f"is for the encoders of this package and their layers; this has a {type(encoder).__name__}"
    if type(marks) not in MARKS:
        return f"is for the mark decoders of this package; this has a {type(marks).__name__}"
    for weight in model.parameters():
        on = device or weight.device
        if weight.dtype != torch.float32 or on.type not in _PLACES:
            place = _PLACES.get(on.type, "a CPU or a CUDA device")
            return f"is for float32 weights on {place}; these are {str(weight.dtype).removeprefix('torch.')} on {on}"
    dim = model.config["embed_dim"]
    if on.type == "cpu" and dim % LANES:
        return f"needs an embed_dim that is a multiple of {LANES}; this is {dim}"
    return None


def check_compilable(model: Any, device: torch.device | None = None) -> None:
    """Refuse a target that compiled code cannot run on `device` (default: where it is), and compile that code where it has not
    been; on a CUDA device there is none.

    Raises:
        ValueError: the target, or the compiler, will not do; the sentence says why.
    """
    if (reason := why_not_compilable(model, device)) is not None:
        raise ValueError(f"target: compile = True {reason}")
    if (device or next(model.parameters()).device).type == "cpu":
        check_compiler()


def check_compiler() -> None:
    """Compile what has not been.

    Raises:
        ValueError: there is no compiler, or it fails.
    """
    native_library()


class _Active(threading.local):
    """Models with compiled passes, by identity, in each thread: another one may sample the same model without."""

    def __init__(self) -> None:
        self.models: dict[int, CompiledModel | CapturedModel] = {}


_ACTIVE = _Active()


def compiled_now(model: object) -> CompiledModel | CapturedModel | None:
    """What computes the model's cached passes and laws in this thread, within `compiled_passes`."""
    return _ACTIVE.models.get(id(model))


def _compiled(model: TransformerTPP) -> CompiledModel | CapturedModel:
    if next(model.parameters()).device.type == "cpu":
        return CompiledModel(model)
    proxy: Any = weakref.proxy(model)  # what is kept of a model must not keep the model
    return CapturedModel(proxy)


@contextmanager
def compiled_passes(model: TransformerTPP) -> Iterator[None]:
    """The cached passes and laws of a compilable model, of which nothing changes meanwhile, are compiled ones, or captured."""
    own, active = kept(model), _ACTIVE.models
    if own.compiled is None:
        own.compiled = _compiled(model)
    own.compiled.read_statistics(model)
    before, active[id(model)] = active.get(id(model)), own.compiled
    try:
        yield
    finally:
        del active[id(model)]
        if before is not None:
            active[id(model)] = before
