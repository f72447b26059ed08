"""Components that are wider than all inter-times together: the penalty that narrows them, and that it is no part of the
NLL."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from lightning_helpers import SMALL, small_data, trainer
from torch import Tensor

from tppsd import TargetTPP
from tppsd.data.batch import EventBatch


def with_a_wide_component(**settings: Any) -> TargetTPP:
    """The last one has a weight of e^-9 or so, and 4.5 times the standard deviation of log tau."""
    torch.manual_seed(0)
    module = TargetTPP(2, lr_scheduler=None, optimizer=lambda p: torch.optim.Adam(p, lr=0.02), **(SMALL | settings))
    num, head = module.model.decoder.num_components, module.model.decoder.to_mixture
    with torch.no_grad():
        head.bias[num - 1], head.bias[3 * num - 1] = -9.0, 1.5
    return module


def log_stds(module: TargetTPP) -> Tensor:
    """Of every scored event of the training split, (num_events, num_components)."""
    data = small_data()
    data.setup("fit")
    batch = EventBatch.from_sequences(data.sequences("train"))
    with torch.no_grad():
        return module.model(batch)[..., :-1][batch.scored].inter_time.log_stds


def trained(penalty: float, steps: int = 60) -> TargetTPP:
    module = with_a_wide_component(width_penalty=penalty)
    trainer(max_steps=steps, max_epochs=-1).fit(module, datamodule=small_data(batch_size=16))
    return module


def test_a_component_without_weight_becomes_narrow_with_the_penalty_only() -> None:
    assert float(log_stds(trained(1.0))[:, -1].mean()) < 0.4
    assert float(log_stds(trained(0.0))[:, -1].mean()) > 1.0


def test_what_is_logged_is_the_mean_excess_and_the_nll_is_without_it() -> None:
    """One step on all of the split, from the same weights."""
    logged = {}
    for penalty in (0.0, 2.0):
        run = trainer(max_steps=1, log_every_n_steps=1)
        module = with_a_wide_component(width_penalty=penalty)
        expected = log_stds_before(module)
        run.fit(module, datamodule=small_data(batch_size=16))
        logged[penalty] = {name: float(value) for name, value in run.callback_metrics.items()}
    assert "train/width" not in logged[0.0]
    assert logged[2.0]["train/width"] == pytest.approx(float(expected.clamp_min(0).square().mean()), rel=1e-5)
    assert logged[2.0]["train/nll"] == logged[0.0]["train/nll"]


def test_it_is_on_unless_it_is_turned_off() -> None:
    run = trainer(max_steps=1, log_every_n_steps=1)
    run.fit(with_a_wide_component(), datamodule=small_data(batch_size=16))
    assert "train/width" in run.callback_metrics


def log_stds_before(module: TargetTPP) -> Tensor:
    data = small_data()
    data.setup("fit")
    module.model.set_statistics(data.statistics)
    return log_stds(module)


@pytest.mark.parametrize("penalty", [-1.0, math.nan])
def test_a_penalty_is_not_negative(penalty: float) -> None:
    with pytest.raises(ValueError, match=rf"width_penalty = {penalty} must be a number of at least 0"):
        TargetTPP(2, width_penalty=penalty, **SMALL)
