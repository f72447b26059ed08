"""The state of the random generators of all processes, for checkpoints.

A resumed run draws the same dropout masks as the unbroken one.
"""

from __future__ import annotations

import random
from typing import Any

import numpy
import torch
from torch import distributed


def random_states(device: torch.device) -> list[dict[str, Any]]:
    """Return the states of every process, by rank; all processes ask together.

    They are tensors and plain values, as `weights_only` wants them.
    """
    version, numbers, gauss = random.getstate()
    state: Any = numpy.random.get_state(legacy=True)
    name, keys, position, has_gauss, cached = state
    own = {
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state(device) if device.type == "cuda" else None,
        "python": [version, list(numbers), gauss],
        "numpy": [str(name), torch.from_numpy(keys.astype("int64")), int(position), int(has_gauss), float(cached)],
    }
    if not distributed.is_initialized() or distributed.get_world_size() == 1:
        return [own]
    states: list[Any] = [None] * distributed.get_world_size()
    distributed.all_gather_object(states, own)
    return states


def restore_random_state(states: list[dict[str, Any]], rank: int, world_size: int, device: torch.device) -> None:
    """Set the generators of this process as they were; with another number of processes there is no such state."""
    if len(states) != world_size:
        return
    own = states[rank]
    torch.set_rng_state(own["torch"])
    if own["cuda"] is not None and device.type == "cuda":
        torch.cuda.set_rng_state(own["cuda"], device)
    version, numbers, gauss = own["python"]
    random.setstate((version, tuple(numbers), gauss))
    name, keys, position, has_gauss, cached = own["numpy"]
    numpy.random.set_state((name, keys.numpy().astype("uint32"), position, has_gauss, cached))
