"""What a run hands to its loggers beside numbers, and how their projects are called."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lightning.pytorch import Trainer
from lightning.pytorch.loggers import TensorBoardLogger, WandbLogger

if TYPE_CHECKING:
    from matplotlib.figure import Figure

LIGHTNING_NAME = "lightning_logs"  # of every project that nobody has named
PACKAGES = {  # class of a logger -> what must be installed
    "WandbLogger": "wandb",
    "TensorBoardLogger": "tensorboard",
    "MLFlowLogger": "mlflow",
    "CometLogger": "comet-ml",
    "NeptuneLogger": "neptune",
    "LitLogger": "litlogger",
}


def log_figure(trainer: Trainer, key: str, figure: Figure) -> None:
    """Show a figure in every logger that shows figures: W&B and TensorBoard."""
    for logger in trainer.loggers:
        if isinstance(logger, WandbLogger):
            import wandb

            logger.experiment.log({key: wandb.Image(figure), "trainer/global_step": trainer.global_step})
        elif isinstance(logger, TensorBoardLogger):
            logger.experiment.add_figure(key, figure, trainer.global_step)


def log_table(trainer: Trainer, key: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """Show a table in every logger that shows tables: in W&B as one, in TensorBoard as text."""
    for logger in trainer.loggers:
        if isinstance(logger, WandbLogger):
            import wandb

            table = wandb.Table(columns=list(columns), data=[list(row) for row in rows])
            logger.experiment.log({key: table, "trainer/global_step": trainer.global_step})
        elif isinstance(logger, TensorBoardLogger):
            lines = [columns, ["---"] * len(columns), *rows]
            text = "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)
            logger.experiment.add_text(key, text, trainer.global_step)


def data_name(data: Mapping[str, Any] | None) -> str | None:
    """Return the name of the data of a configuration: of their process, file, folder or hub id; None without any."""
    options = (data or {}).get("init_args") or {}
    if (process := options.get("process")) is not None:
        return str(process)
    path = options.get("path")
    if not isinstance(path, str):
        return None
    last = Path(path.rstrip("/")).name
    return last.split(".")[0] or last


def name_projects(loggers: Any, name: str | None, own_name: str = "fit") -> None:
    """Call the projects of loggers in a configuration after the data, where nobody has named them.

    Args:
        loggers: the option `trainer.logger`: one logger, several, or none.
        name: of the data.
        own_name: of the default logger, whose arguments stay where an option puts another in its place.
    """
    if name is None:
        return
    for logger in loggers if isinstance(loggers, list) else [loggers]:
        arguments = getattr(logger, "init_args", None)
        if arguments is None:
            continue
        kind = logger.class_path.rsplit(".", 1)[-1]
        if kind == "WandbLogger" and arguments.get("name") == own_name:
            arguments.name = None  # left over of the default logger: W&B would call every run so
        if kind == "WandbLogger" and arguments.get("project") is None and "WANDB_PROJECT" not in os.environ:
            arguments.project = re.sub(r"[/\\#?%:]", "-", name)[:128]  # what W&B takes
        elif kind in ("CSVLogger", "TensorBoardLogger") and arguments.get("name") == LIGHTNING_NAME:
            arguments.name = name


def missing_package(error: BaseException | None, loggers: Any) -> ValueError | None:
    """Return what to say where the package of a logger is not installed; None where something else is wrong."""
    while error is not None and not isinstance(error, ModuleNotFoundError):
        error = error.__cause__  # jsonargparse wraps what a constructor raises
    for logger in loggers if isinstance(loggers, list) else [loggers]:
        kind = str(getattr(logger, "class_path", "")).rsplit(".", 1)[-1]
        package = PACKAGES.get(kind)
        if error is not None and package is not None and re.search(package.split("-")[0], str(error), re.IGNORECASE):
            return ValueError(f"--trainer.logger {kind} needs a package that is not installed: pip install {package}")
    return None
