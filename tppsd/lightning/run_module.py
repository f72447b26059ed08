"""`RunModule`: what a module does around its training: checks, optimiser and schedule, checkpoints, and going on."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from lightning.pytorch import Callback, LightningModule
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from lightning.pytorch.trainer.states import TrainerFn
from torch.optim.lr_scheduler import ReduceLROnPlateau

from tppsd.data.marks import check_mark_names
from tppsd.data.units import check_time_unit
from tppsd.lightning.checkpoint_io import use_local_checkpoints
from tppsd.lightning.distillation import Distillation
from tppsd.lightning.divergence import StopAtDivergence
from tppsd.lightning.random_state import random_states, restore_random_state
from tppsd.lightning.requeue import RequeueBetweenSteps
from tppsd.lightning.resuming import go_on, mend_progress
from tppsd.lightning.schedule import PlannedSchedule
from tppsd.models.checkpoint import CHECKPOINT_KEY, describe, read_plain
from tppsd.models.transformer_tpp import TransformerTPP

_RANDOM_STATES = "random_states"  # of a checkpoint: by rank


class RunModule(LightningModule):
    """Holds a TransformerTPP and how it is trained: what must hold before a run, and what its checkpoints hold.

    A subclass sets `model`, and says what its loss is and what is logged. Arguments are those of TPPModule.
    """

    role: str
    model: TransformerTPP

    def __init__(
        self,
        optimizer: OptimizerCallable,
        lr_scheduler: LRSchedulerCallable | None,
        lr_interval: Literal["step", "epoch"],
        distillation: Distillation | None,
        compile: bool,
    ) -> None:
        super().__init__()
        self.optimizer_factory, self.scheduler_factory, self.lr_interval = optimizer, lr_scheduler, lr_interval
        self.distillation, self.is_compiled = distillation, compile
        self.distilled_from: str | None = None  # content hash of the target
        self._data_marks: tuple[str, ...] | None = None  # their names, of the data of the run
        self._data_unit: str | None = None  # of their times, likewise
        self._random_states: list[dict[str, Any]] | None = None  # of the checkpoint that a run goes on from

    # --- what must hold before anything runs ------------------------------------------------------------------------

    def setup(self, stage: str) -> None:
        """Take over the statistics of the training split, unless the model has learnt with others already.

        Raises:
            ValueError: marks or unit of the data are not those of the model, or the precision rounds event times.
        """
        check_precision(self.trainer.precision)
        use_local_checkpoints(self.trainer)
        data = getattr(self.trainer, "datamodule", None)
        if data is not None and data.num_marks != self.model.num_marks:
            raise ValueError(
                f"the data have num_marks = {data.num_marks}, but the model has num_marks = {self.model.num_marks}"
            )
        self._data_marks = None if data is None else data.statistics.mark_names
        check_mark_names(self.model.statistics.mark_names, self._data_marks, "the model")
        self._data_unit = None if data is None else data.statistics.time_unit
        check_time_unit(self.model.statistics.time_unit, self._data_unit, "the model")
        if stage == "fit" and data is not None and self.model.statistics.num_events == 0:
            self.model.set_statistics(data.statistics)
        if stage == "fit" and self.is_compiled:  # the full pass; the cached passes of sampling stay as they are
            self.model.compile(dynamic=True)  # sequences have all lengths
        if self.distillation is not None:
            target_hash = self.distillation.load(self.model.num_marks, self._data_marks)
            if stage == "fit" and self.distillation.is_trained_for:
                self.distilled_from = target_hash

    def configure_callbacks(self) -> list[Callback]:
        """Add StopAtDivergence and RequeueBetweenSteps, whoever trains, where they are not there already."""
        callbacks: list[Callback] = self.trainer.callbacks  # type: ignore[attr-defined]
        added: list[Callback] = [StopAtDivergence(), RequeueBetweenSteps()]
        return [each for each in added if not any(isinstance(callback, type(each)) for callback in callbacks)]

    def on_fit_start(self) -> None:
        """Refuse to train or to score without statistics of a training split."""
        if self.model.statistics.num_events == 0:
            raise ValueError(
                "the model has no statistics of a training split: fit it on an EventDataModule, or load a checkpoint"
            )

    on_validation_start = on_test_start = on_fit_start

    def on_train_start(self) -> None:
        """Restore the place and the random state of a run that goes on, now that everything is set up."""
        go_on(self.trainer)
        if self._random_states is not None:
            restore_random_state(
                self._random_states,
                self.trainer.global_rank,
                self.trainer.world_size,
                self.trainer.strategy.root_device,
            )
            self._random_states = None

    # --- optimisation -----------------------------------------------------------------------------------------------

    def configure_optimizers(self) -> Any:
        """Build the optimiser and, where there is one, the schedule, planned for the steps of the Trainer."""
        optimizer = self.optimizer_factory(self.parameters())
        if self.scheduler_factory is None:
            return optimizer
        scheduler = self.scheduler_factory(optimizer)
        planned_steps = self.trainer.estimated_stepping_batches
        if isinstance(scheduler, PlannedSchedule) and planned_steps != float("inf"):
            scheduler.plan(int(planned_steps))
        interval = "epoch" if isinstance(scheduler, ReduceLROnPlateau) else self.lr_interval
        config = {"scheduler": scheduler, "interval": interval, "monitor": getattr(scheduler, "monitor", "val/nll")}
        return {"optimizer": optimizer, "lr_scheduler": config}

    # --- checkpoints ------------------------------------------------------------------------------------------------

    @classmethod
    def load_from_checkpoint(cls, checkpoint_path: Any, *args: Any, **options: Any) -> Any:
        """Load as Lightning does, but a local file only and always with `weights_only=True`: no code of it is run."""
        read_plain(checkpoint_path)  # says in one sentence what is wrong with it
        return super().load_from_checkpoint(Path(checkpoint_path), *args, **options | {"weights_only": True})

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add what `tppsd.load` needs, without Lightning, and the random states of all processes."""
        checkpoint[CHECKPOINT_KEY] = describe(self.model) | {"role": self.role}
        checkpoint[_RANDOM_STATES] = random_states(self.trainer.strategy.root_device)
        # averaged weights come from a copy of this module that is older than its statistics (Lightning's
        # WeightAveraging)
        checkpoint["state_dict"]["model._extra_state"] = self.model.get_extra_state()
        if self.distilled_from is not None:
            checkpoint[CHECKPOINT_KEY]["distilled_from"] = self.distilled_from

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Compare a checkpoint with the model.

        It says in one sentence what would otherwise be a list of missing and misshapen tensors.

        Raises:
            ValueError: an argument, the marks or the unit of time are not those of the model or its data.
        """
        record = checkpoint.get(CHECKPOINT_KEY, {})
        if self._trainer is not None and self._trainer.state.fn == TrainerFn.FITTING:  # a run goes on
            self._random_states = checkpoint.get(_RANDOM_STATES)
            if "loops" in checkpoint:
                mend_progress(checkpoint["loops"]["fit_loop"])
        self.distilled_from = record.get("distilled_from", self.distilled_from)
        for name, stored in record.get("config", {}).items():
            here = self.model.config[name]
            if name != "dropout" and stored != here:
                raise ValueError(
                    f"the checkpoint was trained with {name} = {stored!r}, but this model has {name} = {here!r}"
                )
        check_time_unit(record.get("statistics", {}).get("time_unit"), self._data_unit, "the checkpoint")
        names = record.get("statistics", {}).get("mark_names")
        check_mark_names(None if names is None else tuple(names), self._data_marks, "the checkpoint")


def check_precision(precision: str | None) -> None:
    """Refuse a precision that casts inputs: at t = 1000 a bfloat16 time is 4 units coarse."""
    if precision in ("bf16-true", "16-true"):
        raise ValueError(
            f"precision = {precision!r} would round event times; use 'bf16-mixed', '16-mixed' or '32-true'"
        )
