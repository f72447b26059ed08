"""Small data, models and trainers for the tests of tppsd.lightning."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any
from unittest.mock import patch

from lightning.pytorch import Trainer

from tppsd.cli import main
from tppsd.lightning.datamodule import EventDataModule
from tppsd.lightning.modules import TPPModule

SMALL: dict[str, Any] = {"embed_dim": 8, "num_heads": 2, "num_components": 4}


def small_data(
    batch_size: int = 4, process: str = "multivariate_hawkes", num_sequences: int = 20, t_end: float = 8.0
) -> EventDataModule:
    """16 / 2 / 2 short sequences, of two marks unless told otherwise."""
    return EventDataModule(process=process, num_sequences=num_sequences, t_end=t_end, batch_size=batch_size)


def trainer(**arguments: Any) -> Trainer:
    """A quiet Trainer on one CPU that writes nothing."""
    defaults: dict[str, Any] = {
        "max_epochs": 1,
        "accelerator": "cpu",
        "devices": 1,
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "num_sanity_val_steps": 0,
    }
    return Trainer(**(defaults | arguments))


def fitted(module: TPPModule, path: Path, data: EventDataModule | None = None, **arguments: Any) -> Path:
    """Train briefly and save a checkpoint at `path`."""
    run = trainer(**arguments)
    run.fit(module, datamodule=data or small_data())
    run.save_checkpoint(path)
    return path


def tppsd(*arguments: str | Path) -> int:
    """The exit status of `tppsd ARGUMENTS`, run in this process."""
    with patch.object(sys, "argv", ["tppsd", *map(str, arguments)]):
        return main()
