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
    for measure in (training.fit_seconds, training.bare_seconds):
        torch.manual_seed(0)
        modules.append(TargetTPP(data.num_marks, lr_scheduler=None, **SMALL))
        seconds = measure(modules[-1], data, 9)
        assert len(seconds) == 9 and min(seconds) > 0
    for one, other in zip(modules[0].parameters(), modules[1].parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-6)


def test_overhead_is_of_the_fastest_run_of_every_step() -> None:
    """A pause in one run of a step changes speeds, not the overhead."""
    result = training.Throughput(
        "thp", 60, fit=[[2.0, 9.0], [7.0, 3.0]], bare=[[1.0, 3.0], [8.0, 3.0]], memory=[None] * 2
    )
    assert result.overhead == pytest.approx(1 - (1 + 3) / (2 + 3))
    assert result.speeds(result.bare) == pytest.approx([15, 60 / 11])


def test_the_command_prints_a_line_per_encoder(capsys: pytest.CaptureFixture[str]) -> None:
    size = ["--num-layers", "1", "--num-steps", "2", "--repeats", "1"]
    throughput.main(["--data", "multivariate_hawkes", "--encoder", "thp", "rotary", *size])
    printed = capsys.readouterr().out
    assert "thp" in printed and "rotary" in printed and "overhead of fit" in printed
