"""`tppsd fit | validate | test | predict` from arguments to files, in this process."""

from __future__ import annotations

import json
import pickle
import re
from pathlib import Path

import pytest
import torch
import yaml
from lightning_helpers import SMALL, fitted, tppsd
from native_builds import needs_a_compiler

from tppsd import DraftTPP, TargetTPP, load
from tppsd.lightning.scores import MEANINGS

DATA = [
    "--data.process",
    "multivariate_hawkes",
    "--data.num_sequences",
    "20",
    "--data.t_end",
    "8",
    "--data.batch_size",
    "4",
]
QUIET = ["--trainer.enable_progress_bar", "false", "--trainer.accelerator", "cpu", "--trainer.devices", "1"]

CONFIGS = Path(__file__).parent.parent / "lightning_configs" / "model"
MESSAGES = "lightning.pytorch.utilities.rank_zero"  # the logger; a command run before may have silenced it
STEPWISE = ["--trainer.log_every_n_steps", "1"]


@pytest.fixture(autouse=True)
def _somewhere_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("checkpoints")
    torch.manual_seed(0)
    draft = DraftTPP(2, encoder="sahp", **SMALL | {"embed_dim": 16})  # as wide as a compiled draft must be
    return fitted(TargetTPP(2, num_layers=3, **SMALL), folder / "target.ckpt"), fitted(draft, folder / "draft.ckpt")


def test_fit_without_a_config_and_again_from_the_one_it_saved() -> None:
    size = ["--model.embed_dim", "8", "--model.num_heads", "2"]
    assert tppsd("fit", *DATA, *QUIET, *STEPWISE, "--trainer.max_epochs", "2", *size) == 0
    run = Path("outputs/fit/version_0")
    assert {path.name for path in run.iterdir()} == {"checkpoints", "config.yaml", "hparams.yaml", "metrics.csv"}
    assert {path.name for path in (run / "checkpoints").iterdir()} == {"best.ckpt", "last.ckpt"}
    assert {"train/nll", "val/nll", "val/nll_poisson", "val/nll_renewal"} <= set(
        (run / "metrics.csv").read_text().splitlines()[0].split(",")
    )
    assert load(run / "checkpoints" / "best.ckpt").config["embed_dim"] == 8
    config = yaml.safe_load((run / "config.yaml").read_text())
    assert config["model"]["class_path"].endswith("TargetTPP") and config["trainer"]["gradient_clip_val"] == 1.0

    assert tppsd("fit", "--config", run / "config.yaml") == 0
    again = Path("outputs/fit/version_1/checkpoints")
    assert load(again / "last.ckpt").content_hash() == load(run / "checkpoints" / "last.ckpt").content_hash()

    longer = ["--ckpt_path", again / "last.ckpt", "--trainer.max_epochs", "3"]  # resume
    assert tppsd("fit", "--config", run / "config.yaml", *longer) == 0
    assert torch.load("outputs/fit/version_2/checkpoints/last.ckpt", weights_only=True)["epoch"] == 2


def callbacks_of(checkpoint: Path) -> dict[str, dict]:
    """What the callbacks of a run have left in its checkpoint, by their classes."""
    record = torch.load(checkpoint, weights_only=True)
    return {name.split("{")[0]: state for name, state in record["callbacks"].items()}


def test_a_run_is_resumed_from_its_last_epoch_and_keeps_its_best(caplog: pytest.LogCaptureFixture) -> None:
    """Here the first epoch is the best: the worst NLL is looked for."""
    caplog.set_level("INFO", MESSAGES)
    size = ["--model.embed_dim", "8", "--model.num_heads", "2", "--checkpoint.mode", "max"]
    assert (
        tppsd("fit", *DATA, *QUIET, *STEPWISE, *size, "--trainer.max_epochs", "3", "--early_stopping.patience", "5")
        == 0
    )
    first = Path("outputs/fit/version_0")
    epochs = [
        torch.load(first / "checkpoints" / name, weights_only=True)["epoch"] for name in ("best.ckpt", "last.ckpt")
    ]
    assert epochs == [0, 2]
    best = callbacks_of(first / "checkpoints" / "last.ckpt")["BestCheckpoint"]

    resume = ["--config", first / "config.yaml", "--ckpt_path", first / "checkpoints" / "last.ckpt"]
    assert tppsd("fit", *resume, "--trainer.max_epochs", "4", "--early_stopping.patience", "7") == 0
    second = callbacks_of(Path("outputs/fit/version_1/checkpoints/last.ckpt"))
    assert second["BestCheckpoint"]["best_model_path"] == best["best_model_path"]
    assert second["BestCheckpoint"]["best_model_score"] == best["best_model_score"]
    assert second["Patience"]["patience"] == 7
    assert (first / "checkpoints" / "best.ckpt").exists() and not Path(
        "outputs/fit/version_1/checkpoints/best.ckpt"
    ).exists()
    caplog.clear()
    assert tppsd("fit", *resume) == 0  # its three epochs are over
    assert f"best checkpoint: {first / 'checkpoints' / 'best.ckpt'}" in caplog.text


def test_checkpoints_of_another_run_are_left_alone(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["fit", *DATA, *QUIET, *STEPWISE, "--trainer.max_epochs", "1", "--trainer.logger", "false"]
    here = ["--checkpoint.dirpath", "checkpoints"]
    assert tppsd(*arguments, *here) == 0
    before = Path("checkpoints/best.ckpt").read_bytes()
    assert tppsd(*arguments, *here, "--seed_everything", "1") == 2
    assert "best.ckpt is of another run; give another --checkpoint.dirpath" in capsys.readouterr().err
    assert Path("checkpoints/best.ckpt").read_bytes() == before
    assert tppsd(*arguments, "--checkpoint.dirpath", "elsewhere") == 0
    elsewhere = Path("elsewhere")
    assert {path.name for path in elsewhere.iterdir()} == {"best.ckpt", "last.ckpt"}

    resumed = [
        *arguments,
        "--checkpoint.dirpath",
        elsewhere,
        "--ckpt_path",
        elsewhere / "last.ckpt",
        "--trainer.max_epochs",
    ]
    assert tppsd(*resumed, "2") == 0, "its own folder"
    assert torch.load(elsewhere / "last.ckpt", weights_only=True)["epoch"] == 1
    (elsewhere / "best.ckpt").unlink()
    assert tppsd(*resumed, "3", "--checkpoint.mode", "max") == 0
    assert (elsewhere / "best.ckpt").exists(), "the best of what is there now"


def test_other_checkpoints_and_none(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", MESSAGES)
    arguments = ["fit", *DATA, *QUIET, *STEPWISE, "--trainer.max_epochs", "1"]
    other = [
        "--trainer.callbacks+=ModelCheckpoint",
        "--trainer.callbacks.dirpath",
        "other",
        "--trainer.callbacks.filename",
        "all",
    ]
    assert tppsd(*arguments, *other, "--checkpoint.dirpath", "own") == 0
    assert {path.name for path in Path("own").iterdir()} == {"best.ckpt", "last.ckpt"}
    assert "best checkpoint: " in caplog.text
    assert tppsd(*arguments, "--trainer.enable_checkpointing", "false", "--trainer.logger.name", "dry") == 0
    assert not list(Path("outputs/dry").rglob("*.ckpt"))


def test_a_dry_run_that_is_refused_leaves_the_folder_that_it_is_in(tmp_path: Path) -> None:
    draft = ["--config", CONFIGS / "thp_draft.yaml", "--config", CONFIGS / "distill.yaml"]
    assert (
        tppsd("fit", *DATA, *QUIET, *draft, "--model.distillation.target", "no.ckpt", "--trainer.fast_dev_run", "true")
        == 2
    )
    assert tmp_path.exists()


def events_with_marks(path: Path, marks: str) -> list[str]:
    """Options for a file of thirty sequences whose marks go round in `marks`."""
    rows = [f"{i},{0.5 * j + 0.01 * i},{marks[(i + j) % len(marks)]}" for i in range(30) for j in range(1, 9)]
    path.write_text("\n".join(["sequence,time,mark", *rows]) + "\n")
    return ["--data.path", str(path)]


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("--trainer.devices", "x", "options of --trainer: `devices` selected"),
        ("--trainer.devices", "99999999999999999999", "options of --trainer: cannot fit 'int'"),
        ("--trainer.strategy", "[]", "options of --trainer: You selected an invalid strategy"),
        ("--trainer.accelerator", "nan", "options of --trainer: You selected an invalid accelerator"),
        ("--trainer.gradient_clip_val", "-1", "would turn gradients round; it must be at least 0"),
        ("--seed_everything", "-1", "--seed_everything: -1 is not in bounds"),
        ("--data.num_workers", "-1", "num_workers = -1 must be from 0 to 1,024"),
        ("--data.delimiter", "\u2603", "must be one ASCII character"),
    ],
)
def test_values_that_libraries_stumble_over_end_in_a_sentence(
    option: str, value: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert tppsd("fit", *events_with_marks(Path("known.csv"), "abc"), *QUIET, option, value) == 2
    assert message in capsys.readouterr().err
    assert not list(Path(".").rglob("*.ckpt"))


@pytest.mark.filterwarnings("ignore:the mean of the next inter-time is not usable")  # after a single epoch
def test_marks_of_other_names_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    known, other = events_with_marks(Path("known.csv"), "abc"), events_with_marks(Path("other.csv"), "bcd")
    size = ["--model.embed_dim", "8", "--model.num_heads", "2", "--trainer.max_epochs", "1", *STEPWISE]
    assert tppsd("fit", *known, *QUIET, *size) == 0
    best, last = (Path("outputs/fit/version_0/checkpoints", name) for name in ("best.ckpt", "last.ckpt"))
    assert tppsd("test", *known, *QUIET, "--ckpt_path", best) == 0
    histories = ["--requests.continue_split", "test", "--requests.given_events", "2"]
    draft = [
        "--config",
        CONFIGS / "thp_draft.yaml",
        "--config",
        CONFIGS / "distill.yaml",
        "--model.distillation.target",
        best,
    ]
    for arguments in (
        ["test", *other, *QUIET, "--ckpt_path", best],
        ["fit", *other, *QUIET, *STEPWISE, "--ckpt_path", last, "--trainer.max_epochs", "2"],
        ["fit", *other, *QUIET, *size, *draft],
        ["predict", *other, *QUIET, "--model.target", best, *histories],
    ):
        capsys.readouterr()
        assert tppsd(*arguments) == 2
        assert "trained with the marks a, b, c, but the data have b, c, d" in capsys.readouterr().err
    assert not list(Path("outputs").glob("samples/*"))


def test_the_architecture_comes_from_the_checkpoint(
    checkpoints: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    """Also its class, here a draft with another encoder, although a TargetTPP with a rotary encoder is the default."""
    assert tppsd("test", *DATA, *QUIET, "--ckpt_path", checkpoints[1]) == 0
    assert "nll_benchmark" in capsys.readouterr().out
    assert tppsd("validate", *DATA, *QUIET, "--ckpt_path", checkpoints[0]) == 0
    assert "nll_poisson" in capsys.readouterr().out


def test_scores_are_rounded_and_explained_on_the_screen_and_in_full_in_a_file(
    checkpoints: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    """Every score that is logged has a meaning, and the last line says where they are and what comes next."""
    target = Path("run/checkpoints/best.ckpt")
    target.parent.mkdir(parents=True)
    target.write_bytes(checkpoints[0].read_bytes())
    for verb, first, following in (
        ("validate", "nll ", f"tppsd test --ckpt_path {target}"),
        ("test", "nll_window ", f"tppsd predict --model.target {target} --requests.horizon "),
    ):
        assert tppsd(verb, *DATA, *QUIET, "--ckpt_path", target) == 0
        lines = capsys.readouterr().out.splitlines()
        written = target.with_suffix(f".{verb}.json")
        assert lines[-1].startswith(f"In full: {written}. Next: {following}")
        scores = json.loads(written.read_text())["scores"]
        assert {name.partition("/")[2] for name in scores} <= MEANINGS.keys()
        assert any(len(repr(value)) > 12 for value in scores.values())  # in full
        shown = "\n".join(lines)
        assert first in shown and all(f" {value:.4g} " in shown for value in scores.values())
        assert not re.search(r"\d\.\d{7}", shown)


def test_a_draft_is_distilled_and_resumed(checkpoints: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    """By the files of lightning_configs/; its best checkpoint is the one with the highest acceptance."""
    files = ["--config", CONFIGS / "thp_draft.yaml", "--config", CONFIGS / "distill.yaml"]
    arguments = ["fit", *DATA, *QUIET, *STEPWISE, *files, "--model.embed_dim", "8", "--model.distillation.target"]
    assert tppsd(*arguments, checkpoints[0], "--trainer.max_epochs", "2") == 0
    run = Path("outputs/fit/version_0")
    lines = (run / "metrics.csv").read_text().splitlines()
    assert {"train/kl", "train/step_acceptance", "val/kl", "val/step_acceptance"} <= set(lines[0].split(","))
    record = torch.load(run / "checkpoints" / "best.ckpt", weights_only=True)
    assert record["tppsd"]["distilled_from"] == load(checkpoints[0]).content_hash()
    scores = [state for name, state in record["callbacks"].items() if name.startswith("BestCheckpoint")]
    assert scores[0]["monitor"] == "val/step_acceptance"

    resume = ["--ckpt_path", run / "checkpoints" / "last.ckpt", "--trainer.max_epochs", "3"]
    assert tppsd("fit", "--config", run / "config.yaml", *resume) == 0
    assert "train/kl" in Path("outputs/fit/version_1/metrics.csv").read_text().splitlines()[0]
    scored = ["test", *DATA, *QUIET, "--ckpt_path", run / "checkpoints" / "best.ckpt"]
    assert tppsd(*scored, "--model.distillation.target", checkpoints[0]) == 0
    assert "step_acceptance" in capsys.readouterr().out
    runs = sorted(Path("outputs/fit").iterdir())
    assert tppsd(*arguments, "nowhere.ckpt") == 2
    assert "nowhere.ckpt: there is no such checkpoint" in capsys.readouterr().err
    assert sorted(Path("outputs/fit").iterdir()) == runs, "a run that is refused leaves nothing"


def test_samples_of_the_target_are_training_data(checkpoints: tuple[Path, Path]) -> None:
    """What `predict` has written goes straight back into `fit`."""
    models = ["--model.target", checkpoints[0], "--model.draft", "self"]
    assert tppsd("predict", *QUIET, *models, "--requests.num_sequences", "12", "--requests.num_events", "4") == 0
    files = [
        "--data.path",
        "outputs/samples",
        "--config",
        CONFIGS / "thp_draft.yaml",
        "--config",
        CONFIGS / "distill.yaml",
    ]
    distilled = [
        *files,
        "--model.embed_dim",
        "8",
        "--model.distillation.target",
        checkpoints[0],
        "--trainer.max_steps",
        "1",
    ]
    assert tppsd("fit", *QUIET, *STEPWISE, *distilled) == 0
    assert load("outputs/fit/version_0/checkpoints/best.ckpt").num_marks == 2


def test_predict_writes_files(checkpoints: tuple[Path, Path]) -> None:
    target, draft = checkpoints
    models = ["--model.target", target, "--model.draft", draft, "--model.options.draft_length", "3"]
    assert tppsd("predict", *QUIET, *models, "--requests.num_sequences", "3", "--requests.num_events", "4") == 0
    assert [path.name for path in Path("outputs/samples").glob("[!.]*")] == ["train-00000-of-00001.parquet"]
    history = [
        "--requests.continue_split",
        "test",
        "--requests.given_fraction",
        "0.5",
        "--writer.output_dir",
        "continued",
    ]
    assert tppsd("predict", *QUIET, *DATA, *models, *history) == 0
    assert [path.name for path in Path("continued").glob("[!.]*")] == ["train-00000-of-00001.parquet"]


@needs_a_compiler
def test_predict_compiles_what_it_is_told_to(checkpoints: tuple[Path, Path]) -> None:
    models = ["--model.target", checkpoints[0], "--model.draft", checkpoints[1], "--requests.num_events", "4"]
    for which in ("draft", "null", "auto", "false"):  # the first two in commands of earlier versions
        assert tppsd("predict", *QUIET, *models, "--model.options.compile", which, "--writer.output_dir", which) == 0
        assert [path.name for path in Path(which).glob("[!.]*")] == ["train-00000-of-00001.parquet"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["fit", *QUIET], "give either path (data) or process (a preset to simulate)"),
        (["fit", *QUIET, "--data.path", "nowhere"], "nowhere: no such file or folder"),
        (["fit", *QUIET, "--data", "taxi"], "the path of the data is --data.path taxi"),
        (["test", *QUIET, *DATA], "test needs a trained model: --ckpt_path FILE"),
        (["fit", *QUIET, *DATA, "--trainer.precision", "bf16-true"], "precision = 'bf16-true' would round event times"),
        (
            ["fit", *QUIET, *DATA, "--model.num_heads", "3"],
            "embed_dim = 32 must be positive, even and a multiple of num_heads = 3",
        ),
        (
            ["fit", *QUIET, *DATA, "--model.num_marks", "7"],
            "--model.num_marks 7 is wrong: the data have num_marks = 2",
        ),
        (["fit", *QUIET, "--data.process", "wind"], "there is no process preset 'wind'"),
        (["predict", *QUIET, "--model.target", "nowhere.ckpt"], "nowhere.ckpt: there is no such checkpoint"),
        (
            ["predict", *QUIET, "--model.options.draft_length", "0", "--model.target", "x"],
            "draft_length = 0 must be a whole",
        ),
    ],
)
def test_mistakes_are_one_sentence(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert tppsd(*arguments) == 2
    error = [line for line in capsys.readouterr().err.splitlines() if line.startswith(f"tppsd {arguments[0]}: error: ")]
    assert len(error) == 1 and message in error[0]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--model.encodr", "thp"], "there is no option --model.encodr; did you mean --model.encoder?"),
        (
            ["--model.encoder", "lstm"],
            "--model.encoder = lstm is wrong; it must be one of 'thp', 'sahp', 'attnhp', 'rotary' (",
        ),
        (["--data.pth", "x"], "there is no option --data.pth; did you mean --data.path?"),
        (["--data.batch_size", "2.5"], "--data.batch_size = 2.5 is wrong; it must be a whole number ("),
        (["--trainer.max_epochs", "many"], "--trainer.max_epochs = many is wrong; it must be a whole number or null ("),
        (["--nonsense", "3"], "there is no option --nonsense ("),
        (["--model.optimizer.lr", "x"], "--model.optimizer.lr = x is wrong; it must be a number or"),
        (["--model", "Nope"], "--model = Nope is wrong; it must be the path of a class"),
        (["--trainer.logger", "Nope"], "--trainer.logger = Nope is wrong; it must be the path of a class or"),
        (
            ["--data", "tppsd.NoDataModule"],
            "--data names a class that is not there: module 'tppsd' has no attribute 'NoDataModule'",
        ),
        (
            ["--trainer.callbacks+=tppsd.Spec"],
            "--trainer.callbacks names a class that is not there: module 'tppsd' has no attribute 'Spec'",
        ),
        (
            ["--model.optimizer", "torch.optim.AdamWW"],
            "--model.optimizer names a class that is not there: module 'torch.optim' has no attribute 'AdamWW'",
        ),
        (
            ["--model.lr_scheduler", "tppsd.lightning.schedule.WarmupCosine", "--model.lr_scheduler.warmup", "x"],
            "--model.lr_scheduler.warmup = x is wrong; it must be a number (",
        ),
    ],
)
def test_wrong_options_are_one_sentence(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        tppsd("fit", *DATA, *arguments)
    (error,) = [line for line in capsys.readouterr().err.splitlines() if "JsonargparseDeprecation" not in line]
    assert error.startswith("tppsd fit: error: ") and message in error
    assert error.endswith("(`tppsd fit --help` lists the options)")


def test_a_choice_of_a_word_or_a_switch_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        tppsd("predict", *QUIET, "--model.target", "x", "--model.options.compile", "drafts")
    assert (
        "--model.options.compile = drafts is wrong; it must be true or false or one of 'auto', 'draft'"
        in capsys.readouterr().err
    )


def test_an_option_that_is_missing_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        tppsd("predict", *QUIET)
    assert (
        capsys.readouterr().err
        == "tppsd predict: error: --model.target is required (`tppsd predict --help` lists the options)\n"
    )


@pytest.mark.parametrize(
    "content", [b"text", b"", pickle.dumps([1]), None], ids=["text", "nothing", "a list", "cut short"]
)
def test_what_is_no_checkpoint_is_named(
    content: bytes | None, checkpoints: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    Path("wrong.ckpt").write_bytes(checkpoints[0].read_bytes()[:3000] if content is None else content)
    for verb in ("fit", "test"):
        assert tppsd(verb, *DATA, *QUIET, "--ckpt_path", "wrong.ckpt") == 2
        assert "wrong.ckpt: not a tppsd checkpoint" in capsys.readouterr().err
    load(checkpoints[0]).save("alone.ckpt")
    assert tppsd("test", *DATA, *QUIET, "--ckpt_path", "alone.ckpt") == 2
    assert "alone.ckpt: holds a model alone" in capsys.readouterr().err


def test_what_cannot_be_written_is_refused_before_anything_is_done(
    checkpoints: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    Path("file").write_text("")
    samples = ["predict", *QUIET, "--model.target", checkpoints[0], "--requests.num_events", "3", "--writer.output_dir"]
    for folder in ("file", "file/inside"):
        assert tppsd(*samples, folder) == 2
        assert f"{folder} cannot be a folder of samples" in capsys.readouterr().err
    assert tppsd("fit", *DATA, *QUIET, "--trainer.logger.save_dir", "file") == 2
    assert "tppsd fit: error: [Errno" in capsys.readouterr().err


def test_data_with_other_marks_than_the_checkpoint(
    checkpoints: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    assert (
        tppsd("test", *QUIET, "--data.process", "hawkes", "--data.num_sequences", "20", "--ckpt_path", checkpoints[0])
        == 2
    )
    assert "trained with num_marks = 2, but this model has num_marks = 1" in capsys.readouterr().err
