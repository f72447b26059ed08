"""`tppsd fit | validate | test | predict` from arguments to files, in this process."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
import yaml
from lightning_helpers import SMALL, fitted

from tppsd import DraftTPP, TargetTPP, load
from tppsd.cli import main

DATA = ["--data.process", "multivariate_hawkes", "--data.num_sequences", "20", "--data.t_end", "8", "--data.batch_size", "4"]
QUIET = ["--trainer.enable_progress_bar", "false", "--trainer.accelerator", "cpu", "--trainer.devices", "1"]

CONFIGS = Path(__file__).parent.parent / "lightning_configs" / "model"
STEPWISE = ["--trainer.log_every_n_steps", "1"]


@pytest.fixture(autouse=True)
def _somewhere_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def tppsd(*arguments: str | Path) -> int:
    """The exit status of `tppsd ARGUMENTS`."""
    words = [str(argument) for argument in arguments]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["tppsd", *words])
        return main()


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("checkpoints")
    torch.manual_seed(0)
    draft = DraftTPP(2, encoder="sahp", **SMALL)
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


def test_the_architecture_comes_from_the_checkpoint(checkpoints: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    """Also its class, here a draft with another encoder, although a TargetTPP with a rotary encoder is the default."""
    assert tppsd("test", *DATA, *QUIET, "--ckpt_path", checkpoints[1]) == 0
    assert "test/nll_benchmark" in capsys.readouterr().out
    assert tppsd("validate", *DATA, *QUIET, "--ckpt_path", checkpoints[0]) == 0
    assert "val/nll" in capsys.readouterr().out


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
    scores = [state for name, state in record["callbacks"].items() if name.startswith("ModelCheckpoint")]
    assert scores[0]["monitor"] == "val/step_acceptance"

    resume = ["--ckpt_path", run / "checkpoints" / "last.ckpt", "--trainer.max_epochs", "3"]
    assert tppsd("fit", "--config", run / "config.yaml", *resume) == 0
    assert "train/kl" in Path("outputs/fit/version_1/metrics.csv").read_text().splitlines()[0]
    scored = ["test", *DATA, *QUIET, "--ckpt_path", run / "checkpoints" / "best.ckpt"]
    assert tppsd(*scored, "--model.distillation.target", checkpoints[0]) == 0
    assert "test/step_acceptance" in capsys.readouterr().out
    assert tppsd(*arguments, "nowhere.ckpt") == 2
    assert "nowhere.ckpt: there is no such checkpoint" in capsys.readouterr().err


def test_samples_of_the_target_are_training_data(checkpoints: tuple[Path, Path]) -> None:
    """What `predict` has written goes straight back into `fit`."""
    models = ["--model.target", checkpoints[0], "--model.draft", "self"]
    assert tppsd("predict", *QUIET, *models, "--requests.num_sequences", "12", "--requests.num_events", "4") == 0
    files = ["--data.path", "outputs/samples", "--config", CONFIGS / "thp_draft.yaml", "--config", CONFIGS / "distill.yaml"]
    distilled = [*files, "--model.embed_dim", "8", "--model.distillation.target", checkpoints[0], "--trainer.max_steps", "1"]
    assert tppsd("fit", *QUIET, *STEPWISE, *distilled) == 0
    assert load("outputs/fit/version_0/checkpoints/best.ckpt").num_marks == 2


def test_predict_writes_files(checkpoints: tuple[Path, Path]) -> None:
    target, draft = checkpoints
    models = ["--model.target", target, "--model.draft", draft, "--model.options.draft_length", "3"]
    assert tppsd("predict", *QUIET, *models, "--requests.num_sequences", "3", "--requests.num_events", "4") == 0
    assert [path.name for path in Path("outputs/samples").glob("[!.]*")] == ["train-00000-of-00001.parquet"]
    history = ["--requests.continue_split", "test", "--requests.given_fraction", "0.5", "--writer.output_dir", "continued"]
    assert tppsd("predict", *QUIET, *DATA, *models, *history) == 0
    assert [path.name for path in Path("continued").glob("[!.]*")] == ["train-00000-of-00001.parquet"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["fit", *QUIET], "give either path (data) or process (a preset to simulate)"),
        (["fit", *QUIET, "--data.path", "nowhere"], "nowhere: no such file or folder"),
        (["fit", *QUIET, "--data", "taxi"], "the path of the data is --data.path taxi"),
        (["test", *QUIET, *DATA], "test needs a trained model: --ckpt_path FILE"),
        (["fit", *QUIET, *DATA, "--trainer.precision", "bf16-true"], "precision = 'bf16-true' would round event times"),
        (["fit", *QUIET, *DATA, "--model.num_heads", "3"], "embed_dim = 64 must be even and a multiple of num_heads = 3"),
        (["fit", *QUIET, "--data.process", "wind"], "there is no process preset 'wind'"),
        (["predict", *QUIET, "--model.target", "nowhere.ckpt"], "nowhere.ckpt: there is no such checkpoint"),
        (["predict", *QUIET, "--model.options.draft_length", "0", "--model.target", "x"], "draft_length = 0 must be a whole"),
    ],
)
def test_mistakes_are_one_sentence(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert tppsd(*arguments) == 2
    error = [line for line in capsys.readouterr().err.splitlines() if line.startswith(f"tppsd {arguments[0]}: error: ")]
    assert len(error) == 1 and message in error[0]


def test_data_with_other_marks_than_the_checkpoint(checkpoints: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    assert tppsd("test", *QUIET, "--data.process", "hawkes", "--data.num_sequences", "20", "--ckpt_path", checkpoints[0]) == 2
    assert "trained with num_marks = 2, but this model has num_marks = 1" in capsys.readouterr().err
