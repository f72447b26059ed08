"""What commands say of their options: pages of --help, the option that was meant by a mistyped one, and --threads."""

from __future__ import annotations

import re
from importlib import import_module
from pathlib import Path

import pytest
import torch
from lightning_helpers import fitted, small_data, tppsd

from tppsd import TargetTPP, cli
from tppsd.arguments import Option, nearest, page
from tppsd.cli import COMMANDS, GROUPS, TRAINER_CLI
from tppsd.lightning.cli import parser_of

VERBS = [name for name, command in COMMANDS.items() if command.module == TRAINER_CLI]
OTHERS = [name for name in COMMANDS if name not in VERBS]
COMPUTING = ["demo", "fit", "validate", "test", "predict", "forecast", "backtest", "benchmark", "certify"]
KNOWN = ["--data.path", "--data.batch_size", "--model.optimizer.lr", "--model.embed_dim", "--trainer.max_epochs",
         "--model.encoder", "--trainer.devices", "--threads", "--seed_everything"]  # fmt: skip


@pytest.fixture(autouse=True)
def wide(monkeypatch: pytest.MonkeyPatch) -> None:
    """A terminal of 100 columns, whatever the tests run in."""
    monkeypatch.setenv("COLUMNS", "100")


def page_of(name: str, capsys: pytest.CaptureFixture[str], option: str = "--help") -> str:
    """What `tppsd NAME --help` prints."""
    with pytest.raises(SystemExit) as ended:
        tppsd(name, option)
    assert ended.value.code == 0
    return capsys.readouterr().out


def named(text: str) -> list[str]:
    """The options that a page lists, in order."""
    return [one for line in text.splitlines() for one in re.findall(r"^  (--\S+?)(?:, (?:--\S+))?(?: |$)", line)]


def test_all_commands_fit_on_one_screen_each_with_an_example() -> None:
    lines = cli.help_page().splitlines()
    assert len(lines) <= 24 and max(map(len, lines)) <= 80
    for name, command in ((name, command) for group in GROUPS.values() for name, command in group.items()):
        assert command.example.startswith(f"tppsd {name}")
        assert sum(line.startswith(f"  {command.example} ") and command.help in line for line in lines) == 1


@pytest.mark.parametrize("name", ["fit", "test"])
def test_the_page_of_a_verb_begins_with_data_and_ends_before_the_trainers_options(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    text = page_of(name, capsys)
    options = named(text)
    before = {"fit": [], "test": ["--run", "--ckpt_path"]}[name]
    assert options[: len(before) + 1] == [*before, "--data.path"]
    assert len(text.splitlines()) < 150 and "--trainer.barebones" not in text
    if name == "fit":
        assert {"--model.num_layers", "--model.optimizer.lr", "--model.distillation.target"} <= set(options)
        assert options.index("--model.optimizer.lr") < options.index("--trainer.max_epochs")
        everything = page_of(name, capsys, "--help-all")
        assert set(options) - {"--print_config"} <= set(named(everything))
        assert {"--trainer.barebones", "--checkpoint.save_top_k"} <= set(named(everything))


def test_every_option_of_the_first_page_is_taken(capsys: pytest.CaptureFixture[str]) -> None:
    """With a value of the right sort, so that a page with a name that there is not any more fails."""
    parser = parser_of("fit")
    text = page_of("fit", capsys)
    of_data = [one for one in named(text) if one.startswith(("--data.", "--model."))]
    values = {"--model.optimizer": "torch.optim.SGD", "--model.lr_scheduler": "null", "--data.columns": "{time: when}",
              "--data.sort": "true", "--data.drop_duplicates": "true", "--model.compile": "false",
              "--data.fractions": "[0.8,0.1,0.1]", "--data.observed": "[[0,1]]"}  # fmt: skip
    values |= dict.fromkeys(
        ("--data.path", "--data.process", "--data.time_unit", "--data.origin", "--data.missing_mark",
         "--data.time_format", "--data.delimiter", "--model.distillation.target"), "word",
    )  # fmt: skip
    lists = ("split_times", "mark_bins", "mark_names")
    assert len(of_data) > 40
    for option in of_data:
        choice = re.search(rf"{re.escape(option)} {{(\w+)", text)
        value = (
            "[a,b]"
            if option.endswith("names")
            else "[1,2]"
            if option.endswith(lists)
            else choice[1]
            if choice
            else values.get(option, "1")
        )
        needed = ["--model.distillation.target", "target.ckpt"] if "distillation" in option else []
        parser.parse_args([*needed, option, value])


@pytest.mark.parametrize("name", OTHERS)
def test_the_page_of_a_command_names_every_option_and_an_example(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    text = page_of(name, capsys)
    known = [one for action in import_module(COMMANDS[name].module).parser()._actions for one in action.option_strings]
    of_page = {one.replace("-", "_") for one in re.findall(r"--[\w.-]+", text)}
    of_trainer = ("--trainer.", "--start_timeout")  # a page names the few of them that matter
    known = [one for one in known if not one.startswith(of_trainer)]
    missing = [one for one in known if one.startswith("--") and one.replace("-", "_") not in of_page | {"__help"}]
    left_to_lightning = re.compile(r"--trainer(\..*|)")  # a page shows those by which work is shared
    assert [one for one in missing if not one.endswith("+") and not left_to_lightning.fullmatch(one)] == []
    assert ("--trainer.devices" in text) == (name in ("forecast", "backtest"))
    assert f"\nExamples:\n  {'mkdir' if name == 'completion' else f'tppsd {name}'}" in text
    assert "Union[" not in text and "Optional[" not in text and "None" not in text


def test_a_page_is_as_wide_as_it_is_told() -> None:
    text = page("tppsd x", "About " * 40, {"Options": [Option("--some_option", "N", "word " * 40)]}, width=60)
    assert max(map(len, text.splitlines())) <= 60 and text.count("word") == 40


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("--model.learning_rate", "--model.optimizer.lr"),
        ("--lr", "--model.optimizer.lr"),
        ("--model.optimizer.learning_rate", "--model.optimizer.lr"),
        ("--model.batch_size", "--data.batch_size"),
        ("--epochs", "--trainer.max_epochs"),
        ("--trainer.epochs", "--trainer.max_epochs"),
        ("--max-epochs", "--trainer.max_epochs"),
        ("--trainer.max_epoch", "--trainer.max_epochs"),
        ("--model.hidden_size", "--model.embed_dim"),
        ("--model.encodr", "--model.encoder"),
        ("--data_path", "--data.path"),
        ("--thread", "--threads"),
        ("--seed", "--seed_everything"),
        ("--nonsense", None),
    ],
)
def test_the_nearest_option_is_the_one_that_was_meant(typed: str, meant: str | None) -> None:
    assert nearest(typed, KNOWN) == meant


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["fit", "--model.learning_rate", "0.1"],
            "no option --model.learning_rate; did you mean --model.optimizer.lr?",
        ),
        (["fit", "--lr", "0.1"], "there is no option --lr; did you mean --model.optimizer.lr?"),
        (["fit", "--model.max_epochs", "3"], "no option --model.max_epochs; did you mean --trainer.max_epochs?"),
        (["predict", "--target", "x"], "there is no option --target; did you mean --model.target?"),
        (["inspect", "log.csv", "--time_units", "h"], "there is no option --time_units; did you mean --time_unit?"),
        (["forecast", "--run", "x", "--horizn", "3"], "there is no option --horizn; did you mean --horizon?"),
        (["demo", "--target-second", "3"], "there is no option --target-second; did you mean --target-seconds?"),
        (["benchmark", "--thread", "3"], "there is no option --thread; did you mean --threads?"),
        (["test", "--run.x", "3"], "there is no option --run.x: --run takes one value"),
        (["verify", "folder", "another"], "another is one word too many"),
        (["certify", "--threads", "0"], "0 must be a whole number from 1 to 1,024"),
        (["benchmark", "--threads", "1025"], "1025 must be a whole number from 1 to 1,024"),
    ],
)
def test_a_mistyped_option_ends_in_one_sentence_with_the_one_that_was_meant(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="2"):
        tppsd(*arguments)
    (error,) = [line for line in capsys.readouterr().err.splitlines() if "Deprecation" not in line]
    assert error.startswith(f"tppsd {arguments[0]}: error: ") and message in error
    assert error.endswith(f"(`tppsd {arguments[0]} --help` lists the options)")


@pytest.mark.parametrize("name", COMPUTING)
def test_every_command_that_computes_takes_threads_and_says_what_they_are(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert re.search(r"--threads N\s.*\n?.*processor\s+thread", page_of(name, capsys))


@pytest.fixture
def threads():
    """Give the process its number of threads back."""
    before = torch.get_num_threads()
    yield before
    torch.set_num_threads(before)


def test_threads_are_those_that_a_command_computes_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, threads: int, capsys: pytest.CaptureFixture[str]
) -> None:
    """Seen from within, where batches are scored and where samples are drawn."""
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    checkpoint = fitted(TargetTPP(2, embed_dim=8, num_heads=2, num_components=4), tmp_path / "target.ckpt")
    seen: list[int] = []

    def watched(original):
        def call(*args, **options):
            seen.append(torch.get_num_threads())
            return original(*args, **options)

        return call

    monkeypatch.setattr(TargetTPP, "validation_step", watched(TargetTPP.validation_step))
    data = small_data()
    simulated = ["--data.process", data.process, "--data.num_sequences", "20", "--data.t_end", "8"]
    quiet = ["--trainer.enable_progress_bar", "false", "--trainer.accelerator", "cpu"]
    for number in (3, 2):
        own = ["--ckpt_path", checkpoint, "--threads", str(number)]
        assert tppsd("validate", *simulated, *quiet, *own) == 0
        assert set(seen) == {number}
        seen.clear()
    from tppsd.lightning.forecast_job import Forecaster

    monkeypatch.setattr(Forecaster, "predict_step", watched(Forecaster.predict_step))
    log = tmp_path / "log.csv"
    rows = [f"{i},{0.5 * j + 0.01 * i},{(i + j) % 2}" for i in range(6) for j in range(1, 9)]
    log.write_text("\n".join(["sequence,time,mark", *rows]) + "\n")
    plain = ["forecast", log, "--model", checkpoint, "--horizon", "1", "--num_paths", "10", "--max_histories", "1"]
    assert tppsd(*plain, "--threads", "3", "--output", "three") == 0 and seen == [3]
    assert tppsd(*plain, "--output", "none") == 0 and seen == [3, 3], "without the option nothing is changed"
    before = torch.get_num_threads()
    for number in ("0", "1025", "1000000000"):  # with the last, the first product of matrices would not end
        assert tppsd("validate", *simulated, *quiet, "--ckpt_path", checkpoint, "--threads", number) == 2
        assert f"--threads {number} must be a whole number from 1 to 1,024" in capsys.readouterr().err
        assert torch.get_num_threads() == before
