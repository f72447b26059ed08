"""`tppsd fit | validate | test | predict`: Lightning's command line, with defaults that need no configuration file."""

from __future__ import annotations

from typing import Any

from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI

from tppsd.data.datamodule import EventDataModule
from tppsd.lightning.modules import DraftTPP, TargetTPP, TPPModule


class TrainingCLI(LightningCLI):
    @staticmethod
    def subcommands() -> dict[str, set[str]]:
        return {name: skip for name, skip in LightningCLI.subcommands().items() if name in CUR}

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        parser.set_defaults({"model": {"class_path": "tppsd.lightning.modules.TargetTPP"}})
        parser.link_arguments("data.num_marks", "model.init_args.num_marks", apply_on="instantiate")
        parser.add_lightning_class_args(EarlyStopping, "early_stopping")
        parser.add_lightning_class_args(ModelCheckpoint, "checkpoint")
        parser.set_defaults({"early_stopping.monitor": "val/nll", "early_stopping.patience": 10, "checkpoint.monitor":"val/nll", "checkpoint.save_last": True,
        "checkpoint.filename": "best"})

CUR = ()
def main(args: list[str]) -> None:
    global CUR
    CUR = (args[0],)
    TrainingCLI(TPPModule, EventDataModule, subclass_mode_model=True, subclass_mode_data=True, auto_configure_optimizers=False, load_from_checkpoint_support=False,
    seed_everything_default=0, args=args,
    trainer_defaults={"gradient_clip_val": 1.0, "max_epochs": 100, "logger": {"class_path": "lightning.pytorch.loggers.CSVLogger", "init_args": {"save_dir": "outputs", "name": "fit"}}})
