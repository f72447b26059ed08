"""Histories by mark names and timestamps are those by numbers, to the last bit; what comes back has names and dates."""

from __future__ import annotations

import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import torch
from dated_log import NAMES, dated_model
from lightning_helpers import trainer
from small_models import attentive_model

import tppsd
from tppsd import EventSequence, Sampler, SampleWriter, cli
from tppsd.data.reading import read_dataset
from tppsd.data.statistics import DataStatistics
from tppsd.lightning.requests import Requests
from tppsd.models.checkpoint import save

MODEL = dated_model()  # hours since 2024-03-01
STAMPS = ["2024-03-02T01:00:00", "2024-03-02T02:30:00", "2024-03-02T04:15:00"]
MARKS = ["admission", "surgery", "discharge"]
END = "2024-03-02T05:00"
NUMBERS = EventSequence.of([25.0, 26.5, 28.25], [0, 2, 1], None, 29.0)  # the same by hand


def tables() -> dict[str, Any]:
    """One history in several kinds of table; the rows of a second one stand between in the last."""
    frame = pd.DataFrame({"time": STAMPS, "mark": MARKS, "t_end": END})
    zoned = pd.to_datetime(pd.Series(STAMPS), format="ISO8601", utc=True).dt.tz_convert("Europe/Berlin")
    two = pd.DataFrame({"sequence": ["a", "b", "a", "a"], "time": [STAMPS[0], STAMPS[0], *STAMPS[1:]],
                        "mark": [MARKS[0], "surgery", *MARKS[1:]], "t_end": END})  # fmt: skip
    return {"text": frame, "zoned": frame.assign(time=zoned), "arrow": pa.table(frame.to_dict("list")), "several": two}


def assert_same(found: EventSequence, expected: EventSequence) -> None:
    assert torch.equal(found.event_times, expected.event_times) and torch.equal(found.marks, expected.marks)
    assert torch.equal(found.inter_times, expected.inter_times)
    assert (found.t_start, found.window_end) == (expected.t_start, expected.window_end)


@pytest.mark.parametrize("kind", tables())
def test_a_history_by_names_and_dates_gives_the_forecast_of_its_numbers(kind: str) -> None:
    """Bit for bit."""
    table = tables()[kind]
    assert_same(tppsd.read_histories(table, MODEL)[0], NUMBERS)
    expected = tppsd.forecast(MODEL, NUMBERS, 2.0, num_paths=20).to_pandas().drop(columns="id")
    found = tppsd.forecast(MODEL, table, "120min", num_paths=20).to_pandas()
    found = found[found["history"] == 0].drop(columns="id").reset_index(drop=True)
    if kind == "several":  # two histories in one batch: rounding
        pd.testing.assert_frame_equal(found, expected, rtol=1e-5, atol=1e-7)
    else:
        pd.testing.assert_frame_equal(found, expected, check_exact=True)


def test_another_origin_is_noticed() -> None:
    """A mutant counts from the log's own midnight, as reading does without a model: its times are a day off."""
    (found,) = tppsd.read_histories(tables()["text"], DataStatistics(3, mark_names=NAMES, time_unit="h",
                                                                     time_origin="2024-03-02"))  # fmt: skip
    with pytest.raises(AssertionError):
        assert_same(found, NUMBERS)


@pytest.mark.parametrize(
    "times",
    [
        STAMPS,
        [pd.Timestamp(text) for text in STAMPS],
        [datetime.datetime.fromisoformat(text) for text in STAMPS],
        np.array(STAMPS, dtype="datetime64[s]"),
    ],
    ids=["text", "pandas", "datetime", "numpy"],
)
def test_one_history_from_lists(times: Any) -> None:
    found = tppsd.named_history(MODEL, times, MARKS, t_end=END, id="case-7")
    assert_same(found, NUMBERS)
    assert found.id == "case-7" and found.timestamps is not None
    assert_same(tppsd.named_history(MODEL, times, MARKS, t_start="2024-03-02", t_end=END),
                EventSequence.of([25.0, 26.5, 28.25], [0, 2, 1], 24.0, 29.0))  # fmt: skip


def test_a_session_takes_names_and_dates() -> None:
    """Inter-times of timestamps are exact: in thirds of an hour differences of the numbers are not."""
    uneven = ["2024-03-02T01:00:00", "2024-03-02T02:20:00", "2024-03-02T02:40:00"]
    history = tppsd.named_history(MODEL, uneven, MARKS, t_end=END)
    session = tppsd.Session(MODEL, pd.DataFrame({"time": uneven[:1], "mark": MARKS[:1]}))
    session.observe(uneven[1], MARKS[1])
    session.observe(pd.Timestamp(uneven[2], tz="UTC"), MARKS[2])
    session.elapse(datetime.datetime.fromisoformat(END))
    assert_same(session.history, history)
    assert torch.equal(session.history.timestamps, history.timestamps)
    assert not torch.equal(history.inter_times[1:], history.event_times.diff())
    found = session.forecast("2h", num_paths=20).to_pandas()
    expected = tppsd.forecast(MODEL, history, 2.0, num_paths=20, options=tppsd.SamplingOptions()).to_pandas()
    pd.testing.assert_frame_equal(found, expected, check_exact=True)
    session.observe(30.0, "surgery")  # numbers go on being taken
    assert session.history.event_times[-1] == 30.0 and session.history.timestamps is None


def test_mistakes_are_one_sentence_with_the_nearest_names() -> None:
    frame = tables()["text"]
    plain = attentive_model("thp", num_marks=3)
    plain.set_statistics(DataStatistics(3, mark_names=NAMES, time_unit="h"))
    session = tppsd.Session(MODEL, NUMBERS)
    cases = {
        r"mark = 'Admision' is none of mark_names, which are admission, discharge, surgery; the nearest is admission":
            lambda: tppsd.forecast(MODEL, frame.replace("admission", "Admision"), 1.0),
        r"the history's times are numbers, and the model's are timestamps \(in h since 2024-03-01T00:00:00\)":
            lambda: tppsd.sample(MODEL, history=frame.assign(time=[1.0, 2.0, 3.0], t_end=4.0), horizon=1.0),
        r"trained with times in h, but the data are read in d":
            lambda: tppsd.read_histories(frame, MODEL, time_unit="d"),
        r"the history has timestamps, and the times of the model's data are numbers \(unit: h\)":
            lambda: tppsd.read_histories(frame, plain),
        r"mark: 'dischrge' is not a mark of the target; .*; the nearest is discharge":
            lambda: session.observe("2024-03-02T06:00", "dischrge"),
        r"is a timestamp, and the times of the model's data are numbers": lambda: tppsd.Session(
            plain, NUMBERS).elapse("2024-03-02"),
        r"time = 'soon' is neither a number nor a timestamp": lambda: session.elapse("soon"),
        r"comes before 29.0, until which": lambda: session.elapse("2024-03-02T04:59"),
        r"a session follows one sequence; history has 2": lambda: tppsd.Session(MODEL, tables()["several"]),
        r"the column sequence .* is missing.*case": lambda: tppsd.read_histories(frame.assign(case="a"), MODEL),
    }  # fmt: skip
    for message, wrong in cases.items():
        with pytest.raises(ValueError, match=message) as caught:
            wrong()
        assert "\n" not in str(caught.value)


def test_samples_come_back_with_names_dates_and_ids() -> None:
    history = tppsd.named_history(MODEL, STAMPS, MARKS, t_end=END, id="case-7")
    samples = tppsd.sample(MODEL, history=history, num_sequences=3, horizon=6.0)
    table = samples.to_pandas()
    assert set(table["history_id"]) == {"case-7"} and set(table["mark_name"]) <= set(NAMES)
    hours = (table["timestamp"] - pd.Timestamp("2024-03-01")) / pd.Timedelta("1h")
    np.testing.assert_allclose(hours, table["time"], rtol=0, atol=1e-12)
    other = tppsd.named_history(MODEL, STAMPS, MARKS, t_end=END)
    counts = tppsd.sample(MODEL, history=[history, other], num_sequences=2, horizon=0.1).counts()  # some are empty
    assert counts["history_id"].tolist() == ["case-7"] * 2 + [None] * 2
    assert "history_id" not in tppsd.sample(MODEL, history=other, num_sequences=2, horizon=0.1).counts()


def test_sample_files_read_back_keep_names_unit_and_origin(tmp_path: Path) -> None:
    """They are files of `to_parquet` and of a predict job, which keeps the ids of the histories too."""
    history = tppsd.named_history(MODEL, STAMPS, MARKS, t_end=END, id="case-7")
    tppsd.sample(MODEL, history=history, num_sequences=20, horizon=6.0).to_parquet(tmp_path / "samples.parquet")
    rows = [f"{case},{stamp},{mark}" for case in range(10) for stamp, mark in zip(STAMPS, MARKS, strict=True)]
    (tmp_path / "log.csv").write_text("sequence,time,mark\n" + "\n".join(rows))
    save(MODEL, tmp_path / "target.ckpt")
    data = tppsd.EventDataModule(str(tmp_path / "log.csv"), time_unit="h", origin="2024-03-01T00:00:00")
    requests = Requests(2, "train", given_events=2, horizon=6.0, chunk_size=6)
    writer = SampleWriter(tmp_path / "job")
    trainer(callbacks=[writer]).predict(
        Sampler(tmp_path / "target.ckpt"), requests.loader(data), return_predictions=False
    )
    for path in (tmp_path / "samples.parquet", tmp_path / "job"):
        back = read_dataset(str(path))
        assert back.mark_names == NAMES and (back.time_unit, back.time_origin) == ("h", "2024-03-01T00:00:00")
    ids = pd.read_parquet(tmp_path / "job")["history_id"]
    assert ids.tolist() == [str(i // 2) for i in range(16)]


def test_ids_that_are_dates_come_back_as_dates(tmp_path: Path) -> None:
    rows = [
        f"2024-05-{case + 1:02d},{stamp},{mark}" for case in range(3) for stamp, mark in zip(STAMPS, MARKS, strict=True)
    ]
    (tmp_path / "log.csv").write_text("sequence,time,mark\n" + "\n".join(rows))
    save(MODEL, tmp_path / "target.ckpt")
    words = [
        "forecast",
        tmp_path / "log.csv",
        "--model",
        tmp_path / "target.ckpt",
        "--horizon",
        "1h",
        "--num_paths",
        10,
    ]
    words += ["--trainer.accelerator", "cpu", "--output", tmp_path / "out"]
    assert cli.main([str(word) for word in words]) == 0
    table = pd.read_parquet(tmp_path / "out" / "forecast.parquet")
    assert table["id"].unique().tolist() == [datetime.date(2024, 5, day) for day in (1, 2, 3)]
