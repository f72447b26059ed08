"""Every file of lightning_configs/ that the trainer's verbs read is parsed by the command line, alone and composed."""

from __future__ import annotations

import sys
from itertools import product
from pathlib import Path

import pytest
from lightning.pytorch.cli import LightningArgumentParser

from tppsd.lightning.cli import SamplingCLI, TrainingCLI
from tppsd.lightning.verb_cli import VerbCLI
from tppsd.sampling.options import SamplingOptions

CONFIGS = Path(__file__).parent.parent / "lightning_configs"
OTHERS = ("benchmark", "sweeps")  # test_benchmark.py, test_wandb.py
FILES = sorted(file for file in CONFIGS.glob("*/*.yaml") if file.parent.name not in OTHERS)


class Built(Exception):
    """Carries the parser out of a LightningCLI that is about to use it."""


def parser_of(cli: type[VerbCLI], verb: str) -> LightningArgumentParser:
    class Stopping(cli):  # type: ignore[valid-type, misc]
        def parse_arguments(self, parser, args) -> None:
            raise Built(parser)

    with pytest.raises(Built) as built:
        Stopping(verb, None)
    return built.value.args[0]


@pytest.fixture(scope="module")
def parsers() -> dict[str, LightningArgumentParser]:
    return {"fit": parser_of(TrainingCLI, "fit"), "predict": parser_of(SamplingCLI, "predict")}


def parsed(parsers: dict[str, LightningArgumentParser], verb: str, *files: str | Path, options: tuple[str, ...] = ()):
    arguments = [verb]
    for file in files:
        arguments += ["--config", str(CONFIGS / file)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["tppsd"])
        return parsers[verb].parse_args([*arguments, *options])[verb]


@pytest.mark.parametrize("file", FILES, ids=lambda file: f"{file.parent.name}/{file.stem}")
def test_each_file_is_parsed(file: Path, parsers: dict[str, LightningArgumentParser]) -> None:
    """Against the types of what it configures, unknown names included."""
    if file.parent.name == "sampling":
        parsed(parsers, "predict", file, options=("--model.target", "target.ckpt"))
    else:
        parsed(parsers, "fit", "data/hawkes.yaml" if file.parent.name != "data" else file, file)


@pytest.mark.parametrize(
    ("line", "value"),
    [
        ("compile: draft", "auto"), ("compile: null", "auto"), ("", "auto"), ("compile: auto", "auto"),
        ("compile: true", True), ("compile: false", False),
    ],
)  # fmt: skip
@pytest.mark.filterwarnings("ignore:compile = 'draft' is now part of")
def test_files_of_earlier_runs_are_parsed(
    line: str, value: bool | str, tmp_path: Path, parsers: dict[str, LightningArgumentParser]
) -> None:
    """What `compile` was called in them: `draft`, nothing or null have become `auto`."""
    (tmp_path / "run.yaml").write_text(
        f"model:\n  target: target.ckpt\n  options:\n    method: speculative\n    {line}\n"
    )
    read = parsed(parsers, "predict", tmp_path / "run.yaml").model.options
    assert SamplingOptions(**dict(vars(read))).compile == value


def test_each_kind_of_file_has_an_example_and_a_comment() -> None:
    assert {file.parent.name for file in FILES} == {"data", "model", "recipes", "trainer", "callbacks", "sampling"}
    assert all(file.read_text().startswith("# ") for file in FILES)


@pytest.mark.parametrize(("model", "trainer"), list(product(["thp_target", "attnhp_draft"], ["ddp", "gpu", "wandb"])))
def test_files_compose(model: str, trainer: str, parsers: dict[str, LightningArgumentParser]) -> None:
    files = (
        "data/taxi.yaml",
        f"model/{model}.yaml",
        "trainer/cpu.yaml",
        f"trainer/{trainer}.yaml",
        "callbacks/watch_draft.yaml",
    )
    config = parsed(parsers, "fit", *files, options=("--model.num_heads", "2", "--trainer.callbacks.target", "a.ckpt"))
    assert config.data.init_args.path == "easytpp/taxi"
    assert config.model.class_path == ("tppsd.TargetTPP" if model == "thp_target" else "tppsd.DraftTPP")
    assert config.model.init_args.num_heads == 2 and config.model.init_args.optimizer.init_args.lr == pytest.approx(
        {"thp_target": 2e-3, "attnhp_draft": 3e-3}[model]
    )
    assert config.trainer.max_epochs == 100
    assert (config.trainer.strategy, config.trainer.precision, config.trainer.logger.class_path.rsplit(".")[-1]) == {
        "ddp": ("ddp", None, "CSVLogger"),
        "gpu": ("auto", "bf16-mixed", "CSVLogger"),
        "wandb": ("auto", None, "WandbLogger"),
    }[trainer]
    (callback,) = config.trainer.callbacks
    assert callback.init_args.target == "a.ckpt" and callback.init_args.options.draft_length == 8


def test_data_and_sampling_compose(parsers: dict[str, LightningArgumentParser]) -> None:
    options = ("--model.target", "target.ckpt", "--model.draft", "draft.ckpt", "--model.options.draft_length", "3")
    config = parsed(
        parsers, "predict", "data/taxi.yaml", "sampling/continue_test.yaml", "trainer/gpu.yaml", options=options
    )
    assert config.model.options.draft_length == 3 and config.requests.continue_split == "test"
    assert config.data.init_args.path == "easytpp/taxi" and config.trainer.accelerator == "gpu"


def test_a_tree_is_given_in_a_file_or_as_an_option(parsers: dict[str, LightningArgumentParser]) -> None:
    models = ("--model.target", "target.ckpt")
    assert parsed(parsers, "predict", "sampling/candidates.yaml", options=models).model.options.candidates == (4, 2, 1)
    options = (*models, "--model.options.candidates", "[2,2]", "--model.options.rule", "mean")
    assert tuple(parsed(parsers, "predict", "sampling/candidates.yaml", options=options).model.options.candidates) == (
        2,
        2,
    )


@pytest.mark.parametrize(("text", "marks"), [("[2, 5]", (2, 5)), ("[death, 3]", (3, "death"))])
def test_stop_marks_are_parsed(
    text: str, marks: tuple[int | str, ...], parsers: dict[str, LightningArgumentParser]
) -> None:
    """By index and by name, for `predict` and for the callback, in a fixed order once they are options."""
    options = ("--model.target", "target.ckpt", "--model.options.stop_marks", text)
    config = parsed(parsers, "predict", "sampling/continue_test.yaml", options=options)
    assert SamplingOptions(**vars(config.model.options)).stop_marks == marks
    options = ("--trainer.callbacks.target", "a.ckpt", "--trainer.callbacks.options.stop_marks", text)
    config = parsed(parsers, "fit", "data/hawkes.yaml", "callbacks/watch_draft.yaml", options=options)
    (found,) = [callback.init_args.options for callback in config.trainer.callbacks if "options" in callback.init_args]
    assert SamplingOptions(**vars(found)).stop_marks == marks
