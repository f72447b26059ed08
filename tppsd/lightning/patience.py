"""The end of a run: it stops after the learning rate has fallen, which begins when validation no longer improves."""

from __future__ import annotations

from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks.early_stopping import EarlyStopping, EarlyStoppingReason

from tppsd.lightning.schedule import stable_decay


class Patience(EarlyStopping):
    """Ends training when the monitored value no longer improves, and never before the learning rate has fallen.

    With a WarmupStableDecay, `patience` checks without improvement let the learning rate fall, and training ends when
    it has, whatever the checks on the way say. With another schedule they end training at once, which may cut a
    schedule that is planned for longer. A threshold (`stopping_threshold`, `divergence_threshold`) always ends it.

    A resumed run has the patience that it is given, not that of the run before.
    """

    _checked_at = 0  # steps of the schedule at the last check

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """End a run at once that goes on from where patience has ended it."""
        schedule = stable_decay(trainer)
        if schedule is not None and schedule.found is not None and schedule.has_decayed:
            trainer.should_stop = True

    def _run_early_stopping_check(self, trainer: Trainer) -> None:
        """Check as Lightning does; where patience is over, let the learning rate fall before training ends."""
        others_stop = trainer.should_stop
        self.stopping_reason = EarlyStoppingReason.NOT_STOPPED
        super()._run_early_stopping_check(trainer)
        schedule = stable_decay(trainer)
        if schedule is None or self.stopping_reason not in _OF_PATIENCE:
            return
        if self.stopping_reason == EarlyStoppingReason.PATIENCE_EXHAUSTED:
            schedule.begin_decay(interval=max(1, schedule.last_epoch - self._checked_at))
        trainer.should_stop = others_stop or schedule.has_decayed
        self.stopped_epoch = trainer.current_epoch if schedule.has_decayed else 0
        self._checked_at = schedule.last_epoch

    def state_dict(self) -> dict[str, Any]:
        """Return the state with the steps at the last check."""
        return super().state_dict() | {"checked_at": self._checked_at}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over all but the patience."""
        super().load_state_dict(state_dict | {"patience": self.patience})
        self._checked_at = state_dict.get("checked_at", 0)
        self.strict = False  # a run that was cut before a validation has no score yet when its epoch ends


_OF_PATIENCE = (EarlyStoppingReason.NOT_STOPPED, EarlyStoppingReason.PATIENCE_EXHAUSTED)
