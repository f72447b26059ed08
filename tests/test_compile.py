"""`tppsd.compile`: an explicit snapshot that is a model of its own."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch
from small_models import ENCODERS, random_sequence
from stubs import StubTPP, lively_transformer

import tppsd
from tppsd.backends.cpp.model import CompiledHeadTPP, CompiledTPP
from tppsd.data.sequences import EventBatch
from tppsd.models.protocol import DecodingModel, EventModel, EventTokens
from tppsd.models.transformer_tpp import TransformerTPP
from tppsd.processes import ProcessModel, preset
from tppsd.sampling.sample import sample

SIZE: dict[str, Any] = {"num_sequences": 4, "num_events": 8, "seed": 2}


def small(encoder: str = "thp", **settings: Any) -> TransformerTPP:
    torch.manual_seed(0)
    return TransformerTPP(3, encoder, 16, 2, 2, 4, **settings).eval()


class OwnEncoder(type(small().encoder)):  # type: ignore[misc]
    """A subclass may compute something else: it keeps its own passes."""

    num_calls = 0

    def forward(self, *arguments: Any, **named: Any) -> Any:
        OwnEncoder.num_calls += 1
        return super().forward(*arguments, **named)


def with_own_encoder() -> TransformerTPP:
    model = small()
    model.encoder.__class__ = OwnEncoder
    return model


@pytest.mark.parametrize("make", [small, with_own_encoder], ids=["ours", "own encoder"])
def test_it_owns_its_weights(make: Any) -> None:
    """Whatever becomes of the model, it is sampled as it was."""
    model = make()
    compiled = tppsd.compile(model)
    before, own_hash = sample(compiled, **SIZE), model.content_hash()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(3.0)
    model.train()
    after = sample(compiled, **SIZE)
    assert torch.equal(after.flat_event_times, before.flat_event_times)
    assert after.target_hash == before.target_hash == own_hash != model.content_hash()
    changed = sample(model, **SIZE)
    assert not torch.equal(changed.flat_event_times, before.flat_event_times)
    del model
    assert torch.equal(sample(compiled, **SIZE).flat_event_times, before.flat_event_times)


@pytest.mark.parametrize("encoder", ENCODERS)
def test_it_is_an_event_model_with_the_contexts_and_distributions_of_the_model(encoder: str) -> None:
    model = small(encoder)
    compiled = tppsd.compile(model)
    assert isinstance(compiled, EventModel) and isinstance(compiled, DecodingModel) and type(compiled) is CompiledTPP
    assert (compiled.num_marks, compiled.num_layers, compiled.max_context) == (3, 2, None)
    batch = EventBatch.from_sequences([random_sequence(n, seed=n) for n in (7, 7, 7)])
    tokens = EventTokens.from_batch(batch, 3)
    found = []
    with torch.inference_mode():
        for each in (compiled, model):
            cache = each.new_cache(3, 16)
            contexts = each.extend(tokens, cache)
            found.append(
                (contexts, each.law(contexts).log_prob(tokens.inter_times + 0.1, torch.zeros_like(tokens.ids)))
            )
    for mine, theirs in zip(*found, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=0, atol=2e-5)


def test_it_is_as_good_as_the_option_and_takes_any_role() -> None:
    target, draft = small(), small("sahp")
    way: dict[str, Any] = {"draft_length": 3, **SIZE}
    expected = sample(target, draft, compile=True, **way)
    for pair in ((tppsd.compile(target), tppsd.compile(draft)), (tppsd.compile(target), draft)):
        samples = sample(*pair, **way)
        assert torch.equal(samples.flat_event_times, expected.flat_event_times)
        assert (samples.target_hash, samples.draft_hash) == (expected.target_hash, expected.draft_hash)


def test_a_module_with_a_model_and_a_checkpoint_are_as_good(tmp_path: Any) -> None:
    model = small()
    module = torch.nn.Module()
    module.model = model
    model.save(tmp_path / "model.pt")
    expected = sample(tppsd.compile(model), **SIZE).flat_event_times
    for given in (module, tmp_path / "model.pt", str(tmp_path / "model.pt")):
        assert torch.equal(sample(tppsd.compile(given), **SIZE).flat_event_times, expected)


def test_bfloat16_is_another_model_and_said() -> None:
    model = small()
    compiled = tppsd.compile(model, "bfloat16")
    assert compiled.dtype == tppsd.compile(model, torch.bfloat16).dtype == torch.bfloat16
    assert compiled.new_cache(2, 8).tensors[0].dtype == torch.bfloat16
    expected = sample(model, dtype="bfloat16", **SIZE)
    assert torch.equal(sample(compiled, **SIZE).flat_event_times, expected.flat_event_times)
    assert not torch.equal(expected.flat_event_times, sample(model, **SIZE).flat_event_times)
    with pytest.raises(ValueError, match=r"target: it was compiled in torch.float32, not in bfloat16"):
        sample(tppsd.compile(model), dtype="bfloat16", **SIZE)


def test_an_own_encoder_keeps_its_passes() -> None:
    """All that follows them is compiled; the samples are those of the same encoder by native code, to rounding."""
    model = with_own_encoder()
    compiled = tppsd.compile(model)
    assert type(compiled) is CompiledHeadTPP and isinstance(compiled, EventModel)
    OwnEncoder.num_calls = 0
    samples = sample(compiled, method="autoregressive", **SIZE)
    assert OwnEncoder.num_calls >= 8
    for other in (sample(model, method="autoregressive", **SIZE), sample(small(), method="autoregressive", **SIZE)):
        assert torch.equal(samples.flat_marks, other.flat_marks)
        torch.testing.assert_close(samples.flat_event_times, other.flat_event_times, rtol=1e-4, atol=0)


def odd_width() -> TransformerTPP:
    return TransformerTPP(3, "thp", 12, 2, 1, 4)


class Subclass(TransformerTPP):
    """May compute something else."""


REFUSED: list[tuple[Any, str]] = [
    (lively_transformer(3, "thp", seed=0), "is for float32 weights on a CPU; these are float64 on cpu"),
    (StubTPP.random(3, seed=0), "is for a TransformerTPP; this is a ClosedFormTPP"),
    (ProcessModel(preset("hawkes").process), "is for a TransformerTPP; this is a ProcessModel"),
    (Subclass(3, "thp", 16, 2, 1, 4), "is for a TransformerTPP; this is a Subclass"),
    (odd_width(), "needs an embed_dim that is a multiple of 16; this is 12"),
]


@pytest.mark.parametrize(("model", "said"), REFUSED, ids=[said[-30:] for _, said in REFUSED])
def test_what_cannot_be_compiled_is_refused_in_one_sentence(model: Any, said: str) -> None:
    with pytest.raises(ValueError, match=re.escape(f"model: tppsd.compile {said}")) as raised:
        tppsd.compile(model)
    assert "\n" not in str(raised.value)


def test_an_own_encoder_has_no_bfloat16() -> None:
    with pytest.raises(ValueError, match="model: tppsd.compile is for the encoders of this package and their layers"):
        tppsd.compile(with_own_encoder(), "bfloat16")


@pytest.mark.parametrize("dtype", ["float16", torch.float64])
def test_other_dtypes_are_refused(dtype: Any) -> None:
    with pytest.raises(ValueError, match="is unknown; choose 'float32' or 'bfloat16'"):
        tppsd.compile(small(), dtype)
