"""`VerbCLI`: a LightningCLI of one verb, with pages of help, sentences about mistakes, and --threads."""

from __future__ import annotations

from typing import Any

from lightning.pytorch import Callback, Trainer
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI

from tppsd.arguments import THREADS, names_of, use_threads
from tppsd.lightning.help import ShowPage, full_page, options_by_name, short_page
from tppsd.lightning.loggers import data_name, missing_package, name_projects
from tppsd.lightning.parsing import OneSentenceParser
from tppsd.lightning.processes import StartTogether
from tppsd.lightning.running import AGAIN, START_TIMEOUT, START_TIMEOUT_HELP, ended_well, options_named


class VerbCLI(LightningCLI):
    """Is a LightningCLI of one verb: parsers of the others would be built in vain."""

    def __init__(self, verb: str, **arguments: Any) -> None:
        self.verb = verb
        super().__init__(
            auto_configure_optimizers=False,  # the module takes an optimiser and a scheduler itself
            load_from_checkpoint_support=False,  # hyper-parameters are the constructor's plain arguments
            seed_everything_default=0,
            parser_kwargs={"prog": "tppsd"},
            parser_class=OneSentenceParser,
            **arguments,
        )

    def subcommands(self) -> dict[str, set[str]]:  # type: ignore[override]  # a static method there
        """Return the one verb and the arguments that its method leaves to the parser."""
        return {self.verb: LightningCLI.subcommands()[self.verb]}

    def add_default_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add Lightning's own options and `--start_timeout`."""
        super().add_default_arguments_to_parser(parser)
        parser.add_argument(
            "--start_timeout",
            type=float,
            default=START_TIMEOUT,
            help=START_TIMEOUT_HELP,
        )
        parser.add_argument("--threads", type=int | None, default=None, help=THREADS)

    def _prepare_subcommand_parser(self, klass: type, subcommand: str, **options: Any) -> LightningArgumentParser:
        """Return the parser of the verb, with pages that begin with data and model."""
        parser = super()._prepare_subcommand_parser(klass, subcommand, **options)
        assert isinstance(parser, OneSentenceParser)  # by parser_class
        parser.page = lambda: short_page(subcommand, parser)
        if subcommand in ("validate", "test"):
            parser.set_defaults({"verbose": False})  # Lightning's table has 16 digits and no explanations
        parser.known_options = lambda: names_of(options_by_name(subcommand, parser).values())
        parser.add_argument(
            "--help-all", action=ShowPage, show=lambda: full_page(subcommand, parser), help="list every option"
        )
        return parser

    def _parse_ckpt_path(self) -> None:
        """Do nothing: Lightning would let a checkpoint's hyper-parameters replace the optimiser too.

        See `before_instantiate_classes`.
        """

    def _set_seed(self) -> None:
        try:
            super()._set_seed()
        except ValueError as error:
            raise ValueError(f"--seed_everything: {error}") from error

    def before_instantiate_classes(self) -> None:
        """Let checkpoints be read as plain values, whatever the configuration says: nothing in them is run."""
        use_threads(self.config[self.verb].threads)
        name_projects(self.config[self.verb].trainer.logger, data_name(self.config[self.verb].get("data")))
        if self.config[self.verb].weights_only is False:
            raise ValueError("--weights_only false would run what is in a checkpoint; leave it out")
        self.config[self.verb].weights_only = True
        clip = self.config[self.verb].trainer.gradient_clip_val
        if clip is not None and clip < 0:
            raise ValueError(f"--trainer.gradient_clip_val = {clip} would turn gradients round; it must be at least 0")

    def instantiate_classes(self) -> None:
        """Build everything; where the package of a logger is missing, say which."""
        try:
            super().instantiate_classes()
        except (ModuleNotFoundError, ValueError) as error:
            if (explained := missing_package(error, self.config[self.verb].trainer.logger)) is not None:
                raise explained from None
            raise

    def _instantiate_trainer(self, config: dict[str, Any], callbacks: list[Callback]) -> Trainer:
        self.start = StartTogether(self._get(self.config, "start_timeout"))
        with options_named():
            trainer = super()._instantiate_trainer(config, [*callbacks, self.start])
        self.start.arrange(trainer)
        return trainer

    def _run_subcommand(self, subcommand: str) -> None:
        """Run the verb; a run that SIGTERM has ended, or that has lost a process, is not done and says so."""
        with ended_well(self.start, self.trainer, lambda: self.how_to_go_on()):
            super()._run_subcommand(subcommand)

    def how_to_go_on(self) -> str:
        """Return what to do after SIGTERM."""
        return AGAIN
