"""Self-contained checkpoints: weights, configuration and statistics of the training split, readable without
Lightning."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from tppsd.models.transformer_tpp import TransformerTPP

CHECKPOINT_KEY = "tppsd"
FORMAT_VERSION = 1


def describe(model: TransformerTPP) -> dict[str, Any]:
    """What a checkpoint says of its model: plain values, so that it loads with `weights_only=True`."""
    return {"format_version": FORMAT_VERSION, "config": model.config, "statistics": model.statistics.to_dict()}


def save(model: TransformerTPP, path: str | Path) -> None:
    """Write a core checkpoint; an interrupted write leaves no half-written file behind."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        torch.save({CHECKPOINT_KEY: describe(model), "state_dict": model.state_dict()}, temporary)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def load(path: str | Path, device: torch.device | str = "cpu") -> TransformerTPP:
    """Read a model from a file written by `TransformerTPP.save` or by the Trainer, in evaluation mode.

    Raises:
        FileNotFoundError: no such file.
        ValueError: not a tppsd checkpoint, or one of a newer format.
    """
    from tppsd.models.transformer_tpp import TransformerTPP

    content = read_checkpoint(path)
    try:
        model = TransformerTPP(**content[CHECKPOINT_KEY]["config"])
        prefix = "model." if any(key.startswith("model.") for key in content["state_dict"]) else ""
        weights = {k[len(prefix) :]: v for k, v in content["state_dict"].items() if k.startswith(prefix)}
        model.to(weights["decoder.to_mixture.weight"].dtype).load_state_dict(weights)
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise ValueError(f"{path}: its weights do not fit its configuration ({_summary(error)})") from error
    return model.eval().to(device)


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """The content of a checkpoint file: `state_dict`, what `describe` said under CHECKPOINT_KEY, and what the Trainer
    added.

    Raises:
        FileNotFoundError, ValueError: as `load`.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: there is no such checkpoint file")
    try:
        content: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        format_version = content[CHECKPOINT_KEY]["format_version"]
    except Exception as error:  # whatever the unpickler met: the user needs one sentence
        raise ValueError(f"{path}: not a tppsd checkpoint ({_summary(error)})") from error
    if format_version > FORMAT_VERSION:
        raise ValueError(
            f"{path}: has checkpoint format {format_version}, this version reads up to {FORMAT_VERSION}; upgrade tppsd"
        )
    return content


def _summary(error: Exception) -> str:
    """Type and text of an error in one short line."""
    return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
