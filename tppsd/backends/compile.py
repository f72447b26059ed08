"""`tppsd.compile`, which backend a sampler runs a model on, and snapshots of models.

A snapshot holds what was worked out of the weights, and is valid as long as these are the same numbers.

Neither identity nor version counters tell whether weights are the same (averages are put into place by `.data.copy_`),
so a snapshot keeps the numbers themselves and compares them, which takes a small part of what compiling takes. Nothing
is stored in the model.
"""

from __future__ import annotations

import logging
import operator
import sys
import threading
from functools import cache
from typing import Any, Literal
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from tppsd.models.decoder import NextEventDecoder
from tppsd.models.protocol import EventModel
from tppsd.models.resolve import in_evaluation, resolve_model


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


_LOG = logging.getLogger("tppsd")
Compile = bool | Literal["auto"]


def compile(model: Any, dtype: torch.dtype | str | None = None) -> EventModel:
    """Compile a model for sampling: an explicit snapshot that owns its packed weights and is an EventModel.

    It is for models on a CPU and needs a C++ compiler, once per machine. A model with an encoder of one's own keeps its
    own passes; all that follows them is compiled.

    Args:
        model: a TransformerTPP, a LightningModule with one, or a checkpoint path.
        dtype: float32 (None) or bfloat16, in which the matrices of layers, keys and values are kept. The options of
            samples record bfloat16 where the target, and the draft if there is one, were compiled in it.

    Returns:
        A CompiledTPP, or a CompiledHeadTPP for an encoder of one's own.

    Raises:
        ValueError: the model or the compiler will not do; the sentence says why.
    """
    resolved = resolve_model(model, "model")
    wanted = _dtype(dtype)
    reason = why_not_compilable(resolved)
    if reason is not None and (wanted != torch.float32 or why_not_head(resolved) is not None):
        raise ValueError(f"model: tppsd.compile {reason}")
    return _compiled(resolved, wanted)


def runnable(model: EventModel, role: str, compile: Compile = "auto", dtype: str = "float32") -> EventModel:
    """Return what a sampler runs in place of a model: a compiled snapshot, or the model itself in evaluation mode.

    Args:
        model: target or draft.
        role: "target" or "draft", for messages.
        compile: True insists on the target's compiled passes, "auto" compiles what can be and says once at INFO what
            cannot, False compiles nothing.
        dtype: "float32", or "bfloat16", which needs compiled passes.

    Raises:
        ValueError: what is insisted on cannot be had, or weights are not finite; the sentence says why.
    """
    own = check_finite(model, role)
    wanted = _dtype(dtype)
    if is_compiled(model):
        given: Any = model
        if role == "target" and given.dtype != wanted and dtype != "float32":
            raise ValueError(f"target: it was compiled in {given.dtype}, not in {dtype}; compile it in that dtype")
        return model
    insists = role == "target" and (compile is True or dtype != "float32")
    if compile is False and not insists:
        return in_evaluation(model)
    reason = why_not_compilable(model)
    if insists:
        if reason is not None:
            raise ValueError(f"{role}: {'compile = True' if compile is True else f'dtype = {dtype!r}'} {reason}")
        return _kept(own, model, wanted)
    if reason is not None:
        _say_once(f"the {role} is not compiled: native code {reason}")
    if reason is not None and why_not_head(model) is not None:
        return in_evaluation(model)
    try:
        check_compiler()
    except ValueError as error:
        _say_once(f"nothing is compiled, and sampling takes several times as long: {error}")
        return in_evaluation(model)
    return _kept(own, model, wanted if reason is None else torch.float32)


def check_finite(model: object, role: str) -> Snapshot | None:
    """Refuse weights that are not finite, and return the snapshot of a model that has weights.

    Raises:
        ValueError: the sentence names the model, by its role, and the parameter.
    """
    own = snapshot(model) if isinstance(model, nn.Module) else None
    if own is not None and own.not_finite is not None:
        raise ValueError(
            f"{role}: parameter {own.not_finite} has values that are not finite; the checkpoint is damaged"
        )
    return own


def is_compiled(model: object) -> bool:
    """Say whether the model is a compiled snapshot."""
    native = sys.modules.get("tppsd.backends.cpp.model")  # loaded where there is such a model
    return native is not None and isinstance(model, native.CompiledDecoder)


def why_not_compilable(model: Any, device: torch.device | None = None) -> str | None:
    """Return what native code would need instead of this model, on `device` (default: where it is).

    None says that it can run the model.
    """
    if (reason := why_not_head(model, device)) is not None:
        return reason
    from tppsd.backends.cpp.prepack import BLOCKS, blocks_of

    encoder = model.encoder
    if type(encoder) not in BLOCKS or {type(block) for block in blocks_of(encoder)} != {BLOCKS[type(encoder)]}:
        return f"is for the encoders of this package and their layers; this has a {type(encoder).__name__}"
    return None


def why_not_head(model: Any, device: torch.device | None = None) -> str | None:
    """Return why native code cannot take over behind this model's own passes; None: it can."""
    transformer = sys.modules.get("tppsd.models.transformer_tpp")  # loaded where there is such a model
    if transformer is None or type(model) is not transformer.TransformerTPP:  # nor a subclass, which may be another
        return f"is for a TransformerTPP; this is a {type(model).__name__}"
    from tppsd.backends.cpp.prepack import LANES, MARKS

    kinds = {(parameter.dtype, device or parameter.device) for parameter in model.parameters()}
    for kind, place in kinds:
        if kind != torch.float32 or place.type != "cpu":
            return f"is for float32 weights on a CPU; these are {str(kind).removeprefix('torch.')} on {place}"
    own = model.decoder.marks if type(model.decoder) is NextEventDecoder else model.decoder
    if type(own) not in MARKS:
        return f"is for the decoders of this package; this has a {type(own).__name__}"
    dim = model.config["embed_dim"]
    return f"needs an embed_dim that is a multiple of {LANES}; this is {dim}" if dim % LANES else None


def check_compilable(model: Any, wanted: str, device: torch.device | None = None) -> None:
    """Refuse a target that native code cannot run on `device`, and compile that code where it has not been.

    Args:
        model: the target.
        wanted: the option that asks for it, for the message.
        device: where the target will be; None: where it is.

    Raises:
        ValueError: the target, or the compiler, will not do; the sentence says why.
    """
    if (reason := why_not_compilable(model, device)) is not None:
        raise ValueError(f"target: {wanted} {reason}")
    check_compiler()


def check_compiler() -> None:
    """Compile the native code where it has not been.

    Raises:
        ValueError: there is no compiler, or it fails.
    """
    from tppsd.backends.cpp.model import native_library

    native_library()


def _kept(own: Snapshot | None, model: Any, dtype: torch.dtype) -> EventModel:
    """Return the compiled model of the snapshot, compiled where it has not been."""
    assert own is not None
    if dtype not in own.compiled:
        own.compiled[dtype] = _compiled(model, dtype)
    found: EventModel = own.compiled[dtype]
    return found


def _compiled(model: Any, dtype: torch.dtype) -> EventModel:
    from tppsd.backends.cpp.model import CompiledHeadTPP, CompiledTPP

    if why_not_compilable(model) is None:
        return CompiledTPP(model, dtype)
    return CompiledHeadTPP(model)


def _dtype(dtype: torch.dtype | str | None) -> torch.dtype:
    known = {None: torch.float32, "float32": torch.float32, "bfloat16": torch.bfloat16}
    wanted = dtype if isinstance(dtype, torch.dtype) else known.get(dtype)
    if wanted not in (torch.float32, torch.bfloat16):
        raise ValueError(f"dtype = {dtype!r} is unknown; choose 'float32' or 'bfloat16'")
    return wanted


@cache
def _say_once(sentence: str) -> None:
    _LOG.info(sentence)
