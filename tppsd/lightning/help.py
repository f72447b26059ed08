"""The pages of `tppsd fit | validate | test | predict --help`: data and model come first, the Trainer last."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable
from typing import Any

from jsonargparse import ArgumentParser

from tppsd.arguments import Option, first_sentence, options_of, options_of_class, page
from tppsd.lightning.datamodule import EventDataModule
from tppsd.lightning.modules import TargetTPP

ABOUT = {
    "fit": "Train a target, or a draft by --model DraftTPP, on a log of events or on a simulated process.",
    "validate": "Score a trained model on the validation split.",
    "test": "Score a trained model on the test split, beside models without a learnt history.",
    "predict": "Sample sequences from trained models, and write them to Parquet files.",
}
EXAMPLES = {
    "fit": (
        "tppsd fit --data.path log.csv --model.num_layers 4 --trainer.max_epochs 50",
        "tppsd fit --config lightning_configs/data/hawkes.yaml --config lightning_configs/model/thp_target.yaml",
    ),
    "validate": ("tppsd validate --run outputs/fit/version_0",),
    "test": (
        "tppsd test --run outputs/fit/version_0",
        "tppsd test --ckpt_path outputs/fit/version_0/checkpoints/best.ckpt --data.path log.csv",
    ),
    "predict": (
        "tppsd predict --run outputs/fit/version_0 --requests.num_sequences 100 --requests.horizon 30",
        "tppsd predict --model.target target.ckpt --model.draft draft.ckpt --requests.num_events 500",
    ),
}
# the options of the Trainer and of its callbacks that a first page names
COMMON = (
    "trainer.max_epochs", "trainer.max_time", "trainer.accelerator", "trainer.devices", "trainer.precision",
    "trainer.logger", "early_stopping.patience", "averaging.power", "checkpoint.dirpath", "renewal_baseline.num_steps",
    "ckpt_path", "seed_everything", "threads",
)  # fmt: skip
TEXTS = {
    "ckpt_path": "checkpoint: fit goes on from it, validate and test score it",
    "seed_everything": "of initial weights, dropout and the order of the batches (default: 0)",
    "config": "YAML file of options; several are merged, later ones win, and options win over files",
    "trainer.max_epochs": "end after so many passes over the training split, or sooner without improvement",
    "trainer.max_time": "end after DD:HH:MM:SS (days, hours, minutes, seconds), if it has not ended before",
    "trainer.accelerator": "cpu, gpu or auto (default: auto)",
    "trainer.devices": "processes on CPUs, or GPUs, that train together (default: auto)",
    "trainer.precision": "32-true, or bf16-mixed on GPUs (default: 32-true)",
    "trainer.logger": "where metrics go: CSVLogger, TensorBoardLogger, WandbLogger or false",
    "early_stopping.patience": "validations without improvement; then the rate falls and fit ends (default: 10)",
    "checkpoint.dirpath": "folder of best.ckpt and last.ckpt (default: checkpoints/ in the run's folder)",
    "requests.t_end": "end of the windows: of each the events until then",
    "requests.horizon": "length of the windows, or of what is continued, instead of an end",
    "requests.num_events": "end after so many events",
    "averaging.power": "weights are averaged: a larger power forgets earlier steps sooner, null = none (default: 16)",
    "renewal_baseline.num_steps": "steps of fitting the baselines without a learnt history; 0 = none (default: 300)",
}
VALUES = {"config": "FILE", "trainer.max_time": "TIME", "trainer.logger": "LOGGER", "trainer.accelerator": "NAME",
          "trainer.devices": "N", "trainer.precision": "NAME", "seed_everything": "N"}  # fmt: skip


def options_by_name(verb: str, parser: ArgumentParser) -> dict[str, Option]:
    """Return every option of a verb by its name without dashes; those of the classes of data and model by default too.

    Args:
        verb: fit, validate, test or predict.
        parser: of the verb.
    """
    found = options_of(parser, skip=("--data", "--model", "--help-all"))
    found += options_of_class(EventDataModule, "data")
    if verb != "predict":  # whose model is a Sampler, and no choice of classes
        found += options_of_class(TargetTPP, "model", frozenset({"num_marks", "num_events"}))
    return {option.name.removeprefix("--"): option for option in found}


def short_page(verb: str, parser: ArgumentParser) -> str:
    """Return the page of --help."""
    options = {name: _told(option, name) for name, option in options_by_name(verb, parser).items()}

    def under(*sections: str) -> list[Option]:
        return [option for name, option in options.items() if name.startswith(sections)]

    groups: dict[str, Iterable[Option]] = {}
    if verb == "fit":
        groups |= {"Data": under("data."), "Model": under("model.")}
    elif verb == "predict":
        groups["Which model"] = [options[name] for name in ("run", "model.target", "model.draft")]
        groups["What to sample"] = under("requests.")
        groups["How"] = under("model.")[2:]  # target and draft come first
        groups["Where to"] = under("writer.")
        groups["Data, for sequences that continue its own"] = under("data.")
    else:
        groups["Which model"] = [options["run"], options["ckpt_path"]]
        groups["Data"] = under("data.")
        groups["Model (its size comes from the checkpoint)"] = under("model.distillation")
    named = {option.name for group in groups.values() for option in group}
    others = [options[name] for name in COMMON if name in options and options[name].name not in named]
    own = [option for option in others if verb == "fit" or "max_" not in option.name]
    groups["Training" if verb == "fit" else "Further"] = own
    groups["Configuration"] = [options["config"], Option("--print_config", "", "print all options as YAML, and exit")]
    more = f"`tppsd {verb} --help-all` lists every option, those of Lightning's Trainer included."
    return page(_usage(verb), ABOUT[verb], groups, f"{_examples(verb)}\n\n{more}")


def full_page(verb: str, parser: ArgumentParser) -> str:
    """Return the page of --help-all: every option, by section."""
    groups: dict[str, list[Option]] = {}
    for name, option in options_by_name(verb, parser).items():
        section = name.split(".")[0] if "." in name else "others"
        groups.setdefault(section, []).append(option)
    order = ["data", "model", "requests", "writer", *groups]
    return page(_usage(verb), ABOUT[verb], {name: groups[name] for name in order if name in groups}, _examples(verb))


def _usage(verb: str) -> str:
    """Return how a verb is called."""
    return f"tppsd {verb} {'--data.path PATH' if verb == 'fit' else '--run RUN'} [OPTIONS]"


def _examples(verb: str) -> str:
    """Return the examples of a verb."""
    return "\n".join(["Examples:", *(f"  {example}" for example in EXAMPLES[verb])])


def _told(option: Option, name: str) -> Option:
    """Return an option with a short text: of this package's own, or the first sentence of a library's."""
    is_own = name.split(".")[0] not in ("trainer", "early_stopping", "checkpoint")
    text = TEXTS.get(name, option.text if is_own else first_sentence(option.text))
    return option._replace(text=text, value=VALUES.get(name, option.value))


class ShowPage(argparse.Action):
    """Is an action that prints a page and ends the command."""

    def __init__(self, option_strings: list[str], show: Callable[[], str], dest: str = "", **options: Any) -> None:
        self.show = show
        super().__init__(option_strings, dest=argparse.SUPPRESS, default=argparse.SUPPRESS, nargs=0, **options)

    def __call__(self, parser: Any, *_: Any) -> None:
        """Print the page."""
        print(self.show())
        raise SystemExit(0)
