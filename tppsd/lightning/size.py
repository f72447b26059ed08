"""The size of a model that suits the number of events it learns from."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple


class ModelSize(NamedTuple):
    """Holds what is chosen by the number of training events where it is not given.

    Fields:
        embed_dim: width of the token stream.
        num_layers: number of layers.
        dropout: dropout rate in the encoder while training.
    """

    embed_dim: int
    num_layers: int
    dropout: float


# number of training events below which a size holds -> the size; measured on eight logs: docs/results/defaults.md
_TARGETS = {20_000: ModelSize(32, 1, 0.2), math.inf: ModelSize(64, 2, 0.1)}


def target_size(num_events: int | None) -> ModelSize:
    """Return the size of a target for so many training events with a likelihood term; None = not known."""
    if num_events is None:
        return ModelSize(64, 2, 0.0)
    return next(size for bound, size in _TARGETS.items() if num_events < bound)


def draft_size(num_events: int | None) -> ModelSize:
    """Return the size of a draft: small, and the same for all data, since it learns to agree with its target."""
    return ModelSize(64, 1, 0.0)


def describe_size(chosen: Mapping[str, Any], num_events: int) -> str:
    """Say in a line which of a model's sizes were chosen, and why."""
    values = ", ".join(f"{name} = {value}" for name, value in chosen.items())
    return (
        f"size of the model by the data: {values}, for {num_events:,} training events (small data want small models "
        f"and dropout); options such as --model.{next(iter(chosen))} set them"
    )
