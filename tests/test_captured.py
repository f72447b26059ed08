"""Captured passes and chains are cached ones and their events; on a CPU, where a replay is a call, all but the capture
itself."""

from __future__ import annotations

import contextlib
import copy
import gc
import inspect
import weakref
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import count
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from faster_passes import SAMPLERS, assert_same_events, both_ways, chain, name_of, target_and_draft
from small_models import ENCODERS, assert_same_law, attentive_model, random_batch, random_sequence, tokens_of

import tppsd
from tppsd.backends.cpp import active, captured, compilable
from tppsd.backends.cpp.active import stand_in, standing_in
from tppsd.backends.cpp.captured import CapturedModel, Graph
from tppsd.models.cache import KVCache
from tppsd.models.fast import kept, plain_attributes
from tppsd.models.transformer_tpp import TransformerTPP

TOLERANCE = 2e-5  # of contexts of size 3, in float32


@pytest.fixture
def _on_a_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Models on a CPU are captured, not compiled."""
    monkeypatch.setattr(active, "_made", lambda model, _, dtype: CapturedModel(weakref.proxy(model), dtype))
    monkeypatch.setattr(compilable, "check_compiler", lambda: None)


def graphs_of(model: TransformerTPP) -> list[Graph]:
    return [graph for graph in kept(model).stand_ins[True, torch.float32]._graphs.values() if graph is not None]


def contexts_of(model: TransformerTPP) -> list[torch.Tensor]:
    """Of all that a sampler does to a cache: chains, rollbacks by row, a tree, growth, histories copied, fewer rows."""
    tokens, where, contexts = tokens_of(random_batch([150] * 4)), 0, []
    tokens.ids[1, 0], tokens.inter_times[1, 0] = 5, 0.5  # a given start, and an inter-time which is none of an event
    cache, history = model.new_cache(4, 3), model.new_cache(2, 9)

    def extend(num: int, cache: KVCache, parents: tuple[int, ...] | None = None) -> None:
        nonlocal where
        new = tokens.map(lambda field: field[: len(cache.lengths), where : where + num])
        where += num
        contexts.append(model.extend(new, cache, parents))

    with torch.inference_mode():
        extend(9, history)
        cache.copy_rows(history, torch.tensor([1, 0, 0, 1]), torch.arange(4))
        for num in (1, 7, 1, 1):
            extend(num, cache)
        cache.make_room(9)
        for num in (7, 2):
            extend(num, cache)
        cache.roll_back(torch.tensor([0, 3, 1, 5]))
        extend(7, cache)
        extend(1, cache)
        extend(3, cache, (-1, -1, 0))
        cache.keep_path(torch.tensor([[0, 2]] * 4), torch.tensor([2, 1, 0, 1]))
        for num in (20, 7, 20):
            extend(num, cache)
        cache.keep_rows(torch.tensor([1, 3]))
        for num in (7, 20, 7, 20):
            extend(num, cache)
    return contexts


@pytest.mark.parametrize("encoder", ENCODERS)
@pytest.mark.parametrize(
    "settings", [{}, {"max_context": 5}, {"num_heads": 1, "embed_dim": 24, "max_context": 1}], ids=str
)
def test_captured_passes_give_the_contexts_of_cached_ones(
    encoder: str, settings: dict[str, Any], _on_a_cpu: None
) -> None:
    """Also in the storage of an earlier call, whose graphs are replayed."""
    model = attentive_model(encoder, **settings)
    expected = contexts_of(model)
    with standing_in(model):
        runs = [contexts_of(model)]
        num_graphs = len(graphs_of(model))
        runs += [contexts_of(model), contexts_of(model)]
    assert 0 < num_graphs < len(graphs_of(model)) < 20
    for found in runs:
        differences = [float((got - wanted).abs().max()) for got, wanted in zip(found, expected, strict=True)]
        assert max(differences) < TOLERANCE, differences
    assert max(float(wanted.abs().max()) for wanted in expected) > 1


@pytest.mark.parametrize("settings", [{}, {"num_marks": 1}, {"mark_decoder": "independent"}], ids=str)
def test_captured_laws_are_those_of_the_decoder_and_no_call_changes_what_another_gave(
    settings: dict[str, Any], _on_a_cpu: None
) -> None:
    model = attentive_model("thp", **settings)
    contexts = torch.randn(3, 2, 4, 16)
    tokens = tokens_of(random_batch([6, 6], model.num_marks), model.num_marks)
    with torch.inference_mode():
        expected, expected_contexts = (
            [model.law(each) for each in contexts],
            model.extend(tokens, model.new_cache(2, 7)),
        )
        with standing_in(model):
            found, cache = [model.law(each) for each in contexts], model.new_cache(2, 7)
            passes = []
            for shift in (0, 0, 1):
                passes.append(model.extend(tokens.map(lambda field, shift=shift: field.roll(shift, 0)), cache))
                cache.roll_back(7)
            assert len(graphs_of(model)) == 2
    for law, wanted in zip(found, expected, strict=True):
        assert law.elapsed is None
        assert_same_law(law, wanted, atol=1e-12)
    for got, shift in zip(passes, (0, 0, 1), strict=True):
        torch.testing.assert_close(got, expected_contexts.roll(shift, 0), rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("encoder", ENCODERS)
@pytest.mark.parametrize(
    "settings", [{}, {"max_context": 5}, {"num_marks": 1}, {"mark_decoder": "independent"}], ids=str
)
def test_a_chain_is_its_events_drawn_one_by_one(encoder: str, settings: dict[str, Any], _on_a_cpu: None) -> None:
    """Also past 64 entries of the cache, which are read by another graph. In float64: float32 chains part after 50
    events, since each goes on from what it has drawn."""
    model = attentive_model(encoder, **({"num_marks": 3} | settings)).double()
    with torch.inference_mode():
        expected = chain(model, 60, at_once=False)
        with standing_in(model, dtype=torch.float64):
            found = chain(
                model, 60, True, slice(None), torch.full((9,), torch.inf, dtype=torch.float64), torch.arange(9)
            )
            again = chain(model, 60, at_once=True)
            one = chain(model, 1, at_once=True)
    for got, replayed, wanted in zip(found, again, expected, strict=True):
        torch.testing.assert_close(got, wanted, rtol=1e-7, atol=1e-7)
        torch.testing.assert_close(replayed, got, rtol=0, atol=0)
    assert torch.equal(found[2], expected[2]) and torch.equal(one[2], expected[2][:, :1])


@pytest.mark.parametrize("options", [*SAMPLERS, {"draft_length": "auto"}, {"drafter": "self"}], ids=name_of)
def test_every_sampler_draws_the_same_events_with_captured_passes(options: dict[str, Any], _on_a_cpu: None) -> None:
    """With noise that no rounding decides about."""
    target, draft = target_and_draft()
    plain, fast, drafts = both_ways(target, draft, options)
    assert graphs_of(target) and (not drafts or graphs_of(draft))
    if options.get("draft_length") != "auto":  # its lengths are the clock's
        assert_same_events(plain, fast)


@pytest.mark.parametrize("until", [{"num_events": 25}, {"t_end": 30.0}, {"t_end": 30.0, "max_events": 18}], ids=str)
@pytest.mark.parametrize("continues", [False, True])
@pytest.mark.parametrize("batch_size", [1, 3, 21])
@pytest.mark.filterwarnings("ignore:.*reached max_events")
def test_events_drawn_past_an_end_or_a_limit_are_no_part_of_a_sample(
    until: dict[str, Any], continues: bool, batch_size: int, _on_a_cpu: None
) -> None:
    model = attentive_model("thp")
    plain, fast = (
        tppsd.sample(
            model, method="autoregressive", history=[random_sequence(n, seed=n) for n in (0, 3, 12)] if continues else None,
            num_sequences=7, return_log_probs=True, compile=compile, batch_size=batch_size, seed=4, **until,
        )
        for compile in (False, True)
    )  # fmt: skip
    assert "max_events" not in until or plain.truncated.any()
    for name in ("flat_event_times", "flat_marks", "flat_log_probs", "offsets", "truncated"):
        torch.testing.assert_close(getattr(fast, name), getattr(plain, name), rtol=1e-3, atol=1e-3)


def test_a_call_finds_the_graphs_of_the_one_before_unless_what_they_contain_has_changed(_on_a_cpu: None) -> None:
    model, arguments = (
        attentive_model("thp"),
        {"num_sequences": 9, "num_events": 40, "method": "autoregressive", "batch_size": 4},
    )

    def graphs() -> list[Graph]:
        with torch.random.fork_rng():
            tppsd.sample(model, compile=True, **arguments)
        return graphs_of(model)

    graphs()
    first, second = graphs(), graphs()
    assert set(map(id, first)) == set(map(id, second)) and 3 <= len(first) <= 12
    weight = model.encoder.blocks[0].to_qkv.weight
    weight.data = weight.data.clone()  # the same numbers elsewhere
    assert not set(map(id, graphs())) & set(map(id, first))


def test_threads_that_sample_one_model_have_graphs_of_their_own(_on_a_cpu: None) -> None:
    model, arguments = (
        attentive_model("thp"),
        {"num_sequences": 3, "num_events": 20, "method": "autoregressive", "compile": True},
    )

    def sample(seed: int) -> torch.Tensor:
        return torch.cat([tppsd.sample(model, seed=seed, **arguments).flat_event_times for _ in range(4)])

    alone = [sample(seed) for seed in range(8)]
    with ThreadPoolExecutor(4) as pool:
        for times, expected in zip(pool.map(sample, range(8)), alone, strict=True):
            torch.testing.assert_close(times, expected, rtol=1e-3, atol=0)  # beside others they may round otherwise
        theirs = pool.submit(lambda: graphs_of(model)).result()
    assert theirs and not set(map(id, theirs)) & set(map(id, graphs_of(model)))
    assert stand_in(model) is None
    copy.deepcopy(model)


def test_caches_of_one_shape_share_neither_entries_nor_what_was_left_behind(_on_a_cpu: None) -> None:
    model = attentive_model("thp")
    tokens = tokens_of(random_batch([9, 9]))
    swapped = tokens.map(lambda field: field.flip(0))

    def by_turns() -> list[torch.Tensor]:
        caches = [model.new_cache(2, 10), model.new_cache(2, 10)]
        parts = [
            model.extend(which.map(lambda field, j=j: field[:, j : j + 1]), cache)
            for j in range(10)
            for which, cache in zip((tokens, swapped), caches, strict=True)
        ]
        for cache in caches:
            cache.tensors[0].fill_(torch.nan)
        return parts

    with torch.inference_mode():
        expected = by_turns()
        with standing_in(model):
            runs = [by_turns(), by_turns()]
    assert len(kept(model).stand_ins[True, torch.float32]._storages) == 2
    for found in runs:
        for got, wanted in zip(found, expected, strict=True):
            torch.testing.assert_close(got, wanted, rtol=0, atol=TOLERANCE)


def test_a_model_that_was_captured_is_freed_with_the_last_reference(_on_a_cpu: None) -> None:
    model = attentive_model("thp")
    tppsd.sample(model, num_events=40, method="autoregressive", compile=True)
    freed = weakref.ref(model)
    del model
    gc.collect()
    assert freed() is None


def test_there_are_no_more_graphs_and_storages_than_were_allowed(
    _on_a_cpu: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(captured, "_MOST_GRAPHS", 5)
    model = attentive_model("thp")
    with torch.inference_mode(), standing_in(model):
        for num_rows in range(1, 12):
            cache = model.new_cache(num_rows, 3)
            tokens = tokens_of(random_batch([3] * num_rows))
            for _ in range(3):
                model.law(model.extend(tokens, cache))
    own = kept(model).stand_ins[True, torch.float32]
    assert len(own._graphs) == 5 and len(own._storages) <= captured._MOST_SPARE + 2
    assert all(key[0][1] in own._storages for key in own._graphs if len(key[0]) == 3)


def test_on_cuda_any_width_will_do_and_no_compiler_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compilable, "check_compiler", lambda: pytest.fail("a compiler is asked for"))
    model, cuda = attentive_model("thp", embed_dim=24), torch.device("cuda")
    compilable.check_compilable(model, cuda)
    with pytest.raises(ValueError, match="is for float32 weights on a CPU or a CUDA device; these are float32 on mps"):
        compilable.check_compilable(model, torch.device("mps"))
    with pytest.raises(ValueError, match="is for float32 weights on a CUDA device; these are float64 on cuda"):
        compilable.check_compilable(model.double(), cuda)


# --- how it is captured
# --------------------------------------------------------------------------------------------------


class Recorder:
    """What `torch.cuda` is asked for, in order; its replays do what was recorded."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.said: list[Any] = []
        self.current = own = SimpleNamespace(wait_stream=lambda other: self.said.append("own waits"))
        side = SimpleNamespace(wait_stream=lambda other: self.said.append("side waits"))
        fakes = {"Stream": lambda device: side, "current_stream": lambda device: own, "stream": self.on}
        signature = inspect.signature(torch.cuda.graph)

        def graph(*arguments: Any, **named: Any) -> Any:
            given = signature.bind(*arguments, **named).arguments
            self.said.append((given["pool"], given["stream"] is side, given["capture_error_mode"]))
            return self.on(side)

        numbers = count()
        fakes |= {"graph": graph, "CUDAGraph": lambda: SimpleNamespace(pool=partial(next, numbers), replay=self.replay)}
        for name, fake in fakes.items():
            monkeypatch.setattr(torch.cuda, name, fake)

    @contextlib.contextmanager
    def on(self, stream: Any) -> Iterator[None]:
        before, self.current = self.current, stream
        yield
        self.current = before

    def replay(self) -> None:
        self.said.append("replay")


def test_graphs_are_recorded_as_torch_asks_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """Warmed up on a stream that waits for this one and is waited for, recorded there, with the memory of the one
    before."""
    recorder = Recorder(monkeypatch)
    own, runs, recorded = recorder.current, list[bool](), Graph._recorded

    def work(x: torch.Tensor) -> torch.Tensor:
        runs.append(recorder.current is not own)
        return 2 * x

    first, second = (Graph(work, (torch.ones(2),)) for _ in range(2))
    first._replay = recorded(first, torch.device("cpu"), None)
    second._replay = recorded(second, torch.device("cpu"), first)
    assert recorder.said == [
        "side waits", "own waits", (None, True, "thread_local"), "side waits", "own waits", (0, True, "thread_local"),
    ]  # fmt: skip
    assert runs == [True] * 2 * (captured._WARM_UPS + 1)
    outputs = [second(torch.zeros(2)), second(torch.zeros(2))]
    assert recorder.said[-2:] == ["replay", "replay"] and len(runs) == 2 * (captured._WARM_UPS + 1), (
        "nothing is called again"
    )
    assert outputs[0].data_ptr() != outputs[1].data_ptr() and torch.equal(second._inputs[0], torch.zeros(2))


# --- on a device that is there
# -------------------------------------------------------------------------------------------


@pytest.mark.gpu
@pytest.mark.parametrize("encoder", ENCODERS)
@pytest.mark.parametrize(
    "options", [{"method": "autoregressive"}, {"draft_length": 5}, {"candidates": (3, 2)}, {"drafter": "self"}], ids=str
)
def test_graphs_draw_what_operators_draw(encoder: str, options: dict[str, Any]) -> None:
    """Twice, the second time with the graphs of the first; up to a decision that rounding may flip."""
    target, draft = (attentive_model(encoder, num_layers=layers, max_context=40).cuda() for layers in (3, 1))
    drafts = None if options.get("method") or options.get("drafter") else draft
    plain, *fast = (
        tppsd.sample(
            target, drafts, history=[random_sequence(n, seed=n) for n in (0, 3, 12)], num_sequences=4, num_events=100,
            batch_size=8, compile=compile, **options,
        )
        for compile in (False, True, True)
    )  # fmt: skip
    for samples in fast:
        same = (samples.flat_marks == plain.flat_marks) & (
            (samples.flat_inter_times / plain.flat_inter_times - 1).abs() < 1e-3
        )
        assert same.double().mean() > 0.9
    assert torch.equal(fast[0].flat_marks, fast[1].flat_marks)


@pytest.mark.gpu
@pytest.mark.parametrize("encoder", ENCODERS)
def test_graphs_give_the_contexts_of_operators(encoder: str) -> None:
    model = attentive_model(encoder).cuda()
    tokens = tokens_of(random_batch([40] * 3)).map(lambda field: field.cuda())
    with torch.inference_mode(), plain_attributes(model):
        expected = model.extend(tokens, model.new_cache(3, 41))
        with standing_in(model):
            cache, parts = model.new_cache(3, 41), []
            for first in range(41):
                parts.append(model.extend(tokens.map(lambda field, first=first: field[:, first : first + 1]), cache))
    torch.testing.assert_close(torch.cat(parts, 1), expected, rtol=0, atol=1e-4)
