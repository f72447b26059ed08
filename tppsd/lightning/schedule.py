"""The default learning-rate schedule: warm up, then follow a cosine to the planned end of training."""

from __future__ import annotations

import math
from typing import Any

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler


class WarmupCosine(LRScheduler):
    """Warms up, then follows a cosine to the planned end of training.

    After s steps lr(s) = base lr * min(1, (s + 1) / S_w) * (f + (1 - f) (1 + cos(pi s / S)) / 2), constant from S on.
    The number of steps S is a plan for one call of `fit`, not a state: it is not stored in checkpoints, so a run that
    is resumed for more epochs follows the new plan.

    Args:
        optimizer: whose learning rates to set.
        warmup: share of S spent on warming up, S_w = max(1, warmup * S).
        final: factor f of the base learning rate at the end.
        total_steps: S; None = what the Trainer plans (TPPModule fills it in), without a plan no decay.
    """

    def __init__(
        self, optimizer: Optimizer, warmup: float = 0.05, final: float = 0.01, total_steps: int | None = None
    ) -> None:
        if not 0 <= warmup < 1:
            raise ValueError(f"warmup = {warmup} must lie in [0, 1): it is a share of all steps")
        self.warmup, self.final, self.total_steps = warmup, final, total_steps
        super().__init__(optimizer)

    def factor(self, step: int) -> float:
        """Return lr(step) / base lr."""
        if self.total_steps is None:
            return 1.0
        warmup = min(1.0, (step + 1) / max(1.0, self.warmup * self.total_steps))
        progress = min(1.0, step / max(1, self.total_steps))
        return warmup * (self.final + (1 - self.final) * (1 + math.cos(math.pi * progress)) / 2)

    def get_lr(self) -> list[Any]:
        """Return the learning rate of each parameter group."""
        return [base_lr * self.factor(self.last_epoch) for base_lr in self.base_lrs]

    def plan(self, total_steps: int) -> None:
        """Set S where the constructor left it open."""
        if self.total_steps is None:
            self.total_steps = total_steps
            for group, lr in zip(self.optimizer.param_groups, self.get_lr(), strict=True):
                group["lr"] = lr

    def state_dict(self) -> dict[str, Any]:
        """Return the state without the plan."""
        return {name: value for name, value in super().state_dict().items() if name != "total_steps"}
