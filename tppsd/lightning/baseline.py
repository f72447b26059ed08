"""The baselines on the progress bar: what models without a history score on the validation split."""

from __future__ import annotations

import math
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor

from tppsd.data.batch import EventBatch
from tppsd.data.statistics import DataStatistics
from tppsd.lightning.datamodule import EventDataModule, data_of
from tppsd.lightning.hawkes_baseline import HAWKES, POISSON, RENEWAL, compare, describe_hawkes, score_hawkes
from tppsd.metrics.functional import history_share, model_nll, process_nll
from tppsd.models.renewal import NUM_STEPS, fit_renewal
from tppsd.progress import progress
from tppsd.sampling.checks import whole_number
from tppsd.sampling.drafters.poisson import training_rate


def poisson_log_likelihood(batch: EventBatch, statistics: DataStatistics) -> Tensor:
    """Return the log-likelihood of each sequence under a Poisson process, (batch,), in nats, `window` convention.

    It is N log rate - rate (t_end - scored_from) + sum_i log f(k_i) over the N scored events i, with rate = num_events
    / duration of the training split and f(k) = (count_k + 1) / (num_events + num_marks), so that a mark that the
    training split lacks costs much, but not everything.
    """
    rate = training_rate(statistics)
    counts = torch.tensor(statistics.mark_counts, dtype=torch.float64, device=batch.marks.device) + 1
    mark_log_probs = torch.where(batch.scored, (counts / counts.sum()).log()[batch.marks], 0.0)
    times = batch.num_scored.double() * math.log(rate) - rate * (batch.t_end - batch.scored_from)
    return times + mark_log_probs.sum(1)


class RenewalBaseline(Callback):
    """Logs what the best models without a learnt history score, beside the scores of the model in training.

    It logs `val/nll_renewal`, the NLL per event (`window` convention) of the best renewal model, beside every
    `val/nll`: a model that does not get below it has learnt nothing of the history. It is fitted once, in about ten
    seconds, when `fit` starts.

    `test` logs `test/nll_renewal`, `test/nll_hawkes` of a Hawkes process fitted to the training split and, of simulated
    data, `test/nll_true` of the process itself and `test/history_share`, and says which of them the model beats.

    Args:
        num_steps: steps of the renewal model's optimiser; 0 = no such baselines.
    """

    def __init__(self, num_steps: int = NUM_STEPS) -> None:
        self.num_steps = whole_number("num_steps", num_steps, 0)
        self._nll: float | None = None

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Fit the renewal model and score it on the validation split, where there is one."""
        data = data_of(trainer)
        if self._nll is None and self.num_steps > 0 and data is not None and data.sequences("validation"):
            self._nll = self._score(trainer, data, "validation")

    def _score(self, trainer: Trainer, data: EventDataModule, split: str) -> float:
        """Fit the renewal model to the training split and return its NLL per event on a split."""
        rank_zero_info("fitting the best renewal model: what can be known without the history (nll_renewal)")
        is_shown = trainer.is_global_zero and trainer.progress_bar_callback is not None
        train = data.sequences("train")
        validation = data.dataset.splits.get("validation", ())  # which testing can do without
        # testing has switched gradients off
        with (
            torch.inference_mode(False),
            torch.enable_grad(),
            progress(None, "fitting", self.num_steps, is_shown) as advance,
        ):
            renewal = fit_renewal(train, data.statistics, self.num_steps, validation=validation, advance=advance)
        return model_nll(renewal, data.sequences(split))

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log the renewal model's score."""
        if self._nll is not None and not trainer.sanity_checking:
            # every rank has computed the same
            pl_module.log("val/nll_renewal", self._nll, prog_bar=True, rank_zero_only=True)

    def validation_scores(self, trainer: Trainer) -> dict[str, float]:
        """Return the NLL per event of all baselines on the validation split, by their names in a sentence.

        It is for the end of `fit`, and fits a Hawkes process. Without baselines, or where nothing was validated, it is
        empty.
        """
        data, poisson = data_of(trainer), trainer.callback_metrics.get("val/nll_poisson")
        if self._nll is None or poisson is None or data is None:
            return {}
        scores = {POISSON: float(poisson), RENEWAL: self._nll}
        rank_zero_info("fitting a Hawkes process, to see what a classical model makes of the history")
        hawkes = score_hawkes(data.sequences("train"), data.sequences("validation"), data.statistics)
        return scores if hawkes is None else scores | {HAWKES: hawkes.nll}

    def on_test_epoch_end(self, trainer: Trainer, pl_module: Any) -> None:
        """Log the scores of all baselines, and say which of them the model beats."""
        data = data_of(trainer)
        if self.num_steps == 0 or data is None:
            return
        scores = {"test/nll_renewal": self._score(trainer, data, "test")}
        nll, poisson = (float(pl_module.metrics[f"test/{name}"].compute()) for name in ("nll_window", "nll_poisson"))
        rank_zero_info("fitting a Hawkes process (nll_hawkes)")
        with torch.inference_mode(False):
            hawkes = score_hawkes(data.sequences("train"), data.sequences("test"), data.statistics)
        named = {POISSON: poisson, RENEWAL: scores["test/nll_renewal"]}
        if hawkes is not None:
            scores["test/nll_hawkes"] = hawkes.nll
            named[describe_hawkes(hawkes)] = hawkes.nll
        rank_zero_info(compare(nll, named))
        if data.process_object is not None:
            scores["test/nll_true"] = process_nll(data.process_object, data.sequences("test"))
            scores["test/history_share"] = history_share(nll, scores["test/nll_renewal"], scores["test/nll_true"])
        pl_module.log_dict(scores, rank_zero_only=True)  # every rank has computed the same
