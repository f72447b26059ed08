"""What compiled passes read of a cache, what their threads wait for, and where they take a row to be."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
import torch
from native_builds import compiled_by, compiled_wrong, needs_a_compiler, optimize_less
from small_models import ENCODERS, attentive_model, random_batch, tokens_of
from torch import Tensor

from tppsd.backends.cpp import compiling
from tppsd.backends.cpp.model import CompiledTPP
from tppsd.backends.cpp.prepack import blocks_of
from tppsd.models.cache import KVCache
from tppsd.models.protocol import EventModel, EventTokens
from tppsd.models.transformer_tpp import TransformerTPP

pytestmark = needs_a_compiler
CONTEXT = 5  # tokens that a windowed model looks at


# --- entries that a query does not look at ----------------------------------------------------------------------------


def contexts_over(model: CompiledTPP, garbage: float, num_rows: int = 2) -> Tensor:
    """Contexts of chains of several lengths, in a cache whose entries behind and, with a window, before those that a
    query looks at are `garbage`."""
    tokens, where, found = tokens_of(random_batch([70] * num_rows)), 0, list[Tensor]()
    cache = model.new_cache(num_rows, 71)
    entries = cache.tensors[0]
    with torch.inference_mode():
        for num_new in (1, 5, 1, 1, 20, 16, 3):
            length = int(cache.max_length)
            entries[..., length:] = garbage
            if model.max_context:
                entries[..., : max(0, length - model.max_context + 1)] = garbage
            new = slice(where, where + num_new)
            found.append(model.extend(tokens.map(lambda field, new=new: field[:, new]), cache))
            where += num_new
            if num_new == 20:
                cache.roll_back(3)
    return torch.cat(found, 1)


def model_of(encoder: str, max_context: int | None = None, dtype: torch.dtype = torch.float32) -> CompiledTPP:
    return CompiledTPP(attentive_model(encoder, embed_dim=48, num_heads=4, max_context=max_context), dtype)


@pytest.mark.parametrize("encoder", ENCODERS)
@pytest.mark.parametrize("max_context", [None, CONTEXT])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_entries_that_a_query_does_not_look_at_are_not_read(
    encoder: str, max_context: int | None, dtype: torch.dtype
) -> None:
    """A weight of zero times infinity would not be zero, and other threads may be writing there."""
    model = model_of(encoder, max_context, dtype)
    expected = contexts_over(model, 0.0)
    assert expected.isfinite().all()
    for garbage in (torch.nan, torch.inf):
        assert torch.equal(contexts_over(model, garbage), expected)


@pytest.mark.parametrize("level", ["x86-64", "x86-64-v3"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_nor_on_processors_with_narrower_vectors(
    level: str, dtype: torch.dtype, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = [*compiling._compiler(), f"-march={level}"]
    if level == "x86-64-v3" and not torch.backends.cpu.get_cpu_capability().startswith("AVX"):
        pytest.skip("this processor has no AVX2")
    if subprocess.run([*command, "-E", "-x", "c++", os.devnull], capture_output=True).returncode:
        pytest.skip(f"the compiler does not know {command[-1]}, which is for x86")
    optimize_less(monkeypatch, "-O1")
    compiled_by(command, tmp_path, monkeypatch)
    model = model_of("rotary", CONTEXT, dtype)
    assert torch.equal(contexts_over(model, torch.nan), contexts_over(model, 0.0))


READS = {
    "behind": ("rounded_down(every.stop), rounded_up(any.stop)", "rounded_up(every.stop), rounded_up(any.stop)"),
    "before": (
        "{rounded_down(any.first), rounded_up(every.first)",
        "{rounded_down(any.first), rounded_down(every.first)",
    ),
    "one more": ("std::min<int64_t>(LANES, range.stop - i)", "std::min<int64_t>(LANES, range.stop - i + 1)"),
    "one before": ("std::max<int64_t>(0, range.first - i)", "std::max<int64_t>(0, range.first - i - 1)"),
}


@pytest.mark.parametrize("which", READS)
def test_a_build_that_reads_more_is_told_from_the_right_one(
    which: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiled_wrong(*READS[which], tmp_path, monkeypatch)
    assert not contexts_over(model_of("thp", CONTEXT), torch.nan).isfinite().all()


# --- queries whose weights would overflow -----------------------------------------------------------------------------


def sharp_model(encoder: str) -> TransformerTPP:
    """A query may look at one past event a thousand powers of two as much as at its own."""
    model = attentive_model(encoder, embed_dim=48, num_heads=4)
    for block in blocks_of(model.encoder):
        block.to_qkv.weight.data[:48] *= 300
    return model


def contexts_by(model: EventModel, sizes: list[int]) -> Tensor:
    """Contexts (2, n, embed_dim) of chains, in passes over so many tokens each."""
    tokens, cache = tokens_of(random_batch([sum(sizes) - 1] * 2)), model.new_cache(2, 64)
    where, found = 0, list[Tensor]()
    with torch.inference_mode():
        for num_new in sizes:
            new = slice(where, where + num_new)
            found.append(model.extend(tokens.map(lambda field, new=new: field[:, new]), cache))
            where += num_new
    return torch.cat(found, 1)


SIZES = [7, 16, 1, 11, 5]


@pytest.mark.parametrize("encoder", ENCODERS)
def test_weights_that_would_overflow_are_found_again(encoder: str) -> None:
    """As the model's own operators find them, and to the last bit whichever queries go together."""
    model = sharp_model(encoder)
    found = contexts_by(CompiledTPP(model), SIZES)
    assert torch.equal(found, contexts_by(CompiledTPP(model), [1] * sum(SIZES)))
    assert (found - contexts_by(model, SIZES)).abs().max() < 1e-2


@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        ("if (!(totals[t] < HUGE_TOTAL))", "if (false)"),  # never
        ("offset, segments[s], firsts[s], total);", "offset, segments[s], 0, total);"),  # in place of another query's
    ],
    ids=["never", "place"],
)
def test_weights_that_are_not_found_again_are_told_from_right_ones(
    right: str, wrong: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = sharp_model("thp")
    expected = contexts_by(model, SIZES)
    compiled_wrong(right, wrong, tmp_path, monkeypatch)
    assert not (contexts_by(CompiledTPP(model), SIZES) - expected).abs().max() < 1


# --- threads that share the tokens of a pass --------------------------------------------------------------------------

ANNOUNCED = "num_layers[number].store(layer + 1, std::memory_order_release);"
WAITS = f"""{ANNOUNCED}
    for (int64_t i = 0; i < number; i++)
      wait_until([&] {{ return num_layers[i].load(std::memory_order_acquire) > layer; }});"""
LATE = WAITS.replace(
    ANNOUNCED, f"{ANNOUNCED} if (number == 0) std::this_thread::sleep_for(std::chrono::microseconds(300));"
)


@pytest.mark.skipif((os.cpu_count() or 1) < 2, reason="one core shares no tokens")
@pytest.mark.parametrize("is_right", [True, False])
def test_a_layer_begins_when_the_tokens_before_have_their_keys_and_values(
    is_right: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the first share of the tokens is late in every layer; `>=` begins as soon as it has ended the layer
    before."""
    late = LATE if is_right else LATE.replace("> layer", ">= layer")
    compiled_wrong(WAITS, late, tmp_path, monkeypatch)
    model, tokens = CompiledTPP(attentive_model("thp", num_layers=16)), tokens_of(random_batch([39]))
    threads, found = torch.get_num_threads(), list[Tensor]()
    try:
        for num_threads in (1, 2):
            torch.set_num_threads(num_threads)
            with torch.inference_mode():
                found.append(model.extend(tokens, model.new_cache(1, 40)))
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(*found) == is_right


# --- positions after old tokens were dropped --------------------------------------------------------------------------


def events_after_drops(model: EventModel, at_once: bool, num: int = 25) -> list[Tensor]:
    """Inter-times, marks and parameters of events after 60 tokens, of which most have been dropped."""
    tokens = tokens_of(random_batch([59, 59]))
    uniforms = torch.rand(2, num, 3, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    with torch.inference_mode():
        cache = model.new_cache(2, 3 * CONTEXT)
        for j in range(60):
            new = slice(j, j + 1)
            distribution = model.distribution(model.extend(tokens.map(lambda field, new=new: field[:, new]), cache))
        assert isinstance(cache, KVCache) and (cache.dropped > 30).all()
        last = tokens.times[:, -1]
        if at_once:
            assert isinstance(model, CompiledTPP)
            decoded = model.decode(distribution, cache, last, uniforms, True)
            return [decoded.inter_times, decoded.marks, decoded.parameters]
        events = []
        for j in range(num):
            tau, marks = distribution.sample(uniforms[:, j : j + 1])
            last = last + tau[:, 0]
            events.append((tau, marks, distribution.double().packed().parameters))
            distribution = model.distribution(model.extend(EventTokens(marks + 1, last.unsqueeze(1), tau), cache))
    return [torch.cat(field, 1) for field in zip(*events, strict=True)]


def windowed_model(encoder: str) -> TransformerTPP:
    return attentive_model(encoder, max_context=CONTEXT)


def distance(found: list[Tensor], expected: list[Tensor]) -> float:
    return max(float((got - wanted).abs().max()) for got, wanted in zip(found, expected, strict=True))


@pytest.mark.parametrize("encoder", ENCODERS)
def test_a_chain_goes_on_at_its_place_after_old_tokens_were_dropped(encoder: str) -> None:
    """As one event at a time does, to the last bit, and as the model's own operators do, up to rounding."""
    model = windowed_model(encoder)
    compiled = CompiledTPP(model)
    together, one_by_one = (events_after_drops(compiled, at_once) for at_once in (True, False))
    assert distance(together, one_by_one) == 0
    assert distance(together, events_after_drops(model, False)) < 1e-3


@pytest.mark.parametrize(("encoder", "where"), [("sahp", "decode"), ("rotary", "decode"), ("sahp", "everywhere")])
def test_a_chain_that_forgets_what_was_dropped_is_told_from_a_right_one(
    encoder: str, where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """These encoders look at the number of a token; wrong where a chain begins, or in all passes alike (where `rotary`,
    which looks at differences, is right again once all tokens of the window were numbered after the drop)."""
    compiled = CompiledTPP(windowed_model(encoder))
    expected = events_after_drops(compiled, False)
    right = CompiledTPP.decode

    def forgetful(model: CompiledTPP, distribution: object, cache: KVCache, *arguments: object) -> object:
        with monkeypatch.context() as patch:
            patch.setattr(KVCache, "num_tokens", property(lambda cache: cache.lengths.clone()))
            return right(model, distribution, cache, *arguments)  # type: ignore[arg-type]

    if where == "decode":
        monkeypatch.setattr(CompiledTPP, "decode", forgetful)
    else:
        monkeypatch.setattr(KVCache, "num_tokens", property(lambda cache: cache.lengths.clone()))
    assert distance(events_after_drops(compiled, True), expected) > 0.01
