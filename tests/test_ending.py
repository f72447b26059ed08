"""The last line of `tppsd fit` names the cause of the end, what was learnt, and commands that work."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest
import torch
import yaml
from lightning_helpers import tppsd

from tppsd import load
from tppsd.lightning.ending import what_was_learnt
from tppsd.lightning.hawkes_baseline import HAWKES, POISSON, RENEWAL
from tppsd.lightning.size import target_size

MESSAGES = "lightning.pytorch.utilities.rank_zero"
ARGUMENTS = [
    "fit", "--data.process", "multivariate_hawkes", "--data.num_sequences", "20", "--data.t_end", "8",
    "--data.batch_size", "4", "--trainer.enable_progress_bar", "false", "--trainer.accelerator", "cpu",
    "--trainer.devices", "1", "--trainer.log_every_n_steps", "1", "--renewal_baseline.num_steps", "20",
]  # fmt: skip
TINY = ["--model.embed_dim", "8", "--model.num_heads", "2"]


@pytest.fixture(autouse=True)
def _somewhere_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def last_line(caplog: pytest.LogCaptureFixture, *options: str) -> str:
    """What `tppsd fit` says last."""
    caplog.clear()
    caplog.set_level("INFO", MESSAGES)
    assert tppsd(*ARGUMENTS, *TINY, *options) == 0
    return caplog.records[-1].getMessage()


WORSE = ["--early_stopping.monitor", "val/nll", "--early_stopping.mode", "max"]  # the better it gets, the worse
CAUSES = {
    "max_epochs": (["--trainer.max_epochs", "2"], "after 2 epochs (8 steps): max_epochs = 2 was reached;"),
    "max_steps": (["--trainer.max_steps", "6"], "max_steps = 6 was reached;"),
    "patience": (
        [*WORSE, "--early_stopping.patience", "2"],
        "val/nll had not improved in 2 validations, and the learning rate has fallen to its end since;",
    ),
    "early stopping": (
        [*WORSE, "--early_stopping.patience", "2", "--model.lr_scheduler", "null"],
        "after 3 epochs (12 steps): val/nll had not improved in 2 validations;",
    ),
    "threshold": (["--early_stopping.stopping_threshold", "100"], "val/nll has passed a threshold;"),
    "budget": (
        ["--trainer.callbacks+=tppsd.lightning.budget.TimeBudget", "--trainer.callbacks.seconds", "0.001"],
        "its 0.001 seconds were over;",
    ),
    "max_time": (["--trainer.max_time", "00:00:00:00"], "its time (max_time) was over;"),
}


@pytest.mark.parametrize(("options", "cause"), CAUSES.values(), ids=CAUSES)
def test_it_names_the_cause(options: list[str], cause: str, caplog: pytest.LogCaptureFixture) -> None:
    """Each cause has a sentence of its own, so that naming another one is seen."""
    line = last_line(caplog, *options)
    assert line.startswith("training stopped after ") and cause in line
    assert not any(other in line for _, other in CAUSES.values() if other not in cause and cause not in other)


def test_its_commands_work(caplog: pytest.LogCaptureFixture) -> None:
    logger = ["--trainer.logger.save_dir", "my fits"]
    line = last_line(caplog, "--trainer.max_epochs", "2", *logger)
    test, forecast, more = (shlex.split(each) for each in line.split("`")[1::2])
    assert tppsd(*test[1:], "--renewal_baseline.num_steps", "0", "--trainer.enable_progress_bar", "false") == 0
    assert forecast[:2] == ["tppsd", "forecast"] and Path(forecast[3], "config.yaml").is_file()
    assert tppsd(*more[1:]) == 0
    last = torch.load("my fits/fit/version_1/checkpoints/last.ckpt", weights_only=True)
    assert last["epoch"] == 3, "twice as many epochs"


def test_a_run_that_had_stopped_improving_is_not_sent_on(caplog: pytest.LogCaptureFixture) -> None:
    assert "more may help" not in last_line(caplog, *CAUSES["patience"][0])
    assert "more may help" in last_line(caplog, "--trainer.max_epochs", "1")


@pytest.mark.parametrize(
    ("nll", "words"),
    [
        (0.5, "it has learnt more of the history than a classical model says (nats"),
        (1.5, "it has learnt something of the history, but not all"),
        (2.5, "it has learnt how long the events wait for each other, but nothing of the history"),
        (3.5, "it has learnt nothing that a constant rate does not say"),
    ],
)
def test_what_was_learnt_is_said_in_words(nll: float, words: str) -> None:
    said = what_was_learnt(nll, {POISSON: 3.0, RENEWAL: 2.0, HAWKES: 1.0})
    assert said.startswith(words)
    assert f"{abs(3.0 - nll):.4f} {'better' if nll < 3 else 'worse'} than a Poisson process" in said
    if nll < 2:
        assert what_was_learnt(nll, {POISSON: 3.0, RENEWAL: 2.0}).startswith("it has learnt something of the history (")


def test_runs_without_a_logger_get_folders_of_their_own(caplog: pytest.LogCaptureFixture) -> None:
    short = ["--trainer.max_epochs", "1", "--trainer.logger", "false"]
    assert "tppsd test --run outputs/fit/version_0" in last_line(caplog, *short)
    assert "tppsd test --run outputs/fit/version_1" in last_line(caplog, *short)
    assert not Path("checkpoints").exists()
    assert tppsd("test", "--run", "outputs/fit/version_1", "--trainer.enable_progress_bar", "false") == 0


def test_the_size_by_the_data_is_said_and_kept(caplog: pytest.LogCaptureFixture) -> None:
    """In the configuration, the hyper-parameters and the model: another log of another size changes none of them."""
    caplog.set_level("INFO", MESSAGES)
    assert tppsd(*ARGUMENTS, "--trainer.max_epochs", "1", "--model.dropout", "0.0") == 0
    (said,) = [line.getMessage() for line in caplog.records if "size of the model by the data" in line.getMessage()]
    small, run = target_size(300), Path("outputs/fit/version_0")
    assert f"embed_dim = {small.embed_dim}, num_layers = {small.num_layers}, for " in said and "dropout =" not in said
    kept = yaml.safe_load((run / "config.yaml").read_text())["model"]["init_args"]
    expected = {"embed_dim": small.embed_dim, "num_layers": small.num_layers, "dropout": 0.0}
    assert {name: kept[name] for name in expected} == expected and "num_events" not in kept
    for checkpoint in ("best.ckpt", "last.ckpt"):
        path = run / "checkpoints" / checkpoint
        assert {name: load(path).config[name] for name in expected} == expected
        stored = torch.load(path, weights_only=True)["hyper_parameters"]
        assert {name: stored[name] for name in expected} == expected
    caplog.clear()
    larger = ["--config", run / "config.yaml", "--data.num_sequences", "40", "--trainer.max_epochs", "2"]
    assert tppsd("fit", *larger, "--ckpt_path", run / "checkpoints" / "last.ckpt") == 0
    assert "size of the model by the data" not in caplog.text


def test_more_events_want_more_of_a_model() -> None:
    sizes = [target_size(num) for num in (100, 10_000, 1_000_000)]
    assert sizes == sorted(sizes, key=lambda size: (size.embed_dim, size.num_layers, -size.dropout))
    assert sizes[0].embed_dim < sizes[-1].embed_dim and sizes[0].dropout > sizes[-1].dropout > 0
    assert target_size(None).dropout == 0.0


def test_it_names_the_checkpoint_where_a_run_would_stand_for_another_one(caplog: pytest.LogCaptureFixture) -> None:
    """Mutant: --run RUN, which takes best.ckpt or last.ckpt."""
    line = last_line(caplog, "--trainer.max_epochs", "1", "--checkpoint.filename", "mine")
    assert "--ckpt_path outputs/fit/version_0/checkpoints/mine.ckpt" in line and "--run" not in line
