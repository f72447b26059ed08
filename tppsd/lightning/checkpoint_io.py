"""Reading and writing of the Trainer's checkpoints: local files of plain values, with a digest of their content."""

from __future__ import annotations

from typing import Any

from lightning.fabric.plugins import TorchCheckpointIO
from lightning.pytorch import Trainer

from tppsd.models.checkpoint import DIGEST_KEY, digest, local_file, read_plain, write_checkpoint


class LocalCheckpointIO(TorchCheckpointIO):
    """Reads and writes checkpoints as local files of plain values, none of whose code is run.

    Lightning's own would fetch a URL and run the code that it finds there. A checkpoint is read with
    `weights_only=True`, whatever the caller says, and must have the digest that was stored with it. One that has
    weights which are not finite is refused: neither training nor scoring can go on from it.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        """Write a checkpoint and its digest; to a local path it appears only when all of it is on the disk."""
        if "://" in str(path):  # an fsspec URL, to which the user may well write
            super().save_checkpoint(checkpoint | {DIGEST_KEY: digest(checkpoint)}, path, storage_options)
        else:
            write_checkpoint(checkpoint, path)

    def load_checkpoint(
        self, path: Any, map_location: Any = None, weights_only: bool | None = None
    ) -> dict[str, Any]:  # on the CPU, as the base class reads it
        """Read a local checkpoint, on the CPU.

        Raises:
            FileNotFoundError: no such file.
            ValueError: a URL, a damaged file, or weights that are not finite.
        """
        content = read_plain(local_file(path))
        check_finite_weights(content.get("state_dict", {}), str(path))
        return content


def use_local_checkpoints(trainer: Trainer) -> None:
    """Let the Trainer use LocalCheckpointIO, unless the user has chosen another plugin.

    It is called before anything is restored.
    """
    if type(trainer.strategy.checkpoint_io) is TorchCheckpointIO:
        trainer.strategy.checkpoint_io = LocalCheckpointIO()


def check_finite_weights(weights: dict[str, Any], place: str) -> None:
    """Refuse weights that are not finite.

    Raises:
        ValueError: the sentence names `place` and the parameter.
    """
    for name, value in weights.items():
        if getattr(value, "is_floating_point", bool)() and not bool(value.isfinite().all()):
            raise ValueError(
                f"{place}: parameter {name} has values that are not finite, so that nothing can go on from it; "
                "choose an earlier checkpoint"
            )
