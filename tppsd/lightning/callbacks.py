"""`SpeculativeSampling`: measures how fast and how faithful sampling is, while a model trains."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor

from tppsd.backends.compile import check_finite
from tppsd.data.sequences import EventSequence
from tppsd.lightning.artifacts import samples_artifact, wandb_runs
from tppsd.lightning.datamodule import data_of
from tppsd.lightning.loggers import log_figure, log_table
from tppsd.lightning.modules import DraftTPP, check_sampling
from tppsd.lightning.requests import median_window
from tppsd.metrics.calibration import TimeRescalingKS
from tppsd.metrics.functional import (
    SequenceResiduals,
    ks_exponential,
    model_residuals,
)
from tppsd.models.checkpoint import load
from tppsd.models.transformer_tpp import TransformerTPP
from tppsd.sampling.method import check_fit
from tppsd.sampling.options import DRAFTER_NAMES, SamplingOptions
from tppsd.sampling.results import SampledSequences
from tppsd.sampling.sample import sample
from tppsd.sampling.stats import SamplingStats


class SpeculativeSampling(Callback):
    """Samples from scratch at the end of validation, autoregressively and speculatively, and logs what came of it.

    Logs sampling/{speedup, acceptance_rate, step_acceptance, events_per_second, events_per_round},
    fidelity/{model_ks, model_p_value} and, where the process is known, fidelity/true_process_ks. W&B and TensorBoard
    also get pictures (fidelity/ks_plot, sampling/raster, sampling/accepted_histogram) and the table
    sampling/accepted_counts, and W&B the samples as an artifact. Every rank samples its share of the indices. Training
    is not disturbed: nothing here reads or advances the global random state, and the model that is not in training
    lives outside the module.

    Args:
        target: checkpoint of the target, when a draft is trained.
        draft: checkpoint of the draft, when a target is trained, or the name of a drafter that needs none ("self",
            "poisson").
        every_n_epochs: validate speed and fidelity in every n-th epoch.
        num_sequences: how many over all ranks; a p-value wants at least 1,000 events in all.
        horizon: length of the windows; None = the median of the training split's, unless num_events is given.
        num_events: number of events per sequence, whichever comes first.
        options: of speculative sampling.
        seed: of the sampling noise, the same in every epoch.
    """

    def __init__(
        self,
        target: str | Path | None = None,
        draft: str | Path | None = None,
        every_n_epochs: int = 5,
        num_sequences: int = 16,
        horizon: float | None = None,
        num_events: int | None = None,
        options: SamplingOptions | None = None,
        seed: int = 0,
    ) -> None:
        if target is not None and draft is not None:
            raise ValueError("give one of target and draft: the checkpoint of the model that is not in training")
        if every_n_epochs < 1 or num_sequences < 1:
            raise ValueError(
                f"every_n_epochs = {every_n_epochs} and num_sequences = {num_sequences} must be at least 1"
            )
        self.target, self.draft = target, draft
        self.every_n_epochs, self.num_sequences, self.seed = every_n_epochs, num_sequences, seed
        self.horizon, self.num_events = horizon, num_events
        self.options = (options or SamplingOptions()).with_overrides(method="speculative")
        self.other: TransformerTPP | str | None = None

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Load the other model, outside the module in training."""
        wanted = self.draft or "self" if self.target is None else self.target
        if isinstance(pl_module, DraftTPP) != (self.target is not None):
            raise ValueError(
                f"SpeculativeSampling has target = {self.target}; a draft in training needs a target, a target none"
            )
        if self.other is None:
            with torch.random.fork_rng(devices=[]):  # building it draws its initial weights
                self.other = str(wanted) if wanted in DRAFTER_NAMES else load(wanted).to(pl_module.device)
        if isinstance(self.other, TransformerTPP):
            models = (pl_module.model, self.other) if self.target is None else (self.other, pl_module.model)
            for role, model in zip(("target", "draft"), models, strict=True):
                check_finite(model, role)
            check_fit(*models)
        check_sampling(trainer, pl_module.model if self.target is None else self.other, self.options)
        if self.horizon is None and self.num_events is None:
            data = getattr(trainer, "datamodule", None)
            if data is None:
                raise ValueError("SpeculativeSampling needs an end of its sequences: give horizon or num_events")
            self.horizon = median_window(data.sequences("train"))

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Sample, compare with the model and with the true process where it is known, and log the figures."""
        fitting = trainer.state.fn == TrainerFn.FITTING
        if trainer.sanity_checking or (fitting and (trainer.current_epoch + 1) % self.every_n_epochs):
            return
        other = self.other.to(pl_module.device) if isinstance(self.other, TransformerTPP) else self.other
        target, draft = (pl_module.model, other) if self.target is None else (other, pl_module.model)
        assert isinstance(target, TransformerTPP)
        autoregressive = self._sample(trainer, target, None, SamplingOptions("autoregressive", **self.options.common))
        speculative = self._sample(trainer, target, draft, self.options)
        counts, values = self._speed(trainer, autoregressive, speculative)
        sequences = [] if speculative is None else speculative.with_history()
        gaps = {"model": _gaps_of_all_ranks(trainer, model_residuals(target, sequences))}
        if (process := getattr(getattr(trainer, "datamodule", None), "process_object", None)) is not None:
            residuals = [SequenceResiduals(sequence.index, *process.residuals(sequence)) for sequence in sequences]
            gaps["true_process"] = _gaps_of_all_ranks(trainer, residuals)
        tests = {name: ks_exponential(values) for name, values in gaps.items()}
        values |= {f"fidelity/{name}_ks": test.statistic for name, test in tests.items()}
        values["fidelity/model_p_value"] = tests["model"].p_value
        pl_module.log_dict(values, sync_dist=True)  # they are equal on all ranks already; without it, Lightning warns
        if trainer.is_global_zero:
            _show(trainer, gaps, counts, speculative)

    def _sample(
        self, trainer: Trainer, target: TransformerTPP, draft: Any, options: SamplingOptions
    ) -> SampledSequences | None:
        """Sample this rank's share of the indices; None for a rank without any."""
        first, stop = (self.num_sequences * (trainer.global_rank + i) // trainer.world_size for i in (0, 1))
        if first == stop:
            return None
        sample(target, draft, num_events=2, options=options)  # warm up
        return sample(
            target,
            draft,
            num_sequences=stop - first,
            first_index=first,
            horizon=self.horizon,
            num_events=self.num_events,
            options=options,
            seed=self.seed,
        )

    def _speed(
        self, trainer: Trainer, autoregressive: SampledSequences | None, speculative: SampledSequences | None
    ) -> tuple[Tensor, dict[str, float]]:
        """Return accepted_counts over all ranks, and the rates.

        Seconds are summed over ranks too: events/s are those of one process.
        """
        size = 1 + self.options.resolved("self").longest_draft
        totals = torch.zeros(4 + size * size, dtype=torch.float64, device=trainer.strategy.root_device)
        for slot, samples in ((0, autoregressive), (2, speculative)):
            if samples is not None:
                totals[slot], totals[slot + 1] = samples.stats.seconds, samples.stats.num_events
        if speculative is not None:
            totals[4:] = speculative.stats.accepted_counts.flatten()
        totals = trainer.strategy.reduce(totals, reduce_op="sum").cpu()
        counts = totals[4:].view(size, size).to(torch.int64)
        stats = SamplingStats("speculative", accepted_counts=counts, tree=self.options.resolved("self").tree)
        slow, fast = float(totals[1] / totals[0]), float(totals[3] / totals[2])
        return counts, {
            "sampling/speedup": fast / slow,
            "sampling/events_per_second": fast,
            "sampling/acceptance_rate": stats.acceptance_rate,
            "sampling/step_acceptance": stats.step_acceptance,
            "sampling/events_per_round": float(totals[3] / counts.sum()),
        }


def _gaps_of_all_ranks(trainer: Trainer, residuals: list[SequenceResiduals]) -> Tensor:
    """Return carried-over gaps (num_events,) of the sequences of all ranks, in index order."""
    metric = TimeRescalingKS().to(trainer.strategy.root_device)
    metric.update(residuals)
    with metric.sync_context():
        return metric.gaps()


def _show(
    trainer: Trainer, gaps: Mapping[str, Tensor], accepted_counts: Tensor, samples: SampledSequences | None
) -> None:
    """Hand pictures, tables and samples to the loggers that take them; the samples are those of rank zero."""
    from tppsd.plots import accepted_counts_plot, ks_plot, raster

    log_figure(trainer, "fidelity/ks_plot", ks_plot(gaps))
    log_figure(trainer, "sampling/accepted_histogram", accepted_counts_plot(accepted_counts))
    rows = [[*cell, int(accepted_counts[tuple(cell)])] for cell in accepted_counts.nonzero().tolist()]
    log_table(trainer, "sampling/accepted_counts", ["drafted", "accepted", "rounds"], rows)
    if samples is None:
        return
    data = data_of(trainer)
    groups: dict[str, Sequence[EventSequence]] = {"speculative": samples.with_history()}
    if data is not None and data.sequences("validation"):
        groups = {"data": data.sequences("validation"), **groups}
    log_figure(trainer, "sampling/raster", raster(groups, mark_names=samples.mark_names))
    with TemporaryDirectory() as folder:
        file = Path(folder, "samples.parquet")
        for run in wandb_runs(trainer):
            samples.to_pandas().to_parquet(file, index=False)
            name = "model" if data is None else data.dataset_name
            run.log_artifact(
                samples_artifact([file], name, {"step": trainer.global_step, "epoch": trainer.current_epoch})
            )
