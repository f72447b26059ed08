"""The demo's models: a target as deep as can learn in the time, a one-layer draft, and the yardsticks they are held against."""

from __future__ import annotations

import logging
import time
from dataclasses import replace
from itertools import accumulate
from typing import TYPE_CHECKING, Any

import torch
from lightning.pytorch import Trainer, seed_everything
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger
from rich.console import Console

from tppsd.data.datamodule import EventDataModule
from tppsd.data.sequences import EventBatch, EventSequence
from tppsd.lightning.budget import TimeBudget
from tppsd.lightning.messages import quieten
from tppsd.lightning.modules import DraftTPP, TargetTPP, TPPModule
from tppsd.lightning.progress import BudgetProgressBar
from tppsd.models.likelihood import Convention, LikelihoodModel
from tppsd.models.renewal import fit_renewal
from tppsd.processes.presets import PRESETS

if TYPE_CHECKING:
    from tppsd.commands.demo import Settings

EVENTS_PER_STEP = 1100  # per optimiser step: small steps learn faster per second than large ones on a CPU
VALIDATIONS = 12
MAX_LENGTH = 1000  # events of a sequence, and ...
MAX_SCORED_EVENTS = 60_000  # ... events of the validation and of the test split: they bound the time on large data sets


def open_data(settings: Settings, console: Console) -> EventDataModule:
    """The data module for a preset's name or a path, cut to what fits the time, in batches of about EVENTS_PER_STEP events."""
    source: dict[str, Any] = {"process": settings.data} if settings.data in PRESETS else {"path": settings.data}
    data = EventDataModule(**source, seed=settings.seed)
    splits = {}
    for name, sequences in data.dataset.splits.items():
        kept, note = _cut(sequences, limit=None if name == "train" else MAX_SCORED_EVENTS)
        splits[name] = kept
        if note:
            console.print(f"To stay within the time, the {name} split is cut: {note}")
    data.dataset = replace(data.dataset, splits=splits)
    mean_length = data.statistics.num_events / len(data.sequences("train"))
    data.batch_size = max(4, min(256, round(EVENTS_PER_STEP / max(1.0, mean_length))))
    return data


def _cut(sequences: list[EventSequence], limit: int | None) -> tuple[list[EventSequence], str]:
    """The first MAX_LENGTH events of each of the first sequences, up to `limit` events in all; and what was cut, in words."""
    kept = [s if len(s) <= MAX_LENGTH else s.prefix(MAX_LENGTH) for s in sequences]
    notes = [] if all(len(s) <= MAX_LENGTH for s in sequences) else [f"sequences to their first {MAX_LENGTH:,} events"]
    if limit is not None:
        totals = list(accumulate(len(s) for s in kept))
        within = max(1, sum(total <= limit for total in totals))
        if within < len(kept):
            notes.append(f"{within:,} of {len(kept):,} sequences")
            kept = kept[:within]
    return kept, " and ".join(notes)


def target_size(data: EventDataModule) -> dict[str, Any]:
    """As deep as can learn in the time; dropout where the data are real and few."""
    size = {"num_layers": 8, "num_heads": 2, "feedforward_dim": 128, "num_components": 32}
    return size | {"dropout": 0.0 if data.process_object is not None else 0.1}


def train_models(settings: Settings, data: EventDataModule, console: Console) -> dict[str, Any]:
    """Train target and draft, fit the renewal baseline, score all on the test split."""
    quieten()
    logging.getLogger("lightning.pytorch.utilities.rank_zero").setLevel(logging.WARNING)  # the demo gives its own account
    seed_everything(settings.seed, verbose=False)
    target = TargetTPP(data.num_marks, **target_size(data), optimizer=_adamw)
    draft = DraftTPP(data.num_marks, embed_dim=32, num_heads=2, num_components=16, optimizer=_adamw)
    results: dict[str, Any] = {}
    for name, module, seconds in (("target", target, settings.target_seconds), ("draft", draft, settings.draft_seconds)):
        console.print(
            f"\n[bold]Training the {name}[/] ({module.model.num_layers} layers, {_num_parameters(module):,} parameters) "
            f"for {seconds:.0f} s"
        )
        results[name] = _fit(settings, data, module, name, seconds)
    console.print("\nFitting the best renewal model (history-free), the yardstick of what history is worth ...")
    renewal = fit_renewal(data.sequences("train"), data.statistics, seed=settings.seed)
    test = data.sequences("test")
    results["convention"] = "benchmark" if data.statistics.first_is_given else "window"
    results["renewal_nll"] = _nll(renewal, test, results["convention"])
    process = data.process_object
    results["true_nll"] = None
    if process is not None:
        results["true_nll"] = -sum(process.log_likelihood(s) for s in test) / sum(s.num_scored for s in test)
    return results


def _adamw(parameters: Any) -> torch.optim.Optimizer:
    return torch.optim.AdamW(parameters, lr=3e-3, betas=(0.9, 0.99), weight_decay=0.01)


def _fit(settings: Settings, data: EventDataModule, module: TPPModule, name: str, seconds: float) -> dict[str, Any]:
    """Train for `seconds`, keep the weights with the best val/nll, score them on the test split."""
    best = ModelCheckpoint(
        dirpath=settings.output / "checkpoints", filename=name, monitor="val/nll", enable_version_counter=False
    )
    trainer = Trainer(
        max_epochs=100_000, accelerator="cpu", devices=1, gradient_clip_val=1.0, num_sanity_val_steps=0, log_every_n_steps=10,
        val_check_interval=_validation_interval(seconds), check_val_every_n_epoch=None, enable_model_summary=False,
        callbacks=[TimeBudget(seconds), best, BudgetProgressBar(seconds)],
        logger=CSVLogger(settings.output / "logs", name=name, version=""),
    )  # fmt: skip
    started = time.perf_counter()
    trainer.fit(module, datamodule=data)
    if not best.best_model_path:  # the budget ended before the first validation
        trainer.validate(module, datamodule=data, verbose=False)
        trainer.save_checkpoint(settings.output / "checkpoints" / f"{name}.ckpt")
    path = best.best_model_path or str(settings.output / "checkpoints" / f"{name}.ckpt")
    epochs = trainer.global_step * data.batch_size / max(1, len(data.sequences("train")))
    trained_seconds = time.perf_counter() - started
    metrics = {k: float(v) for k, v in trainer.test(module, datamodule=data, ckpt_path=path, verbose=False)[0].items()}
    return {"path": path, "metrics": metrics, "epochs": round(epochs, 1), "seconds": trained_seconds, "module": module}


def _validation_interval(seconds: float) -> int:
    """Steps between validations, from a guess of the speed that only decides how often we look."""
    guessed_steps = seconds * 8_000 / EVENTS_PER_STEP
    return max(10, int(guessed_steps / VALIDATIONS))


def _nll(model: LikelihoodModel, sequences: list[EventSequence], convention: Convention) -> float:
    """Per scored event."""
    total, num_events = 0.0, 0
    with torch.inference_mode():
        for i in range(0, len(sequences), 16):
            batch = EventBatch.from_sequences(sequences[i : i + 16])
            total -= float(model.log_likelihood(batch, convention).double().sum())
            num_events += int(model.num_scored(batch, convention).sum())
    return total / num_events


def _num_parameters(module: TPPModule) -> int:
    return sum(p.numel() for p in module.model.parameters())
