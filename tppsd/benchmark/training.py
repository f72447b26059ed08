"""The models of a cell: loaded, trained once and kept, or untrained."""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import sys
from dataclasses import asdict
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
    target = _model(plan, data, encoder, plan.target, "target", seed, say)
    teacher = None
    if plan.training.distilled and data is not None and not plan.untrained:
        size = plan.target
        path = Path(size) if isinstance(size, str) else checkpoint_path(plan, data, encoder, size, "target", seed)
        teacher = Teacher(path, target.content_hash())
    drafts: dict[str, Any] = {}
    for name, draft in zip(draft_names(plan.drafts), plan.drafts, strict=True):
        drafts[name] = (
            draft if draft in DRAFTER_NAMES else _model(plan, data, encoder, draft, "draft", seed, say, teacher)
        )
    return target, drafts


def _model(
    plan: Plan, data: EventDataModule | None, encoder: str, source: ModelSize | str, role: str, seed: int, say: Any,
    teacher: Teacher | None = None,
) -> TransformerTPP:  # fmt: skip
    """Return a model: loaded, with random weights, or trained, where it is not kept already."""
    if isinstance(source, str):
        return load(source, plan.device)
    if plan.untrained:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            num_marks = 2 if data is None else data.num_marks
            model = TransformerTPP(num_marks, encoder, **asdict(source))  # type: ignore[arg-type]
        if data is not None:
            model.set_statistics(data.statistics)
        return model.eval().to(plan.device)
    if data is None:
        raise ValueError(f"a {role} of size {source.name} needs data to train on; name them (--data), or a checkpoint")
    path = checkpoint_path(plan, data, encoder, source, role, seed, teacher)
    if not path.exists():
        _train(plan, data, encoder, source, role, seed, path, say, teacher)
    return load(path, plan.device)


def checkpoint_path(
    plan: Plan,
    data: EventDataModule,
    encoder: str,
    size: ModelSize,
    role: str,
    seed: int,
    teacher: Teacher | None = None,
) -> Path:
    """Return where a trained model is kept; the name ends in a hash of all that decides its weights."""
    settings = plan.training
    decisive = {
        "statistics": data.statistics.to_dict(), "encoder": encoder, "size": asdict(size), "seed": seed,
        "seconds": _seconds(plan, role), "max_epochs": settings.max_epochs, "patience": settings.patience,
        "batch_size": settings.batch_size, "learning_rate": _learning_rate(plan, role),
        "scored": settings.max_scored_events,
    }  # fmt: skip
    if teacher is not None:
        decisive["distilled_from"] = teacher.content_hash
    digest = hashlib.sha256(json.dumps(decisive, sort_keys=True).encode()).hexdigest()[:10]
    return CHECKPOINTS / f"{data.dataset_name.replace('/', '-')}-{encoder}-{size.name}-{digest}.ckpt"


def _seconds(plan: Plan, role: str) -> float | None:
    """Return the training time of a role, None where epochs decide."""
    return plan.training.target_seconds if role == "target" else plan.training.draft_seconds


def _learning_rate(plan: Plan, role: str) -> float:
    """Return the largest learning rate of a role."""
    settings = plan.training
    return settings.learning_rate if role == "target" else settings.draft_learning_rate or settings.learning_rate


def _train(
    plan: Plan, data: EventDataModule, encoder: str, size: ModelSize, role: str, seed: int, path: Path, say: Any,
    teacher: Teacher | None,
) -> None:  # fmt: skip
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
    settings, seconds = plan.training, _seconds(plan, role)
    data.batch_size = settings.batch_size or small_batch_size(data)
    how_long = f"up to {settings.max_epochs} epochs" if seconds is None else f"{seconds:.0f} s"
    how = "training" if teacher is None else "distilling"
    say(f"{how} a {encoder} {role} (heads x layers {size.name}) on {data.dataset_name} for {how_long}")
    seed_everything(seed, verbose=False)
    schedule: dict[str, Any] = {"lr_scheduler": None if seconds is None else WarmupCosine}
    module_class = TargetTPP if role == "target" else DraftTPP
    arguments: dict[str, Any] = {"encoder": encoder, **asdict(size), **schedule}
    arguments["distillation"] = None if teacher is None else Distillation(teacher.path)
    module = module_class(data.num_marks, optimizer=adamw(_learning_rate(plan, role)), **arguments)
    with contextlib.redirect_stdout(sys.stderr):  # progress bars; the output is the table or JSON alone
        fitted = fit_best(
            module, data, CHECKPOINTS / "unfinished" / path.name,
            seconds=seconds, max_epochs=settings.max_epochs if seconds is None else 100_000, patience=settings.patience,
            monitor="val/nll" if teacher is None else "val/step_acceptance",
            accelerator="gpu" if plan.device == "cuda" else "cpu",
        )  # fmt: skip
    os.replace(fitted.path, path)
