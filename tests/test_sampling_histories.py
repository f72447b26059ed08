"""Continuations: of observed silences, of given first events, of long histories, of many at once."""

from __future__ import annotations

import re
import warnings
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from goodness import chi_square_p
from small_models import ENCODERS, random_sequence
from stubs import StubTPP, lively_transformer
from torch import Tensor

from tppsd.data.batch import EventBatch
from tppsd.data.sequences import EventSequence
from tppsd.data.statistics import DataStatistics
from tppsd.metrics.functional import ks_exponential, model_residuals
from tppsd.models.transformer_tpp import TransformerTPP
from tppsd.sampling import job, long_history
from tppsd.sampling.autoregressive import ModelRunner
from tppsd.sampling.results import SampledSequences
from tppsd.sampling.sample import sample

METHODS = ("autoregressive", "joint", "factorised", "block")


def draw(model: Any, method: str, **arguments: Any) -> SampledSequences:
    """With a draft of another encoder, so that drafted events are rejected."""
    if method == "autoregressive":
        return sample(model, method=method, **arguments)
    if isinstance(model, StubTPP):
        draft: Any = model.moved(1, times=0.5, marks=0.5)
    else:
        draft = lively_transformer(model.num_marks, "sahp", seed=9, num_layers=1)
    return sample(model, draft, rule=method, draft_length=3, **arguments)


def uncached_log_probs(model: Any, samples: SampledSequences, i: int) -> Tensor:
    """Log-density of each new event of sequence i given all before it and the silence, from a full pass without a
    cache."""
    whole, history = samples.with_history()[i], samples.histories[i]
    m = history.num_scored
    batch = EventBatch.from_sequences([whole])
    with torch.inference_mode():
        distribution = model(batch)[0, m : whole.num_scored]
        log_probs = distribution.log_prob(batch.inter_times[0, m:], batch.marks[0, m:])
        silence = history.window_end - (float(history.event_times[-1]) if len(history) else history.window_start)
        if silence > 0 and len(log_probs):
            log_probs[0] -= distribution[0].log_survival(torch.tensor(silence, dtype=torch.float64))
    return log_probs


@pytest.mark.parametrize("method", METHODS)
def test_the_first_new_event_is_later_than_what_was_observed_and_has_the_truncated_distribution(method: str) -> None:
    """300 histories with their own silences, some longer than any inter-time seen: -log S(tau) / S(w) is Exp(1). False
    alarms 1e-4 each."""
    model = lively_transformer(3, "thp", seed=1)
    silences = torch.logspace(-3, 1.5, 300, dtype=torch.float64)
    histories = []
    for i, silence in enumerate(silences.tolist()):
        history = random_sequence(i % 7, seed=i, given=i % 5 == 0 and i % 7 > 0)
        last = float(history.event_times[-1]) if len(history) else history.window_start
        histories.append(EventSequence(history.event_times, history.marks, history.t_start, last + silence))
    samples = draw(model, method, history=histories, num_events=1, batch_size=100)
    first = torch.tensor([times[0] for times in samples.event_times])
    assert (first > torch.tensor([h.window_end for h in histories])).all()
    assert samples.observed_until == [h.window_end for h in histories] and samples.num_given == [
        len(h) for h in histories
    ]
    residuals = model_residuals(model, samples.with_history(), samples.num_given, samples.observed_until)
    assert ks_exponential(torch.cat([r.gaps for r in residuals])).p_value > 1e-4


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("encoder", ["stub", *ENCODERS])
def test_log_probs_are_those_of_a_pass_without_a_cache(encoder: str, method: str) -> None:
    """After histories of any length, over several rounds with rejections: the caches hold exactly what was
    committed."""
    model: Any = StubTPP.swinging(3, seed=0) if encoder == "stub" else lively_transformer(3, encoder, seed=1)
    histories = [random_sequence(n, seed=n, given=n in (1, 40)) for n in (0, 1, 3, 40, 9)]
    samples = draw(
        model, method, history=histories, num_sequences=2, num_events=15, batch_size=4, return_log_probs=True
    )
    assert samples.log_probs is not None
    for i in range(len(samples)):
        torch.testing.assert_close(samples.log_probs[i], uncached_log_probs(model, samples, i), rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("method", ["autoregressive", "joint"])
@pytest.mark.parametrize("encoder", ENCODERS)
def test_a_history_longer_than_a_prefill_chunk_is_continued_by_the_uncached_distribution(
    encoder: str, method: str
) -> None:
    model = lively_transformer(3, encoder, seed=1)
    histories = [random_sequence(n, seed=n) for n in (700, 5, ModelRunner.PREFILL_CHUNK, ModelRunner.PREFILL_CHUNK + 1)]
    samples = draw(model, method, history=histories, num_events=12, return_log_probs=True)
    assert samples.log_probs is not None
    for i in range(len(samples)):
        torch.testing.assert_close(samples.log_probs[i], uncached_log_probs(model, samples, i), rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize("max_context", [None, 10])
def test_how_far_the_encoding_of_a_long_history_is_is_said(
    max_context: int | None, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """On a clock that goes with the pairs of events that look at each other, what is said to be left is what is left.

    A mutant that takes the work to be linear says too little at the beginning.
    """
    seen, extend = [0], TransformerTPP.extend

    def work(num_tokens: int) -> int:
        return sum(min(i, max_context or i) for i in range(1, num_tokens + 1))

    def counted(self: Any, tokens: Any, *rest: Any) -> Tensor:
        seen[0] += tokens.ids.shape[1]
        return extend(self, tokens, *rest)

    monkeypatch.setattr(TransformerTPP, "extend", counted)
    monkeypatch.setattr(long_history, "EVERY", 0.0)
    monkeypatch.setattr(long_history, "time", SimpleNamespace(monotonic=lambda: work(seen[0])))
    monkeypatch.setattr(ModelRunner, "PREFILL_CHUNK", 8)
    model = lively_transformer(3, "thp", seed=1, max_context=max_context)
    draw(model, "autoregressive", history=[random_sequence(100)], num_events=1, compile=False)
    said = [re.findall(r"[0-9]+", line) for line in caplog.messages if line.startswith("encoding a history")]
    assert [int(line[0]) for line in said] == list(range(8, 100, 8))
    for line in said[2:]:
        assert int(line[2]) + int(line[3]) == pytest.approx(work(100), rel=0.12)


@pytest.mark.parametrize("encoder", ENCODERS)
def test_the_size_of_a_prefill_chunk_changes_nothing(encoder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = lively_transformer(3, encoder, seed=1)
    arguments: dict[str, Any] = {"history": [random_sequence(n, seed=n) for n in (20, 0, 7)], "num_events": 5}
    whole = draw(model, "joint", **arguments)
    monkeypatch.setattr(ModelRunner, "PREFILL_CHUNK", 3)
    pieces = draw(model, "joint", **arguments)
    assert torch.equal(pieces.flat_marks, whole.flat_marks)
    torch.testing.assert_close(pieces.flat_inter_times, whole.flat_inter_times, rtol=1e-9, atol=0)


def test_histories_are_encoded_ahead_of_their_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ten histories, two running sequences: one pass over all that fit into it, another over the rest, and the same
    samples."""
    model = lively_transformer(3, "thp", seed=1)
    arguments: dict[str, Any] = {
        "history": [random_sequence(n, seed=n) for n in range(4, 14)],
        "num_events": 3,
        "batch_size": 2,
    }
    encoded, right = [], ModelRunner._encode

    def encode(self: ModelRunner, wanted: list[int]) -> None:
        encoded.append(wanted)
        right(self, wanted)

    monkeypatch.setattr(ModelRunner, "_encode", encode)
    monkeypatch.setattr(ModelRunner, "AHEAD", 60)
    ahead = sample(model, method="autoregressive", **arguments)
    assert encoded == [[0, 1, 2, 3, 4, 5], [6, 7, 8, 9]]
    monkeypatch.setattr(ModelRunner, "AHEAD", 0)
    at_need = sample(model, method="autoregressive", **arguments)
    assert len(encoded) == 2 + 5
    assert torch.equal(ahead.flat_marks, at_need.flat_marks)
    torch.testing.assert_close(ahead.flat_inter_times, at_need.flat_inter_times, rtol=1e-9, atol=0)


def test_a_batch_is_as_good_a_history_as_its_sequences() -> None:
    model = lively_transformer(3, "thp", seed=1)
    histories = [random_sequence(n, seed=n, given=n == 4) for n in (3, 4, 0, 9)]
    from_list = sample(model, history=histories, num_events=4)
    from_batch = sample(model, history=EventBatch.from_sequences(histories), num_events=4)
    torch.testing.assert_close(from_batch.flat_inter_times, from_list.flat_inter_times, rtol=1e-9, atol=0)
    assert from_batch.observed_until == from_list.observed_until
    one = sample(model, history=histories[0], num_events=4)
    torch.testing.assert_close(one.flat_inter_times, from_list.flat_inter_times[:4], rtol=1e-9, atol=0)


@pytest.mark.parametrize("method", METHODS)
def test_a_given_first_event_is_drawn_from_the_first_marks_of_the_data(method: str) -> None:
    """1500 sequences from scratch; marks never seen first do not occur first. False alarms 1e-4."""
    model = StubTPP.random(4, seed=2)
    counts = (30, 0, 60, 10)
    object.__setattr__(model, "statistics", DataStatistics(4, first_is_given=True, first_mark_counts=counts))
    samples = draw(model, method, num_sequences=1500, num_events=2, t_start=5.0, batch_size=1000)
    firsts = torch.tensor([int(sequence.marks[0]) for sequence in samples])
    seen = torch.bincount(firsts, minlength=4)
    assert seen[1] == 0
    assert chi_square_p(seen[[0, 2, 3]], torch.tensor([30.0, 60.0, 10.0]) / 100 * 1500) > 1e-4
    for sequence in list(samples)[:50]:
        assert sequence.t_start is None and len(sequence) == 2
        assert sequence.event_times[0] == 5.0 and sequence.inter_times[0] == 0 and sequence.event_times[1] > 5.0
    assert samples.num_given == [1] * 1500
    gaps = torch.cat([r.gaps for r in model_residuals(model, list(samples))])
    assert len(gaps) == 1500 and ks_exponential(gaps).p_value > 1e-4


def test_the_first_mark_does_not_depend_on_the_method() -> None:
    model = StubTPP.random(3, seed=2)
    object.__setattr__(model, "statistics", DataStatistics(3, first_is_given=True, first_mark_counts=(1, 1, 1)))
    first_marks = [[int(s.marks[0]) for s in draw(model, method, num_sequences=30, num_events=2)] for method in METHODS]
    assert first_marks[0] == first_marks[1] == first_marks[2]


@pytest.mark.parametrize("max_context", [None, 8])
def test_a_long_history_without_a_bound_is_said(max_context: int | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """The warning says that encoding takes the square of its length; a model that looks at few events says nothing."""
    monkeypatch.setattr(job, "LONG_HISTORY", 19)
    model = TransformerTPP(1, embed_dim=8, num_heads=2, num_layers=1, max_context=max_context).eval()
    history = EventSequence.of(torch.arange(1.0, 21.0), t_start=0.0)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        sample(model, history=history, num_events=2, compile=False)
        sample(model, history=history.prefix(19), num_events=2, compile=False)
    said = [str(one.message) for one in caught if "a history has 20 events" in str(one.message)]
    assert len(said) == (max_context is None) and all("max_context" in one for one in said)
