"""The models of the demo and their yardsticks.

The target is as deep as can learn in the time; the draft has one layer and is distilled from it.
"""

from __future__ import annotations

import logging
import warnings
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from lightning.pytorch import seed_everything
from lightning.pytorch.loggers import CSVLogger
from rich.console import Console

from tppsd.data.remarks import shorten
from tppsd.lightning.datamodule import EventDataModule
from tppsd.lightning.distillation import Distillation
from tppsd.lightning.fitting import adamw, fit_best, small_batch_size
from tppsd.lightning.messages import quieten
from tppsd.lightning.modules import DraftTPP, TargetTPP, TPPModule
from tppsd.lightning.schedule import WarmupCosine
from tppsd.metrics.functional import model_nll, process_nll
from tppsd.models.renewal import NUM_STEPS, fit_renewal
from tppsd.processes.presets import PRESETS
from tppsd.progress import progress

if TYPE_CHECKING:
    from tppsd.commands.demo import Settings

MAX_LENGTH = 1000  # events of a sequence, and ...
MAX_SCORED_EVENTS = 60_000  # ... events of the validation and of the test split: they bound the time on large data sets


def open_data(settings: Settings, console: Console) -> EventDataModule:
    """Return the data module for a preset's name or a path, cut to what fits the time, in small batches."""
    source: dict[str, Any] = {"process" if settings.data in PRESETS else "path": settings.data}
    data = EventDataModule(**source, seed=settings.seed, **settings.reading.given())
    splits = {}
    for name, sequences in data.dataset.splits.items():
        kept, note = shorten(sequences, MAX_LENGTH, None if name == "train" else MAX_SCORED_EVENTS)
        splits[name] = kept
        if note:
            console.print(f"To stay within the time, the {name} split is cut: {note}")
    data.dataset = replace(data.dataset, splits=splits)
    data.batch_size = small_batch_size(data)
    return data


def target_size(data: EventDataModule) -> dict[str, Any]:
    """Return the size of the target: as deep as can learn in the time, with dropout where the data are real."""
    size = {"encoder": "thp", "num_layers": 8, "num_heads": 2, "feedforward_dim": 128, "num_components": 32}
    return size | {"dropout": 0.0 if data.process_object is not None else 0.1}


def train_models(settings: Settings, data: EventDataModule, console: Console) -> dict[str, Any]:
    """Train the target, distil the draft from it, fit the renewal baseline, score all on the test split."""
    quieten()
    warnings.filterwarnings("ignore", "the mean of the next inter-time is not usable")  # the demo does not use it
    logging.getLogger("lightning.pytorch.utilities.rank_zero").setLevel(
        logging.WARNING
    )  # the demo gives its own account
    seed_everything(settings.seed, verbose=False)
    target = TargetTPP(data.num_marks, **target_size(data), optimizer=adamw(3e-3), lr_scheduler=WarmupCosine)
    console.print(f"\n[bold]Training the target[/] ({_size(target)}) for {settings.target_seconds:.0f} s")
    results: dict[str, Any] = {"target": _fit(settings, data, target, "target", settings.target_seconds)}
    draft = DraftTPP(
        data.num_marks,
        "thp",
        num_heads=2,
        num_components=16,
        optimizer=adamw(3e-3),
        lr_scheduler=WarmupCosine,  # the time is planned
        distillation=Distillation(results["target"]["path"]),
    )
    console.print(
        f"\n[bold]Distilling the draft[/] ({_size(draft)}) from the target for {settings.draft_seconds:.0f} s"
    )
    results["draft"] = _fit(settings, data, draft, "draft", settings.draft_seconds)
    console.print("\nFitting the best renewal model (history-free), the yardstick of what history is worth ...")
    train, validation = map(data.sequences, ("train", "validation"))
    with progress(console, "fitting", NUM_STEPS) as advance:
        renewal = fit_renewal(train, data.statistics, seed=settings.seed, validation=validation, advance=advance)
    test = data.sequences("test")
    results["convention"] = "benchmark" if data.statistics.first_is_given else "window"
    results["renewal"] = renewal
    results["renewal_nll"] = model_nll(renewal, test, results["convention"])
    process = data.process_object
    results["true_nll"] = None
    if process is not None:
        results["true_nll"] = process_nll(process, test)
    return results


def _fit(settings: Settings, data: EventDataModule, module: TPPModule, name: str, seconds: float) -> dict[str, Any]:
    """Train for `seconds`, keep the weights that score best on the validation split, score them on the test split."""
    logger = CSVLogger(settings.output / "logs", name=name, version="")
    monitor = "val/nll" if module.distillation is None else "val/step_acceptance"
    fitted = fit_best(
        module, data, settings.output / "checkpoints" / f"{name}.ckpt", seconds=seconds, monitor=monitor, logger=logger
    )
    scores = fitted.trainer.test(module, datamodule=data, ckpt_path=fitted.path, verbose=False)[0]
    metrics = {k: float(v) for k, v in scores.items()}
    return {
        "path": str(fitted.path),
        "metrics": metrics,
        "epochs": fitted.epochs,
        "seconds": fitted.seconds,
        "module": module,
    }


def layers(number: int) -> str:
    """Return the number of layers in words."""
    return f"{number} layer{'s' if number > 1 else ''}"


def _size(module: TPPModule) -> str:
    """Return depth and number of parameters in words."""
    return f"{layers(module.model.num_layers)}, {sum(p.numel() for p in module.model.parameters()):,} parameters"
