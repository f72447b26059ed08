"""What the clock chooses is near the best, is recorded, and can be replayed."""

from __future__ import annotations

import gc
import itertools
import weakref
from dataclasses import replace
from typing import Any

import pytest
import torch
from draft_lengths import auto_without_a_clock
from stubs import StubTPP, lively_transformer

import tppsd
import tppsd.sampling.job as job_module
from tppsd.data.sequences import EventSequence
from tppsd.data.statistics import DataStatistics
from tppsd.models.transformer_tpp import TransformerTPP
from tppsd.sampling import auto
from tppsd.sampling.draft_length import _FIRST as FIRST_LENGTHS
from tppsd.sampling.draft_length import DRAFT_LENGTHS, LENGTHS, AutoDraftLength, DraftLengthCache, RecordedDraftLength
from tppsd.sampling.method import Batch, Models, build_engine
from tppsd.sampling.options import SamplingOptions
from tppsd.sampling.requests import Wanted, plan_requests
from tppsd.sampling.sample import sample, sample_stream

_FIRST, _FIRST_OF_MANY = FIRST_LENGTHS


def simulate(acceptance: float, seconds: dict[int, float] | Any, rounds: int, num_rows: int = 1) -> AutoDraftLength:
    """A machine on which a round that drafts g events takes seconds(g), and each is accepted with the same
    probability."""
    generator = torch.Generator().manual_seed(0)
    lengths = AutoDraftLength()
    for _ in range(rounds):
        g = lengths.choose(num_rows)
        accepted = (torch.rand(num_rows, g, generator=generator) < acceptance).long().cumprod(1).sum(1)
        jitter = 1 + 0.2 * float(torch.rand((), generator=generator))
        lengths.record(g, accepted, torch.ones(num_rows, dtype=torch.bool), seconds(g) * jitter)
    return lengths


def events_per_second(g: int, acceptance: float, seconds: Any) -> float:
    return sum(acceptance**j for j in range(g + 1)) / seconds(g)


@pytest.mark.parametrize("acceptance", [0.05, 0.5, 0.8, 0.95, 0.999])
@pytest.mark.parametrize("per_event", [0.0, 0.02, 0.2, 1.0])
@pytest.mark.parametrize("num_rows", [1, 64])
def test_the_length_comes_within_five_percent_of_the_best(acceptance: float, per_event: float, num_rows: int) -> None:
    """Without the jitter, by the last hundred of 400 rounds, probes included."""

    def seconds(g: int) -> float:
        return 1e-3 * (1 + per_event * g + (0.1 if g else 0.0))

    lengths = simulate(acceptance, seconds, 400, num_rows)
    chosen = list(itertools.chain.from_iterable([g] * n for g, n in lengths.history))[-100:]
    events = sum(events_per_second(g, acceptance, seconds) * seconds(g) for g in chosen)
    best = max(events_per_second(g, acceptance, seconds) for g in LENGTHS)
    assert events / sum(map(seconds, chosen)) > 0.95 * best


def test_fewer_rows_in_flight_do_not_send_it_astray() -> None:
    """What is known of 16 rows guides the first rounds of 7, then of 3."""
    generator = torch.Generator().manual_seed(0)
    lengths = AutoDraftLength()
    for num_rows in (16,) * 60 + (7,) * 20 + (3,) * 20:
        g = lengths.choose(num_rows)
        accepted = (torch.rand(num_rows, g, generator=generator) < 0.95).long().cumprod(1).sum(1)
        lengths.record(g, accepted, torch.ones(num_rows, dtype=torch.bool), 1e-3 * (1 + 0.02 * num_rows * g))
    assert max(g for g, _ in lengths.history) <= 24


def test_a_round_without_drafts_does_not_tilt_the_costs() -> None:
    """A drafted round costs a fixed amount more than a round without drafts: beyond that, long drafts are cheap."""
    lengths = simulate(0.95, lambda g: 1e-3 * (2 if g == 0 else 10 + 0.1 * g), 30)
    assert min(g for g, _ in lengths.history if g) >= 16 and lengths.history[-1][0] >= 32


def test_it_adapts_when_acceptance_falls() -> None:
    generator = torch.Generator().manual_seed(0)
    lengths = AutoDraftLength()
    for acceptance in (0.97, 0.2):
        for _ in range(600):
            g = lengths.choose(16)
            accepted = (torch.rand(16, g, generator=generator) < acceptance).long().cumprod(1).sum(1)
            lengths.record(g, accepted, torch.ones(16, dtype=torch.bool), 1e-3 * (1 + 0.1 * g))
        if acceptance > 0.9:
            assert lengths.best()[0] >= 8
    assert lengths.best()[0] <= 2


def play(
    lengths: AutoDraftLength, rounds: int, accepted: Any, drafts_at_once: bool = True, num_rows: int = 1
) -> list[int]:
    """What is chosen where round i with g drafted events accepts accepted(i, g) and takes 1 + 0.1 g ms, 0.5 without
    drafts."""
    chosen = []
    for i in range(rounds):
        chosen.append(lengths.choose(num_rows))
        g = chosen[-1] if drafts_at_once or i else 0
        seconds = 1e-3 * (1 + 0.1 * g if g else 0.5)
        lengths.record(
            g, torch.full((num_rows,), min(g, accepted(i, g))), torch.ones(num_rows, dtype=torch.bool), seconds
        )
    return chosen


def test_without_a_history_the_first_round_tells_what_no_drafts_cost() -> None:
    """There is nothing to draft from, so that a round without drafts need not be tried."""
    longest, shorter, none = _FIRST
    assert play(AutoDraftLength(), 4, lambda i, g: g)[:4] == [longest, longest, shorter, none]
    assert play(AutoDraftLength(), 4, lambda i, g: g, drafts_at_once=False)[:3] == [longest, longest, shorter]
    assert none not in play(AutoDraftLength(), 20, lambda i, g: g, drafts_at_once=False)


def test_many_rows_begin_with_short_drafts() -> None:
    assert max(play(AutoDraftLength(), 3, lambda i, g: 0, num_rows=64)) == max(_FIRST_OF_MANY) < min(_FIRST[:2])


def test_a_call_with_other_rows_in_flight_tries_anew() -> None:
    """Short drafts are best of 64 rows; a later call with one row finds that long ones are best there."""
    lengths = AutoDraftLength()
    for num_rows in (64, 64, 1, 64):
        lengths = lengths.continued()
        for _ in range(30):
            g = lengths.choose(num_rows)
            everything = torch.full((num_rows,), g), torch.ones(num_rows, dtype=torch.bool)
            lengths.record(g, *everything, 1e-3 * (1 + 0.002 * num_rows * g * (1 + g / 8 * (num_rows > 1))))
        chosen = [g for g, rounds in lengths.history for _ in range(rounds)]
        assert chosen[-1] >= 48 if num_rows == 1 else 2 <= chosen[-1] <= 16
    assert chosen[0] <= 16, "64 rows are known"


def test_bad_luck_in_the_first_rounds_is_mended_soon() -> None:
    chosen = play(AutoDraftLength(), 60, lambda i, g: 0 if i < 3 else g)
    assert 0 in chosen[4:10] and min(chosen[40:]) >= 12


def test_a_leeway_is_spent_on_longer_drafts() -> None:
    """Not on the choice between drafts and none."""
    options = SamplingOptions("speculative", "auto", "joint", "jacobi")
    of_jacobi, of_self = (AutoDraftLength.of(replace(options, drafter=name), False) for name in ("jacobi", "self"))
    assert of_jacobi.leeway > 0 == of_self.leeway
    exact, generous = AutoDraftLength(), AutoDraftLength(leeway=0.1)
    for lengths in (exact, generous):
        play(lengths, 60, lambda i, g: 5 * i % 23)
    assert exact.best()[0] < generous.best()[0] and generous.best()[1] >= 0.9 * exact.best()[1]
    assert play(AutoDraftLength(leeway=0.9), 8, lambda i, g: 0)[4:8].count(0) == 4


def test_accepted_events_beyond_the_end_of_a_row_teach_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """`jacobi` drafts on there; of a sequence of four events at most four were of use, however long the draft."""
    learnt: list[int] = []
    record = AutoDraftLength.record

    def listen(self: AutoDraftLength, num_drafted: int, num_accepted: torch.Tensor, *others: Any) -> None:
        learnt.extend(num_accepted.tolist() if num_drafted > 3 else [])
        record(self, num_drafted, num_accepted, *others)

    monkeypatch.setattr(AutoDraftLength, "record", listen)
    target = lively_transformer(3, "thp", seed=0)
    for end in ({"num_events": 4}, {"t_end": 0.5}):
        learnt.clear()
        with auto_without_a_clock():
            samples = sample(target, "jacobi", draft_length="auto", num_sequences=40, **end)
        longest = max(len(sequence) for sequence in samples)
        assert 0 < max(learnt) <= longest < samples.stats.accepted_counts.sum(0).nonzero().max()


def test_hopeless_drafts_become_rare() -> None:
    """A tenth of 300 rounds at most, and after 1000 one in a hundred."""
    chosen = play(AutoDraftLength(), 2000, lambda i, g: 0)
    assert sum(map(bool, chosen[:300])) <= 30 and sum(map(bool, chosen[1000:])) <= 10


def test_a_later_call_goes_on_from_what_was_learnt(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(AutoDraftLength, "best", lambda *_, **__: (2, 1.0))
    target, other = (lively_transformer(3, "thp", seed=seed) for seed in (0, 1))
    arguments: dict[str, Any] = {"draft": "self", "draft_length": "auto", "num_events": 60}
    chosen = [sample(model, **arguments).options.draft_length for model in (target, target, other)]
    first, later, of_another = (
        list(itertools.chain.from_iterable([g] * n for g, n in lengths))[:4] for lengths in chosen
    )
    assert first == of_another == [_FIRST[0], *_FIRST[:2], 2] and later == [2, 2, 2, 2]


def test_a_stream_that_was_read_to_its_end_is_remembered() -> None:
    model = lively_transformer(2, "thp", seed=0)
    options = SamplingOptions(draft_length="auto").resolved("self")
    stream = sample_stream(
        model, "self", draft_length="auto", num_sequences=4, num_events=20, chunk_size=2, batch_size=2
    )
    next(stream)
    assert DRAFT_LENGTHS.recall(model, None, options, False)._num_rounds == 0
    next(stream)  # the last: nobody need ask for more
    assert DRAFT_LENGTHS.recall(model, None, options, False)._num_rounds > 0


def test_what_is_remembered_is_a_copy_and_of_one_way_to_draft() -> None:
    target, options = lively_transformer(3, "thp", seed=0), SamplingOptions("speculative", "auto", "joint", "self")
    learnt, cache = simulate(0.999, lambda g: 1e-3 * (1 + 0.001 * g), 60), DraftLengthCache()
    cache.remember(target, None, options, learnt)
    recalled = cache.recall(target, None, options, False)
    assert recalled.history == [] and recalled.best() == learnt.best()
    assert recalled.choose(1) > 24 and cache.recall(target, None, options, False).history == []
    eager, jacobi = replace(options, compile=False), replace(options, drafter="jacobi")
    for draft, way in ((None, jacobi), (None, eager), (lively_transformer(3, "thp", seed=1), options)):
        assert cache.recall(target, draft, way, False).choose(1) == _FIRST[0]
    stub = StubTPP.random(3, seed=0)
    cache.remember(stub, None, options, learnt)
    assert cache.recall(stub, None, options, False).choose(1) == _FIRST[0], "of a model that is no module"


@pytest.mark.parametrize("gone", ["target", "draft"])
def test_what_is_remembered_goes_with_either_model(gone: str) -> None:
    models = {"target": lively_transformer(3, "thp", seed=0), "draft": lively_transformer(3, "thp", seed=1)}
    learnt, cache = AutoDraftLength(), DraftLengthCache()
    options = SamplingOptions("speculative", "auto", "joint", "model")
    cache.remember(models["target"], models["draft"], options, learnt)
    kept = [weakref.ref(lengths) for ways in cache._known.values() for way in ways.values() for lengths in way.values()]
    assert len(kept) == 1 and kept[0]() is not None
    del models[gone]
    gc.collect()
    assert kept[0]() is None


def test_what_was_learnt_with_other_threads_is_not_taken_over() -> None:
    target, options = lively_transformer(3, "thp", seed=0), SamplingOptions("speculative", "auto", "joint", "self")
    cache = DraftLengthCache()
    cache.remember(target, None, options, simulate(0.999, lambda g: 1e-3 * (1 + 0.001 * g), 60))
    num_threads = torch.get_num_threads()
    torch.set_num_threads(num_threads + 1)
    try:
        assert cache.recall(target, None, options, False).choose(1) == _FIRST[0]
    finally:
        torch.set_num_threads(num_threads)
    assert cache.recall(target, None, options, False).choose(1) > _FIRST[0]


def test_recorded_lengths_come_in_order_and_the_last_goes_on() -> None:
    recorded = RecordedDraftLength(((4, 2), (0, 1), (7, 1)))
    assert [recorded.choose(1) for _ in range(6)] == [4, 4, 0, 7, 7, 7]
    several, found = RecordedDraftLength(((4, 9), (0, 1), (7, 1))), []
    for num in (2, 6, 1, 1, 50, 50):
        length, most = several.choose(1), several.most_rounds
        found.append((length, min(num, most)))
        several.record(length, torch.zeros(1), torch.ones(1, dtype=torch.bool), 1.0, min(num, most))
    assert found == [(4, 2), (4, 6), (4, 1), (0, 1), (7, 50), (7, 50)]


@pytest.mark.parametrize("draft", ["model", "two passes", "self", "jacobi", "poisson"])
def test_lengths_chosen_by_the_clock_are_replayed_by_the_options(draft: str) -> None:
    target = lively_transformer(3, "thp", seed=0)
    target.set_statistics(DataStatistics(3, num_events=200, duration=100.0, mark_counts=(50, 100, 50)))
    other = lively_transformer(3, "sahp", seed=1, num_layers=1) if draft in ("model", "two passes") else draft
    arguments: dict[str, Any] = {"num_sequences": 9, "num_events": 80, "batch_size": 4, "seed": 2}
    first = sample(target, other, draft_length="auto", draft_passes=2 if draft == "two passes" else None, **arguments)
    assert isinstance(first.options.draft_length, tuple)
    assert sum(rounds for _, rounds in first.options.draft_length) == first.stats.num_target_passes
    assert any(length == 0 for length, _ in first.options.draft_length), "rounds without a draft must occur"
    assert first.batch_size == 4
    again = sample(target, other, options=first.options, **arguments)
    assert torch.equal(again.flat_inter_times, first.flat_inter_times) and again.options == first.options
    assert SamplingOptions(**first.options.to_dict()) == first.options


@pytest.fixture
def trials_of_short_jobs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Jobs of 500 events have one."""
    monkeypatch.setattr(auto, "_EVENTS_PER_ROUND", (40, 40))


@pytest.mark.parametrize(
    ("num_events", "num_sequences", "num_rounds"),
    [(5999, 1, []), (6000, 1, [12] * 3), (6000, 2, [12] * 3), (20_000, 1, [40] * 3)],
)
def test_a_trial_takes_a_small_part_of_the_job(
    num_events: int, num_sequences: int, num_rounds: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    tried: list[int] = []

    def try_out(*arguments: Any) -> tuple[float, None]:
        tried.append(arguments[-1])
        return 1.0, None

    monkeypatch.setattr(auto, "_try", try_out)
    stub = StubTPP.random(3, seed=0)
    plan = plan_requests(Wanted(num_sequences=num_sequences, num_events=num_events), stub, 10 * num_events, 0)
    batch = Batch(Models(stub, None), plan, num_sequences, 0)
    auto.choose(batch, SamplingOptions("auto", "auto"))
    assert tried[1:] == num_rounds, "of autoregressive, jacobi and self, after a warm-up"


@pytest.mark.usefixtures("trials_of_short_jobs")
@pytest.mark.parametrize(
    "target", [StubTPP.random(3, seed=0), lively_transformer(3, "thp", seed=0)], ids=["stub", "thp"]
)
def test_auto_says_what_it_chose_and_is_replayed(target: Any) -> None:
    arguments: dict[str, Any] = {"num_sequences": 2, "num_events": 500, "batch_size": 2, "seed": 5}
    first = sample(target, method="auto", **arguments)
    assert first.options.method in ("autoregressive", "speculative")
    assert first.stats.choice is not None and "events/s in a trial" in first.stats.choice
    assert all(name in first.stats.choice for name in ("autoregressive", "jacobi", "self"))
    assert "fixed_point" not in first.stats.choice and first.stats.exact
    assert first.stats.trial_seconds > 0
    again = sample(target, options=first.options, **arguments)
    assert torch.equal(again.flat_inter_times, first.flat_inter_times)


@pytest.mark.usefixtures("trials_of_short_jobs")
def test_a_drafter_by_name_is_the_only_one_that_is_tried() -> None:
    stats = sample(StubTPP.random(3, seed=0), "self", method="auto", num_events=500).stats
    assert "self" in (stats.choice or "") and "jacobi" not in (stats.choice or "")


@pytest.mark.usefixtures("trials_of_short_jobs")
def test_a_tolerance_permits_the_fixed_point() -> None:
    target = StubTPP.random(3, seed=0)
    stats = sample(target, method="auto", tolerance=1e-6, num_events=600).stats
    assert stats.choice is not None and "fixed_point" in stats.choice


@pytest.mark.parametrize(
    "arguments",
    [{}, {"draft_length": 3}, {"drafter": "jacobi"}, {"rule": "block"}, {"tolerance": 1e-6}, {"num_sequences": 9}],
    ids=str,
)
def test_a_short_job_without_a_draft_is_sampled_autoregressively(
    arguments: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(auto, "_try", None)
    samples = sample(lively_transformer(3, "thp", seed=0), method="auto", num_events=64, **arguments)
    assert samples.options == SamplingOptions("autoregressive")
    assert samples.stats.choice == "autoregressive: too few events for a trial"


@pytest.mark.parametrize(
    ("num_sequences", "arguments", "chosen"),
    [(1, {}, 16), (16, {}, 8), (256, {}, 4), (257, {}, None), (16, {"draft_length": 3}, 3)],
)
def test_a_short_job_with_a_draft_goes_by_the_fixed_rules(
    num_sequences: int, arguments: dict[str, Any], chosen: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(auto, "_try", None)
    target, draft = (lively_transformer(3, "thp", seed=0, num_layers=n) for n in (16, 1))
    size = {"num_events": 3, "num_sequences": num_sequences, "batch_size": num_sequences}
    samples = sample(target, draft, method="auto", **size, **arguments)
    assert (samples.options.draft_length, samples.options.method == "speculative") == (chosen, chosen is not None)
    name = "autoregressive" if chosen is None else "model"
    assert (samples.stats.choice or "").startswith(f"{name}: too few events for a trial, and the draft")


def test_a_draft_that_a_rule_leaves_out_is_not_recorded() -> None:
    target, draft = (lively_transformer(3, "thp", seed=seed, num_layers=1) for seed in (0, 1))
    samples = sample(target, draft, method="auto", num_events=9, num_sequences=2)
    assert samples.options.method == "autoregressive" and samples.draft_hash is None
    assert sample(target, draft, method="auto", drafter="model", num_events=200).draft_hash == draft.content_hash()


def test_a_draft_that_does_not_fit_is_refused_even_where_a_rule_leaves_it_out() -> None:
    target, draft = (lively_transformer(marks, "thp", seed=0, num_layers=1) for marks in (3, 2))
    with pytest.raises(ValueError, match="draft has num_marks = 2, the target 3"):
        sample(target, draft, method="auto", num_events=9)


@pytest.mark.usefixtures("trials_of_short_jobs")
def test_a_draft_that_loses_the_trial_is_let_go(monkeypatch: pytest.MonkeyPatch) -> None:
    target, draft = (lively_transformer(3, "thp", seed=seed, num_layers=1) for seed in (0, 1))
    drafts: list[Any] = []

    def try_out(batch: Batch, options: SamplingOptions, num_rounds: int) -> tuple[float, None]:
        drafts.append(batch.models.draft)
        return float(options.method == "autoregressive"), None

    def build(batch: Batch, *arguments: Any) -> Any:
        drafts.append(batch.models.draft)
        return build_engine(batch, *arguments)

    monkeypatch.setattr(auto, "_try", try_out)
    monkeypatch.setattr(job_module, "build_engine", build)
    assert sample(target, draft, method="auto", num_events=500).draft_hash is None
    *in_trial, afterwards = drafts
    assert all(found is draft for found in in_trial) and afterwards is None


@pytest.mark.parametrize("given", ["stub", "thp", "compiled", "compiled, with a draft"])
def test_the_candidates_of_a_trial(given: str) -> None:
    """Compiled, only a draft model and recent distributions come near; `poisson` needs a rate."""
    encoder = TransformerTPP(3, "thp", 16, 2, 1, 3).eval()
    encoder.set_statistics(DataStatistics(3, num_events=200, duration=100.0, mark_counts=(50, 100, 50)))
    target: Any = StubTPP.random(3, seed=0) if given == "stub" else encoder
    if given.startswith("compiled"):
        target = tppsd.compile(encoder)
    draft = encoder if "draft" in given else None
    names = set(auto._candidates(Models(target, draft), SamplingOptions("auto", "auto")))
    expected = {"autoregressive", "jacobi", "self"} | ({"poisson"} if given == "thp" else set())
    assert names == expected | ({"model"} if draft is not None else set())


@pytest.mark.usefixtures("trials_of_short_jobs")
def test_a_trial_leaves_no_trace_in_the_samples(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever it chooses, the sequences are those of the chosen options."""
    target = StubTPP.random(3, seed=0)
    for fastest in ("autoregressive", "self"):
        rates = {"autoregressive": 1.0, "self": 1.0} | {fastest: 2.0}
        monkeypatch.setattr(
            auto, "_try", lambda batch, options, *_, r=rates: (r.get(options.drafter or options.method, 0.0), None)
        )
        samples = sample(target, method="auto", draft_length=4, num_events=500)
        options = SamplingOptions("autoregressive") if fastest == "autoregressive" else SamplingOptions(draft_length=4)
        assert torch.equal(samples.flat_event_times, sample(target, options=options, num_events=500).flat_event_times)


def test_a_stream_and_its_options_hold_what_was_chosen() -> None:
    target = StubTPP.random(3, seed=0)
    chunks = list(
        sample_stream(target, "self", draft_length="auto", num_sequences=6, num_events=30, chunk_size=3, batch_size=2)
    )
    assert [len(chunk) for chunk in chunks] == [3, 3]
    assert chunks[-1].options.longest_draft > 0


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"method": "fixed_point", "rule": "joint"}, "rule = 'joint' has no meaning for method = 'fixed_point'"),
        ({"method": "speculative", "tolerance": 0.1}, "tolerance = 0.1 has no meaning for method = 'speculative'"),
        ({"method": "fixed_point", "tolerance": 2.0}, "tolerance = 2.0 must lie in"),
        ({"tolerance": 1e-3}, "tolerance = 0.001 needs method = 'fixed_point' or 'auto'"),
        ({"draft_length": "long"}, "draft_length = 'long' must be a whole number or 'auto'"),
        ({"draft_length": [[3, 0]]}, "must hold pairs"),
        ({"drafter": "oracle"}, "drafter = 'oracle' is unknown"),
    ],
)
def test_options_that_do_not_fit_are_refused(options: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        SamplingOptions(**options)


def test_events_without_a_duration_have_no_rate() -> None:
    model = lively_transformer(3, "thp", seed=0)
    data = [EventSequence.of([0.0, 0.0], [0, 1], t_start=0.0)]
    model.set_statistics(DataStatistics.of(data, 3, min_inter_time=0.1))
    assert len(sample(model, method="auto", num_events=3)[0]) == 3


def test_a_model_that_drafts_must_be_given() -> None:
    with pytest.raises(ValueError, match="drafter = 'model' needs a draft"):
        sample(StubTPP.random(2, seed=0), drafter="model", num_events=3)
