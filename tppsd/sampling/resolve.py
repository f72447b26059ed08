"""From what a caller passes as target and draft to models that can be sampled."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import nn

from tppsd.backends.cpp.active import Compiled, standing_in
from tppsd.backends.cpp.compilable import possible_passes
from tppsd.models.checkpoint import load
from tppsd.models.fast import held, kept, plain_attributes
from tppsd.models.protocol import EventModel
from tppsd.sampling.options import SamplingOptions

DRAFTER_NAMES = ("self", "jacobi", "poisson")  # drafters that need no model of their own


def resolve_model(model: Any, role: str) -> EventModel:
    """An EventModel from itself, a LightningModule that holds one as `.model`, or a checkpoint path."""
    if isinstance(model, str | Path):
        if role == "draft" and isinstance(model, str) and not Path(model).is_file():
            raise FileNotFoundError(
                f"draft = {model!r} is neither a checkpoint file nor one of the drafters {DRAFTER_NAMES}"
            )
        return load(model)
    if isinstance(model, type):
        raise TypeError(f"{role} is the class {model.__name__}; give an instance of it")
    if isinstance(model, EventModel):
        return model
    if isinstance(getattr(model, "model", None), EventModel):
        return model.model
    raise TypeError(
        f"{role} is a {type(model).__name__}; give an EventModel, a LightningModule with one, or a checkpoint path"
    )


def model_device(model: EventModel) -> torch.device:
    """Where a model's parameters live; the CPU for models without any."""
    parameter = next(model.parameters(), None) if isinstance(model, nn.Module) else None
    return torch.device("cpu") if parameter is None else parameter.device


def check_finite(target: EventModel, draft: EventModel | None) -> None:
    """Refuse weights that are not finite.

    Raises:
        ValueError: the sentence names the model and the parameter.
    """
    for role, model in (("target", target), ("draft", draft)):
        if isinstance(model, nn.Module) and (name := kept(model).not_finite) is not None:
            raise ValueError(f"{role}: parameter {name} has values that are not finite; the checkpoint is damaged")


def check_fit(target: EventModel, draft: EventModel) -> None:
    """Refuse a draft that does not fit its target, whatever its weights.

    Raises:
        ValueError: the sentence says in what.
    """
    if model_device(draft) != model_device(target):
        raise ValueError(
            f"the draft is on {model_device(draft)}, the target on {model_device(target)}; move them to one device"
        )
    if draft.num_marks != target.num_marks:
        raise ValueError(f"draft has num_marks = {draft.num_marks}, the target {target.num_marks}; they must agree")


def content_hash(model: Any) -> str | None:
    """Of a model that has one."""
    return model.content_hash() if hasattr(model, "content_hash") else None


@contextlib.contextmanager
def reading_both(target: EventModel, draft: EventModel | None, options: SamplingOptions) -> Iterator[None]:
    """Both models are only read, by passes as `options` say, and what they are is looked at once.

    Raises:
        ValueError: weights are not finite.
    """
    with held(target), held(draft):
        check_finite(target, draft)
        with (
            reading(target, **options.target_passes),
            reading(draft, **options.draft_model_passes),
            torch.inference_mode(),
        ):
            yield


@contextlib.contextmanager
def reading(model: Any, compile: Compiled = False, dtype: str = "float32") -> Iterator[None]:
    """A model in evaluation mode that is only read, by passes as SamplingOptions say, where it can have such."""
    possible = possible_passes(model, compile, dtype)
    is_own = possible == {"compile": False, "dtype": "float32"}
    own = (
        contextlib.nullcontext()
        if is_own
        else standing_in(model, possible["compile"], getattr(torch, possible["dtype"]))
    )
    with _evaluating(model), plain_attributes(model), own:
        yield


_LOCK = threading.Lock()
_READERS: WeakKeyDictionary[nn.Module, tuple[int, list[nn.Module]]] = (
    WeakKeyDictionary()
)  # and what was in training before them


@contextlib.contextmanager
def _evaluating(model: Any) -> Iterator[None]:
    """A model in evaluation mode until the last thread that reads it is done."""
    if not isinstance(model, nn.Module):
        yield
        return
    parts = (model, *kept(model).parts)
    with _LOCK:
        num, in_training = _READERS.get(model, (0, []))
        in_training = in_training if num else [module for module in parts if module.training]
        for module in in_training:
            module.training = False
        _READERS[model] = num + 1, in_training
    try:
        yield
    finally:
        with _LOCK:
            num, in_training = _READERS.pop(model)
            if num > 1:
                _READERS[model] = num - 1, in_training
            else:
                for module in in_training:  # and no other: a part may be frozen
                    module.training = True
