"""The last line of `tppsd fit`: why training stopped, what the model has learnt, and how to go on."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from pathlib import Path

from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import Callback, Timer
from lightning.pytorch.callbacks.early_stopping import EarlyStoppingReason

from tppsd.lightning.budget import TimeBudget
from tppsd.lightning.checkpoints import BestCheckpoint
from tppsd.lightning.hawkes_baseline import POISSON, RENEWAL
from tppsd.lightning.patience import Patience
from tppsd.lightning.runs import run_of
from tppsd.lightning.schedule import stable_decay


def last_line(trainer: Trainer, best: BestCheckpoint | None, baselines: Mapping[str, float], horizon: str) -> str:
    """Return the line.

    Args:
        trainer: after its run.
        best: the run's best checkpoint; None = the run keeps none.
        baselines: name -> NLL per event on the validation split, POISSON and RENEWAL first; empty where not known.
        horizon: what to propose to a forecast.
    """
    parts = [why_it_stopped(trainer)]
    path = None if best is None or not best.best_model_path else Path(best.best_model_path)
    if best is not None and path is not None:
        assert best.best_model_score is not None
        score = float(best.best_model_score)
        parts.append(f"best checkpoint: {path} ({best.monitor} = {score:.4f})")
        if best.monitor == "val/nll" and best.mode == "min" and baselines:
            parts.append(what_was_learnt(score, baselines))
    return "; ".join([*parts, *_how_to_go_on(trainer, path, horizon)])


def why_it_stopped(trainer: Trainer) -> str:
    """Say in a clause what ended training, and after how much of it."""
    after = f"training stopped after {trainer.current_epoch} epochs ({trainer.global_step:,} steps)"
    for callback in _callbacks(trainer):
        if isinstance(callback, TimeBudget) and callback.is_over:
            return f"{after}: its {callback.seconds:g} seconds were over"
        if isinstance(callback, Timer) and (left := callback.time_remaining()) is not None and left <= 0:
            return f"{after}: its time (max_time) was over"
    patience = _patience(trainer)
    if trainer.should_stop and patience is not None and (reason := _of_patience(trainer, patience)) is not None:
        return f"{after}: {reason}"
    if (limit := _limit_reached(trainer)) is not None:
        return f"{after}: {limit[0]} = {limit[1]} was reached"
    schedule = stable_decay(trainer)
    if schedule is not None and schedule.has_decayed:
        return f"{after}: the learning rate has fallen to its planned end"
    return f"{after}: a callback ended it"


def _limit_reached(trainer: Trainer) -> tuple[str, int] | None:
    """Return name and value of the planned end, where training has come to it."""
    if 0 <= trainer.max_steps <= trainer.global_step:
        return "max_steps", trainer.max_steps
    if trainer.max_epochs is not None and 0 <= trainer.max_epochs <= trainer.current_epoch:
        return "max_epochs", trainer.max_epochs
    return None


def _callbacks(trainer: Trainer) -> list[Callback]:
    callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]  # set by one of the Trainer's helpers
    return callbacks


def _patience(trainer: Trainer) -> Patience | None:
    return next((callback for callback in _callbacks(trainer) if isinstance(callback, Patience)), None)


def _of_patience(trainer: Trainer, patience: Patience) -> str | None:
    """Say why Patience ended training; None = it has not."""
    waited = f"{patience.monitor} had not improved in {patience.patience} validations"
    schedule = stable_decay(trainer)
    if schedule is not None and schedule.found is not None and schedule.has_decayed:
        return f"{waited}, and the learning rate has fallen to its end since"
    if schedule is None and patience.stopping_reason == EarlyStoppingReason.PATIENCE_EXHAUSTED:
        return waited
    if patience.stopping_reason in (EarlyStoppingReason.PATIENCE_EXHAUSTED, EarlyStoppingReason.NOT_STOPPED):
        return None
    return f"{patience.monitor} has passed a threshold"


def what_was_learnt(nll: float, baselines: Mapping[str, float]) -> str:
    """Say in words what a model with this NLL per event knows that the baselines do not.

    Args:
        nll: of the model.
        baselines: name -> NLL per event on the same events, POISSON and RENEWAL among them; others know the history.
    """
    gains = {name: score - nll for name, score in baselines.items()}
    with_history = {name: gain for name, gain in gains.items() if name not in (POISSON, RENEWAL)}
    if gains.get(POISSON, 0.0) <= 0:
        learnt = "it has learnt nothing that a constant rate does not say"
    elif gains.get(RENEWAL, 0.0) <= 0:
        learnt = "it has learnt how long the events wait for each other, but nothing of the history"
    elif any(gain <= 0 for gain in with_history.values()):
        learnt = "it has learnt something of the history, but not all that a classical model says of it"
    elif with_history:
        learnt = "it has learnt more of the history than a classical model says"
    else:
        learnt = "it has learnt something of the history"
    listed = [f"{abs(gain):.4f} {'better' if gain > 0 else 'worse'} than {name}" for name, gain in gains.items()]
    return f"{learnt} (nats per event on the validation split: {', '.join(listed)})"


def _how_to_go_on(trainer: Trainer, best: Path | None, horizon: str) -> list[str]:
    """Return the commands that come next, in clauses."""
    if best is None:
        return ["no checkpoint was kept"]
    if (run := run_of(best)) is None:
        return [f"next: `tppsd test` with the options of the data and --ckpt_path {shlex.quote(str(best))}"]
    word = shlex.quote(str(run))
    following = [f"next: `tppsd test --run {word}`, then `tppsd forecast --run {word} --horizon {horizon}`"]
    last, limit = run / "checkpoints" / "last.ckpt", _limit_reached(trainer)
    if limit is not None and last.is_file() and not _patience_is_over(trainer):
        paths = ["--config", str(run / "config.yaml"), "--ckpt_path", str(last)]
        resumed = f"tppsd fit {shlex.join(paths)} --trainer.{limit[0]} {2 * limit[1]}"
        following.append(f"it had not stopped improving, more may help: `{resumed}`")
    return following


def _patience_is_over(trainer: Trainer) -> bool:
    """Say whether validation had stopped improving."""
    schedule, patience = stable_decay(trainer), _patience(trainer)
    if schedule is not None:
        return schedule.found is not None
    return patience is not None and patience.wait_count > 0
