"""`Tracking`: what the loggers of a run get beside its losses."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch.optim import Optimizer

from tppsd.lightning.artifacts import data_artifact, model_artifact, use, wandb_runs
from tppsd.lightning.checkpoints import best_checkpoint
from tppsd.lightning.datamodule import data_of


class Tracking(Callback):
    """Logs the learning rate, the norm of the gradient and the scores of the best epoch, and keeps artifacts in W&B.

    `train/learning_rate` and `train/gradient_norm` (before clipping) come with `train/nll`; `best/nll` and the other
    scores of the best epoch so far, by the run's own checkpoint, and `best/epoch` with every improvement. A W&B run
    uses an artifact of the data, which has numbers and a fingerprint of the events and none of them, and of the target
    that a draft is distilled from; its best checkpoint is an artifact that it has made.

    Args:
        artifacts: keep artifacts in W&B, which uploads the best checkpoint.
    """

    def __init__(self, artifacts: bool = True) -> None:
        self.artifacts = artifacts
        self.best: dict[str, float] = {}
        self._best_value = math.nan

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer) -> None:
        """Log learning rate and norm of the gradient, in the steps in which losses are logged."""
        every: int = trainer.log_every_n_steps  # type: ignore[attr-defined]  # set by one of the Trainer's helpers
        if every == 0 or (trainer.global_step + 1) % every:  # 0: nothing is logged within epochs
            return
        gradients = [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
        values = {"train/gradient_norm": torch.nn.utils.get_total_norm(gradients)}
        pl_module.log_dict(values | {"train/learning_rate": optimizer.param_groups[0]["lr"]}, batch_size=1)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log the scores of this epoch if it is the best so far."""
        checkpoint = best_checkpoint(trainer)
        if trainer.sanity_checking or checkpoint is None or checkpoint.monitor not in trainer.callback_metrics:
            return
        value = float(trainer.callback_metrics[checkpoint.monitor])
        is_better = value > self._best_value if checkpoint.mode == "max" else value < self._best_value
        if not (is_better or math.isnan(self._best_value)):
            return
        self._best_value = value
        scores = {n.removeprefix("val/"): float(v) for n, v in trainer.callback_metrics.items() if n.startswith("val/")}
        self.best = {f"best/{name}": score for name, score in {**scores, "epoch": trainer.current_epoch}.items()}
        for logger in trainer.loggers:
            logger.log_metrics(self.best, step=trainer.global_step)

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Keep the facts of the data, what was distilled from, and the best checkpoint as artifacts."""
        data, checkpoint = data_of(trainer), best_checkpoint(trainer)
        if not self.artifacts or data is None:
            return
        for run in wandb_runs(trainer):
            use(run, data_artifact(data))
            for target in _targets(pl_module):
                use(run, model_artifact(target, data.dataset_name))
            if checkpoint is not None and checkpoint.best_model_path:
                best = model_artifact(Path(checkpoint.best_model_path), data.dataset_name, self.best)
                run.log_artifact(best, aliases=["best"])

    def state_dict(self) -> dict[str, Any]:
        """Return the best scores so far, for a run that goes on."""
        return {"best": self.best, "value": self._best_value}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over the best scores of the run before."""
        self.best, self._best_value = dict(state_dict["best"]), state_dict["value"]


def _targets(module: LightningModule) -> list[Path]:
    """Return the checkpoints that a draft is distilled from."""
    distillation = getattr(module, "distillation", None)
    target = None if distillation is None else distillation.target
    if target is None:
        return []
    return [Path(one) for one in (target if isinstance(target, list | tuple) else [target])]
