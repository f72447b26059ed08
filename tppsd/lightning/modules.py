"""LightningModules that train a TransformerTPP by maximum likelihood: `TargetTPP` and `DraftTPP`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import torch
from lightning.pytorch import Trainer
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor
from torchmetrics import MeanMetric, Metric

from tppsd.backends.compile import check_compilable
from tppsd.data.batch import EventBatch
from tppsd.lightning.baseline import poisson_log_likelihood
from tppsd.lightning.distillation import Distillation
from tppsd.lightning.forecasts import ForecastMetrics
from tppsd.lightning.run_module import RunModule
from tppsd.lightning.schedule import WarmupStableDecay
from tppsd.lightning.size import ModelSize, draft_size, target_size
from tppsd.lightning.step_means import StepMeans
from tppsd.metrics.likelihood import NegativeLogLikelihood
from tppsd.models.distribution import NextEventDistribution
from tppsd.models.likelihood import Convention, likelihood_parts, scored_events
from tppsd.models.transformer_tpp import TransformerTPP
from tppsd.sampling.options import SamplingOptions

CONVENTIONS: tuple[Convention, ...] = ("window", "benchmark")
OVERLAPS = ("kl", "step_acceptance")  # per context, of a draft with its target


class TPPModule(RunModule):
    """Holds a TransformerTPP (`model`), its loss, its metrics and its optimiser.

    Every logged NLL is in nats per event; `nll_time` contains the survival term, so nll = nll_time + nll_mark.
    `val/nll` is of the `window` convention, as is `val/nll_poisson`, the NLL of a history-free Poisson process.
    Testing also logs `ForecastMetrics`.

    Args:
        num_marks: number of marks; 1 = unmarked. On the command line it comes from the data.
        encoder: "thp", "sahp", "attnhp" or "rotary", which stands longer windows than it was trained on.
        embed_dim: width D of the token stream; None = by num_events, 64 where that is not known.
        num_heads: attention heads per layer; divides embed_dim.
        num_layers: number of layers; None = 1 for a draft, for a target by num_events, 2 where that is not known.
        num_components: log-normal components M of the mixture.
        mark_decoder: "time_conditional" (k given the history and tau) or "independent" (k given the history).
        dropout: dropout rate in the encoder while training; None = by num_events, 0 where that is not known.
        feedforward_dim: width of the feed-forward layers (AttNHP has none); None = 4 * embed_dim.
        max_context: how many tokens each token attends to in every layer, itself included; None = all.
        num_events: how many events with a likelihood term the target learns from; what is None above follows from it
            (`ModelSize`). On the command line it comes from the data.
        optimizer: builds the optimiser from the parameters.
        lr_scheduler: builds the scheduler from the optimiser; None = constant learning rates.
        lr_interval: the scheduler advances once per "step" or once per "epoch".
        distillation: a frozen target to agree with, or to measure acceptance against; None = likelihood alone.
        width_penalty: weight in the loss of the mean over scored events and components of (log sigma)_+^2, sigma the
            standard deviation of a component of log tau in units of the training split's own. What is wider than all
            inter-times together costs no likelihood while its weight is tiny, and then decides means and rare samples.
            It costs no likelihood either (docs/results/defaults.md). 0 = none; a loss of distillation has none.
        compile: train with torch.compile, for GPUs. The first step takes a minute; on a CPU it was measured to gain
            nothing.
    """

    size_for: Callable[[int | None], ModelSize]  # what a size is that is not given, by the number of training events

    def __init__(
        self,
        num_marks: int,
        encoder: Literal["thp", "sahp", "attnhp", "rotary"] = "rotary",
        embed_dim: int | None = None,
        num_heads: int = 4,
        num_layers: int | None = None,
        num_components: int = 64,
        mark_decoder: Literal["time_conditional", "independent"] = "time_conditional",
        dropout: float | None = None,
        feedforward_dim: int | None = None,
        max_context: int | None = None,
        num_events: int | None = None,
        optimizer: OptimizerCallable = lambda params: torch.optim.AdamW(params, lr=2e-3, weight_decay=0.01),
        lr_scheduler: LRSchedulerCallable | None = WarmupStableDecay,
        lr_interval: Literal["step", "epoch"] = "step",
        distillation: Distillation | None = None,
        width_penalty: float = 1e-3,
        compile: bool = False,
    ) -> None:
        super().__init__(optimizer, lr_scheduler, lr_interval, distillation, compile)
        size = self.size_for(num_events)
        embed_dim = size.embed_dim if embed_dim is None else embed_dim
        num_layers = size.num_layers if num_layers is None else num_layers
        dropout = size.dropout if dropout is None else dropout
        self.save_hyperparameters(
            ignore=["num_events", "optimizer", "lr_scheduler", "distillation", "width_penalty", "compile"]
        )  # what is left is plain values, those of the size as well
        self.model = TransformerTPP(
            num_marks,
            encoder,
            embed_dim,
            num_heads,
            num_layers,
            num_components,
            mark_decoder,
            dropout,
            feedforward_dim,
            max_context,
        )
        names = ["val/nll", "val/nll_time", "val/nll_mark", "val/nll_poisson", "test/nll_poisson"]
        names += [f"test/{name}_{convention}" for convention in CONVENTIONS for name in ("nll", "nll_time", "nll_mark")]
        self.metrics = torch.nn.ModuleDict({name: NegativeLogLikelihood() for name in names})
        if not width_penalty >= 0:
            raise ValueError(f"width_penalty = {width_penalty} must be a number of at least 0")
        self.width_penalty = width_penalty
        if distillation is not None:
            means = {
                f"{stage}/{name}": MeanMetric().set_dtype(torch.float64)
                for stage in ("val", "test")
                for name in OVERLAPS
            }
            self.metrics.update(means)
        self.forecasts = ForecastMetrics(num_marks)

    def forward(self, batch: EventBatch) -> NextEventDistribution:
        """Return distributions of batch shape (batch, length + 1): after the start token and after each event."""
        distribution: NextEventDistribution = self.model(batch)
        return distribution

    def on_train_start(self) -> None:
        """Begin the means that are logged."""
        super().on_train_start()
        self._step_means = StepMeans(self.trainer.log_every_n_steps)  # type: ignore[attr-defined]

    def training_step(self, batch: EventBatch, batch_idx: int) -> Tensor:
        """Return the NLL per event, or what a Distillation makes of it."""
        distribution, distillation = self.model(batch), self.distillation
        time, mark, survival = likelihood_parts(distribution, batch, self.model.statistics.min_inter_time)
        nll = self._mean_over_processes("train/nll", -(time + mark + survival).sum(), batch.num_scored.sum())
        if distillation is None or not distillation.is_trained_for:
            return nll + self._width_term(distribution, batch)
        kl, acceptance = distillation.overlap(distribution, batch, step=self.global_step + 1)
        num_contexts = batch.num_scored.sum() + len(batch.mask)  # of each sequence, one more than events are scored
        mean_kl = self._mean_over_processes("train/kl", kl.sum(), num_contexts)
        mean_acceptance = self._mean_over_processes("train/step_acceptance", acceptance.sum(), num_contexts)
        return (
            distillation.nll_weight * nll + distillation.kl_weight * mean_kl - distillation.tv_weight * mean_acceptance
        )

    def _width_term(self, distribution: NextEventDistribution, batch: EventBatch) -> Tensor | float:
        """Return width_penalty * mean over scored events and components of (log sigma)_+^2."""
        if self.width_penalty == 0:
            return 0.0
        log_stds = distribution.inter_time.log_stds[..., :-1, :]  # in units of the training split's own
        excess = torch.where(batch.scored, torch.relu(log_stds).square().mean(-1), 0.0)
        return self.width_penalty * self._mean_over_processes("train/width", excess.sum(), batch.num_scored.sum())

    def _mean_over_processes(self, name: str, total: Tensor, count: Tensor) -> Tensor:
        """Log a mean over processes, and return this process's part of it.

        What is logged is the StepMeans of sum of `total` over processes / sum of `count`. What is returned is this
        process's total * number of processes / sum of `count`: its mean over processes is that quotient, so that DDP's
        mean of gradients is its gradient.
        """
        totals = torch.stack([total.detach().double(), count.double()])
        totals = self.trainer.strategy.reduce(totals, reduce_op="sum")
        if (mean := self._step_means.add(name, totals, self.global_step)) is not None:
            self.log(name, mean, prog_bar=True, batch_size=1)
        return total * self.trainer.world_size / totals[1].clamp_min(1).to(total.dtype)

    def validation_step(self, batch: EventBatch, batch_idx: int) -> None:
        """Add a batch to the metrics of validation."""
        distribution = self.model(batch)
        self._score(distribution, batch, "window", "val", "")
        self._score_overlap(distribution, batch, "val")

    def test_step(self, batch: EventBatch, batch_idx: int) -> None:
        """Add a batch to the metrics of a test, in both conventions."""
        distribution = self.model(batch)
        for convention in CONVENTIONS:
            self._score(distribution, batch, convention, "test", f"_{convention}")
        self._score_overlap(distribution, batch, "test")
        statistics = self.model.statistics
        self.forecasts.update(distribution, batch, statistics.min_inter_time, statistics.horizon)

    def on_test_epoch_end(self) -> None:
        """Log the scores of forecasts."""
        # equal on all ranks already; without sync_dist, Lightning warns
        horizon = torch.tensor(self.model.statistics.horizon, dtype=torch.float64)
        scores = self.forecasts.compute() | {"horizon": horizon}
        self.log_dict({f"test/{name}": value for name, value in scores.items()}, sync_dist=True)
        if (share := float(scores["mean_unusable"])) > 0:
            rank_zero_warn(
                f"the mean of the next inter-time is not usable for {share:.1%} of the events: more than half of it "
                f"lies beyond {float(horizon):.4g}, where the data end; take the median or quantiles. rmse_mean and "
                "crps are capped there"
            )
        self.forecasts.reset()

    def _score(
        self, distribution: NextEventDistribution, batch: EventBatch, convention: Convention, stage: str, suffix: str
    ) -> None:
        time, mark, survival = likelihood_parts(distribution, batch, self.model.statistics.min_inter_time, convention)
        num_events = scored_events(batch, convention).sum(1)
        self._update(f"{stage}/nll{suffix}", time + survival + mark, num_events, prog_bar=True)
        self._update(f"{stage}/nll_time{suffix}", time + survival, num_events)
        self._update(f"{stage}/nll_mark{suffix}", mark, num_events)
        if convention == "window":
            poisson = poisson_log_likelihood(batch, self.model.statistics)
            self._update(f"{stage}/nll_poisson", poisson, num_events, prog_bar=True)

    def _score_overlap(self, distribution: NextEventDistribution, batch: EventBatch, stage: str) -> None:
        if self.distillation is not None:
            overlap = self.distillation.overlap(distribution, batch, step=0)
            for name, values in zip(OVERLAPS, overlap, strict=True):
                self._update(f"{stage}/{name}", values)

    def _update(self, name: str, *values: Tensor, prog_bar: bool = False) -> None:
        """Add values to a metric, and let Lightning log it when the epoch ends."""
        metric = self.metrics[name]
        assert isinstance(metric, Metric)
        metric.update(*values)
        self.log(name, metric, on_step=False, on_epoch=True, prog_bar=prog_bar, batch_size=1)


def check_sampling(trainer: Trainer, target: Any, options: SamplingOptions) -> None:
    """Refuse a target of which the trainer will make one that cannot have passes as the options say.

    Raises:
        ValueError: the sentence says why.
    """
    if options.compile is not True and options.dtype is None:
        return
    wanted = "compile = True" if options.compile is True else f"dtype = {options.dtype!r}"
    if trainer.precision == "64-true":
        raise ValueError(f"precision = 64-true makes float64 weights; {wanted} is for float32 ones")
    check_compilable(target, wanted, trainer.strategy.root_device)


class TargetTPP(TPPModule):
    """Trains the model to sample from; arguments are those of TPPModule."""

    role = "target"
    size_for = staticmethod(target_size)


class DraftTPP(TPPModule):
    """Trains the small model that proposes events; arguments are those of TPPModule."""

    role = "draft"
    size_for = staticmethod(draft_size)
