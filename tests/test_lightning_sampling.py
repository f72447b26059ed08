"""Requests, Sampler and SampleWriter: the Trainer's samples are those of `tppsd.sample`, and the files are data
again."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning_helpers import SMALL, fitted, small_data, trainer

from tppsd import (
    DraftTPP,
    EventDataModule,
    EventSequence,
    Sampler,
    SampleWriter,
    SamplingOptions,
    TargetTPP,
    load,
    sample,
)
from tppsd.lightning import requests as requests_of
from tppsd.lightning.job_folder import JOB
from tppsd.lightning.requests import Requests, median_window
from tppsd.sampling import auto
from tppsd.sampling.method import Batch
from tppsd.sampling.results import SampledSequences


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("checkpoints")
    torch.manual_seed(0)
    return fitted(TargetTPP(2, **SMALL), folder / "target.ckpt"), fitted(DraftTPP(2, **SMALL), folder / "draft.ckpt")


def predicted(
    sampler: Sampler, requests: Requests, data: EventDataModule | None = None, **arguments
) -> list[SampledSequences]:
    chunks = trainer(**arguments).predict(sampler, requests.loader(data))
    assert isinstance(chunks, list)
    return chunks  # type: ignore[return-value]


def assert_same(chunks: list[SampledSequences], whole: SampledSequences) -> None:
    """Compare sequences under the same indices, up to the reduction order of other batches."""
    assert torch.equal(torch.cat([c.index for c in chunks]), whole.index)
    assert torch.equal(torch.cat([c.history_index for c in chunks]), whole.history_index)
    assert torch.equal(torch.cat([c.path_index for c in chunks]), whole.path_index)
    assert torch.equal(torch.cat([c.flat_marks for c in chunks]), whole.flat_marks)
    torch.testing.assert_close(
        torch.cat([c.flat_event_times for c in chunks]), whole.flat_event_times, rtol=0, atol=1e-4
    )


@pytest.mark.parametrize(
    "options", [SamplingOptions(draft_length=3), SamplingOptions(candidates=(3, 1))], ids=["chain", "tree"]
)
def test_chunks_from_scratch_are_one_call_of_sample(options: SamplingOptions, checkpoints: tuple[Path, Path]) -> None:
    target, draft = checkpoints
    chunks = predicted(Sampler(target, draft, options, seed=5), Requests(7, t_end=6.0, chunk_size=3))
    assert [len(chunk) for chunk in chunks] == [3, 3, 1]
    assert_same(chunks, sample(target, draft, num_sequences=7, t_end=6.0, seed=5, options=options))
    assert chunks[0].options == options.resolved("model") and chunks[0].target_hash == load(target).content_hash()


def test_chunks_of_continuations_are_one_call_of_sample(checkpoints: tuple[Path, Path]) -> None:
    """They go on until the end of each sequence's own window; the paths of a history are never split over chunks."""
    data = small_data()
    requests = Requests(2, "train", max_histories=5, given_fraction=0.5, chunk_size=4)
    chunks = predicted(Sampler(checkpoints[0], seed=1), requests, data)
    assert [len(chunk) for chunk in chunks] == [4, 4, 2]
    histories = [requests.history(s) for s in data.sequences("train")[:5]]
    assert_same(chunks, sample(checkpoints[0], history=histories, num_sequences=2, t_end=8.0, seed=1))


def test_a_method_chosen_by_the_clock_is_tried_once_and_every_chunk_can_be_replayed(
    checkpoints: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(auto, "_EVENTS_PER_ROUND", (20, 20))
    chunks = predicted(
        Sampler(*checkpoints, SamplingOptions("auto"), seed=5), Requests(4, num_events=500, chunk_size=2)
    )
    assert [chunk.stats.trial_seconds > 0 for chunk in chunks] == [True, False]
    assert chunks[0].stats.choice == chunks[1].stats.choice is not None
    for first, chunk in zip((0, 2), chunks, strict=True):
        again = sample(*checkpoints, num_sequences=2, first_index=first, num_events=500, seed=5, options=chunk.options)
        assert torch.equal(again.flat_event_times, chunk.flat_event_times)


def test_every_shard_says_what_replays_it(checkpoints: tuple[Path, Path], tmp_path: Path) -> None:
    """The last chunk has fewer sequences than the others have running sequences."""
    import pandas

    sampler = Sampler(*checkpoints, SamplingOptions(draft_length="auto"), seed=3, batch_size=4)
    predicted(sampler, Requests(12, num_events=60, chunk_size=9), callbacks=[SampleWriter(tmp_path)])
    in_flight = []
    for shard in sorted(tmp_path.glob("*.parquet")):
        frame = pandas.read_parquet(shard)
        recorded = frame.iloc[0]
        in_flight.append(int(recorded["batch_size"]))
        again = sample(
            *checkpoints, num_sequences=len(frame), first_index=int(recorded["seq_idx"]), num_events=60, seed=3,
            options=SamplingOptions(**json.loads(recorded["options"])), batch_size=in_flight[-1],
        )  # fmt: skip
        assert [times.tolist() for times in frame["time_since_start"]] == [
            times.tolist() for times in again.event_times
        ]
    assert in_flight == [4, 3]


@pytest.mark.parametrize("num_events", [1, 8, 100, 5000, 10**7])
def test_files_grow_with_the_job(num_events: int) -> None:
    """A small job loses little when it ends early, a large one has neither thousands of files nor too large ones."""
    before = 0
    for num_sequences in (1, 255, 256, 1000, 25_600, 10**6, 10**7, 10**9):
        size = requests_of.default_chunk_size(num_sequences, num_events)
        assert size >= before and size >= requests_of.SMALLEST
        is_largest = (size + 1) * num_events > requests_of.LARGEST
        assert size == requests_of.SMALLEST or size <= math.ceil(num_sequences / requests_of.SHARE)
        assert is_largest or size == max(requests_of.SMALLEST, math.ceil(num_sequences / requests_of.SHARE))
        assert size == requests_of.SMALLEST or size * num_events <= requests_of.LARGEST
        before = size


def test_a_job_with_files_of_the_default_size_is_resumed(
    checkpoints: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(requests_of, "SMALLEST", 3)
    monkeypatch.setattr(requests_of, "SHARE", 4)
    requests = Requests(22, num_events=4)  # files of 6 sequences
    whole = predicted(Sampler(checkpoints[0], seed=5), requests, callbacks=[SampleWriter(tmp_path / "whole")])
    assert [len(chunk) for chunk in whole] == [6, 6, 6, 4]
    sampler = Sampler(checkpoints[0], seed=5)
    predicted(sampler, requests, callbacks=[SampleWriter(tmp_path / "cut")], limit_predict_batches=2)
    again = predicted(Sampler(checkpoints[0], seed=5), requests, callbacks=[SampleWriter(tmp_path / "cut")])
    assert [chunk is None for chunk in again] == [True, True, False, False]
    for one, other in zip(*(sorted((tmp_path / name).glob("*.parquet")) for name in ("whole", "cut")), strict=True):
        assert one.name == other.name and one.read_bytes() == other.read_bytes()
    assert json.loads((tmp_path / "cut" / JOB).read_text())["chunk_size"] == 6


@pytest.mark.parametrize(
    ("method", "choice"),
    [("auto", "autoregressive: too few events for a trial"), ("autoregressive", None)],
    ids=["auto", "named"],
)
def test_what_was_chosen_and_why_is_said_and_written(
    method: Any, choice: str | None, checkpoints: tuple[Path, Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    from pyarrow.parquet import read_table

    sampler = Sampler(checkpoints[0], options=SamplingOptions(method))
    with caplog.at_level("INFO"):
        predicted(sampler, Requests(4, num_events=3, chunk_size=2), callbacks=[SampleWriter(tmp_path)])
    said = [line for line in caplog.messages if line.startswith("auto chose")]
    assert said == ([] if choice is None else [f"auto chose {choice}"])
    shards = sorted(tmp_path.glob("*.parquet"))
    assert [read_table(shard)["choice"].to_pylist() for shard in shards] == [[choice] * 2] * 2


@pytest.mark.parametrize(
    ("num_chunks", "finished", "has_trial"),
    [(4, (), True), (3, (), False), (4, (2,), False)],
    ids=["long", "short", "rest"],
)
def test_whether_to_try_is_decided_by_what_is_left_of_the_job(
    num_chunks: int,
    finished: tuple[int, ...],
    has_trial: bool,
    checkpoints: tuple[Path, Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Chunks of 1,500 events, of which 6,000 are enough for a trial with one running sequence that is not compiled."""
    tried: list[SamplingOptions] = []

    def try_out(batch: Batch, options: SamplingOptions, num_rounds: int) -> tuple[float, None]:
        tried.append(options)
        return float(options.method == "autoregressive"), None

    monkeypatch.setattr(auto, "_try", try_out)
    sampler = Sampler(checkpoints[0], options=SamplingOptions("auto"), batch_size=1)
    sampler.finished_chunks = frozenset(finished)
    requests = Requests(15 * num_chunks, num_events=100, chunk_size=15)
    (chunk,) = predicted(sampler, requests, limit_predict_batches=1)
    assert bool(tried) == has_trial
    assert ("events/s in a trial" in (chunk.stats.choice or "")) == has_trial


def test_the_chunks_to_come_are_those_of_the_process() -> None:
    chunks = Requests(12, t_end=1.0, chunk_size=2).loader().dataset
    assert [list(chunks[i].to_come(2)) for i in (0, 1, 4)] == [[0, 2, 4], [1, 3, 5], [4]]


def test_a_draft_length_that_is_fixed_stays_so_in_every_chunk(
    checkpoints: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(auto, "_EVENTS_PER_ROUND", (1, 1))
    monkeypatch.setattr(auto, "_try", lambda batch, options, num: (float(options.drafter == "jacobi"), None))
    options = SamplingOptions("auto", draft_length=4, drafter="jacobi")
    chunks = predicted(
        Sampler(checkpoints[0], options=options, batch_size=1), Requests(2, num_events=130, chunk_size=1)
    )
    assert [chunk.options.draft_length for chunk in chunks] == [4, 4]


@pytest.mark.parametrize("drafter", ["self", "jacobi", "poisson"])
def test_drafters_by_name(drafter: str, checkpoints: tuple[Path, Path]) -> None:
    (chunk,) = predicted(Sampler(checkpoints[0], drafter), Requests(2, t_end=2.0))
    assert chunk.stats.method == "speculative" and chunk.stats.drafter == drafter


def test_what_is_given_of_a_sequence() -> None:
    sequence = EventSequence.of([1.0, 2.0, 4.0, 7.0], [0, 1, 0, 1], t_start=0.0, t_end=8.0)
    ten = Requests(continue_split="test", given_events=10).history(sequence)
    assert len(ten) == 4
    half = Requests(continue_split="test", given_fraction=0.5).history(sequence)
    assert half.event_times.tolist() == [1.0, 2.0] and half.window_end == 2.0
    until = Requests(continue_split="test", given_until=3.0).history(sequence)
    assert until.event_times.tolist() == [1.0, 2.0] and until.window_end == 3.0  # observed empty from 2 to 3
    rebased = EventSequence.of([1.0, 2.0, 4.0, 7.0], [0, 1, 0, 1])  # its first event is given
    assert Requests(continue_split="test", given_events=0).history(rebased).event_times.tolist() == [1.0]
    assert Requests(continue_split="test", given_until=1.0).history(rebased).event_times.tolist() == [1.0, 2.0]


def test_the_default_end_from_scratch_is_the_datas_window(checkpoints: tuple[Path, Path]) -> None:
    assert median_window(small_data().sequences("train")) == 8.0
    (chunk,) = predicted(Sampler(checkpoints[0]), Requests(2), small_data())
    assert chunk.ends.tolist() == [8.0, 8.0]


def test_mistakes_are_named(checkpoints: tuple[Path, Path]) -> None:
    with pytest.raises(ValueError, match=r"sampling needs an end"):
        Requests(2).loader()
    with pytest.raises(ValueError, match=r"continue_split = 'test' needs the data to continue"):
        Requests(continue_split="test", given_events=1).loader()
    with pytest.raises(ValueError, match=r"given_events describes histories; say which with continue_split"):
        Requests(given_events=1)
    with pytest.raises(
        ValueError, match=r"continue_split = 'test' needs one of given_events, given_fraction, given_until"
    ):
        Requests(continue_split="test")
    for wrong, said in (
        ({"max_histories": 0}, "max_histories = 0 must be a whole number of at least 1"),
        ({"max_histories": -1}, "max_histories = -1 must be a whole number of at least 1"),
        ({"given_events": -2}, "given_events = -2 must be a whole number of at least 0"),
        ({"given_events": None, "given_until": -1.0}, "given_until = -1.0 must not be negative"),
    ):
        with pytest.raises(ValueError, match=said):
            Requests(**({"continue_split": "test", "given_events": 1} | wrong))  # type: ignore[arg-type]
    assert Requests(5.0, chunk_size=2.0, t_end=1.0) == Requests(5, chunk_size=2, t_end=1.0)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"precision = 'bf16-true' would round event times"):
        predicted(Sampler(checkpoints[0]), Requests(2, t_end=1.0), precision="bf16-true")


def test_written_samples_are_data_again(checkpoints: tuple[Path, Path], tmp_path: Path) -> None:
    folder = tmp_path / "samples"
    sampler = Sampler(*checkpoints, SamplingOptions("speculative"), seed=2)
    chunks = predicted(sampler, Requests(20, t_end=6.0, chunk_size=8), callbacks=[SampleWriter(folder)])
    names = [f"train-{i:05d}-of-00003.parquet" for i in range(3)]
    assert sorted(path.name for path in folder.iterdir()) == [".job.json", ".manifest.json", *names]

    import pandas

    frame = pandas.read_parquet(folder)
    assert frame["seq_idx"].tolist() == list(range(20))
    assert set(frame["target_hash"]) == {load(checkpoints[0]).content_hash()} and set(frame["seed"]) == {2}
    assert set(frame["options"]) == {
        '{"draft_length": 8, "drafter": "model", "method": "speculative", "rule": "joint"}'
    }

    from datasets import load_dataset

    shards = load_dataset(str(folder), cache_dir=str(tmp_path / "cache"), split="train")
    assert shards["seq_len"] == frame["seq_len"].tolist()

    data = EventDataModule(path=str(folder), fractions=(0.5, 0.25, 0.25))
    read = [*data.sequences("train"), *data.sequences("validation"), *data.sequences("test")]
    written = [sequence for chunk in chunks for sequence in chunk]
    assert data.num_marks == 2 and len(read) == 20
    for ours, theirs in zip(read, written, strict=True):
        assert (ours.t_start, ours.t_end) == (theirs.t_start, theirs.t_end) == (0.0, 6.0)
        assert torch.equal(ours.event_times, theirs.event_times) and torch.equal(ours.marks, theirs.marks)
    fit = trainer(max_steps=1)
    fit.fit(TargetTPP(2, **SMALL), datamodule=data)


def test_a_folder_with_samples_is_refused(checkpoints: tuple[Path, Path], tmp_path: Path) -> None:
    (tmp_path / "train-00000-of-00002.parquet").touch()
    with pytest.raises(ValueError, match=r"already holds 1 Parquet files \(train-00000-of-00002.parquet"):
        predicted(Sampler(checkpoints[0]), Requests(2, t_end=1.0), callbacks=[SampleWriter(tmp_path)])


def test_a_killed_run_leaves_no_half_file(
    checkpoints: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import pyarrow.parquet

    def half(table, path, **_) -> None:
        Path(path).write_bytes(b"PAR1")
        raise KeyboardInterrupt

    monkeypatch.setattr(pyarrow.parquet, "write_table", half)
    with pytest.raises((KeyboardInterrupt, SystemExit)):
        predicted(Sampler(checkpoints[0]), Requests(2, t_end=1.0), callbacks=[SampleWriter(tmp_path / "samples")])
    assert not (tmp_path / "samples").exists(), "a job that has not begun leaves nothing"


OPTIONS = [SamplingOptions(draft_length=3), SamplingOptions("auto")]


@pytest.mark.parametrize("options", OPTIONS, ids=["fixed", "auto"])
def test_an_interrupted_job_goes_on_where_it_stopped(
    options: SamplingOptions, checkpoints: tuple[Path, Path], tmp_path: Path
) -> None:
    requests = Requests(2, "train", max_histories=5, given_fraction=0.5, chunk_size=4)

    def run() -> SampleWriter:
        writer = SampleWriter(tmp_path)
        predicted(Sampler(*checkpoints, options, seed=3), requests, small_data(), callbacks=[writer])
        return writer

    assert run().num_sequences == 10
    shards = sorted(tmp_path.glob("*.parquet"))
    before = [shard.read_bytes() for shard in shards]
    shards[1].unlink()
    assert run().num_sequences == 4, "the chunk that was missing, and no other"
    assert [len(shard.read_bytes()) > 0 for shard in shards] == [True] * 3
    if options.method != "auto":  # which leaves the lengths to the clock
        assert [shard.read_bytes() for shard in shards] == before
    assert run().num_sequences == 0


def test_histories_are_those_of_a_job_only_if_all_that_they_hold_is_the_same(
    checkpoints: tuple[Path, Path], tmp_path: Path
) -> None:
    """Mutant: a hash of times, marks and windows alone mixes samples whose histories have other ids or inter-times."""
    one = EventSequence.of([1.0, 2.0, 4.0], [0, 1, 0], 0.5, 5.0)
    one = replace(one, id="case-1", score_start=1.5)
    changes: dict[str, Any] = {
        "id": "case-2", "score_start": 1.25, "t_start": 0.25, "t_end": 6.0, "censored_start": True,
        "event_times": one.event_times + 0.125, "marks": 1 - one.marks,
        "inter_times": torch.nextafter(one.inter_times, one.event_times.new_tensor(math.inf)),
    }  # fmt: skip
    requests = Requests(1, "train", given_events=2, chunk_size=2)

    def run(first: EventSequence) -> int:
        data = EventDataModule({"train": [first, one], "test": [one]})
        writer = SampleWriter(tmp_path)
        predicted(Sampler(checkpoints[0], seed=3), requests, data, callbacks=[writer])
        return writer.num_sequences

    assert (run(one), run(one)) == (2, 0)
    for name, value in changes.items():
        with pytest.raises(ValueError, match=r"holds samples of another job .histories is '"):
            run(replace(one, **{name: value}))


def test_a_folder_of_another_job_is_refused_and_left_alone(checkpoints: tuple[Path, Path], tmp_path: Path) -> None:
    target, draft = checkpoints
    requests = Requests(1, "train", max_histories=4, given_fraction=0.5, chunk_size=2)
    predicted(Sampler(target, seed=3), requests, small_data(), callbacks=[SampleWriter(tmp_path)])
    (tmp_path / "train-00001-of-00002.parquet").unlink()
    left = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    others = {
        "seed is 3 there and 4 here": (Sampler(target, seed=4), requests, small_data()),
        "target is '": (Sampler(draft, seed=3), requests, small_data()),
        "draft is None there and 'self' here": (Sampler(target, "self", seed=3), requests, small_data()),
        "options is None there": (
            Sampler(target, options=SamplingOptions("autoregressive"), seed=3),
            requests,
            small_data(),
        ),
        "given_fraction is 0.5 there": (Sampler(target, seed=3), replace(requests, given_fraction=0.4), small_data()),
        "histories is '": (Sampler(target, seed=3), requests, small_data(t_end=7.0)),
    }
    for said, (sampler, wanted, data) in others.items():
        with pytest.raises(ValueError, match=f"holds samples of another job .{said}"):
            predicted(sampler, wanted, data, callbacks=[SampleWriter(tmp_path)])
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == left
    (tmp_path / JOB).write_text("{")
    with pytest.raises(ValueError, match=r"\.job\.json is damaged"):
        predicted(Sampler(target, seed=3), requests, small_data(), callbacks=[SampleWriter(tmp_path)])
