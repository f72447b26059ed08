"""The configuration of a run, saved where its checkpoints are."""

from __future__ import annotations

import warnings
from pathlib import Path

import yaml
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.cli import SaveConfigCallback

from tppsd.data.whole_files import write_text

RUNS = Path("outputs/fit")  # folder of the runs of `tppsd fit`


class SaveRunConfig(SaveConfigCallback):
    """Writes config.yaml beside the checkpoints of a run, whatever the logger, and gives it to the logger as well."""

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Do nothing yet, where the base class saves: a run that is refused leaves nothing."""

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the configuration."""
        if not trainer.is_global_zero:
            return
        directory = run_directory(trainer)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # skip_none is skip_unset from jsonargparse 4.49 on
            config = self.parser.dump(self.config, skip_none=False)  # a null may well replace a default
        write_text(directory / "config.yaml", config)
        for logger in trainer.loggers:
            logger.log_hyperparams(yaml.safe_load(config))


def run_directory(trainer: Trainer) -> Path:
    """Return the parent of the folder that ModelCheckpoint chooses. No collective, unlike `trainer.log_dir`."""
    if not trainer.loggers:
        return Path(trainer.default_root_dir)
    logger = trainer.loggers[0]
    version = logger.version if isinstance(logger.version, str) else f"version_{logger.version}"
    return Path(logger.save_dir or trainer.default_root_dir, str(logger.name), version)


def free_run_directory() -> Path:
    """Return the next RUNS/version_N, as a logger numbers them: one more than the largest that is there."""
    taken = [int(path.name.removeprefix("version_")) for path in RUNS.glob("version_*") if path.name[8:].isdecimal()]
    return RUNS / f"version_{max(taken, default=-1) + 1}"
