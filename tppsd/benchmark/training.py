"""The models of a cell: loaded, trained once and kept, or untrained."""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch

from tppsd.benchmark.plan import ModelSize, Plan, draft_names
from tppsd.lightning.datamodule import EventDataModule
from tppsd.models.checkpoint import load
from tppsd.models.transformer_tpp import TransformerTPP
from tppsd.sampling.options import DRAFTER_NAMES

CHECKPOINTS = Path("outputs/benchmark/checkpoints")


class Teacher(NamedTuple):
    """Holds the target that drafts are distilled from."""

    path: Path
    content_hash: str


def models(
    plan: Plan, data: EventDataModule | None, encoder: str, seed: int, say: Any
) -> tuple[TransformerTPP, dict[str, Any]]:
    """Return the target, and by name every draft: a model, or the name of a drafter that needs none."""
    maker = _Maker(plan, data, encoder, seed, say)
    target, teacher = maker.model(plan.target, "target"), None
    if plan.training.distilled and data is not None and not plan.untrained:
        path = Path(plan.target) if isinstance(plan.target, str) else maker.path(data, plan.target, "target")
        teacher = Teacher(path, target.content_hash())
    drafts: dict[str, Any] = {}
    for name, draft in zip(draft_names(plan.drafts), plan.drafts, strict=True):
        drafts[name] = draft if draft in DRAFTER_NAMES else maker.model(draft, "draft", teacher)
    return target, drafts


@dataclass(frozen=True)
class _Maker:
    """Loads, trains or draws the models of one encoder and seed, on one data set."""

    plan: Plan
    data: EventDataModule | None
    encoder: str
    seed: int
    say: Any

    def model(self, source: ModelSize | str, role: str, teacher: Teacher | None = None) -> TransformerTPP:
        """Return a model: loaded, with random weights, or trained, where it is not kept already."""
        if isinstance(source, str):
            return load(source, self.plan.device)
        if self.plan.untrained:
            return self._untrained(source)
        if self.data is None:
            raise ValueError(
                f"a {role} of size {source.name} needs data to train on; name them (--data), or a checkpoint"
            )
        path = self.path(self.data, source, role, teacher)
        if not path.exists():
            self._train(self.data, source, role, path, teacher)
        return load(path, self.plan.device)

    def _untrained(self, size: ModelSize) -> TransformerTPP:
        """Return a model with random weights; the global random state is left as it was."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            num_marks = 2 if self.data is None else self.data.num_marks
            model = TransformerTPP(num_marks, self.encoder, **asdict(size))  # type: ignore[arg-type]
        if self.data is not None:
            model.set_statistics(self.data.statistics)
        return model.eval().to(self.plan.device)

    def path(self, data: EventDataModule, size: ModelSize, role: str, teacher: Teacher | None = None) -> Path:
        """Return where a trained model is kept; the name ends in a hash of all that decides its weights."""
        settings = self.plan.training
        decisive = {
            "statistics": data.statistics.to_dict(), "encoder": self.encoder, "size": asdict(size), "seed": self.seed,
            "seconds": self._seconds(role), "max_epochs": settings.max_epochs, "patience": settings.patience,
            "batch_size": settings.batch_size, "learning_rate": self._learning_rate(role),
            "scored": settings.max_scored_events,
        }  # fmt: skip
        if teacher is not None:
            decisive["distilled_from"] = teacher.content_hash
        digest = hashlib.sha256(json.dumps(decisive, sort_keys=True).encode()).hexdigest()[:10]
        return CHECKPOINTS / f"{data.dataset_name.replace('/', '-')}-{self.encoder}-{size.name}-{digest}.ckpt"

    def _seconds(self, role: str) -> float | None:
        """Return the training time of a role, None where epochs decide."""
        settings = self.plan.training
        return settings.target_seconds if role == "target" else settings.draft_seconds

    def _learning_rate(self, role: str) -> float:
        """Return the largest learning rate of a role."""
        settings = self.plan.training
        return settings.learning_rate if role == "target" else settings.draft_learning_rate or settings.learning_rate

    def _train(self, data: EventDataModule, size: ModelSize, role: str, path: Path, teacher: Teacher | None) -> None:
        """Train at a path of its own, and move the checkpoint when it is complete.

        An interrupted run leaves nothing to be reused.
        """
        from lightning.pytorch import seed_everything

        from tppsd.lightning.distillation import Distillation
        from tppsd.lightning.fitting import adamw, fit_best, small_batch_size
        from tppsd.lightning.messages import quieten
        from tppsd.lightning.modules import DraftTPP, TargetTPP
        from tppsd.lightning.schedule import WarmupCosine

        quieten()
        logging.getLogger("lightning.pytorch.utilities.rank_zero").setLevel(logging.WARNING)
        settings, seconds = self.plan.training, self._seconds(role)
        data.batch_size = settings.batch_size or small_batch_size(data)
        how_long = f"up to {settings.max_epochs} epochs" if seconds is None else f"{seconds:.0f} s"
        how = "training" if teacher is None else "distilling"
        self.say(f"{how} a {self.encoder} {role} (heads x layers {size.name}) on {data.dataset_name} for {how_long}")
        seed_everything(self.seed, verbose=False)
        arguments: dict[str, Any] = {"encoder": self.encoder, **asdict(size)}
        arguments["lr_scheduler"] = None if seconds is None else WarmupCosine
        arguments["distillation"] = None if teacher is None else Distillation(teacher.path)
        module_class = TargetTPP if role == "target" else DraftTPP
        module = module_class(data.num_marks, optimizer=adamw(self._learning_rate(role)), **arguments)
        with contextlib.redirect_stdout(sys.stderr):  # progress bars; the output is the table or JSON alone
            fitted = fit_best(
                module, data, CHECKPOINTS / "unfinished" / path.name, seconds=seconds,
                max_epochs=settings.max_epochs if seconds is None else 100_000, patience=settings.patience,
                monitor="val/nll" if teacher is None else "val/step_acceptance",
                accelerator="gpu" if self.plan.device == "cuda" else "cpu",
            )  # fmt: skip
        os.replace(fitted.path, path)
