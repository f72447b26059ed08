"""New data are read as those of a model were, by `tppsd forecast`, `tppsd backtest` and runs alike."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from dated_log import NAMES, dated_model, write_dated_log
from small_models import attentive_model

from tppsd import EventDataModule, cli
from tppsd.commands import backtest, forecast
from tppsd.commands.backtest import _origins
from tppsd.commands.data_options import opened
from tppsd.data.stamps import as_trained
from tppsd.data.statistics import DataStatistics

COLUMNS = {"sequence": "case", "mark": "activity"}
PARSERS = [forecast.parser, backtest.parser]
DATED = DataStatistics(
    3, mark_names=NAMES, time_unit="hours", time_origin="2024-03-01T00:00:00", window=2.0, lookback=1.0
)
CLOCK = {"time_unit": "h", "origin": "2024-03-01T00:00:00"}
KNOWN = CLOCK | {"mark_names": list(NAMES), "window": 2.0, "lookback": 1.0}


@pytest.mark.parametrize(
    ("given", "stored", "read"),
    [
        ({}, {}, KNOWN),
        ({"time_unit": "min", "window": 3}, {}, KNOWN | {"time_unit": "min", "window": 3}),
        ({"min_mark_count": 2}, {}, CLOCK | {"window": 2.0, "lookback": 1.0, "min_mark_count": 2}),
        ({}, {"min_mark_count": 2, "mark_names": None, "sort": True}, KNOWN | {"sort": True}),
        ({"sort": False}, {"sort": True}, KNOWN | {"sort": False}),
        ({}, {"window": None, "lookback": None}, CLOCK | {"mark_names": list(NAMES)}),
        ({"window": None}, {}, CLOCK | {"mark_names": list(NAMES), "window": None}),
        ({"observed": [[0, 1]]}, {}, CLOCK | {"mark_names": list(NAMES), "observed": [[0, 1]]}),
        ({"mark_names": ["a"]}, {"mark_names": ["b"]}, KNOWN | {"mark_names": ["a"]}),
    ],
)
def test_the_model_knows_what_is_not_given(given: Any, stored: Any, read: Any) -> None:
    """A unit of another name is that of timestamps; cut before (window: null in a run), data are not cut again."""
    assert as_trained(DATED, given, stored) == read


def test_times_that_are_numbers_have_no_origin() -> None:
    assert as_trained(DataStatistics(2, time_unit="10,000 s"), {}) == {"time_unit": "10,000 s"}
    assert as_trained(None, {"sort": True}) == {"sort": True}


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run on the first of two logs, of six and of nine cases."""
    (tmp_path / "new").mkdir()
    write_dated_log(tmp_path, 6)
    write_dated_log(tmp_path / "new", 9)
    options = {name: None for name in ("window", "lookback", "time_unit", "origin", "mark_names")}
    options |= {"path": str(tmp_path / "log.csv"), "columns": COLUMNS, "min_mark_count": 2, "sort": True}
    options |= {"fractions": [0.5, 0.2, 0.3]}
    data = {"class_path": "tppsd.lightning.datamodule.EventDataModule", "init_args": options}
    folder = tmp_path / "version_0"
    (folder / "checkpoints").mkdir(parents=True)
    (folder / "config.yaml").write_text(yaml.safe_dump({"data": data}))
    dated_model().save(folder / "checkpoints" / "best.ckpt")
    return folder


@pytest.mark.parametrize("parser", PARSERS)
def test_both_commands_open_run_model_and_configuration_alike(parser: Any, run: Path, tmp_path: Path) -> None:
    """Mutants: a command that does not look at SOURCE, at --config, or at one of the options."""
    new, old, checkpoint = tmp_path / "new/log.csv", tmp_path / "log.csv", run / "checkpoints/best.ckpt"
    (tmp_path / "new.yaml").write_text(json.dumps({"data": {"path": str(new), "columns": COLUMNS, "sort": True}}))
    of_model = CLOCK | {"mark_names": list(NAMES)}
    of_run = of_model | {"columns": COLUMNS, "sort": True, "fractions": [0.5, 0.2, 0.3]}
    for words, source, given in (
        (["--run", run], old, of_run),
        ([new, "--run", run], new, of_run),
        (["--run", run, "--config", tmp_path / "new.yaml"], new, of_model | {"columns": COLUMNS, "sort": True}),
        (["--run", run, "--sort", "false"], old, {name: value for name, value in of_run.items() if name != "sort"}),
        ([new, "--model", checkpoint, "--columns.sequence", "case"], new, of_model | {"columns": {"sequence": "case"}}),
        (["--model", checkpoint, "--config", run / "config.yaml"], old, of_run),
    ):
        target, found, options = opened(parser().parse_args(list(map(str, words))))
        assert target.statistics == dated_model().statistics
        assert found == str(source) and options.given() == given, words
    with pytest.raises(ValueError, match="there is no SOURCE"):
        opened(parser().parse_args(["--model", str(checkpoint)]))


def test_a_new_log_is_backtested_and_not_that_of_the_run(run: Path, tmp_path: Path) -> None:
    """Three of nine cases are its test split, and two of the run's six."""
    words = ["backtest", "--run", run, "--horizon", "1", "--num_paths", "10", "--baselines", "[]", "--seed", "1"]
    words += ["--trainer.enable_progress_bar", "false"]
    for name, log in (("old", []), ("new", [tmp_path / "new/log.csv"])):
        assert cli.main([*map(str, [*words, *log, "--output", tmp_path / "out" / name])]) == 0
    old, new = (json.loads((tmp_path / "out" / name / "scores.json").read_text()) for name in ("old", "new"))
    assert (old["num_origins"], new["num_origins"]) == (2, 3)


def test_a_stream_is_cut_into_the_windows_of_the_model(tmp_path: Path) -> None:
    """Mutant: a stream that is one sequence, and can have no test split."""
    hours = "\n".join(f"2024-03-02T{hour:02d}:{minute}:00,{hour % 3}" for hour in range(24) for minute in (10, 40))
    (tmp_path / "stream.csv").write_text(f"time,mark\n{hours}\n")
    model = attentive_model("thp", num_marks=3)
    model.set_statistics(replace(DATED, mark_names=None, log_std=1.0))
    model.save(tmp_path / "target.ckpt")
    words = [str(tmp_path / "stream.csv"), "--model", str(tmp_path / "target.ckpt")]
    _, data = backtest._opened(backtest.parser().parse_args(words))
    assert len(data.sequences("train")) == 10 and data.statistics.lookback == 1.0
    (test,) = data.sequences("test")
    assert (test.t_start, test.scored_from) == pytest.approx((45 + 1 / 6, 46 + 1 / 6)), "from the first event on"
    _, data = backtest._opened(backtest.parser().parse_args([*words, "--window", "90min"]))
    assert data.statistics.window == 1.5


def test_a_log_that_was_cut_before_is_not_cut_again(tmp_path: Path) -> None:
    """An Arrow file says by which windows its sequences were cut. Mutant: it is cut again by those of its model."""
    hours = "\n".join(f"2024-03-02T{hour:02d}:{minute}:00,a" for hour in range(24) for minute in (10, 40))
    (tmp_path / "stream.csv").write_text(f"time,mark\n{hours}\n")
    words = ["--window", "2h", "--lookback", "1h"]
    assert cli.main(["convert", str(tmp_path / "stream.csv"), str(tmp_path / "stream.arrow"), *words]) == 0
    known = EventDataModule(str(tmp_path / "stream.arrow")).statistics
    cut = EventDataModule(str(tmp_path / "stream.arrow"), **as_trained(known, {}))
    assert cut.dataset.window == 120.0 and not cut.dataset.notes
    assert [len(cut.sequences(split)) for split in ("train", "validation", "test")] == [10, 1, 1]


def test_origins_are_on_the_clock_of_the_model_whatever_its_unit_is_called() -> None:
    assert _origins("2024-03-02, 2024-03-02T01:30", DATED) == [24.0, 25.5]
    assert _origins("3, 4.5", DataStatistics(1, time_unit="hours")) == [3.0, 4.5]
    with pytest.raises(ValueError, match="origins = '2024-03-02' is not a number"):
        _origins("2024-03-02", DataStatistics(1, time_unit="hours"))
