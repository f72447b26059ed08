"""Which models can have compiled or captured passes, or passes in bfloat16 (tppsd.backends.cpp.active)."""

from __future__ import annotations

from typing import Any

import torch

from tppsd.backends.cpp.active import Compiled
from tppsd.backends.cpp.compiled import native_library
from tppsd.backends.cpp.packing import BLOCKS, LANES, MARKS, blocks_of
from tppsd.models.decoder import NextEventDecoder
from tppsd.models.fast import kept

_PLACES = {"cpu": "a CPU", "cuda": "a CUDA device"}


def why_not_compilable(model: Any, device: torch.device | None = None) -> str | None:
    """What compiled code would need instead of this model, on `device` (default: where it is); None: it can run it."""
    if (reason := why_not_reducible(model, device)) is not None:
        return reason
    encoder = model.encoder
    if type(encoder) not in BLOCKS or {type(block) for block in blocks_of(encoder)} != {BLOCKS[type(encoder)]}:
        return f"is for the encoders of this package and their layers; this has a {type(encoder).__name__}"
    if not _has_known_decoder(model):
        own = model.decoder if type(model.decoder) is not NextEventDecoder else model.decoder.marks
        return f"is for the decoders of this package; this has a {type(own).__name__}"
    dim = model.config["embed_dim"]
    if dim % LANES and (device or _device(model)).type == "cpu":
        return f"needs an embed_dim that is a multiple of {LANES}; this is {dim}"
    return None


def why_not_reducible(model: Any, device: torch.device | None = None) -> str | None:
    """As `why_not_compilable`, for passes in bfloat16."""
    from tppsd.models.transformer_tpp import TransformerTPP  # whose cached passes they replace

    if type(model) is not TransformerTPP:  # nor a subclass, which may compute something else
        return f"is for a TransformerTPP; this is a {type(model).__name__}"
    for dtype, where in kept(model).kinds:
        on = device or where
        if dtype != torch.float32 or on.type not in _PLACES:
            place = _PLACES.get(on.type, "a CPU or a CUDA device")
            return f"is for float32 weights on {place}; these are {str(dtype).removeprefix('torch.')} on {on}"
    return None


def _device(model: Any) -> torch.device:
    return next(model.parameters()).device


def has_compilable_laws(model: Any) -> bool:
    """Can compiled code work out the laws of its contexts, whoever has worked out these?"""
    if why_not_reducible(model) is not None or _device(model).type != "cpu":
        return False
    return _has_known_decoder(model) and model.config["embed_dim"] % LANES == 0


def _has_known_decoder(model: Any) -> bool:
    return type(model.decoder) is NextEventDecoder and type(model.decoder.marks) in MARKS


def possible_passes(model: Any, compile: Compiled = False, dtype: str = "float32") -> dict[str, Any]:
    """What of passes as SamplingOptions say a model can have."""
    if compile == "laws":
        return {"compile": has_compilable_laws(model) and "laws", "dtype": dtype}
    is_reducible = dtype == "float32" or why_not_reducible(model) is None
    return {"compile": compile and why_not_compilable(model) is None, "dtype": dtype if is_reducible else "float32"}


def check_passes(
    model: Any, compile: Compiled = False, dtype: str = "float32", device: torch.device | None = None
) -> None:
    """Refuse a target that cannot have passes as SamplingOptions say; compiled laws it need not have.

    Raises:
        ValueError: the sentence says why.
    """
    if dtype != "float32" and (reason := why_not_reducible(model, device)) is not None:
        raise ValueError(f"target: dtype = {dtype!r} {reason}")
    if compile is True:
        check_compilable(model, device)
    if compile == "laws" and has_compilable_laws(model) and (device or _device(model)).type == "cpu":
        check_compiler()


def check_compilable(model: Any, device: torch.device | None = None) -> None:
    """Refuse a target that compiled code cannot run on `device` (default: where it is), and compile that code where it
    has not been; on a CUDA device there is none.

    Raises:
        ValueError: the target, or the compiler, will not do; the sentence says why.
    """
    if (reason := why_not_compilable(model, device)) is not None:
        raise ValueError(f"target: compile = True {reason}")
    if (device or _device(model)).type == "cpu":
        check_compiler()


def check_compiled_draft(draft: Any) -> None:
    """Refuse a draft model of which nothing would be compiled, and compile that code where it has not been.

    Raises:
        ValueError: the draft, or the compiler, will not do; the sentence says why.
    """
    if (reason := why_not_compilable(draft)) is not None:
        raise ValueError(f"draft: compile = 'draft' {reason}")
    if _device(draft).type == "cpu":
        check_compiler()


def check_compiler() -> None:
    """Compile what has not been.

    Raises:
        ValueError: there is no compiler, or it fails.
    """
    native_library()
