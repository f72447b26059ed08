"""`tppsd fit | validate | test | predict`: Lightning's command line, with defaults that need no configuration file."""

from __future__ import annotations

import logging
import sys
import traceback
import warnings
from pathlib import Path
from typing import Any

import torch
import yaml
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI, SaveConfigCallback
from lightning.pytorch.utilities import rank_zero_info
from torch.utils.data import DataLoader

from tppsd.data.datamodule import EventDataModule
from tppsd.lightning.modules import DraftTPP, TargetTPP, TPPModule
from tppsd.lightning.requests import Requests
from tppsd.lightning.sampler import Sampler
from tppsd.lightning.writer import SampleWriter
from tppsd.models.checkpoint import CHECKPOINT_KEY

CLASS_OF_ROLE = {module.role: f"{module.__module__}.{module.__qualname__}" for module in (TargetTPP, DraftTPP)}
CSV_LOGGER = {"class_path": "lightning.pytorch.loggers.CSVLogger", "init_args": {"save_dir": "outputs", "name": "fit"}}
DATA_CLASS = "tppsd.data.datamodule.EventDataModule"
FIT_DEFAULTS = {"max_epochs": 100, "gradient_clip_val": 1.0, "log_every_n_steps": 10, "logger": CSV_LOGGER}
STOPPING = {"monitor": "val/nll", "patience": 10}
CHECKPOINTS = {
    "monitor": "val/nll",
    "filename": "best",
    "save_last": True,
    "auto_insert_metric_name": False,
    "enable_version_counter": False,  # one best.ckpt, overwritten in place
}


class VerbCLI(LightningCLI):
    """A LightningCLI of one verb: parsers of the others would be built in vain."""

    def __init__(self, verb: str, **arguments: Any) -> None:
        self.verb = verb
        super().__init__(
            auto_configure_optimizers=False,  # the module takes an optimiser and a scheduler itself
            load_from_checkpoint_support=False,  # hyper-parameters are the constructor's plain arguments
            seed_everything_default=0,
            parser_kwargs={"prog": "tppsd"},
            **arguments,
        )

    def subcommands(self) -> dict[str, set[str]]:  # type: ignore[override]  # a static method there
        return {self.verb: LightningCLI.subcommands()[self.verb]}


class TrainingCLI(VerbCLI):
    """fit, validate and test: `--data.path` and a TargetTPP unless told otherwise."""

    def __init__(self, verb: str, args: list[str] | None) -> None:
        super().__init__(
            verb,
            model_class=TPPModule,
            datamodule_class=EventDataModule,
            subclass_mode_model=True,
            subclass_mode_data=True,
            save_config_callback=SaveRunConfig if verb == "fit" else None,
            trainer_defaults=FIT_DEFAULTS if verb == "fit" else {"logger": False},
            args=args,
        )

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        parser.set_defaults({"model": {"class_path": CLASS_OF_ROLE["target"]}, "data": {"class_path": DATA_CLASS}})
        parser.link_arguments("data.num_marks", "model.init_args.num_marks", apply_on="instantiate")
        if self.verb == "fit":
            parser.add_lightning_class_args(EarlyStopping, "early_stopping")
            parser.add_lightning_class_args(ModelCheckpoint, "checkpoint")
            parser.set_defaults({f"early_stopping.{name}": value for name, value in STOPPING.items()})
            parser.set_defaults({f"checkpoint.{name}": value for name, value in CHECKPOINTS.items()})

    def _parse_ckpt_path(self) -> None:
        """Lightning would let a checkpoint's hyper-parameters replace the optimiser too; see `before_instantiate_classes`."""

    def before_instantiate_classes(self) -> None:
        """The architecture comes from `--ckpt_path`, everything else from the configuration."""
        config = self.config[self.verb]
        if config.ckpt_path is None or not Path(config.ckpt_path).is_file():
            if self.verb != "fit":
                raise ValueError(f"{self.verb} needs a trained model: --ckpt_path FILE (there is no file {config.ckpt_path})")
            return
        record = torch.load(config.ckpt_path, map_location="cpu", weights_only=True).get(CHECKPOINT_KEY)
        if record is None:
            raise ValueError(f"{config.ckpt_path}: not a tppsd checkpoint")
        config.model.class_path = CLASS_OF_ROLE[record["role"]]
        for name, value in record["config"].items():
            if name != "num_marks":  # linked from the data; compared when the weights are loaded
                config.model.init_args[name] = value

    def after_fit(self) -> None:
        best = self.trainer.checkpoint_callback
        if isinstance(best, ModelCheckpoint) and best.best_model_path:
            rank_zero_info(f"best checkpoint: {best.best_model_path} (val/nll {best.best_model_score:.4f} nats per event)")


class SamplingCLI(VerbCLI):
    """predict: a Sampler, what to sample (`--requests`), the data to continue (`--data`) and where to write (`--writer`)."""

    def __init__(self, verb: str, args: list[str] | None) -> None:
        super().__init__(verb, save_config_callback=None, trainer_defaults={"logger": False}, args=args)

    def add_core_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        parser.add_lightning_class_args(self.trainer_class, "trainer")
        parser.add_lightning_class_args(Sampler, "model")
        parser.add_lightning_class_args(EventDataModule, "data", subclass_mode=True, required=False)
        parser.add_lightning_class_args(SampleWriter, "writer")
        parser.add_class_arguments(Requests, "requests")
        parser.set_defaults({f"trainer.{name}": value for name, value in self.trainer_defaults.items()})

    def predict(self, model: Sampler, datamodule: EventDataModule | None = None, **arguments: Any) -> None:
        """What `tppsd predict` runs instead of `Trainer.predict(model, datamodule=datamodule)`."""
        requests: Requests = self._get(self.config_init, "requests")
        loader: DataLoader = requests.loader(datamodule)
        self.trainer.predict(model, loader, **{**arguments, "return_predictions": False})


class SaveRunConfig(SaveConfigCallback):
    """Writes config.yaml beside the checkpoints of a run, whatever the logger, and hands the configuration to the logger."""

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if stage != "fit" or not trainer.is_global_zero:
            return
        directory = run_directory(trainer)
        directory.mkdir(parents=True, exist_ok=True)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # jsonargparse 4.49 calls it skip_unset, and 4.35 does not know that
            config = self.parser.dump(self.config, skip_none=False)  # a null may well replace a default
        (directory / "config.yaml").write_text(config)
        for logger in trainer.loggers:
            logger.log_hyperparams(yaml.safe_load(config))


def run_directory(trainer: Trainer) -> Path:
    """Parent of the folder that ModelCheckpoint chooses. No collective, unlike `trainer.log_dir`."""
    if not trainer.loggers:
        return Path(trainer.default_root_dir)
    logger = trainer.loggers[0]
    version = logger.version if isinstance(logger.version, str) else f"version_{logger.version}"
    return Path(logger.save_dir or trainer.default_root_dir, str(logger.name), version)


def quieten() -> None:
    """Lightning's messages that tell a user of this command nothing."""
    for message in (
        ".*does not have many workers.*",  # batches are small and ready in memory
        ".*smaller than the logging interval.*",
        ".*callbacks used to create the checkpoint need to be provided.*",  # early stopping has no part in a test
        ".*treespec, LeafSpec.*",  # Lightning 2.6 on torch 2.13
    ):
        warnings.filterwarnings("ignore", message)
    logging.getLogger("lightning.pytorch.utilities.rank_zero").addFilter(is_useful)


def is_useful(record: logging.LogRecord) -> bool:
    """Neither an advertisement nor news of hardware that the model cannot use (event times are float64)."""
    return not any(word in record.getMessage() for word in ("Tip:", "TPU"))


def main(args: list[str]) -> None:
    """Run a verb with its arguments, as in `main(["fit", "--data.path", "events.parquet"])`."""
    quieten()
    cli = SamplingCLI if args[0] == "predict" else TrainingCLI
    try:
        cli(args[0], None if args == sys.argv[1:] else args)  # with both, Lightning warns
    except ValueError as error:
        raise original(error) from None


def original(error: Exception) -> BaseException:
    """What a constructor raised, where jsonargparse has wrapped it into many lines on types."""
    raised_in = traceback.extract_tb(error.__traceback__)[-1].filename
    return error.__cause__ if error.__cause__ is not None and "jsonargparse" in raised_in else error
