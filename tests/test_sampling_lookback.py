"""Histories that are longer than the windows of a model's training: samples continue what the model knows of them."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from lightning_helpers import tppsd as run_tppsd
from lightning_helpers import trainer
from small_models import model_of_windows as model

from tppsd import EventDataModule, EventSequence, Sampler, SampleWriter, Session, forecast, sample, sample_stream
from tppsd.data.lookback import Windows, reanchored
from tppsd.lightning.job_folder import JOB, MANIFEST
from tppsd.lightning.requests import Requests
from tppsd.lightning.shards import fingerprint
from tppsd.models.checkpoint import save
from tppsd.models.transformer_tpp import TransformerTPP
from tppsd.sampling.results import SampledSequences

WINDOW, LOOKBACK = 10.0, 5.0
CLOCK = {"time_unit": "d", "time_origin": "2020-01-01T00:00:00"}


def history(t_end: float, seed: int = 0) -> EventSequence:
    generator = np.random.default_rng(seed)
    times = generator.exponential(0.5, 400).cumsum()
    times = times[times <= t_end]
    own = EventSequence.of(times, generator.integers(3, size=len(times)), 0.0, t_end)
    return replace(own, id=f"case-{seed}")


LONG = [history(60.0), history(45.0, 1), history(12.0, 2)]  # the last is no longer than window and lookback
SHORT = [reanchored(LONG[0], LOOKBACK), reanchored(LONG[1], LOOKBACK), LONG[2]]
WINDOWED = model(window=WINDOW, lookback=LOOKBACK)


def drawn(target: TransformerTPP, histories: Any, **options: Any) -> SampledSequences:
    return sample(target, history=histories, num_sequences=3, horizon=3.0, seed=4, **options)


def assert_equal(one: SampledSequences, other: SampledSequences) -> None:
    """Every event is the same to the bit."""
    for name in ("flat_event_times", "flat_inter_times", "flat_marks", "offsets", "index", "ends"):
        assert torch.equal(getattr(one, name), getattr(other, name)), name


def differ(one: SampledSequences, other: SampledSequences) -> bool:
    return one.flat_event_times.tolist() != other.flat_event_times.tolist()


@pytest.mark.parametrize("options", [{}, {"compile": False}, {"method": "speculative"}], ids=str)
def test_a_long_history_is_continued_as_its_last_lookback(
    options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Mutant: the sampler goes on from all of a history, as it did, and so does one with the longest window."""
    found = drawn(WINDOWED, LONG, **options)
    assert_equal(found, drawn(model(), SHORT, **options))
    chunks = sample_stream(WINDOWED, history=LONG, num_sequences=3, horizon=3.0, seed=4, chunk_size=4, **options)
    assert torch.equal(torch.cat([chunk.flat_event_times for chunk in chunks]), found.flat_event_times)
    half = [reanchored(LONG[0], WINDOW / 2)]  # of a model whose windows knew nothing of before
    assert_equal(drawn(model(window=WINDOW), LONG[0], **options), drawn(model(), half, **options))

    monkeypatch.setattr(Windows, "shortened", lambda self, history: history)
    assert differ(drawn(WINDOWED, LONG, **options), found)


def test_without_windows_nothing_is_cut() -> None:
    """Nor where a history is no longer than these: samples of a seed are the same to the bit."""
    found = drawn(model(), LONG)
    assert found.histories[0] is LONG[0] and differ(found, drawn(model(), SHORT))
    assert_equal(drawn(WINDOWED, LONG[2]), drawn(model(), LONG[2]))
    scratch = [sample(one, num_sequences=4, t_end=40.0, seed=1) for one in (model(), WINDOWED)]
    assert_equal(*scratch)


def test_history_lookback_says_how_much_is_taken() -> None:
    """In units of the model's data or as a duration, more or less than the windows had."""
    for reach in (2.0, 30.0):
        expected = drawn(model(), [reanchored(one, reach) for one in LONG])
        assert_equal(drawn(WINDOWED, LONG, history_lookback=reach), expected)
        assert_equal(drawn(model(), LONG, history_lookback=reach), expected)
        dated = model(window=WINDOW, lookback=LOOKBACK, **CLOCK)
        assert_equal(drawn(dated, LONG, history_lookback=f"{24 * reach:g}h"), expected)
    assert_equal(drawn(WINDOWED, LONG, history_lookback=1000.0), drawn(model(), LONG))


def test_a_forecast_and_its_sampler_cut_once() -> None:
    """Mutant: the sampler cuts what a forecast has taken on purpose to the windows of the training."""
    with pytest.warns(UserWarning, match="beyond the windows"):
        found = forecast(WINDOWED, LONG, 3.0, num_paths=10, history_lookback=30.0, seed=4)
    assert_equal(found.paths, sample(model(), history=found.histories, num_sequences=10, horizon=3.0, seed=4))
    assert [one.window_end - one.window_start for one in found.histories] == [30.0, 30.0, 12.0]
    expected = forecast(model(), SHORT, 3.0, num_paths=10, seed=4).paths
    assert_equal(forecast(WINDOWED, LONG[:2], 3.0, num_paths=10, seed=4).paths, expected_of(expected, 20))


def expected_of(samples: SampledSequences, num: int) -> SampledSequences:
    """The first of all sequences."""
    events = int(samples.offsets[num])
    flat = {name: getattr(samples, name)[:events] for name in ("flat_event_times", "flat_inter_times", "flat_marks")}
    return replace(
        samples, **flat, offsets=samples.offsets[: num + 1], index=samples.index[:num], ends=samples.ends[:num]
    )


def test_a_session_reaches_back_as_far_as_it_is_told() -> None:
    """Mutant: it has nothing but what the model saw last."""
    session = Session(WINDOWED, LONG[0], compile=False)
    for reach in (2.0, 30.0):
        found = session.sample(num_sequences=3, horizon=3.0, seed=4, history_lookback=reach)
        assert_equal(found, drawn(model(), reanchored(LONG[0], reach), compile=False))
    with pytest.warns(UserWarning, match="beyond the windows"):
        asked = session.forecast(3.0, num_paths=10, history_lookback=30.0)
    assert [len(one) for one in asked.histories] == [len(reanchored(LONG[0], 30.0))]


def test_samples_go_on_from_the_history_of_the_log() -> None:
    """Mutants: times since where the cut begins, lost ids, and inter-times since an event that was cut off."""
    stamps = (LONG[0].event_times * 86_400e9).long()
    silent = EventSequence.of([1.0, 2.0], [0, 1], 0.0, 40.0)  # nothing came in the last 38 days
    own = [replace(LONG[0], timestamps=stamps), replace(silent, id="silent")]
    found = drawn(model(window=WINDOW, lookback=LOOKBACK, **CLOCK), own)
    table = found.to_pandas()
    assert set(table["history_id"]) == {"case-0", "silent"} and found.observed_until == [60.0] * 3 + [40.0] * 3
    for name, start in (("case-0", "2020-03-01"), ("silent", "2020-02-10")):
        dates = table.loc[table["history_id"] == name, "timestamp"]
        assert len(dates)
        assert ((dates > pd.Timestamp(start)) & (dates < pd.Timestamp(start) + pd.Timedelta(3, "D"))).all()
    for i, one in enumerate(found):
        start = (60.0, 40.0)[i // 3]
        assert (one.t_start, one.t_end) == (start, start + 3.0)
        torch.testing.assert_close(one.inter_times.cumsum(0) + start, one.event_times)
    seen = found.histories[0]
    assert torch.equal(seen.timestamps, stamps[-len(seen) :]) and seen.censored_start
    whole = found.with_history()[0]
    assert whole.t_start == 55.0 and whole.num_given == 1  # the first inter-time begins where the cut does
    assert found.num_given == [len(seen)] * 3 + [0] * 3


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (0.0, "history_lookback = 0.0 must be positive"),
        (float("nan"), "history_lookback = nan must be positive"),
        ("soon", "history_lookback = 'soon' must be"),
        ("3d", "history_lookback = '3d' needs the unit of the times"),
    ],
)
def test_mistakes_are_one_sentence(value: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        drawn(model(), LONG, history_lookback=value)
    with pytest.raises(ValueError, match=r"history_lookback = 3\.0 is for a history, and there is none"):
        sample(model(), horizon=1.0, history_lookback=3.0)


# --- predict ----------------------------------------------------------------------------------------------------------


def data() -> EventDataModule:
    longer = [history(one.window_end + 5.0, i) for i, one in enumerate(LONG)]
    return EventDataModule({"train": [history(20.0)], "test": longer})


REQUESTS = Requests(3, "test", given_fraction=1.0, horizon=3.0, chunk_size=3)


def predicted(folder: Path, target: TransformerTPP = WINDOWED, **changes: Any) -> tuple[list[SampledSequences], int]:
    """Return the chunks that a job has sampled, and how many sequences they have."""
    checkpoint = folder.parent / "target.ckpt"
    save(target, checkpoint)
    writer = SampleWriter(folder)
    requests = replace(REQUESTS, **changes)
    chunks = trainer(callbacks=[writer]).predict(Sampler(checkpoint, seed=4), requests.loader(data()))
    return [chunk for chunk in chunks or [] if chunk is not None], writer.num_sequences  # type: ignore[misc]


def record(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / JOB).read_text())
    assert json.loads((folder / MANIFEST).read_text())["job"] == found
    return found


@pytest.mark.parametrize("reach", [None, 30.0])
def test_predict_continues_what_sample_does(reach: float | None, tmp_path: Path) -> None:
    histories = [REQUESTS.history(one) for one in data().sequences("test")]
    chunks, _ = predicted(tmp_path / "out", history_lookback=reach)
    expected = drawn(WINDOWED, histories, history_lookback=reach)
    torch.testing.assert_close(
        torch.cat([chunk.flat_event_times for chunk in chunks]), expected.flat_event_times, rtol=0, atol=1e-4
    )
    assert differ(expected, drawn(model(), histories)) and {chunk.histories[0].id for chunk in chunks} == {
        "case-0", "case-1", "case-2"
    }  # fmt: skip


def test_a_job_is_one_of_its_lookback(tmp_path: Path) -> None:
    """Mutant: a folder that was begun with whole histories is filled up with samples of cut ones."""
    predicted(tmp_path / "cut")
    own = record(tmp_path / "cut")
    assert own["windows"] == [WINDOW, LOOKBACK] and "history_lookback" not in own
    assert predicted(tmp_path / "cut")[1] == 0  # it goes on as the same job
    with pytest.raises(ValueError, match=r"another job .history_lookback is None there and 30\.0 here"):
        predicted(tmp_path / "cut", history_lookback=30.0)
    (tmp_path / "cut" / JOB).write_text(json.dumps({name: one for name, one in own.items() if name != "windows"}))
    with pytest.raises(ValueError, match=r"another job .windows is None there and .10\.0, 5\.0. here"):
        predicted(tmp_path / "cut")
    predicted(tmp_path / "told", history_lookback=30.0)
    assert record(tmp_path / "told")["history_lookback"] == 30.0 and "windows" not in record(tmp_path / "told")
    assert predicted(tmp_path / "told", history_lookback="30")[1] == 0


def test_a_job_of_before_whose_histories_are_not_cut_goes_on(tmp_path: Path) -> None:
    """Mutant: a record that says more than before turns away files that hold the very same samples."""
    given = {"given_fraction": None, "given_until": 12.0}
    predicted(tmp_path / "out", **given)
    own = record(tmp_path / "out")
    before = {"history_lookback", "windows"}
    assert not before & own.keys() and len(fingerprint(own)) == 64
    (tmp_path / "out" / "train-00001-of-00003.parquet").unlink()
    assert predicted(tmp_path / "out", **given)[1] == 3


def test_the_command_takes_a_duration(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save(model(window=WINDOW, lookback=LOOKBACK, **CLOCK, mark_names=("a", "b", "c")), tmp_path / "target.ckpt")
    days = history(120.0)
    stamps = pd.Timestamp("2020-01-01") + pd.to_timedelta(days.event_times.numpy(), unit="D")
    log = pd.DataFrame({"time": stamps.strftime("%Y-%m-%dT%H:%M:%S.%f"), "mark": [*map("abc".__getitem__, days.marks)]})
    log.to_csv(tmp_path / "log.csv", index=False)
    words = [
        "predict", "--model.target", tmp_path / "target.ckpt", "--data.path", tmp_path / "log.csv", "--data.t_start",
        "2020-01-01", "--data.time_unit", "d", "--data.fractions", "[0.4, 0.3, 0.3]", "--requests.continue_split",
        "train", "--requests.given_until", "30", "--requests.horizon", "2", "--trainer.enable_progress_bar", "false",
        "--data.mark_names", "[a, b, c]", "--data.window", "40d", "--trainer.accelerator", "cpu",
    ]  # fmt: skip
    asked = [*words, "--writer.output_dir", tmp_path / "out", "--requests.history_lookback"]
    assert run_tppsd(*asked, "48h") == 0, capsys.readouterr().err
    assert record(tmp_path / "out")["history_lookback"] == 2.0
    assert run_tppsd(*asked, "-1") != 0
    assert "history_lookback = -1" in capsys.readouterr().err
    with pytest.raises(ValueError, match="history_lookback describes histories; say which with continue_split"):
        Requests(t_end=1.0, history_lookback=1.0)
