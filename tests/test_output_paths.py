"""Results are local files: a URL is one sentence and makes no folder `s3:`, and `exp:1` is a legal name."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas
import pytest
import torch
from small_models import attentive_model

import tppsd
from tppsd import cli
from tppsd.data.arrow_file import write_arrow
from tppsd.data.interchange import write_parquet
from tppsd.data.log import read_log
from tppsd.data.options import ReadOptions
from tppsd.data.paths import local_path
from tppsd.data.reading import read_dataset
from tppsd.data.statistics import DataStatistics
from tppsd.data.whole_files import write_text
from tppsd.lightning.scores import _following
from tppsd.models.checkpoint import save

LOG = "sequence,time,mark\n" + "\n".join(f"{case},{0.5 + i},a" for case in range(20) for i in range(4)) + "\n"
URL = "s3://bucket/x"


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A log and a checkpoint in the working directory."""
    monkeypatch.chdir(tmp_path)
    Path("log.csv").write_text(LOG)
    torch.manual_seed(0)
    save(attentive_model("thp", num_marks=1), "target.ckpt")


COMMANDS = [
    ["predict", "--model.target", "target.ckpt", "--requests.num_events", "2", "--writer.output_dir", URL],
    ["forecast", "log.csv", "--model", "target.ckpt", "--horizon", "2", "--output", URL],
    ["backtest", "log.csv", "--model", "target.ckpt", "--horizon", "2", "--output", URL],
    ["inspect", "log.csv", "--report", f"{URL}.html"],
    ["convert", "log.csv", f"{URL}.parquet"],
    ["demo", "--output", URL],
    ["dashboard", "taxi", "--output", f"{URL}.json"],
    ["benchmark", "--untrained", "1,1", "--report", f"{URL}.html"],
    ["certify", "--output", URL],
]


@pytest.mark.parametrize("words", COMMANDS, ids=lambda words: words[0])
def test_a_url_is_refused_and_leaves_nothing(words: list[str], files: None, capsys: pytest.CaptureFixture[str]) -> None:
    try:
        status = cli.main(words)
    except SystemExit as ended:  # argparse
        status = int(ended.code or 0)
    assert status == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "error" in line]
    assert f"{URL}" in line and "is a URL, and results are written to local files" in line
    assert sorted(path.name for path in Path().iterdir()) == ["log.csv", "target.ckpt"]


WRITERS: dict[str, Callable[[Any], object]] = {
    "text": lambda path: write_text(path, "text"),
    "checkpoint": lambda path: save(attentive_model("thp", num_marks=1), path),
    "parquet": lambda path: write_parquet(read_log("log.csv", ReadOptions()), Path(f"{path}.parquet")),
    "arrow": lambda path: write_arrow(read_log("log.csv", ReadOptions()), path),
    "samples": lambda path: tppsd.sample("target.ckpt", num_events=1).to_parquet(path),
}


@pytest.mark.parametrize("url", [URL, Path(URL)], ids=["text", "path"])
@pytest.mark.parametrize("writer", WRITERS.values(), ids=WRITERS)
def test_in_python_too(writer: Callable[[Any], object], url: str | Path, files: None) -> None:
    """A Path has lost a slash of the URL. Mutant: a writer that makes a Path first, and asks then."""
    with pytest.raises(ValueError, match="is a URL, and results are written to local files"):
        writer(url)
    assert sorted(path.name for path in Path().iterdir()) == ["log.csv", "target.ckpt"]


def test_a_colon_is_a_legal_part_of_a_name(files: None) -> None:
    assert local_path("exp:1") == Path("exp:1") and local_path(Path("exp:1/log")) == Path("exp:1/log")
    assert cli.main(["convert", "log.csv", "exp:1/log.parquet"]) == 0
    assert len(read_dataset("exp:1/log.parquet").sequences("train")) == 16
    words = ["forecast", "log.csv", "--model", "target.ckpt", "--horizon", "2", "--num_paths", "10"]
    assert cli.main([*words, "--trainer.accelerator", "cpu", "--output", "exp:2"]) == 0
    assert sorted(path.name for path in Path("exp:2").glob("forecast.*"))[1] == "forecast.html"
    words = ["predict", "--model.target", "target.ckpt", "--requests.num_events", "2", "--trainer.accelerator", "cpu"]
    assert cli.main([*words, "--writer.output_dir", "exp:3"]) == 0
    assert cli.main(["verify", "exp:3"]) == 0


def test_what_comes_next_is_quoted_where_a_name_has_a_space(
    files: None, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    """The commands run in a shell as they are printed, and the expressions in Python. Mutant: a path as it is."""
    caplog.set_level("INFO", "lightning.pytorch.utilities.rank_zero")
    words = ["predict", "--model.target", "target.ckpt", "--requests.num_events", "2", "--trainer.accelerator", "cpu"]
    assert cli.main([*words, "--writer.output_dir", "my out"]) == 0
    assert cli.main(["verify", "my out"]) == 0
    assert cli.main(["convert", "log.csv", "my out/log.parquet"]) == 0
    printed = [*caplog.messages, *capsys.readouterr().out.splitlines()]
    lines = [line.removeprefix("Next: ") for line in printed if line.startswith("Next: ")]
    assert len(lines) == 3
    for step in (step.removeprefix("or ") for line in lines for step in line.split(", ")):
        if step.startswith("pandas."):
            assert len(eval(step, {"pandas": pandas}))
        else:
            assert any(word in ("my out", "my out/log.parquet") for word in shlex.split(step)), step


def test_the_command_after_a_test_is_quoted(tmp_path: Path) -> None:
    checkpoint = tmp_path / "my run/checkpoints/best.ckpt"
    statistics = DataStatistics(1, duration=2.0, num_events=4)
    assert shlex.split(_following(checkpoint, "test", False, statistics))[-1] == str(checkpoint)
    checkpoint.parent.mkdir(parents=True)
    (tmp_path / "my run/config.yaml").touch()
    checkpoint.touch()
    for verb, is_simulated in (("test", False), ("predict", True), ("forecast", False)):
        words = shlex.split(_following(checkpoint, verb, is_simulated, statistics))
        assert words[:4] == ["tppsd", verb, "--run", str(tmp_path / "my run")]
    last = checkpoint.with_name("last.ckpt")
    last.touch()
    words = shlex.split(_following(last, "test", False, statistics))
    assert words[2:] == ["--ckpt_path", str(last)], "--run would test the best"
