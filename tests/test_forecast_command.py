"""`tppsd forecast` and the tables and figures of forecasts: ids, mark names and timestamps of a log come back."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest
import torch
import yaml
from small_models import attentive_model

from tppsd import cli
from tppsd.commands.forecast import _histories
from tppsd.data.reading import EventDataset
from tppsd.data.sequences import EventSequence
from tppsd.data.statistics import DataStatistics
from tppsd.forecasting.forecast import forecast
from tppsd.forecasting.tables import COLUMNS, LATER
from tppsd.models.checkpoint import save
from tppsd.models.transformer_tpp import TransformerTPP
from tppsd.processes import Hawkes

NAMES = ("admission", "discharge", "surgery")
READ = ["--columns", "{sequence: case, mark: activity}"]


def model() -> TransformerTPP:
    """A target whose data began at an origin and count hours."""
    made = attentive_model("thp", num_marks=3)
    made.set_statistics(
        DataStatistics(3, log_std=1.0, mark_names=NAMES, time_unit="h", time_origin="2024-03-01T00:00:00")
    )
    return made


@pytest.fixture
def files(tmp_path: Path) -> tuple[str, str]:
    """A log of two cases on another day than the origin, and a checkpoint."""
    rows = [
        ("case-7", "2024-03-02T01:00:00", "admission"),
        ("case-7", "2024-03-02T02:30:00", "surgery"),
        ("case-7", "2024-03-02T04:00:00", "discharge"),
        ("case-9", "2024-03-02T01:15:00", "admission"),
        ("case-9", "2024-03-02T03:45:00", "surgery"),
    ]
    pd.DataFrame(rows, columns=["case", "time", "activity"]).to_csv(tmp_path / "log.csv", index=False)
    save(model(), tmp_path / "target.ckpt")
    return str(tmp_path / "log.csv"), str(tmp_path / "target.ckpt")


def test_the_command_writes_a_table_and_a_page(files: tuple[str, str], tmp_path: Path) -> None:
    log, checkpoint = files
    output = tmp_path / "out"
    options = [
        "--model",
        checkpoint,
        "--horizon",
        "120min",
        "--num_paths",
        "30",
        "--bins",
        "2",
        "--fractions",
        "[0.5, 0.0, 0.5]",
    ]
    assert cli.main(["forecast", log, *READ, *options, "--output", str(output)]) == 0
    assert sorted(path.name for path in output.iterdir()) == [
        ".job.json", ".manifest.json", ".shards", "forecast.csv", "forecast.html", "forecast.parquet",
    ]  # fmt: skip
    table = pd.read_parquet(output / "forecast.parquet")
    assert tuple(table.columns) == COLUMNS and set(table["id"]) == {"case-7", "case-9"}
    assert set(table["mark"].dropna()) == {*NAMES, "any"}
    own = table[(table["quantity"] == "expected_count") & (table["id"] == "case-7") & (table["mark"] == "surgery")]
    assert own["from"].tolist() == [pd.Timestamp("2024-03-02T04:00"), pd.Timestamp("2024-03-02T05:00")]
    assert own["to"].tolist() == [pd.Timestamp("2024-03-02T05:00"), pd.Timestamp("2024-03-02T06:00")]
    median = table[(table["quantity"] == "next_time") & (table["level"] == 0.5) & (table["id"] == "case-9")].iloc[0]
    hours = (median["at"] - pd.Timestamp("2024-03-02T03:45")) / pd.Timedelta("1h")
    assert abs(hours - median["estimate"]) < 1e-6
    page = (output / "forecast.html").read_text()
    assert "case-9: forecast of 30 paths" in page and "Probabilities of at least one event" in page
    assert len(pd.read_csv(output / "forecast.csv")) == len(table)


def test_the_rest_of_each_sequence_is_drawn_where_a_share_is_given(files: tuple[str, str], tmp_path: Path) -> None:
    log, checkpoint = files
    options = [
        "--model",
        checkpoint,
        "--horizon",
        "2",
        "--num_paths",
        "20",
        "--given_fraction",
        "0.5",
        "--max_histories",
        "1",
    ]
    assert cli.main(["forecast", log, *READ, *options, "--output", str(tmp_path / "out")]) == 0
    assert "the line in steps is what happened" in (tmp_path / "out" / "forecast.html").read_text()


def test_a_run_knows_its_model_and_its_data(files: tuple[str, str], tmp_path: Path) -> None:
    """Both give the same table; and tomorrow's log is read by the options of the run."""
    log, checkpoint = files
    run, rest = tmp_path / "version_0", ["--horizon", "2", "--num_paths", "20"]
    (run / "checkpoints").mkdir(parents=True)
    shutil.copy(checkpoint, run / "checkpoints" / "best.ckpt")
    options = {"path": log, "columns": {"sequence": "case", "mark": "activity"}, "batch_size": 4}
    data = {"class_path": "tppsd.lightning.datamodule.EventDataModule", "init_args": options}
    (run / "config.yaml").write_text(yaml.safe_dump({"data": data}))
    tomorrow = tmp_path / "tomorrow.csv"
    tomorrow.write_text(Path(log).read_text() + "case-9,2024-03-02T05:00:00,discharge\n")
    ways = {
        "own": [log, *READ, "--model", checkpoint],
        "run": ["--run", str(run)],
        "later": [str(tomorrow), "--run", str(run)],
    }
    for name, words in ways.items():
        assert cli.main(["forecast", *words, *rest, "--output", str(tmp_path / name)]) == 0
    own, of_run, later = (pd.read_parquet(tmp_path / name / "forecast.parquet") for name in ways)
    pd.testing.assert_frame_equal(own, of_run)
    last = later.loc[(later["quantity"] == "next_time") & (later["id"] == "case-9"), "at"].min()
    assert last > pd.Timestamp("2024-03-02T05:00")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--horizon", "2"], "give either --run RUN, a folder of `tppsd fit`, or --model CHECKPOINT"),
        (["--run", "NONE", "--horizon", "2"], "NONE: there is no such folder of `tppsd fit`; . has "),
        (["--model", "CKPT"], "--horizon is missing"),
        (["--model", "CKPT", "--horizon", "6x"], "--horizon = '6x' must be a number of units of time, or a"),
        (["--model", "CKPT", "--horizon", "2", "--marks", "[death]"], "'death' is not a mark of the target"),
        (["--model", "CKPT", "--horizon", "2", "--given_fraction", "1.5"], "must lie between 0 and 1"),
        (["--model", "CKPT", "--horizon", "2", "--max_histories", "-1"], "--max_histories = -1 must be a whole number"),
        (["--model", "CKPT", "--horizon", "2", "--max_histories", "0"], "--max_histories = 0 must be a whole number"),
    ],
)
def test_mistakes_are_one_sentence(
    options: list[str], message: str, files: tuple[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = [files[1] if word == "CKPT" else word for word in options]
    assert cli.main(["forecast", files[0], *READ, *given, "--output", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1 and not (tmp_path / "out").exists()


def test_no_more_histories_are_built_than_are_forecast() -> None:
    """Mutant: a list of all, of which a part is then taken."""

    class Counted(list[EventSequence]):
        built = 0

        def __iter__(self) -> Iterator[EventSequence]:
            for sequence in super().__iter__():
                self.built += 1
                yield sequence

    sequences = [EventSequence.of([1.0 + i], [0], t_start=0.0, t_end=20.0) for i in range(9)]
    train, test = Counted(sequences[:5]), Counted(sequences[5:])
    histories, _ = _histories(EventDataset("log", {"train": train, "test": test}, 1), None, None, 6)
    assert histories == sequences[:6] and (train.built, test.built) == (5, 1)


def capped_at(longest: float) -> TransformerTPP:
    with torch.random.fork_rng():
        torch.manual_seed(3)
        made = model()
    made.set_statistics(dataclasses.replace(made.statistics, max_inter_time=longest))
    return made


@pytest.mark.parametrize("silence", [0.0, 2.0])
def test_a_capped_mean_says_so_and_how_much_lies_beyond(silence: float, tmp_path: Path) -> None:
    """It agrees with 200 quantiles of the same distribution; a share that forgets the silence is another number."""
    history = EventSequence.of([0.5, 1.0], [0, 1], t_start=0.0, t_end=1.0 + silence)
    levels = (torch.arange(200, dtype=torch.float64) + 0.5) / 200
    for longest in (0.2, 40.0):
        found = forecast(capped_at(longest), history, 2.0, num_paths=20)
        next_time = found.next_time()
        times = found.next_time(levels.tolist()).quantiles
        capped = times.clamp_max(longest).mean()
        share = 1 - capped / times.mean()  # the last quantile is no maximum: the tail beyond it is missing
        assert abs(float(next_time.mean) / float(capped) - 1) < 1e-2
        assert -1e-2 < float(next_time.mean_share_beyond) - float(share) < 0.2
        (note,) = next_time.mean_notes
        is_unusable = float(next_time.mean_share_beyond) > 0.5
        assert is_unusable == (longest == 0.2) and note is not None
        share_said = f"{float(next_time.mean_share_beyond):.0%}"
        assert note == "capped at 40 h" or note.startswith(f"not usable: {share_said} of the mean lies beyond 0.2 h")
        table = found.to_pandas()
        assert table["note"][table["quantity"] == "next_time_mean"].tolist() == [note]
        assert table["note"][table["quantity"] == "next_time"].isna().all()
    assert forecast(Hawkes(0.5, 0.1, 1.5), EventSequence.of([0.5], None, 0.0, 1.0), 2.0).next_time().mean_notes == [
        None
    ]


def test_the_page_says_which_means_are_not_usable(files: tuple[str, str], tmp_path: Path) -> None:
    save(capped_at(0.5), tmp_path / "capped.ckpt")
    words = ["forecast", files[0], *READ, "--model", str(tmp_path / "capped.ckpt"), "--horizon", "2", "--num_paths"]
    assert cli.main([*words, "20", "--output", str(tmp_path / "out")]) == 0
    page = (tmp_path / "out" / "forecast.html").read_text()
    assert "as 0.5 h. More than half of the mean lies beyond that for 2 of 2 histories" in page
    assert page.count("(not usable)") == 2


def test_a_table_without_names_and_dates_has_numbers() -> None:
    process, history = Hawkes([0.5, 0.3], 0.1, 1.5), EventSequence.of([0.5, 1.0], [0, 1], t_start=0.0, t_end=2.0)
    found = forecast(process, history, 3.0, num_paths=40, bins=3)
    table = found.to_pandas()
    assert set(table["mark"].dropna()) == {"0", "1", "any"} and table["id"].isna().all()
    counts = table[(table["quantity"] == "expected_count") & (table["mark"] == "any")]
    assert counts["from"].tolist() == [2.0, 3.0, 4.0] and counts["to"].tolist() == [3.0, 4.0, 5.0]
    torch.testing.assert_close(
        torch.tensor(counts["estimate"].tolist()).double(),
        found.expected_counts(by_mark=False).value[0],
        rtol=1e-6,
        atol=0,
    )
    first = table[(table["quantity"] == "first_time") & (table["mark"] == "1")]
    beyond = first["estimate"] == float("inf")
    assert beyond.any() and (first["note"][beyond] == LATER).all() and first["at"][beyond].isna().all()
    (axes, *_) = found.plot().axes
    assert axes.get_title(loc="left") == "any"
