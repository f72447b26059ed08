"""`stop_marks`: a sequence ends at its first sampled event of such a mark, under every method."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from faster_passes import head_of_compiled
from mutants import STOP_MUTANTS
from native_builds import needs_a_compiler
from small_models import attentive_model
from stubs import StubTPP
from torch import Tensor

from tppsd.data.sequences import EventSequence
from tppsd.data.statistics import DataStatistics
from tppsd.sampling import compiled as building
from tppsd.sampling.options import SamplingOptions
from tppsd.sampling.results import SampledSequences
from tppsd.sampling.sample import sample, sample_stream

NUM_MARKS, STOP = 4, (0, 3)
MODEL = StubTPP.random(NUM_MARKS, seed=0)
DRAFT = MODEL.moved(1, times=0.4, marks=0.6)
HISTORY = EventSequence.of([1.0, 2.0], [1, 3], t_start=0.5, t_end=2.5)  # its own event of mark 3 stops nothing
METHODS: dict[str, dict[str, Any]] = {
    "autoregressive": {},
    "joint": {"draft": DRAFT, "draft_length": 5},
    "factorised": {"draft": DRAFT, "rule": "factorised", "draft_length": 3},
    "block": {"draft": DRAFT, "rule": "block", "draft_length": 4},
    "self": {"method": "speculative", "draft_length": 4},
    "jacobi": {"draft": "jacobi", "draft_length": 4},
    "linear": {"draft": DRAFT, "candidates": (3, 2, 1)},
    "rrs": {"draft": DRAFT, "candidates": (2, 2), "rule": "rrs"},
    "fixed_point": {"method": "fixed_point", "draft_length": 6, "tolerance": 0.0},
}
COMPILED: dict[str, dict[str, Any]] = {
    "decode": {"method": "autoregressive"},
    "rounds": {"draft_length": 4},
    "rounds of chosen lengths": {"draft_length": ((3, 2), (5, 4))},
    "factorised": {"rule": "factorised", "draft_length": 3},
    "tree": {"candidates": (2, 2, 1)},
}


def draw(method: str, model: Any = MODEL, **arguments: Any) -> SampledSequences:
    size = {"num_sequences": 40, "batch_size": 16, "seed": 3} | arguments
    return sample(model, **METHODS[method], **size)


def cut_at_the_stop(samples: SampledSequences) -> list[tuple[Tensor, Tensor, bool]]:
    """(times, marks, is it stopped) of each sequence, cut behind its first event of a stop mark."""
    cut = []
    for times, marks in zip(samples.event_times, samples.marks, strict=True):
        stops = torch.isin(marks, torch.tensor(STOP)).nonzero().flatten()
        num = int(stops[0]) + 1 if len(stops) else len(marks)
        cut.append((times[:num], marks[:num], bool(len(stops))))
    return cut


def differs(free: SampledSequences, stopped: SampledSequences) -> bool:
    """Are the stopped sequences anything but the free ones, cut?"""
    for i, (times, marks, is_stopped) in enumerate(cut_at_the_stop(free)):
        own, others = stopped.event_times[i], stopped.marks[i]
        if len(own) != len(times) or not torch.equal(others, marks) or bool(stopped.stopped[i]) != is_stopped:
            return True
        if not torch.allclose(own, times, rtol=1e-9, atol=0):
            return True
    return False


@pytest.mark.parametrize("history", [None, HISTORY], ids=["from scratch", "after a history"])
@pytest.mark.parametrize("method", METHODS)
def test_a_stopped_sequence_is_the_free_one_up_to_its_first_event_of_such_a_mark(method: str, history: Any) -> None:
    """The noise of an event does not hang on where its row ends, so that the same seed gives the same events."""
    free = draw(method, history=history, horizon=2.0)
    stopped = draw(method, history=history, horizon=2.0, stop_marks=set(STOP))
    assert not differs(free, stopped)
    assert 4 < int(stopped.stopped.sum()) < 40, "both ends must occur"
    assert stopped.ends.isnan().tolist() == stopped.stopped.tolist() and not stopped.truncated.any()
    assert stopped.stats.num_events == len(stopped.flat_marks)


@needs_a_compiler
@pytest.mark.parametrize("way", COMPILED)
def test_compiled_calls_stop_there_too(way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    target, draft = attentive_model("thp", num_marks=NUM_MARKS), attentive_model("rotary", num_marks=NUM_MARKS)
    size: dict[str, Any] = {"num_sequences": 40, "batch_size": 6, "seed": 3, "horizon": 6.0, "compile": True}
    given = None if way == "decode" else draft
    free, stopped = (sample(target, given, **COMPILED[way], **size, **more) for more in ({}, {"stop_marks": STOP}))
    assert not differs(free, stopped)
    assert 5 < int(stopped.stopped.sum()) < 40
    if way == "rounds":
        by_python = sample(
            head_of_compiled(target), given, **COMPILED[way], **(size | {"compile": "auto"}), stop_marks=STOP
        )
        assert not differs(free, by_python)
        monkeypatch.setattr(building, "can_speculate", lambda *of_round: False)
        python = sample(target, given, **COMPILED[way], **size, stop_marks=STOP)
        for one in (stopped, by_python):
            assert torch.equal(one.stats.accepted_counts, python.stats.accepted_counts)
            assert one.stats.num_rounds == python.stats.num_rounds


def test_an_accepted_stop_ends_the_count_of_its_round() -> None:
    """A draft equal to the target is always accepted: drafted events behind a stop are neither drafted nor rejected."""
    for arguments in ({"draft_length": 6}, {"draft_length": 6, "rule": "block"}):
        stats = sample(MODEL, MODEL, num_sequences=50, stop_marks=STOP, num_events=40, **arguments).stats
        assert stats.acceptance_rate == 1.0 and stats.num_accepted <= stats.num_events


def test_a_stop_may_be_the_last_event_that_is_wanted() -> None:
    free = draw("joint", num_events=6)
    stopped = draw("joint", num_events=6, stop_marks=STOP)
    assert not differs(free, stopped)
    first = [
        int(torch.isin(marks, torch.tensor(STOP)).nonzero()[0]) + 1 for marks in draw("joint", num_events=50).marks
    ]
    bound = min(first)
    with pytest.warns(UserWarning, match=f"reached max_events = {bound}"):
        bounded = draw("joint", num_events=9, max_events=bound, stop_marks=STOP)
    assert bounded.stopped.tolist() == [n <= bound for n in first]
    assert bounded.truncated.tolist() == [n > bound for n in first]


def test_densities_and_distributions_end_with_the_stop() -> None:
    model = attentive_model("thp", num_marks=NUM_MARKS)
    for compile in (False, "auto"):
        kept = sample(
            model,
            num_sequences=20,
            horizon=6.0,
            stop_marks=STOP,
            return_distributions=True,
            return_log_probs=True,
            compile=compile,
        )
        assert kept.distributions is not None and kept.log_probs is not None
        for distribution, log_prob, marks, is_stopped in zip(
            kept.distributions, kept.log_probs, kept.marks, kept.stopped, strict=True
        ):
            assert len(log_prob) == len(marks) and distribution.batch_shape[0] == len(marks) + (not is_stopped)


def test_marks_may_be_named_and_are_recorded(tmp_path: Path) -> None:
    import pyarrow.parquet as pq

    model = attentive_model("thp", num_marks=3)
    model.set_statistics(DataStatistics(3, mark_names=("admission", "surgery", "discharge")))
    named = sample(model, num_sequences=12, horizon=9.0, stop_marks={"discharge"})
    by_index = sample(model, num_sequences=12, horizon=9.0, options=SamplingOptions(stop_marks=(2,)))
    assert torch.equal(named.flat_event_times, by_index.flat_event_times) and named.stopped.any()
    (streamed,) = sample_stream(model, num_sequences=12, horizon=9.0, stop_marks=["discharge"])
    assert torch.equal(streamed.flat_event_times, named.flat_event_times)
    table = pq.read_table(named.to_parquet(tmp_path / "samples.parquet")).to_pydict()
    assert table["stopped"] == named.stopped.tolist()
    assert json.loads(table["options"][0])["stop_marks"] == ["discharge"]
    again = SamplingOptions(**json.loads(table["options"][0]))
    assert torch.equal(sample(model, num_sequences=12, horizon=9.0, options=again).flat_marks, named.flat_marks)


@pytest.mark.parametrize(
    ("marks", "message"),
    [
        ([], "must be marks, by index or name"),
        ([-1], "must be marks, by index or name"),
        (4, "4 is not a mark of the target; its marks are 0..3"),
        (["death"], "'death' is not a mark of the target"),
    ],
)
def test_marks_that_the_target_does_not_have_are_refused(marks: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        sample(MODEL, horizon=1.0, stop_marks=marks)


# --- wrong stops ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wrong", "method"),
    [
        (wrong, method)
        for wrong in STOP_MUTANTS
        for method in ("joint", "block", "self", "linear", "rrs")
        if wrong != "drafted_until_before_the_stop" or method in ("joint", "self")  # of the others nothing is cut off
    ],
)
def test_wrong_stops_are_told_from_right_ones(wrong: str, method: str) -> None:
    free = draw(method, horizon=5.0)
    with STOP_MUTANTS[wrong].patch():
        assert differs(free, draw(method, horizon=5.0, stop_marks=STOP))
