"""Resolution of what a caller passes as a model to one that can be sampled."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import torch
from torch import nn

from tppsd.models.protocol import EventModel


def resolve_model(model: Any, role: str, other_names: tuple[str, ...] = ()) -> EventModel:
    """Return an EventModel from itself, a LightningModule that holds one as `.model`, or a checkpoint path.

    Args:
        model: what the caller gave; the folder of a run stands for its best checkpoint.
        role: "target" or "draft", for messages.
        other_names: what else a string may have been, for messages.

    Raises:
        TypeError: it is something else.
        FileNotFoundError, ValueError: no checkpoint can be read there.
    """
    if isinstance(model, str | Path):
        if other_names and isinstance(model, str) and not (model and Path(model).exists()):
            raise FileNotFoundError(
                f"{role} = {model!r} is neither a checkpoint file or run nor one of the drafters {other_names}"
            )
        from tppsd.models.checkpoint import load  # a model at hand needs no file

        return load(model)
    if isinstance(model, type):
        raise TypeError(f"{role} is the class {model.__name__}; give an instance of it")
    for found in (model, getattr(model, "model", None)):
        if isinstance(found, EventModel):
            return found
    raise TypeError(
        f"{role} is a {type(model).__name__}; give an EventModel, a LightningModule with one, or a checkpoint path"
    )


def model_device(model: object) -> torch.device:
    """Return where a model's parameters live; the CPU for models without any."""
    parameter = next(model.parameters(), None) if isinstance(model, nn.Module) else None
    return torch.device("cpu") if parameter is None else parameter.device


def in_evaluation(model: EventModel) -> EventModel:
    """Return the model itself where all of it is in evaluation mode, else a copy that is.

    A sampler never changes a model.
    """
    if not isinstance(model, nn.Module) or not any(module.training for module in model.modules()):
        return model
    return copy.deepcopy(model).eval()
