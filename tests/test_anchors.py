"""Histories as of a date, and histories that begin where a model's windows began: nothing of later, nothing foreign."""

from __future__ import annotations

import dataclasses
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from small_models import model_of_windows as model

from tppsd import cli
from tppsd.data import lookback
from tppsd.data.lookback import reanchored
from tppsd.data.reading import read_dataset
from tppsd.data.sequences import EventSequence
from tppsd.forecasting.anchors import as_of
from tppsd.forecasting.backtest import backtest
from tppsd.forecasting.forecast import forecast
from tppsd.lightning.forecast_job import Forecaster
from tppsd.models.checkpoint import save
from tppsd.models.transformer_tpp import TransformerTPP

WINDOW, LOOKBACK = 10.0, 5.0


def stream(num_events: int = 200) -> pd.DataFrame:
    generator = np.random.default_rng(0)
    times = generator.exponential(0.5, num_events).cumsum()
    return pd.DataFrame({"time": times, "mark": generator.integers(3, size=num_events)})


def whole(table: pd.DataFrame, t_end: float) -> EventSequence:
    own = table[table["time"] <= t_end]
    return EventSequence.of(own["time"].tolist(), own["mark"].tolist(), 0.0, t_end)


def test_a_reanchored_history_is_that_of_a_window_with_a_lookback() -> None:
    """The reader and this cut must agree in every field that a model sees."""
    table = stream()
    windows = read_dataset(table, window=WINDOW, lookback=LOOKBACK, t_start=0.0, fractions=(0.4, 0.3, 0.3))
    seen = [one for split in windows.splits for one in windows.sequences(split) if one.score_start > LOOKBACK]
    assert len(seen) > 5
    for window in seen:
        start = window.score_start
        assert start is not None
        expected = window.prefix(int((window.event_times < start).sum()), start)
        found = reanchored(whole(table, start), LOOKBACK)
        for name in ("event_times", "marks", "inter_times"):
            torch.testing.assert_close(getattr(found, name), getattr(expected, name), rtol=0, atol=1e-12)
        for name in ("t_start", "t_end", "censored_start"):
            assert getattr(found, name) == getattr(expected, name), name


def test_a_short_history_stays_as_it_is_and_one_without_events_has_a_window() -> None:
    history = EventSequence.of([1.0, 2.0], None, 0.0, 4.0)
    assert reanchored(history, 4.0) is history
    found = reanchored(history, 1.5)
    assert len(found) == 0 and (found.t_start, found.t_end, found.censored_start) == (2.5, 4.0, True)
    found = reanchored(history, 2.0)  # an event at the edge belongs to the later window, as everywhere
    assert found.event_times.tolist() == [2.0] and found.inter_times.tolist() == [0.0]


def test_a_long_history_is_forecast_as_its_last_lookback(monkeypatch: pytest.MonkeyPatch) -> None:
    long, target = whole(stream(), 60.0), model(window=WINDOW, lookback=LOOKBACK)

    def probability(history: EventSequence, target: TransformerTPP, **arguments: Any) -> float:
        return float(forecast(target, history, 2.0, num_paths=20, **arguments).next_time((0.5,)).quantiles)

    short = reanchored(long, LOOKBACK)
    assert probability(long, target) == probability(short, target) != probability(long, model())
    assert probability(long, model(), history_lookback=LOOKBACK) == probability(short, model())
    half = reanchored(long, WINDOW / 2)  # of a model whose windows knew nothing of before
    assert probability(long, model(window=WINDOW)) == probability(half, model())
    within = whole(stream(), 12.0)  # windows of training were 15 long: all of it is known
    assert probability(within, target) == probability(within, model())

    monkeypatch.setattr(lookback, "reanchored", lambda history, reach: history)  # forgets the lookback
    with pytest.warns(UserWarning, match="beyond the windows"):
        assert probability(long, target) != probability(short, target)


@pytest.mark.filterwarnings("ignore:.*beyond the windows")
def test_a_backtest_shows_the_target_so_much_of_each_history_and_baselines_all_of_it() -> None:
    def expected(target: TransformerTPP, **arguments: Any) -> dict[str, list[float]]:
        others = {"baseline": model()}
        found = backtest(target, whole(stream(), 60.0), 2.0, [40.0, 50.0], num_paths=10, baselines=others, **arguments)
        return {name: list(own["num_events_expected"]) for name, own in found.by_origin().groupby("model")}

    uncut, cut = expected(model()), expected(model(), history_lookback=LOOKBACK)
    assert cut["target"] == expected(model(window=WINDOW, lookback=LOOKBACK))["target"] != uncut["target"]
    assert cut["baseline"] == uncut["baseline"]


def test_a_forecast_beyond_the_windows_of_the_training_says_so() -> None:
    history, target = whole(stream(), 12.0), model(window=WINDOW, lookback=LOOKBACK, time_unit="d")
    with pytest.warns(UserWarning, match="of 10 d after 5 d of history; give a horizon of at most 10 d") as said:
        forecast(target, [history, history], 3.5, num_paths=20).next_time()
    assert len(said) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        forecast(target, history, 3.0, num_paths=20)
        forecast(target, history, 3.5, num_paths=20, history_lookback="5d")
        forecast(model(), history, 1000.0, num_paths=20)  # sequences were whole, and no length is known


def test_histories_as_of_a_time_know_what_came_until_then() -> None:
    rows = [
        EventSequence.of([1.0, 2.0, 3.0], None, 0.0, 9.0),
        EventSequence.of([4.0], None, 3.5, 9.0),  # begins later
        EventSequence.of([0.5], None, 0.0, 1.5),  # nobody has looked until 2
        dataclasses.replace(EventSequence.of([2.5], None, 2.0, 9.0), id="new"),
    ]
    found = as_of(rows, 2.0)
    assert [history.event_times.tolist() for history in found.histories] == [[1.0, 2.0], []]
    assert [history.window_end for history in found.histories] == [2.0, 2.0]
    assert found.sequences == [rows[0], rows[3]] and (found.num_later, found.num_ended) == (1, 1)


# --- the command ------------------------------------------------------------------------------------------------------

READ = ["--columns", "{sequence: case, mark: activity}"]


def dated(hours: pd.Series) -> pd.Series:
    return (pd.Timestamp("2024-03-01") + pd.to_timedelta(hours, unit="h")).dt.strftime("%Y-%m-%dT%H:%M:%S.%f")


def command(log: pd.DataFrame, target: TransformerTPP, folder: Path, *options: str) -> pd.DataFrame:
    folder.mkdir()
    log.to_csv(folder / "log.csv", index=False)
    save(target, folder / "target.ckpt")
    words = ["forecast", str(folder / "log.csv"), "--model", str(folder / "target.ckpt"), "--horizon", "2"]
    words += ["--num_paths", "20", "--output", str(folder / "out"), *options]
    assert cli.main(words) == 0
    return pd.read_parquet(folder / "out" / "forecast.parquet")


def test_a_stream_is_forecast_as_of_a_date(tmp_path: Path) -> None:
    """A log that ends there says the same; whatever comes later says nothing, but is drawn."""
    names = {"time_unit": "h", "time_origin": "2024-03-01T00:00:00", "mark_names": ("0", "1", "2")}
    target = model(window=WINDOW, lookback=LOOKBACK, **names)
    table = stream()
    other = table.assign(mark=np.where(table["time"] > 60.0, 2 - table["mark"], table["mark"]))
    logs = [own.assign(time=dated(own["time"])) for own in (table, other)]
    asked = ["--t_start", "2024-03-01T00:00:00", "--given.until", "2024-03-03T12:00:00"]
    found = [command(log, target, tmp_path / str(i), *asked) for i, log in enumerate(logs)]
    pd.testing.assert_frame_equal(found[0], found[1])
    assert set(found[0]["from"].dropna()) == {
        pd.Timestamp("2024-03-03T12:00") + pd.Timedelta(30 * i, "min") for i in range(4)
    }
    expected = forecast(target, whole(table, 60.0), 2.0, num_paths=20, bins=4).to_pandas()
    np.testing.assert_allclose(found[0]["estimate"], expected["estimate"], rtol=1e-6)
    page = (tmp_path / "0" / "out" / "forecast.html").read_text()
    assert "the line in steps is what happened" in page


def test_a_job_in_chunks_warns_once_of_all_of_them() -> None:
    """Also where only the last history reaches beyond the windows."""
    target = model(window=WINDOW, lookback=LOOKBACK)
    with pytest.warns(UserWarning, match="beyond the windows") as said:
        found = Forecaster(target, [whole(stream(), 4.0), whole(stream(), 14.0)], 2.0, num_paths=20)
        found._forecast(slice(0, 1)), found._forecast(slice(1, 2))
    assert len(said) == 1


def test_cases_are_forecast_as_of_a_number(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [("a", 1.0, 0), ("a", 2.0, 1), ("a", 5.0, 2), ("b", 3.0, 0), ("b", 4.0, 0), ("c", 4.5, 1), ("c", 6.0, 1)]
    log = pd.DataFrame([*rows, ("d", 0.5, 1)], columns=["case", "time", "activity"])
    own = {"mark_names": ("0", "1", "2")}
    table = command(log, model(**own), tmp_path / "cases", *READ, "--given_until", "4", "--history_lookback", "1.5")
    assert sorted(set(table["id"])) == ["a", "b"]
    assert (
        "2 sequences are forecast; 1 begin later and 1 were observed until an earlier time" in capsys.readouterr().out
    )
    histories = [
        EventSequence.of([1.0, 2.0], [0, 1], t_end=4.0),
        EventSequence.of([3.0, 4.0], [0, 0], t_end=4.0),
    ]
    expected = forecast(model(), histories, 2.0, num_paths=20, bins=4, history_lookback=1.5).to_pandas()
    expected = expected.sort_values("history", kind="stable")
    np.testing.assert_allclose(table["estimate"], expected["estimate"], rtol=1e-6)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--given_until", "noon"], "--given_until = 'noon' is not a number"),
        (["--given_until", "40"], "no sequence was observed then; 1 were observed until an earlier time"),
        (["--given_until", "4", "--given_fraction", "0.5"], "both say what a history is"),
        (["--given_until", "4", "--window", "0.5", "--split", "test"], "--split test is cut by time"),
        (["--max_events", "3"], "give a shorter horizon, or a larger max_events (--max_events of a command)"),
        (["--history_lookback", "-1"], "--history_lookback = -1 must be positive"),
    ],
)
@pytest.mark.filterwarnings("ignore:.*reached max_events")
def test_mistakes_are_one_sentence(
    options: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stream(20).to_csv(tmp_path / "log.csv", index=False)
    save(model(mark_names=("0", "1", "2")), tmp_path / "target.ckpt")
    words = ["forecast", str(tmp_path / "log.csv"), "--model", str(tmp_path / "target.ckpt"), "--horizon", "9"]
    words += ["--num_paths", "20", "--window", "20", "--output", str(tmp_path / "out"), *options]
    assert cli.main(words) != 0
    assert message in capsys.readouterr().err
