"""Less noise from the Trainer in commands that print their own account of what they do."""

from __future__ import annotations

import logging
import warnings


def quiet_lightning() -> None:
    """Hide the Trainer's notes on hardware, workers and deprecations; errors and our own messages stay."""
    for name in ("lightning.pytorch.utilities.rank_zero", "lightning.pytorch.accelerators.cuda", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    for topic in ("does not have many workers", "LeafSpec", "The number of training batches", "Checkpoint directory .* exists"):
        warnings.filterwarnings("ignore", message=f".*{topic}.*")
