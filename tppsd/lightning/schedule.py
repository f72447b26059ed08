"""Learning-rate schedules that end where training does: the default one, and a cosine for a planned length."""

from __future__ import annotations

import math
from abc import abstractmethod
from typing import Any

from lightning.pytorch import Trainer
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler


class PlannedSchedule(LRScheduler):
    """Is a schedule of a factor of the base learning rates, which may know how long training will be.

    The number of steps is a plan for one call of `fit`, not a state: it is not stored in checkpoints, so a run that is
    resumed for more epochs follows the new plan.

    Attributes:
        total_steps: steps of the plan, or None without one.
    """

    total_steps: int | None

    @abstractmethod
    def factor(self, step: int) -> float:
        """Return lr(step) / base lr."""

    def get_lr(self) -> list[Any]:
        """Return the learning rate of each parameter group."""
        return [base_lr * self.factor(self.last_epoch) for base_lr in self.base_lrs]

    def plan(self, total_steps: int) -> None:
        """Set the number of steps where the constructor left it open."""
        if self.total_steps is None:
            self.total_steps = total_steps
            for group, lr in zip(self.optimizer.param_groups, self.get_lr(), strict=True):
                group["lr"] = lr

    def state_dict(self) -> dict[str, Any]:
        """Return the state without the plan."""
        return {name: value for name, value in super().state_dict().items() if name != "total_steps"}


class WarmupCosine(PlannedSchedule):
    """Warms up, then follows a cosine to the planned end of training.

    After s steps lr(s) = base lr * min(1, (s + 1) / S_w) * (f + (1 - f) (1 + cos(pi s / S)) / 2), constant from S on.

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


class WarmupStableDecay(PlannedSchedule):
    """Warms up, keeps the learning rate, and lets it fall in a straight line at the end of training.

    The end is found, not planned: the fall begins when `begin_decay` is called, which `Patience` does when validation
    has stopped improving, and takes `decay` times the steps made before it (Hägele et al., NeurIPS 2024: a schedule
    without a length of its own is as good as a cosine of the right length). A plan of S steps only says when it begins
    at the latest, S / (1 + decay), so that it ends with the plan. After s steps

        lr(s) = base lr * min(1, (s + 1) / S_w) * max(f, 1 - (s - s_0) / D)

    with S_w = max(1, min(warmup, S / 10)), the fall beginning after s_0 steps and lasting D. s_0 and D, once found, are
    stored in checkpoints.

    Args:
        optimizer: whose learning rates to set.
        warmup: steps of the warm-up.
        decay: length of the fall, as a share of the steps made before it.
        final: factor f of the base learning rate at the end.
        total_steps: S; None = what the Trainer plans (TPPModule fills it in).
    """

    def __init__(
        self,
        optimizer: Optimizer,
        warmup: int = 50,
        decay: float = 0.3,
        final: float = 0.01,
        total_steps: int | None = None,
    ) -> None:
        if not warmup >= 0:
            raise ValueError(f"warmup = {warmup} must be a number of steps, at least 0")
        if not decay > 0:
            raise ValueError(f"decay = {decay} must be positive: it is a share of the steps made before it")
        self.warmup, self.decay, self.final, self.total_steps = warmup, decay, final, total_steps
        self.found: tuple[int, int] | None = None
        super().__init__(optimizer)

    @property
    def decay_steps(self) -> tuple[int, int] | None:
        """After how many steps the rate begins to fall, and after how many it has fallen; None = not known yet."""
        planned = None
        if self.total_steps is not None:
            planned = math.floor(self.total_steps / (1 + self.decay)), self.total_steps
        if self.found is None or planned is None:
            return self.found or planned
        begin, end = self.found
        return (begin, max(begin + 1, min(end, planned[1]))) if begin <= planned[0] else planned

    @property
    def is_decaying(self) -> bool:
        """The rate has begun to fall."""
        return self.decay_steps is not None and self.last_epoch >= self.decay_steps[0]

    @property
    def has_decayed(self) -> bool:
        """The rate has fallen: training is over."""
        return self.decay_steps is not None and self.last_epoch >= self.decay_steps[1]

    def begin_decay(self, interval: int = 1) -> None:
        """Let the rate fall from now on, unless it does already, over a multiple of `interval` steps."""
        if not self.is_decaying:
            length = interval * math.ceil(max(1, self.decay * self.last_epoch) / interval)
            self.found = self.last_epoch, self.last_epoch + length

    def factor(self, step: int) -> float:
        """Return lr(step) / base lr."""
        longest = self.warmup if self.total_steps is None else min(self.warmup, self.total_steps / 10)
        warmup = min(1.0, (step + 1) / max(1.0, longest))
        if self.decay_steps is None:
            return warmup
        begin, end = self.decay_steps
        return warmup * max(self.final, min(1.0, 1 - (step - begin) / max(1, end - begin)))


def stable_decay(trainer: Trainer) -> WarmupStableDecay | None:
    """Return the WarmupStableDecay of a run, if that is its schedule."""
    schedules = (config.scheduler for config in trainer.lr_scheduler_configs)
    return next((schedule for schedule in schedules if isinstance(schedule, WarmupStableDecay)), None)
