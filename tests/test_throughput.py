"""Training speed: both ways do the same steps on the same batches, and are counted rightly."""

from __future__ import annotations

import pytest
import torch
from lightning_helpers import SMALL, small_data

from tppsd import TargetTPP
from tppsd.commands import throughput
from tppsd.profiling import training


def test_both_ways_take_the_same_steps() -> None:
    """Three epochs and a bit of `fit` and of the bare loop end in the same weights."""
    data = small_data()
    modules = []
    for measure in (training.fit_speed, training.bare_speed):
        torch.manual_seed(0)
        modules.append(TargetTPP(data.num_marks, lr_scheduler=None, **SMALL))
        assert measure(modules[-1], data, 9) > 0
    for one, other in zip(modules[0].parameters(), modules[1].parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-6)


def test_overhead_is_of_pairs() -> None:
    assert training.Throughput("thp", [90.0, 50.0, 8.0], [100.0, 100.0, 10.0], [None] * 3).overhead == pytest.approx(0.2)


def test_the_command_prints_a_line_per_encoder(capsys: pytest.CaptureFixture[str]) -> None:
    size = ["--num-layers", "1", "--num-steps", "2", "--repeats", "1"]
    throughput.main(["--data", "multivariate_hawkes", "--encoder", "thp", "attnhp", *size])
    printed = capsys.readouterr().out
    assert "thp" in printed and "attnhp" in printed and "overhead of fit" in printed
