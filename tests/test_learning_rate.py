"""The learning-rate finder changes the rate and nothing else."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from lightning_helpers import SMALL, small_data, trainer

from tppsd import TargetTPP
from tppsd.lightning.learning_rate import FindLearningRate


class Watch(FindLearningRate):
    """Keeps what it found, the weights before and after, and the rate of every step."""

    def on_fit_start(self, trainer, pl_module) -> None:
        before = [p.detach().clone() for p in pl_module.parameters()]
        super().on_fit_start(trainer, pl_module)
        self.is_restored = all(map(torch.equal, before, pl_module.parameters()))
        self.rates: list[float] = []

    def on_train_batch_start(self, trainer, pl_module, *_) -> None:
        self.rates.append(trainer.optimizers[0].param_groups[0]["lr"])


@pytest.mark.parametrize("has_schedule", [True, False])
def test_the_rate_that_is_found_is_the_one_trained_with(has_schedule: bool) -> None:
    data = small_data()
    torch.manual_seed(0)
    module = TargetTPP(data.num_marks, **SMALL, **({} if has_schedule else {"lr_scheduler": None}))
    watch = Watch(num_training_steps=30)
    run = trainer(max_epochs=20, callbacks=[watch])
    run.fit(module, datamodule=data)
    assert watch.optimal_lr is not None and watch.is_restored
    found = watch.optimal_lr.suggestion()
    assert 1e-5 < found < 0.1 and found != pytest.approx(2e-3)
    assert run.global_step == len(watch.rates) > 5
    if has_schedule:
        factor = run.lr_scheduler_configs[0].scheduler.factor
        assert watch.rates == pytest.approx([found * factor(step) for step in range(len(watch.rates))])
    else:
        assert watch.rates == pytest.approx([found] * len(watch.rates))


def test_a_resumed_run_keeps_its_rate(tmp_path: Path) -> None:
    data = small_data()
    module = TargetTPP(data.num_marks, **SMALL)
    run = trainer(max_epochs=1)
    run.fit(module, datamodule=data)
    run.save_checkpoint(tmp_path / "last.ckpt")
    watch = Watch()
    trainer(max_epochs=2, callbacks=[watch]).fit(
        TargetTPP(data.num_marks, **SMALL), datamodule=data, ckpt_path=tmp_path / "last.ckpt"
    )
    assert watch.optimal_lr is None and watch.rates
