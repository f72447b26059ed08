"""What the loggers of a run receive, read back from their files, W&B's offline; and the dashboard for it."""

from __future__ import annotations

import csv
import json
import time
from collections.abc import Callable
from pathlib import Path
from unittest.mock import ANY

import pytest
import yaml
from jsonargparse import Namespace
from lightning_helpers import SMALL as SIZES
from lightning_helpers import small_data, tppsd, trainer
from recorded_runs import RecordedRun, read_recorded_run

from tppsd import BacktestAfterFit, TargetTPP
from tppsd.commands.dashboard import SECTIONS, document, empty_panels, workspace
from tppsd.lightning.artifacts import data_facts, samples_artifact
from tppsd.lightning.cli import parser_of
from tppsd.lightning.loggers import data_name, name_projects
from tppsd.lightning.recorded_run import run_file
from tppsd.lightning.tracking import Tracking
from tppsd.models.checkpoint import load

CONFIGS = Path(__file__).parent.parent / "lightning_configs"
DATA = ["--data.process", "multivariate_hawkes", "--data.num_sequences", "20", "--data.t_end", "8"]
SMALL = ["--model.embed_dim", "8", "--model.num_heads", "2", "--model.num_components", "4", "--threads", "1"]
QUIET = ["--trainer.enable_progress_bar", "false", "--trainer.accelerator", "cpu", "--trainer.devices", "1",
         "--trainer.log_every_n_steps", "1", "--trainer.max_epochs", "3", "--data.batch_size", "4",
         "--renewal_baseline.num_steps", "5"]  # fmt: skip
SAMPLING = ["--trainer.callbacks+=tppsd.SpeculativeSampling", "--trainer.callbacks.every_n_epochs", "1",
            "--trainer.callbacks.num_sequences", "3"]  # fmt: skip
BACKTEST = ["--trainer.callbacks+=tppsd.BacktestAfterFit", "--trainer.callbacks.horizon", "2",
            "--trainer.callbacks.num_paths", "20"]  # fmt: skip
PANELS = [panel for panels in SECTIONS.values() for panel in panels]


def recorded(folder: Path, is_whole: Callable[[RecordedRun], bool]) -> RecordedRun:
    """Return an offline run, once a process of W&B's own has written all of it."""
    deadline = time.monotonic() + 60
    while True:
        run = read_recorded_run(run_file(folder))
        if is_whole(run) or time.monotonic() > deadline:
            return run
        time.sleep(0.5)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Train a target with W&B offline, distil a draft from it, sample from both, and return the folder of all that."""
    import wandb

    folder = tmp_path_factory.mktemp("wandb")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.delenv("WANDB_PROJECT", raising=False)
        logger = ["--config", CONFIGS / "trainer" / "wandb.yaml", "--trainer.logger.version"]
        fit = ["fit", *DATA, *SMALL, *QUIET]
        assert tppsd(*fit, *SAMPLING, *BACKTEST, *logger, "target") == 0
        wandb.finish()
        (target,) = folder.glob("outputs/multivariate_hawkes/target/checkpoints/best.ckpt")
        distilled = ["--model", "tppsd.DraftTPP", "--model.distillation.target", target]
        assert tppsd(*fit, *distilled, *logger, "draft") == 0
        wandb.finish()
        (draft,) = folder.glob("outputs/multivariate_hawkes/draft/checkpoints/best.ckpt")
        predict = ["predict", *DATA, *QUIET[:6], "--requests.num_sequences", "2", "--requests.num_events", "3"]
        models = ["--model.target", target, "--model.draft", draft]
        assert tppsd(*predict, *models, *logger, "samples") == 0
        wandb.finish()
    return folder


def run_of(folder: Path, name: str) -> RecordedRun:
    (place,) = folder.glob(f"outputs/wandb/offline-run-*-{name}")
    wanted = {"target": "backtest/reliability", "draft": "best/nll"}.get(name)
    return recorded(place, lambda run: (wanted is None or wanted in run.keys) and len(run.artifacts) >= 2)


def test_a_run_has_its_configuration_and_the_name_of_its_data(folder: Path) -> None:
    run = run_of(folder, "target")
    assert run.project == "multivariate_hawkes"
    assert run.config["model"]["init_args"]["embed_dim"] == 8 and run.config["data"]["init_args"]["t_end"] == 8
    assert run.config["seed_everything"] == 0


def test_a_run_has_learning_rates_gradients_and_the_best_values(folder: Path) -> None:
    run = run_of(folder, "target")
    steps = len(run.history["train/nll"])
    assert len(run.history["train/learning_rate"]) == len(run.history["train/gradient_norm"]) == steps > 10
    assert max(run.history["train/learning_rate"]) == pytest.approx(2e-3)
    assert all(norm > 0 for norm in run.history["train/gradient_norm"])
    scores = run.history["val/nll"]
    best = min(range(len(scores)), key=lambda i: scores[i])
    assert run.summary["best/nll"] == scores[best] and run.summary["best/epoch"] == best
    assert run.summary["best/nll_time"] == run.history["val/nll_time"][best]


def test_every_panel_of_the_dashboard_has_something_of_the_run(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A run without the callbacks lacks what they log, so that a panel with a wrong key would be found."""
    pytest.importorskip("wandb_workspaces", reason="the package wandb-workspaces is not installed")
    target, draft = run_of(folder, "target"), run_of(folder, "draft")
    assert empty_panels(target.keys) == {}
    lacking = {key for keys in empty_panels(draft.keys).values() for key in keys}
    assert lacking and all(key.startswith(("sampling/", "fidelity/", "backtest/")) for key in lacking)
    kinds = {key: target.history[f"{key}/_type"][0] for key in target.keys if f"{key}/_type" in target.history}
    wanted = {"media": "image-file", "table": "table-file"}
    assert all(kinds[key] == wanted[kind] for kind, _, keys in PANELS if kind in wanted for key in keys)
    monkeypatch.chdir(folder)
    (place,) = folder.glob("outputs/wandb/offline-run-*-target")
    assert tppsd("dashboard", "multivariate_hawkes", "--check", place) == 0
    printed = capsys.readouterr().out
    assert "this run has something for every panel" in printed and "Nothing was sent" in printed
    sent = json.loads((folder / "outputs" / "dashboard.json").read_text())
    assert sent["project"] == "multivariate_hawkes"


def test_the_workspace_is_laid_out_as_it_is_said_and_read_back_by_its_own_package() -> None:
    ws = pytest.importorskip("wandb_workspaces.workspaces", reason="the package wandb-workspaces is not installed")
    from wandb_workspaces.workspaces import internal

    made = workspace("me", "taxi", "tppsd")
    sent = document(made)
    sections = sent["spec"]["section"]["panelBankConfig"]["sections"]
    assert [section["name"] for section in sections] == list(SECTIONS)
    text = json.dumps(sections)
    assert all(json.dumps(key) in text for kind, _, keys in PANELS for key in keys if kind != "number")
    assert [len(section["panels"]) for section in sections] == [len(panels) for panels in SECTIONS.values()]
    again = ws.Workspace._from_model(internal.View(**sent))
    assert [section.name for section in again.sections] == list(SECTIONS)
    assert [type(panel) for section in again.sections for panel in section.panels] == [
        type(panel) for section in made.sections for panel in section.panels
    ]


def test_artifacts_say_what_was_made_of_what(folder: Path) -> None:
    """The draft's run used the target that the target's run made, and so on: (name, type, whether it was used)."""
    target, draft, samples = (run_of(folder, name) for name in ("target", "draft", "samples"))

    def kept(run: RecordedRun) -> set[tuple[str, str, bool]]:
        return {one[:3] for one in run.artifacts if one[1] != "run_table"}

    data = ("multivariate_hawkes", "dataset", True)
    assert kept(target) == {
        data, ("multivariate_hawkes-target", "model", False), ("multivariate_hawkes-samples", "samples", False)
    }  # fmt: skip
    assert kept(draft) == {
        data, ("multivariate_hawkes-target", "model", True), ("multivariate_hawkes-draft", "model", False)
    }  # fmt: skip
    assert kept(samples) == {
        ("multivariate_hawkes-target", "model", True), ("multivariate_hawkes-draft", "model", True),
        ("multivariate_hawkes-samples", "samples", False),
    }  # fmt: skip
    about = {(one[0], one[2]): one[3] for run in (target, draft, samples) for one in run.artifacts}
    path = folder / "outputs/multivariate_hawkes/target/checkpoints/best.ckpt"
    own = about["multivariate_hawkes-target", False]
    assert own["content_hash"] == load(path).content_hash() == about["multivariate_hawkes-target", True]["content_hash"]
    assert own["best/nll"] == target.summary["best/nll"]
    assert about["multivariate_hawkes-draft", False]["distilled_from"] == own["content_hash"]
    assert about["multivariate_hawkes-samples", False]["target"] == own["content_hash"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["taxi", "--publish"], "--publish needs --entity: the user or team that the project belongs to"),
        (["taxi", "--check", "nowhere"], "nowhere: has no run-ID.wandb; give the folder of a run"),
    ],
)
def test_a_dashboard_that_cannot_be_made_says_why(
    arguments: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    pytest.importorskip("wandb_workspaces", reason="the package wandb-workspaces is not installed")
    monkeypatch.chdir(tmp_path)
    assert tppsd("dashboard", *arguments) == 2
    assert message in capsys.readouterr().err and not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("callback", "message"),
    [
        (BacktestAfterFit(2.0, split="nothing"), "nothing"),
        (BacktestAfterFit("7d"), "horizon = '7d'"),
        (BacktestAfterFit(2.0, baselines=["foo"]), "baselines: 'foo' is unknown"),
        (BacktestAfterFit(2.0, origins="evry 7"), "origins = 'evry 7' must be a fraction"),
        (BacktestAfterFit(2.0, origins=1.5), "origins = 1.5 must be a fraction"),
        (BacktestAfterFit(1e6), "no origin of origins = 0.5 has a horizon of 1e[+]06"),
        (BacktestAfterFit(2.0, max_sequences=0), "max_sequences = 0 must be a whole number of at least 1"),
        (BacktestAfterFit(2.0, num_paths=0), "num_paths = 0 must be a whole number of at least 10"),
    ],
)
def test_a_backtest_that_cannot_be_made_is_refused_before_training(callback: BacktestAfterFit, message: str) -> None:
    module = TargetTPP(2, embed_dim=8, num_heads=2, num_components=4)
    before = module.model.content_hash()
    with pytest.raises(ValueError, match=message):
        trainer(callbacks=[callback]).fit(module, datamodule=small_data())
    assert module.model.content_hash() == before


def test_the_facts_of_data_have_no_events_and_tell_data_apart() -> None:
    one, same, other = small_data(), small_data(), small_data(t_end=9.0)
    assert data_facts(one) == data_facts(same)
    assert data_facts(one)["sha256"] != data_facts(other)["sha256"]
    assert data_facts(one)["splits"]["train"] == {
        "sequences": len(one.sequences("train")), "events": sum(map(len, one.sequences("train")))
    }  # fmt: skip
    assert len(json.dumps(data_facts(one))) < 1000


def test_artifacts_are_left_out_when_told() -> None:
    """And nothing is asked of W&B where there is no run of it."""
    callback = Tracking(artifacts=False)
    fit = trainer(callbacks=[callback])
    fit.fit(TargetTPP(2, embed_dim=8, num_heads=2, num_components=4), datamodule=small_data())
    assert callback.best == {}  # without a BestCheckpoint there is no best epoch


def test_a_run_that_logs_no_steps_is_trained_as_any_other() -> None:
    """Mutant: the rest of a division by log_every_n_steps, which is 0."""
    trainer(callbacks=[Tracking()], log_every_n_steps=0).fit(TargetTPP(2, **SIZES), datamodule=small_data())


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ({"process": "hawkes", "path": None}, "hawkes"),
        ({"path": "logs/desk.csv.gz"}, "desk"),
        ({"path": "easytpp/taxi"}, "taxi"),
        ({"path": "folder/of/splits/"}, "splits"),
        ({"path": None}, None),
    ],
)
def test_projects_are_called_after_the_data(options: dict[str, str | None], name: str | None) -> None:
    assert data_name({"init_args": options}) == name


@pytest.mark.parametrize(
    ("logger", "arguments", "expected"),
    [
        ("WandbLogger", {"project": None, "name": "fit"}, {"project": "taxi", "name": None}),
        ("WandbLogger", {"project": "mine", "name": "first"}, {"project": "mine", "name": "first"}),
        ("TensorBoardLogger", {"name": "lightning_logs"}, {"name": "taxi"}),
        ("CSVLogger", {"name": "fit"}, {"name": "fit"}),
    ],
)
def test_a_logger_keeps_the_names_that_it_was_given(
    logger: str, arguments: dict[str, str | None], expected: dict[str, str | None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("WANDB_PROJECT", raising=False)
    one = Namespace(class_path=f"lightning.pytorch.loggers.{logger}", init_args=Namespace(**arguments))
    name_projects([one], "taxi")
    assert one.init_args.as_dict() == expected


@pytest.mark.parametrize("name", ["Données", "log #1 50%", "taxi", 60 * "long "])
def test_names_of_data_become_names_that_wandb_takes(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Artifacts are made when training has ended, which is late for an error. Mutant: names as they are."""
    import wandb

    monkeypatch.delenv("WANDB_PROJECT", raising=False)
    artifact = samples_artifact([], name, {})
    assert artifact.name.endswith("-samples") and (name != "taxi" or artifact.name == "taxi-samples")
    logger = Namespace(
        class_path="lightning.pytorch.loggers.WandbLogger", init_args=Namespace(project=None, name="fit")
    )
    name_projects(logger, name)
    assert wandb.Settings(project=logger.init_args.project).project == (name if name in ("taxi", "Données") else ANY)


@pytest.mark.parametrize(("mode", "best"), [("min", min), ("max", max)])
def test_csv_has_the_numbers(
    mode: str, best: Callable[[list[float]], float], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the worst score is looked for, the best epoch is the first: that of the last would be seen."""
    monkeypatch.chdir(tmp_path)
    options = ["--trainer.max_epochs", "2", "--checkpoint.mode", mode, "--early_stopping.patience", "5"]
    assert tppsd("fit", *DATA, *SMALL, *QUIET, *options) == 0
    rows = list(csv.DictReader(Path("outputs/fit/version_0/metrics.csv").read_text().splitlines()))
    assert {"train/learning_rate", "train/gradient_norm", "best/nll", "best/epoch"} <= rows[0].keys()
    scores = [float(row["val/nll"]) for row in rows if row["val/nll"]]
    found = [row for row in rows if row["best/nll"]][-1]
    assert float(found["best/nll"]) == pytest.approx(best(scores))
    assert int(float(found["best/epoch"])) == scores.index(best(scores)) == (mode == "min")


def test_tensorboard_has_numbers_pictures_and_tables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reading = pytest.importorskip(
        "tensorboard.backend.event_processing.event_accumulator", reason="the package tensorboard is not installed"
    )
    monkeypatch.chdir(tmp_path)
    logger = ["--trainer.logger", "TensorBoardLogger", "--trainer.logger.save_dir", "outputs"]
    assert tppsd("fit", *DATA, *SMALL, *QUIET, *SAMPLING, *BACKTEST, *logger, "--trainer.max_epochs", "1") == 0
    found = reading.EventAccumulator("outputs/fit/version_0")
    found.Reload()
    tags = found.Tags()
    assert {"train/gradient_norm", "best/nll", "sampling/speedup", "backtest/brier_score"} <= set(tags["scalars"])
    pictures = {"fidelity/ks_plot", "sampling/raster", "sampling/accepted_histogram", "backtest/reliability"}
    assert pictures <= set(tags["images"])
    assert {"sampling/accepted_counts/text_summary", "backtest/scores/text_summary"} <= set(tags["tensors"])


def test_a_missing_package_of_a_logger_is_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import importlib.util

    if importlib.util.find_spec("mlflow") is not None:
        pytest.skip("mlflow is installed here, which this test needs to be missing")
    monkeypatch.chdir(tmp_path)
    assert tppsd("fit", *DATA, *SMALL, *QUIET, "--trainer.logger", "MLFlowLogger") == 2
    error = [line for line in capsys.readouterr().err.splitlines() if "error" in line]
    sentence = "--trainer.logger MLFlowLogger needs a package that is not installed: pip install mlflow"
    assert error == [f"tppsd fit: error: {sentence}"] and not list(tmp_path.iterdir())


@pytest.mark.parametrize("file", ["size", "draft"])
def test_a_sweep_asks_for_what_fit_takes_and_logs(file: str, folder: Path) -> None:
    """The command of every corner of its grid is parsed as W&B's agent would write it."""
    sweep = yaml.safe_load((CONFIGS / "sweeps" / f"{file}.yaml").read_text())
    assert sweep["program"] == "tppsd" and sweep["command"][:2] == ["tppsd", "fit"]
    assert sweep["metric"]["name"] in run_of(folder, "target").keys
    parser = parser_of("fit")
    for end in (0, -1):
        chosen = {
            name: one["values"][end] if "values" in one else (one["min"], one["max"])[end]
            for name, one in sweep["parameters"].items()
        }
        own = [f"--{name}={value}" for name, value in chosen.items()]
        words = [word for word in sweep["command"][2:] if word != "${args}"]
        words = [str(CONFIGS.parent / word) if word.endswith(".yaml") else word for word in words]
        parsed = parser.parse_args([*words, *own])
        model = parsed.model.init_args
        assert model.num_layers == chosen["model.num_layers"] and model.embed_dim == chosen["model.embed_dim"]
        assert parsed.trainer.logger.class_path.endswith("WandbLogger")
