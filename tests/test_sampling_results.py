"""What `sample` returns: views, windows, files, streams; and what it leaves behind in its models."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas
import pytest
import torch
from small_models import random_sequence, small_model
from stubs import StubTPP, lively_transformer
from torch import nn

from tppsd.data.batch import EventBatch
from tppsd.data.reading import read_dataset
from tppsd.data.sequences import EventSequence
from tppsd.data.statistics import DataStatistics
from tppsd.models.transformer_tpp import TransformerTPP
from tppsd.sampling.results import SampledSequences
from tppsd.sampling.sample import sample, sample_stream

MODEL = StubTPP.random(3, seed=0)
DRAFT = MODEL.moved(1, times=0.5, marks=0.5)
HISTORIES = [
    EventSequence.of([1.0, 2.0], [0, 2], t_start=0.5, t_end=2.5),
    EventSequence.of([], t_start=1.0),
    EventSequence.of([], t_start=1.0, t_end=4.0),
    EventSequence.of([3.0, 3.5, 9.0], [1, 1, 0]),
    EventSequence.of([3.0], [1], t_end=5.0),
]


def given_first() -> StubTPP:
    """A model of data whose first event is given."""
    model = StubTPP.random(3, seed=0)
    object.__setattr__(model, "statistics", DataStatistics(3, first_is_given=True, first_mark_counts=(1, 2, 0)))
    return model


RESULTS: dict[str, dict[str, Any]] = {
    "continued for a while": {"history": HISTORIES, "num_sequences": 2, "horizon": 6.0},
    "continued by number": {"history": HISTORIES, "num_sequences": 2, "num_events": 5},
    "from scratch": {"num_sequences": 10, "t_start": 1e6, "horizon": 6.0},
    "first event given": {"target": given_first(), "num_sequences": 10, "t_start": 2.0, "t_end": 9.0},
    "empty": {"num_sequences": 10, "horizon": 0.0},
}


def result(name: str, **arguments: Any) -> SampledSequences:
    arguments = (
        {"target": MODEL, "draft": DRAFT, "draft_length": 3, "seed": 1, "batch_size": 4} | RESULTS[name] | arguments
    )
    return sample(arguments.pop("target"), arguments.pop("draft"), **arguments)


every_result = pytest.mark.parametrize("name", RESULTS)


@every_result
def test_views_and_sequences_tell_the_same_story(name: str) -> None:
    samples = result(name)
    assert len(samples) == len(list(samples)) == 10
    assert samples.index.tolist() == list(range(10)) == [s.index for s in samples]
    assert samples.num_marks == 3 and samples.seed == 1 and samples.log_probs is None
    scratch = "history" not in RESULTS[name]
    assert samples.history_index.tolist() == ([-1] * 10 if scratch else [i // 2 for i in range(10)])
    assert samples.path_index.tolist() == ([0] * 10 if scratch else [i % 2 for i in range(10)])
    for i, sequence in enumerate(samples):
        assert torch.equal(sequence.event_times, samples.event_times[i])
        assert torch.equal(sequence.marks, samples.marks[i])
        assert sequence.t_start == (None if name == "first event given" else samples.observed_until[i])
    assert torch.equal(samples[-1].event_times, samples[9].event_times)
    assert [s.index for s in samples[2:5]] == [2, 3, 4]
    assert len(repr(samples)) < 200
    with pytest.raises(IndexError):
        samples[10]


@every_result
def test_inter_times_are_the_differences_on_the_window(name: str) -> None:
    """Of the new events alone, whose window starts after the silence, and of whole sequences."""
    samples = result(name)
    for sequence in [*samples, *samples.with_history()]:
        differenced = EventSequence(sequence.event_times, sequence.marks, sequence.t_start, sequence.t_end)
        torch.testing.assert_close(sequence.inter_times, differenced.inter_times, rtol=0, atol=1e-9)
        assert (sequence.inter_times[int(sequence.first_is_given) :] > 0).all()
        assert (
            sequence.event_times.dtype == sequence.inter_times.dtype == torch.float64
            and sequence.marks.dtype == torch.int64
        )


@every_result
def test_with_history_joins_what_was_given_and_what_was_drawn(name: str) -> None:
    samples = result(name)
    for i, whole in enumerate(samples.with_history()):
        history, n = samples.histories[i], samples.num_given[i]
        assert (n, samples.observed_until[i]) == (len(history), history.window_end)
        drawn = int(name == "first event given")  # a drawn first event is both given and new
        assert torch.equal(whole.event_times, torch.cat([history.event_times, samples.event_times[i][drawn:]]))
        assert torch.equal(whole.marks, torch.cat([history.marks, samples.marks[i][drawn:]]))
        assert torch.equal(whole.inter_times[:n], history.inter_times)
        assert (whole.t_start, whole.t_end, whole.index) == (history.t_start, samples[i].t_end, i)
        assert (whole.event_times[n:] > history.window_end).all()


@every_result
def test_a_parquet_file_holds_the_sequences_and_where_they_come_from(name: str, tmp_path: Path) -> None:
    import pyarrow.parquet as pq

    samples = result(name)
    path = samples.to_parquet(tmp_path / "folder" / "samples.parquet")
    assert [p.name for p in path.parent.iterdir()] == ["samples.parquet"]
    rows = pq.read_table(path).to_pylist()
    assert len(rows) == 10
    for row, sequence in zip(rows, samples, strict=True):
        assert row["dim_process"] == 3 and row["seq_len"] == len(sequence) and row["seq_idx"] == sequence.index
        assert row["time_since_start"] == sequence.event_times.tolist()
        assert row["time_since_last_event"] == sequence.inter_times.tolist()
        assert row["type_event"] == sequence.marks.tolist()
        assert (row["t_start"], row["t_end"]) == (sequence.t_start, sequence.t_end)
        assert row["seed"] == 1 and json.loads(row["options"]) == samples.options.to_dict()
        assert row["batch_size"] == samples.batch_size == 4
    assert [row["history_index"] for row in rows] == samples.history_index.tolist()
    assert [row["truncated"] for row in rows] == [False] * 10
    dataset = samples.to_dataset()
    assert dataset["time_since_start"][:] == [row["time_since_start"] for row in rows]
    assert set(dataset.column_names) == set(rows[0])


@pytest.mark.parametrize("name", ["from scratch", "first event given", "continued for a while"])
def test_a_parquet_file_goes_back_in_as_data(name: str, tmp_path: Path) -> None:
    samples = result(name)
    for split in ("train", "validation", "test"):
        samples.to_parquet(tmp_path / f"{split}.parquet")
    data = read_dataset(tmp_path)
    assert data.num_marks == 3
    for read, written in zip(data.splits["train"], samples, strict=True):
        assert torch.equal(read.event_times, written.event_times) and torch.equal(read.marks, written.marks)
        assert (read.t_start, read.t_end) == (written.t_start, written.t_end)
        torch.testing.assert_close(read.inter_times, written.inter_times, rtol=0, atol=1e-9)


@every_result
def test_a_pandas_frame_has_one_row_per_new_event(name: str) -> None:
    samples = result(name, return_log_probs=True)
    frame = samples.to_pandas()
    assert list(frame.columns) == ["index", "history_index", "path_index", "time", "inter_time", "mark", "log_prob"]
    drawn = int(name == "first event given")  # a first event that was drawn from its frequencies has no density
    assert len(frame) == len(samples.flat_event_times) + 10 * drawn
    assert samples.log_probs is not None
    for i in range(10):
        rows = frame[frame["index"] == i]
        assert (
            rows["time"].tolist() == samples.event_times[i].tolist()
            and rows["mark"].tolist() == samples.marks[i].tolist()
        )
        assert rows["log_prob"].tolist()[drawn:] == samples.log_probs[i].tolist()
        assert rows["log_prob"][:drawn].isna().all()


@pytest.mark.parametrize("chunk_size", [1, 4, 10, 256])
@every_result
def test_a_stream_yields_the_same_sequences_in_the_order_of_index(name: str, chunk_size: int) -> None:
    whole = result(name, return_log_probs=True)
    arguments = {"target": MODEL, "draft": DRAFT, "draft_length": 3, "seed": 1, "batch_size": 4} | RESULTS[name]
    chunks = list(sample_stream(**arguments, return_log_probs=True, chunk_size=chunk_size))  # type: ignore[arg-type]
    assert [len(chunk) for chunk in chunks[:-1]] == [chunk_size] * (len(chunks) - 1)
    for field in (
        "flat_event_times",
        "flat_inter_times",
        "flat_marks",
        "flat_log_probs",
        "index",
        "history_index",
        "path_index",
    ):
        assert torch.equal(torch.cat([getattr(chunk, field) for chunk in chunks]), getattr(whole, field))
    sequences = [sequence for chunk in chunks for sequence in chunk]
    assert [(s.t_start, s.t_end) for s in sequences] == [(s.t_start, s.t_end) for s in whole]
    assert chunks[-1].stats.num_events == whole.stats.num_events
    assert torch.equal(chunks[-1].stats.accepted_counts, whole.stats.accepted_counts)


def test_every_chunk_of_a_stream_knows_what_was_done_so_far() -> None:
    """And between chunks the model is the caller's, in its own mode."""
    model = small_model(num_marks=1).train()
    before, seen = everything_in(model), []
    for chunk in sample_stream(model, num_sequences=6, num_events=4, batch_size=2, chunk_size=2):
        seen.append(chunk.stats)
        assert everything_in(model) == before
    assert [stats.num_events for stats in seen] == [8, 16, 24]


@pytest.mark.parametrize("options", [{"draft_length": 3}, {"candidates": (2, 1)}], ids=["chain", "tree"])
def test_what_a_chunk_knows_stays_what_it_was(options: dict[str, Any]) -> None:
    known = []
    for chunk in sample_stream(MODEL, DRAFT, num_sequences=20, num_events=8, batch_size=4, chunk_size=5, **options):
        known.append((chunk.stats, chunk.stats.num_drafted, chunk.stats.node_counts.sum()))
    assert all((stats.num_drafted, stats.node_counts.sum()) == (drafted, nodes) for stats, drafted, nodes in known)
    assert known[0][1] < known[-1][1]


def test_an_unused_draft_is_not_recorded() -> None:
    target, draft = small_model(num_marks=1), small_model(num_marks=1)
    assert sample(target, draft, num_events=2, method="speculative").draft_hash == draft.content_hash()
    assert sample(target, draft, num_events=2, method="autoregressive").draft_hash is None
    assert sample(target, draft, num_events=2, draft_length=2, drafter="self").draft_hash is None


def test_a_stream_needs_no_end_to_be_of_use() -> None:
    stream = sample_stream(MODEL, num_sequences=10_000, num_events=5, batch_size=4, chunk_size=2)
    first = next(stream)
    stream.close()
    assert torch.equal(first.flat_marks, sample(MODEL, num_sequences=2, num_events=5).flat_marks)
    assert first.stats.num_rounds < 200, "the rest must not have been drawn"


WAYS: dict[str, dict[str, Any]] = {
    "autoregressive": {"method": "autoregressive"},
    "speculative": {"draft_length": 3},
    "tree": {"candidates": (2, 2)},
    "jacobi": {"draft_length": 3, "drafter": "jacobi"},
    "fixed point": {"method": "fixed_point", "draft_length": 3},
    "auto": {"method": "auto"},
}


def everything_in(model: nn.Module) -> list[Any]:
    """Of every module: its class and its mode, and what it holds, by name and identity; of every tensor, its
    numbers."""
    held = [
        (type(module), module.training, [(name, id(value)) for name, value in group.items()])
        for module in model.modules()
        for group in (vars(module), module._parameters, module._buffers, module._modules, module._forward_hooks)
    ]
    return [held, [tensor.tolist() for tensor in (*model.parameters(), *model.buffers())]]


@pytest.mark.parametrize("compile", [False, "auto"])
@pytest.mark.parametrize("mode", ["evaluation", "training", "frozen encoder", "training encoder"])
@pytest.mark.parametrize("way", WAYS)
def test_models_are_left_as_they_were(way: str, mode: str, compile: Any) -> None:
    """Whatever their modes, part by part: sampled without dropout, and nothing put into them."""
    models = [TransformerTPP(3, "thp", 16, 2, 1, 4, dropout=0.5) for _ in range(2)]
    expected = sample(*(model.eval() for model in models), num_sequences=3, num_events=6, compile=compile, **WAYS[way])
    for model in models:
        model.train(mode in ("training", "frozen encoder"))
        model.encoder.train(mode in ("training", "training encoder"))
    before = [everything_in(model) for model in models]
    samples = sample(*models, num_sequences=3, num_events=6, compile=compile, **WAYS[way])
    assert [everything_in(model) for model in models] == before
    if way != "auto":
        assert torch.equal(samples.flat_marks, expected.flat_marks)
        torch.testing.assert_close(samples.flat_event_times, expected.flat_event_times, rtol=1e-6, atol=0)


def test_a_stream_that_is_closed_early_leaves_its_model_as_it_was() -> None:
    model = TransformerTPP(3, "thp", 16, 2, 1, 4, dropout=0.5).train()
    before = everything_in(model)
    stream = sample_stream(model, num_sequences=5, num_events=3, chunk_size=1)
    next(stream)
    stream.close()
    assert everything_in(model) == before


@pytest.mark.parametrize("compile", [False, "auto"])
def test_a_model_can_be_trained_after_it_was_sampled(compile: Any) -> None:
    target = TransformerTPP(3, "thp", 16, 2, 1, 4, dropout=0.5).train()
    samples = sample(target, num_sequences=3, num_events=6, compile=compile)
    target.log_likelihood(EventBatch.from_sequences(list(samples))).sum().backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in target.parameters())


def test_threads_that_sample_one_model_do_not_notice_each_other() -> None:
    """With other options each, compiled and eager, ten times over: what each of them draws alone."""
    model, draft = (TransformerTPP(3, "thp", 16, 2, 1, 4).eval() for _ in range(2))
    ways: list[dict[str, Any]] = [
        {"compile": compile, **options}
        for compile in (False, "auto")
        for options in ({"method": "autoregressive"}, {"draft_length": 3}, {"candidates": (2, 2)})
    ] + [{"dtype": "bfloat16", "method": "autoregressive"}]

    def draw(way: dict[str, Any]) -> list[SampledSequences]:
        return [sample(model, draft, num_sequences=4, num_events=12, seed=seed, **way) for seed in range(10)]

    alone = [draw(way) for way in ways]
    with ThreadPoolExecutor(len(ways)) as threads:
        together = list(threads.map(draw, ways))
    for one, other in zip(alone, together, strict=True):
        for mine, theirs in zip(one, other, strict=True):
            assert torch.equal(mine.flat_event_times, theirs.flat_event_times)


def test_checkpoints_and_modules_are_as_good_as_their_models(tmp_path: Path) -> None:
    target, draft = (lively_transformer(3, "thp", seed=s) for s in (0, 1))
    size: dict[str, Any] = {"method": "speculative", "num_sequences": 3, "num_events": 6}
    expected = sample(target, draft, **size)
    assert expected.target_hash == target.content_hash() and expected.draft_hash == draft.content_hash()
    for name, model in (("target.pt", target), ("draft.pt", draft)):
        model.save(tmp_path / name)

    class Module(nn.Module):
        def __init__(self, model: TransformerTPP) -> None:
            super().__init__()
            self.model = model

    for pair in ((tmp_path / "target.pt", str(tmp_path / "draft.pt")), (Module(target), Module(draft))):
        samples = sample(*pair, **size)
        assert torch.equal(samples.flat_inter_times, expected.flat_inter_times)
        assert (samples.target_hash, samples.draft_hash) == (expected.target_hash, expected.draft_hash)


def test_progress_is_shown_and_changes_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    shown = sample(MODEL, num_sequences=3, num_events=6, progress=True)
    assert torch.equal(shown.flat_marks, sample(MODEL, num_sequences=3, num_events=6).flat_marks)


def test_marks_keep_the_names_that_they_have_in_the_data(tmp_path: Path) -> None:
    model = StubTPP.random(3, seed=0)
    object.__setattr__(model, "statistics", DataStatistics(3, mark_names=("buy", "sell", "cancel")))
    samples = sample(model, num_sequences=4, num_events=9)
    frame = samples.to_pandas()
    assert frame["mark_name"].tolist() == [("buy", "sell", "cancel")[mark] for mark in frame["mark"]]
    rows = pandas.read_parquet(samples.to_parquet(tmp_path / "samples.parquet"))
    assert rows["mark_names"][0].tolist() == ["buy", "sell", "cancel"]
    assert pandas.read_parquet(result("from scratch").to_parquet(tmp_path / "other.parquet"))["mark_names"].isna().all()


def test_sequences_without_events_count() -> None:
    """A mean over the groups of `to_pandas` leaves them out, `counts` does not."""
    samples = sample(StubTPP.random(3, seed=0), num_sequences=40, horizon=0.7)
    lengths = samples.offsets.diff()
    assert bool((lengths == 0).any()), "some sequence has no event"
    counts = samples.counts()
    assert counts["num_events"].tolist() == lengths.tolist() and counts["index"].tolist() == samples.index.tolist()
    assert counts[[0, 1, 2]].sum().tolist() == torch.bincount(samples.flat_marks, minlength=3).tolist()
    assert counts["num_events"].mean() < samples.to_pandas().groupby("index").size().mean()


SEVERAL = {
    "from scratch, until a time": {"num_sequences": 6, "t_start": 1.0, "t_end": 4.0},
    "from scratch, a number of events": {"num_sequences": 5, "num_events": 7},
    "histories, some without events": {
        "history": [random_sequence(n, seed=n) for n in (0, 3, 9)], "num_sequences": 3, "horizon": 2.0
    },
    "observed after the last event": {
        "history": [replace(random_sequence(4), t_end=90.0, id="a case")], "num_sequences": 4, "num_events": 3
    },
    "with a given first event": {"num_sequences": 5, "num_events": 4, "first_is_given": True},
}  # fmt: skip


@pytest.mark.parametrize("name", SEVERAL)
def test_flat_storage_and_rows_are_those_of_each_sequence(name: str) -> None:
    """A mutant that forgets the silence before the first new event has other inter-times in the third and fourth."""
    arguments = dict(SEVERAL[name])
    model = small_model()
    if arguments.pop("first_is_given", False):
        model.set_statistics(replace(model.statistics, first_is_given=True, first_mark_counts=(3, 1, 2)))
    samples = sample(model, seed=2, **arguments)
    assert len(samples) > 2
    for one, other in zip(samples, samples.flat(), strict=True):
        for field in ("event_times", "inter_times", "marks"):
            assert torch.equal(getattr(one, field), getattr(other, field)), field
        assert (one.t_start, one.t_end, one.index) == (other.t_start, other.t_end, other.index)
        replace(other)  # runs the checks
    columns = samples.to_columns()
    rows = list(samples)
    assert columns["time_since_start"] == [row.event_times.tolist() for row in rows]
    assert columns["time_since_last_event"] == [row.inter_times.tolist() for row in rows]
    assert columns["type_event"] == [row.marks.tolist() for row in rows]
    assert (columns["t_start"], columns["t_end"]) == ([r.t_start for r in rows], [r.t_end for r in rows])
    assert columns["seq_len"] == [len(row) for row in rows] == samples.counts()["num_events"].tolist()
    assert columns["history_id"] == [own.id for own in samples.histories]
    frame = samples.to_pandas()
    assert frame["inter_time"].tolist() == [tau for row in rows for tau in row.inter_times.tolist()]
    marks = [torch.bincount(row.marks, minlength=3).tolist() for row in rows]
    assert samples.counts()[[0, 1, 2]].to_numpy().tolist() == marks
