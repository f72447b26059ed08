"""Lightning's learning-rate finder for modules whose optimiser is an argument of its own."""

from __future__ import annotations

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import LearningRateFinder
from lightning.pytorch.utilities import rank_zero_info


class FindLearningRate(LearningRateFinder):
    """Finds a learning rate by a short range test before training (Smith, WACV 2017).

    It trains some steps at ever larger learning rates, forgets them, and goes on with the rate at which the loss fell
    fastest, in the optimiser and as the base of its schedule. A run that is resumed keeps its rate.

    Args:
        min_lr, max_lr: the range.
        num_training_steps: on the way from one to the other.
    """

    def __init__(self, min_lr: float = 1e-5, max_lr: float = 0.1, num_training_steps: int = 100) -> None:
        super().__init__(min_lr, max_lr, num_training_steps, update_attr=False)

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Find a rate and set it, unless the run goes on from a checkpoint."""
        if trainer.ckpt_path is not None:
            return
        rank_zero_info(f"looking for a learning rate in {self._num_training_steps} steps")
        self.lr_find(trainer, pl_module)
        found = None if self.optimal_lr is None else self.optimal_lr.suggestion()
        if found is None:
            rank_zero_info("no learning rate stood out; the configured one stays")
            return
        rank_zero_info(f"learning rate: {found:.2g}")
        for optimizer in trainer.optimizers:
            for group in optimizer.param_groups:
                group["lr"] *= found / group.get("initial_lr", group["lr"])  # where the schedule has begun to warm up
                group["initial_lr"] = found
        for config in trainer.lr_scheduler_configs:
            if hasattr(config.scheduler, "base_lrs"):
                config.scheduler.base_lrs = [found] * len(config.scheduler.base_lrs)
