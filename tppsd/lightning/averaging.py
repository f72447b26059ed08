"""Averages of the weights over the last part of training, which are validated, kept and tested."""

from __future__ import annotations

import math

import torch
from lightning.pytorch.callbacks import WeightAveraging
from torch import Tensor


class AveragedWeights(WeightAveraging):
    """Averages the weights over a share of all steps so far, so that there is no number of steps to choose.

    After t steps the average is a + (theta - a) (g + 1) / (t + g): an average in which the weights of step s count as
    s^g, most of it the last 1 / (g + 1) of the steps (polynomial decay averaging, Shamir and Zhang, ICML 2013). What is
    validated, kept as the best checkpoint and tested is the average; training goes on with the weights themselves, and
    a checkpoint holds both.

    Args:
        power: g; larger averages forget sooner. None = no averages: on the command line the callback is left out.
    """

    def __init__(self, power: float | None = 16.0) -> None:
        if power is not None and not 0 <= power < math.inf:
            raise ValueError(f"power = {power} must be a number of at least 0, where all steps count alike, or null")
        self.power = power
        super().__init__(use_buffers=False, multi_avg_fn=self._average)  # the model's buffers are constants

    def _average(self, averages: list[Tensor], weights: list[Tensor], num_averaged: Tensor | int) -> None:
        """Move the averages towards the weights, in place; the first step is copied before."""
        assert self.power is not None
        share = (self.power + 1) / (float(num_averaged) + 1 + self.power)
        torch._foreach_lerp_(averages, weights, share)
