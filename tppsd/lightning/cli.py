"""`tppsd fit | validate | test | predict`: Lightning's command line, with defaults that need no configuration file."""

from __future__ import annotations

import contextlib
import shlex
import sys
from pathlib import Path
from typing import Any

from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import WeightAveraging
from lightning.pytorch.cli import LightningArgumentParser
from lightning.pytorch.utilities import rank_zero_info
from torch.utils.data import DataLoader

from tppsd.data.whole_files import UnwritableError, is_full
from tppsd.lightning.artifacts import model_artifact, samples_artifact, use, wandb_runs
from tppsd.lightning.averaging import AveragedWeights
from tppsd.lightning.baseline import RenewalBaseline
from tppsd.lightning.checkpoints import BestCheckpoint, LastCheckpoint, OwnCheckpoint, best_checkpoint
from tppsd.lightning.datamodule import EventDataModule
from tppsd.lightning.ending import last_line
from tppsd.lightning.loggers import data_name
from tppsd.lightning.messages import original, quieten, refuse_data_as_path
from tppsd.lightning.modules import DraftTPP, TargetTPP, TPPModule
from tppsd.lightning.parsing import OneSentenceParser
from tppsd.lightning.patience import Patience
from tppsd.lightning.requests import RequestChunk, Requests
from tppsd.lightning.requeue import has_requeue_checkpoint
from tppsd.lightning.runs import HELP as RUN_HELP
from tppsd.lightning.runs import with_run
from tppsd.lightning.sampler import Sampler
from tppsd.lightning.saving import RUNS, SaveRunConfig, free_run_directory, run_directory
from tppsd.lightning.scores import say_scores
from tppsd.lightning.size import ModelSize, describe_size
from tppsd.lightning.tracking import Tracking
from tppsd.lightning.verb_cli import VerbCLI
from tppsd.lightning.writer import SampleWriter
from tppsd.models.checkpoint import CHECKPOINT_KEY, read_checkpoint
from tppsd.sampling.options import DRAFTER_NAMES

CLASS_OF_ROLE = {module.role: f"{module.__module__}.{module.__qualname__}" for module in (TargetTPP, DraftTPP)}
CSV_LOGGER = {
    "class_path": "lightning.pytorch.loggers.CSVLogger",
    "init_args": {"save_dir": str(RUNS.parent), "name": RUNS.name},
}
DATA_CLASS = "tppsd.lightning.datamodule.EventDataModule"
FIT_DEFAULTS: dict[str, Any] = {
    "max_epochs": 100,
    "gradient_clip_val": 1.0,
    "log_every_n_steps": 10,
    "logger": CSV_LOGGER,
}
STOPPING = {"monitor": "val/nll", "patience": 10}
CHECKPOINTS = {
    "monitor": "val/nll",
    "filename": "best",
    "auto_insert_metric_name": False,
    "enable_version_counter": False,  # one best.ckpt, overwritten in place
}


class TrainingCLI(VerbCLI):
    """Runs fit, validate and test: on `--data.path` and with a TargetTPP unless told otherwise."""

    def __init__(self, verb: str, args: list[str] | None) -> None:
        super().__init__(
            verb,
            model_class=TPPModule,
            datamodule_class=EventDataModule,
            subclass_mode_model=True,
            subclass_mode_data=True,
            save_config_callback=SaveRunConfig if verb == "fit" else None,
            trainer_defaults=FIT_DEFAULTS | {"callbacks": [LastCheckpoint()]} if verb == "fit" else {"logger": False},
            args=args,
        )

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add the options of data, model, baselines and checkpoints, with their defaults."""
        parser.set_defaults({"model": {"class_path": CLASS_OF_ROLE["target"]}, "data": {"class_path": DATA_CLASS}})
        parser.link_arguments("data.num_marks", "model.init_args.num_marks", apply_on="instantiate")
        if self.verb != "fit":
            parser.add_argument("--run", type=str | None, default=None, help=RUN_HELP)
        if self.verb != "validate":
            parser.add_lightning_class_args(RenewalBaseline, "renewal_baseline")
        if self.verb == "fit":
            parser.add_lightning_class_args(Tracking, "tracking")
            parser.link_arguments("data.num_events", "model.init_args.num_events", apply_on="instantiate")
            parser.add_lightning_class_args(Patience, "early_stopping")
            parser.add_lightning_class_args(BestCheckpoint, "checkpoint")
            parser.add_lightning_class_args(AveragedWeights, "averaging")
            parser.set_defaults({f"early_stopping.{name}": value for name, value in STOPPING.items()})
            parser.set_defaults({f"checkpoint.{name}": value for name, value in CHECKPOINTS.items()})

    def before_instantiate_classes(self) -> None:
        """Take the architecture from `--ckpt_path`, everything else from the configuration.

        Raises:
            ValueError: a checkpoint is missing or holds no training run.
        """
        super().before_instantiate_classes()
        config = self.config[self.verb]
        if config.ckpt_path is None:
            if self.verb != "fit":
                raise ValueError(f"{self.verb} needs a trained model: --ckpt_path FILE")
            return
        record = read_checkpoint(config.ckpt_path)[CHECKPOINT_KEY]
        if "role" not in record:
            raise ValueError(
                f"{config.ckpt_path}: holds a model alone (TransformerTPP.save), not a training run; "
                f"{self.verb} needs the latter"
            )
        config.model.class_path = CLASS_OF_ROLE[record["role"]]
        for name, value in record["config"].items():
            if name != "num_marks":  # linked from the data; compared when the weights are loaded
                config.model.init_args[name] = value

    def instantiate_classes(self) -> None:
        """Build everything; a number of marks that is given must be that of the data, from which it is taken."""
        given = self.config[self.verb].model.init_args.get("num_marks")
        super().instantiate_classes()
        if given not in (None, self.datamodule.num_marks):
            raise ValueError(
                f"--model.num_marks {given} is wrong: the data have num_marks = {self.datamodule.num_marks}; "
                "leave it out"
            )
        if self.verb == "fit":
            self._note_size()

    def _note_size(self) -> None:
        """Write the size that was chosen by the number of events into the configuration that the run keeps, and say it.

        A run that is repeated from its configuration, or goes on from its checkpoint, has the same size.
        """
        options = self.config[self.verb].model.init_args
        chosen = {name: self.model.hparams[name] for name in ModelSize._fields if options.get(name) is None}
        for name, value in chosen.items():
            options[name] = value
        if chosen:
            rank_zero_info(describe_size(chosen, self.datamodule.num_events))

    def _instantiate_trainer(self, config: dict[str, Any], callbacks: list[Callback]) -> Trainer:
        if config.get("enable_checkpointing") is False:  # a dry run keeps nothing
            callbacks = [callback for callback in callbacks if not isinstance(callback, OwnCheckpoint)]
            self.trainer_defaults.pop("callbacks", None)
        others = [each for each in config.get("callbacks") or [] if isinstance(each, WeightAveraging)]
        callbacks = [
            each for each in callbacks if not isinstance(each, AveragedWeights) or not (others or each.power is None)
        ]
        if self.verb == "fit" and config.get("default_root_dir") is None:
            job = SLURMEnvironment.job_id() if SLURMEnvironment.detect() else None
            if job is not None:  # where a requeued job finds its checkpoint, and no other job does
                config["default_root_dir"] = str(RUNS / f"slurm_{job}")
            elif config.get("logger") is False:
                config["default_root_dir"] = str(free_run_directory())  # as a logger would choose it
        return super()._instantiate_trainer(config, callbacks)

    def _run_subcommand(self, subcommand: str) -> None:
        """Run the verb, and remove the folder of a run that is refused.

        Lightning's loggers make it before anything is checked.
        """
        folder = run_directory(self.trainer)
        existed = folder.exists()
        try:
            super()._run_subcommand(subcommand)
        except (OSError, TypeError, ValueError) as error:
            if not existed:
                with contextlib.suppress(OSError):  # there is none, or there is something in it
                    folder.rmdir()
            if isinstance(error, OSError) and error.filename is None and is_full(error):  # of a logger, or its reader
                raise UnwritableError(error.errno, str(error), folder) from error
            raise

    def how_to_go_on(self) -> str:
        """Return what to do after SIGTERM, with the checkpoint to go on from."""
        last = next((c for c in self.trainer.checkpoint_callbacks if isinstance(c, LastCheckpoint)), None)
        if last is None or not last.best_model_path:
            return super().how_to_go_on()
        path = shlex.quote(last.best_model_path)
        return f"stopped by SIGTERM at step {self.trainer.global_step}; go on with --ckpt_path {path}"

    def before_fit(self) -> None:
        """Tell the checkpoints which file the run goes on from."""
        path = self.config[self.verb].ckpt_path
        is_requeued = path is None and SLURMEnvironment.detect() and has_requeue_checkpoint(self.trainer)
        for callback in self.trainer.checkpoint_callbacks:
            if isinstance(callback, OwnCheckpoint):
                callback.resumed_from = None if path is None else Path(path)
                callback.is_requeued = is_requeued

    def after_fit(self) -> None:
        """Say in one line why training stopped, what the model has learnt, and how to go on."""
        if not self.trainer.is_global_zero:
            return
        callbacks: list[Callback] = self.trainer.callbacks  # type: ignore[attr-defined]  # set by a Trainer's helper
        renewal = next((each for each in callbacks if isinstance(each, RenewalBaseline)), None)
        baselines = {} if renewal is None else renewal.validation_scores(self.trainer)
        statistics = self.model.model.statistics
        horizon = "7d" if statistics.time_origin is not None else f"{10 * statistics.time_scale:.2g}"
        rank_zero_info(last_line(self.trainer, best_checkpoint(self.trainer), baselines, horizon))

    def after_validate(self) -> None:
        """Say what the scores are, where they are in full, and what to try next."""
        say_scores(self.trainer, self.config[self.verb].ckpt_path, "test")

    def after_test(self) -> None:
        """Say what the scores are, where they are in full, and what to try next."""
        say_scores(self.trainer, self.config[self.verb].ckpt_path, "forecast")


class SamplingCLI(VerbCLI):
    """Runs predict with a Sampler.

    Its options say what to sample (`--requests`), which data to continue (`--data`) and where to write (`--writer`).
    """

    def __init__(self, verb: str, args: list[str] | None) -> None:
        super().__init__(verb, save_config_callback=None, trainer_defaults={"logger": False}, args=args)

    def add_core_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add the options of trainer, sampler, data, writer and requests."""
        parser.add_lightning_class_args(self.trainer_class, "trainer")
        parser.add_lightning_class_args(Sampler, "model")
        parser.add_lightning_class_args(EventDataModule, "data", subclass_mode=True, required=False)
        parser.add_lightning_class_args(SampleWriter, "writer")
        parser.add_class_arguments(Requests, "requests")
        parser.add_argument("--run", type=str | None, default=None, help=RUN_HELP)
        parser.set_defaults({f"trainer.{name}": value for name, value in self.trainer_defaults.items()})

    def before_instantiate_classes(self) -> None:
        """Refuse `--ckpt_path`, which predict does not take."""
        super().before_instantiate_classes()
        if (path := self.config[self.verb].ckpt_path) is not None:
            raise ValueError(
                f"predict takes the checkpoint to sample from as --model.target {path}, not as --ckpt_path"
            )

    def predict(self, model: Sampler, datamodule: EventDataModule | None = None, **arguments: Any) -> None:
        """Sample the requests; runs instead of `Trainer.predict(model, datamodule=datamodule)`."""
        requests: Requests = self._get(self.config_init, "requests")
        loader: DataLoader[RequestChunk] = requests.loader(datamodule)
        self.trainer.predict(model, loader, **{**arguments, "return_predictions": False})
        self._keep_artifacts()

    def _keep_artifacts(self) -> None:
        """Keep the samples in W&B as made from the models that were sampled."""
        config = self.config[self.verb]
        name = data_name(config.get("data")) or "model"
        writer: SampleWriter = self._get(self.config_init, "writer")
        for run in wandb_runs(self.trainer):
            for model in (config.model.target, config.model.draft):
                if model is not None and model not in DRAFTER_NAMES:
                    use(run, model_artifact(Path(model), name))
            files = sorted(path for path in writer.output_dir.iterdir() if path.is_file())
            run.log_artifact(samples_artifact(files, name, self.model.job()))


class _Built(Exception):
    """Carries the parser of a verb out of a LightningCLI, which would go on to parse and run."""


def parser_of(verb: str) -> OneSentenceParser:
    """Return the parser of a verb; nothing is parsed."""
    kind = SamplingCLI if verb == "predict" else TrainingCLI

    def stop(self: VerbCLI, parser: LightningArgumentParser, args: Any) -> None:
        raise _Built(self._parser(verb))

    try:
        type(kind.__name__, (kind,), {"parse_arguments": stop})(verb, [])
    except _Built as built:
        parser: OneSentenceParser = built.args[0]
        return parser
    raise AssertionError("a LightningCLI parses its arguments")


def main(args: list[str]) -> None:
    """Run a verb with its arguments, as in `main(["fit", "--data.path", "events.parquet"])`."""
    quieten()
    refuse_data_as_path(args)
    args = with_run(args)
    cli = SamplingCLI if args[0] == "predict" else TrainingCLI
    try:
        cli(args[0], None if args == sys.argv[1:] else args)  # with both, Lightning warns
    except ValueError as error:
        raise original(error) from None
    except MisconfigurationException as error:
        raise ValueError(" ".join(str(error).split())) from None
