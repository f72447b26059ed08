"""The yardsticks on the progress bar: what models without a history score on the validation split."""

from __future__ import annotations

import math

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor

from tppsd.data.sequences import EventBatch
from tppsd.data.statistics import DataStatistics
from tppsd.metrics.functional.likelihood import model_nll
from tppsd.models.renewal import fit_renewal


def poisson_log_likelihood(batch: EventBatch, statistics: DataStatistics) -> Tensor:
    """N log rate - rate (t_end - t_start) + sum_i log f(k_i), per sequence (batch,), in nats, `window` convention.

    rate = num_events / duration of the training split; f(k) = (count_k + 1) / (num_events + num_marks), so that a mark that
    the training split lacks costs much, but not everything.
    """
    rate = statistics.num_events / statistics.duration
    counts = torch.tensor(statistics.mark_counts, dtype=torch.float64, device=batch.marks.device) + 1
    mark_log_probs = torch.where(batch.mask, (counts / counts.sum()).log()[batch.marks], 0.0)
    return batch.lengths.double() * math.log(rate) - rate * (batch.t_end - batch.t_start) + mark_log_probs.sum(1)


class RenewalBaseline(Callback):
    """Logs `val/nll_renewal`, the NLL per event (`window` convention) of the best renewal model, beside every `val/nll`: a model
    that does not get below it has learnt nothing of the history. It is fitted once, in about ten seconds, when `fit` starts.

    Args:
        num_steps: of its optimiser; 0 = no such baseline.
    """

    def __init__(self, num_steps: int = 300) -> None:
        self.num_steps = num_steps
        self._nll: float | None = None

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        data = getattr(trainer, "datamodule", None)
        if self._nll is None and self.num_steps > 0 and data is not None and data.sequences("validation"):
            rank_zero_info("fitting the best renewal model: what can be known without the history (val/nll_renewal)")
            renewal = fit_renewal(data.sequences("train"), data.statistics, self.num_steps)
            self._nll = model_nll(renewal, data.sequences("validation"))

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._nll is not None and not trainer.sanity_checking:
            # every rank has computed the same
            pl_module.log("val/nll_renewal", self._nll, prog_bar=True, rank_zero_only=True)
