"""The default schedule and its patience: training ends when the learning rate has fallen, never before."""

from __future__ import annotations

import math
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback
from lightning.pytorch.callbacks import Checkpoint, EarlyStopping
from lightning_helpers import SMALL, small_data, trainer

from tppsd import TargetTPP
from tppsd.lightning.patience import Patience
from tppsd.lightning.schedule import WarmupCosine, WarmupStableDecay, stable_decay

STEPS = 4  # per epoch of the small data


def schedule(**options: Any) -> WarmupStableDecay:
    return WarmupStableDecay(torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=2.0), **options)


def rates(of: WarmupStableDecay, num_steps: int) -> list[float]:
    """The learning rates of the next so many steps."""
    found = []
    for _ in range(num_steps):
        found.append(of.optimizer.param_groups[0]["lr"])
        of.optimizer.step()
        of.step()
    return found


@pytest.mark.parametrize(("begin", "interval", "end"), [(100, 1, 130), (101, 1, 132), (100, 25, 150), (3, 1, 4)])
def test_the_rate_is_constant_until_it_is_let_fall_and_falls_in_a_straight_line(
    begin: int, interval: int, end: int
) -> None:
    """Warm-up, then base, then a line to `final`, over a multiple of the interval of at least 0.3 of the steps made."""
    of = schedule(warmup=2, total_steps=None)
    assert rates(of, begin) == [1.0] + [2.0] * (begin - 1)
    assert not of.is_decaying
    of.begin_decay(interval)
    assert of.decay_steps == (begin, end) and of.is_decaying
    falling = rates(of, end - begin)
    assert of.has_decayed and falling[0] == 2.0 and all(a > b for a, b in pairwise(falling))
    drops = [a - b for a, b in pairwise(falling)]
    assert all(drop == pytest.approx(2.0 / (end - begin)) for drop in drops)
    assert rates(of, 2) == [pytest.approx(0.02)] * 2


@pytest.mark.parametrize("total", [13, 130, 1000])
def test_a_plan_says_when_it_begins_at_the_latest(total: int) -> None:
    of = schedule(total_steps=total)
    values = rates(of, total)
    fallen = sum(value < 2.0 for value in values[total // 2 :])
    assert fallen == pytest.approx(total * 0.3 / 1.3, abs=2) and of.has_decayed
    assert values[-1] == pytest.approx(2.0 * max(0.01, 1 / math.ceil(total * 0.3 / 1.3)), rel=0.1)


def test_what_is_found_is_a_state_and_the_plan_is_none() -> None:
    of = schedule(total_steps=1000)
    rates(of, 60)
    of.begin_decay()
    state = of.state_dict()
    assert "total_steps" not in state
    other = schedule(total_steps=500)
    other.load_state_dict(state)
    assert other.decay_steps == of.decay_steps == (60, 78) and other.total_steps == 500
    of.begin_decay()
    rates(of, 5)
    of.begin_decay()
    assert of.decay_steps == (60, 78), "it has begun already"


class Worse(Callback):
    """Makes `val/nll` what a test says, epoch by epoch."""

    def __init__(self, values: list[float]) -> None:
        self.values = values

    def on_validation_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        pl_module.log("val/score", self.values[trainer.current_epoch])


class Watch(Callback):
    """Notes the learning rate of each step."""

    def __init__(self) -> None:
        self.rates: list[float] = []

    def on_train_batch_start(self, trainer: Any, *_: Any) -> None:
        self.rates.append(trainer.optimizers[0].param_groups[0]["lr"])


def fit(values: list[float], stopping: EarlyStopping, **arguments: Any) -> tuple[Any, Watch]:
    """Train with these scores; returns the Trainer and the learning rates."""
    torch.manual_seed(0)
    watch = Watch()
    options: dict[str, Any] = {"max_epochs": len(values), "callbacks": [Worse(values), stopping, watch]}
    run = trainer(**(options | arguments))
    run.fit(TargetTPP(2, **SMALL), datamodule=small_data())
    return run, watch


def is_cut(run: Any) -> bool:
    """Has training ended while the learning rate was still on its way?"""
    of = stable_decay(run)
    assert of is not None
    return not of.has_decayed


SCORES = {
    "worse from the start": [1.0] * 40,
    "better while it falls": [1.0, 0.5, *[0.9] * 6, 0.4, 0.3, 0.2, *[0.1] * 29],
    "better to the end": [1.0 / (1 + i) for i in range(12)],
    "patience ends with the plan": [1.0, 0.5, 0.4, *[0.9] * 5],
    "a plan of two epochs": [1.0, 0.9],
}


@pytest.mark.parametrize("scores", SCORES.values(), ids=SCORES)
def test_training_is_never_stopped_before_the_decay_has_ended(scores: list[float]) -> None:
    run, watch = fit(scores, Patience("val/score", patience=4))
    assert not is_cut(run)
    assert watch.rates[-1] < 0.51 * max(watch.rates)
    of = stable_decay(run)
    assert of is not None and run.global_step == of.decay_steps[1], "and not after it"  # type: ignore[index]
    assert run.global_step % STEPS == 0, "the last step is validated"


def test_which_plain_early_stopping_does() -> None:
    """The mutant: Lightning's own class on the same schedule."""
    run, watch = fit(SCORES["worse from the start"], EarlyStopping("val/score", patience=4))
    assert is_cut(run) and watch.rates[-1] == max(watch.rates)


def test_patience_finds_where_the_decay_begins() -> None:
    run, _ = fit([1.0, 0.5, 0.4, *[0.9] * 40], Patience("val/score", patience=4))
    of = stable_decay(run)
    assert of is not None and of.found == (7 * STEPS, 10 * STEPS), "3 + 4 epochs, then 0.3 * 7, rounded up to epochs"
    assert run.current_epoch == 10 and run.should_stop


def test_thresholds_and_other_schedules_end_training_at_once() -> None:
    run, _ = fit([1.0, 0.5, *[0.1] * 20], Patience("val/score", patience=4, stopping_threshold=0.2))
    assert run.current_epoch == 3 and is_cut(run)
    cosine = trainer(max_epochs=20, callbacks=[Worse([1.0] * 20), Patience("val/score", patience=4)])
    cosine.fit(TargetTPP(2, lr_scheduler=WarmupCosine, **SMALL), datamodule=small_data())
    assert cosine.current_epoch == 5


class SaveAt(Checkpoint):
    """Saves a checkpoint after an epoch; as a Checkpoint it comes after Patience, like those of a run."""

    def __init__(self, path: Path, epoch: int) -> None:
        self.path, self.epoch = path, epoch

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        if trainer.current_epoch == self.epoch:
            trainer.save_checkpoint(self.path)


@pytest.mark.parametrize("epoch", [1, 5, 6, 7], ids=["before", "where it begins", "while it falls", "after it"])
def test_a_resumed_run_is_the_unbroken_one(epoch: int, tmp_path: Path) -> None:
    scores, file = [1.0] * 40, tmp_path / "epoch.ckpt"

    def run(path: Path | None, saving: Checkpoint) -> tuple[Any, dict[str, torch.Tensor]]:
        torch.manual_seed(0 if path is None else 1)
        module = TargetTPP(2, dropout=0.1, **SMALL)
        callbacks = [Worse(scores), Patience("val/score", patience=5), saving]
        run = trainer(max_epochs=40, enable_checkpointing=True, callbacks=callbacks)
        run.fit(module, datamodule=small_data(), ckpt_path=path, weights_only=True)
        return run, {name: value.detach().clone() for name, value in module.named_parameters()}

    whole, expected = run(None, SaveAt(file, epoch))
    resumed, weights = run(file, SaveAt(tmp_path / "other.ckpt", epoch))
    assert resumed.global_step == whole.global_step == 8 * STEPS
    assert all(torch.equal(weights[name], value) for name, value in expected.items())
