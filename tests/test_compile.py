"""`tppsd.compile` and the option `compile`: who is compiled, what is said, and what a snapshot is of."""

from __future__ import annotations

import copy
import gc
import json
import logging
import weakref
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning_helpers import SMALL, fitted, trainer
from native_builds import needs_a_compiler
from small_models import ENCODERS, attentive_model, random_batch, random_sequence, small_model, tokens_of
from torch import nn

import tppsd
from tppsd.backends import compile as backend
from tppsd.backends.compile import Snapshot, _say_once, content_hash, is_compiled, snapshot, why_not_compilable
from tppsd.backends.cpp import model as native
from tppsd.backends.cpp.model import CompiledHeadTPP, CompiledTPP
from tppsd.certification.models import with_own_encoder
from tppsd.lightning.requests import Requests
from tppsd.models.protocol import DecodingModel, EventModel
from tppsd.processes.event_model import ProcessModel
from tppsd.processes.presets import PRESETS
from tppsd.sampling.options import SamplingOptions

FEW: dict[str, Any] = {"num_sequences": 2, "num_events": 5}


@pytest.fixture
def said(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    """What tppsd says at INFO, as if it had said nothing yet."""
    _say_once.cache_clear()
    caplog.set_level(logging.INFO, "tppsd")
    return caplog


def events_of(samples: tppsd.SampledSequences) -> list[list[float]]:
    return [times.tolist() for times in samples.event_times]


# --- the explicit snapshot -------------------------------------------------------------------------------------------


@needs_a_compiler
def test_a_compiled_model_is_an_event_model_and_is_sampled_as_its_source_is() -> None:
    target, draft = attentive_model("rotary"), attentive_model("thp")
    compiled, head = tppsd.compile(target), tppsd.compile(with_own_encoder(target))
    assert type(compiled) is CompiledTPP and type(head) is CompiledHeadTPP
    for model in (compiled, head):
        assert isinstance(model, EventModel) and isinstance(model, DecodingModel) and is_compiled(model)
    expected = tppsd.sample(target, draft, method="speculative", compile=True, **FEW)
    for given in ((compiled, draft), (compiled, tppsd.compile(draft)), (target, tppsd.compile(draft))):
        found = tppsd.sample(*given, method="speculative", **FEW)
        assert events_of(found) == events_of(expected)
        assert (found.target_hash, found.draft_hash) == (target.content_hash(), draft.content_hash())
    eager = tppsd.sample(target, method="autoregressive", compile=False, **FEW)
    own = tppsd.sample(head, method="autoregressive", **FEW)
    torch.testing.assert_close(own.flat_event_times, eager.flat_event_times, rtol=1e-3, atol=1e-6)


@needs_a_compiler
def test_it_is_made_of_a_module_or_a_checkpoint_as_well(tmp_path: Path) -> None:
    path = fitted(tppsd.TargetTPP(2, **(SMALL | {"embed_dim": 16})), tmp_path / "target.ckpt")
    model = tppsd.load(path)
    module = tppsd.TargetTPP(2, **(SMALL | {"embed_dim": 16}))
    module.model.load_state_dict(model.state_dict())
    hashes = {tppsd.compile(given).content_hash() for given in (path, str(path), model, module)}  # type: ignore[attr-defined]
    assert hashes == {model.content_hash()}


@needs_a_compiler
@pytest.mark.parametrize("encoder", ENCODERS)
@pytest.mark.parametrize("own", [False, True], ids=["compiled", "own encoder"])
def test_a_snapshot_does_not_change_with_its_source(encoder: str, own: bool) -> None:
    """Not in a single weight: norms, biases and tables are packed as they lie, and must be copies."""
    model = attentive_model(encoder)
    if own:
        model = with_own_encoder(model)
    compiled, tokens = tppsd.compile(model), tokens_of(random_batch([9, 9]))

    def contexts_and_distributions() -> list[torch.Tensor]:
        with torch.inference_mode():
            context = compiled.extend(tokens, compiled.new_cache(2, 10))
            distribution = compiled.distribution(context)
            times = torch.ones(distribution.batch_shape, dtype=torch.float64)
            return [context, distribution.parameters, distribution.mark_log_probs(times)]

    before = contexts_and_distributions()
    for tensor in (*model.parameters(), *model.buffers()):
        if tensor.is_floating_point():
            tensor.data.mul_(1.5).add_(0.1)
    model.set_statistics(replace(model.statistics, log_mean=2.0, log_std=3.0, time_scale=9.0))
    for then, now in zip(before, contexts_and_distributions(), strict=True):
        assert torch.equal(then, now)


@needs_a_compiler
def test_bfloat16_is_kept_and_must_be_the_one_that_is_asked_for() -> None:
    model = attentive_model("thp")
    compiled: Any = tppsd.compile(model, "bfloat16")
    assert compiled.dtype == tppsd.compile(model, torch.bfloat16).dtype == torch.bfloat16  # type: ignore[attr-defined]
    cache = compiled.new_cache(1, 4)
    assert cache.tensors[0].dtype == torch.bfloat16
    expected = tppsd.sample(model, dtype="bfloat16", **FEW)
    assert events_of(tppsd.sample(compiled, **FEW)) == events_of(expected) != events_of(tppsd.sample(model, **FEW))
    with pytest.raises(
        ValueError, match=r"target: it was compiled in torch.float32, not in bfloat16; compile it in that"
    ):
        tppsd.sample(tppsd.compile(model), dtype="bfloat16", **FEW)
    with pytest.raises(ValueError, match="dtype = 'float16' is unknown; choose 'float32' or 'bfloat16'"):
        tppsd.compile(model, "float16")
    with pytest.raises(TypeError, match="a compiled model needs a cache that its own new_cache has made"):
        compiled.extend(tokens_of(random_batch([3])), model.new_cache(1, 4))


@pytest.mark.parametrize(
    ("model", "sentence"),
    [
        (lambda: small_model("thp"), "is for float32 weights on a CPU; these are float64 on cpu"),
        (lambda: small_model("thp", dtype=torch.float32, embed_dim=24), "needs an embed_dim that is a multiple of 16"),
        (lambda: ProcessModel(PRESETS["hawkes"].process), "is for a TransformerTPP; this is a ProcessModel"),
    ],
    ids=["float64", "width", "process"],
)
def test_what_cannot_be_compiled_is_refused_by_the_call_and_by_true(
    model: Callable[[], Any], sentence: str, said: pytest.LogCaptureFixture
) -> None:
    """And "auto" samples it as it is."""
    with pytest.raises(ValueError, match=f"model: tppsd.compile {sentence}"):
        tppsd.compile(model())
    with pytest.raises(ValueError, match=f"target: compile = True {sentence}"):
        tppsd.sample(model(), num_events=3, compile=True)
    with pytest.raises(ValueError, match=f"target: dtype = 'bfloat16' {sentence}"):
        tppsd.sample(model(), num_events=3, dtype="bfloat16")
    one = model()
    assert events_of(tppsd.sample(one, num_events=3)) == events_of(tppsd.sample(one, num_events=3, compile=False))


def test_on_a_device_that_is_no_cpu_nothing_is_compiled() -> None:
    reason = why_not_compilable(attentive_model("thp"), torch.device("cuda"))
    assert reason == "is for float32 weights on a CPU; these are float32 on cuda"


@needs_a_compiler
@pytest.mark.gpu
def test_on_a_card_true_is_refused_and_auto_is_eager() -> None:
    target, draft = attentive_model("rotary").cuda(), attentive_model("thp").cuda()
    with pytest.raises(
        ValueError, match="target: compile = True is for float32 weights on a CPU; these are float32 on cuda"
    ):
        tppsd.sample(target, compile=True, **FEW)
    for options in ({}, {"method": "speculative"}):
        both = [tppsd.sample(target, draft, compile=how, **options, **FEW) for how in ("auto", False)]
        assert events_of(both[0]) == events_of(both[1])


# --- the option ------------------------------------------------------------------------------------------------------


def test_the_option_is_true_false_or_auto() -> None:
    assert SamplingOptions().compile == "auto" and "compile" not in SamplingOptions().to_dict()
    assert SamplingOptions(compile=np.True_).compile is True  # type: ignore[arg-type]
    assert SamplingOptions(compile=1).compile is True and SamplingOptions(compile=0).compile is False  # type: ignore[arg-type]
    for wrong in ("yes", "drafts"):
        with pytest.raises(ValueError, match=f"compile = '{wrong}' must be true, false or 'auto'"):
            SamplingOptions(compile=wrong)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="dtype = 'bfloat16' needs compiled passes; give compile = True or 'auto'"):
        SamplingOptions(compile=False, dtype="bfloat16")


def test_options_of_earlier_versions_are_read_as_auto() -> None:
    """From files of runs, recorded options and Parquet columns: `compile: draft`, `compile: null`, or none at all."""
    with pytest.warns(UserWarning, match="compile = 'draft' is now part of compile = 'auto', which is used"):
        options = SamplingOptions(**json.loads('{"compile": "draft", "draft_length": 4, "method": "speculative"}'))
    assert options == SamplingOptions("speculative", 4)
    for recorded in (
        '{"compile": null, "draft_length": 4, "method": "speculative"}',
        '{"draft_length": 4, "method": "speculative"}',
    ):
        assert SamplingOptions(**json.loads(recorded)) == options


@pytest.mark.parametrize(
    "line", ["compile: draft", "compile: null", "", "compile: auto", "compile: true", "compile: false"]
)
@pytest.mark.filterwarnings("ignore:compile = 'draft' is now")
def test_options_in_files_of_runs_are_read(line: str, tmp_path: Path) -> None:
    from jsonargparse import ArgumentParser

    (tmp_path / "run.yaml").write_text(f"options:\n  method: autoregressive\n  {line}\n")
    parser = ArgumentParser()
    parser.add_argument("--config", action="config")
    parser.add_argument("--options", type=SamplingOptions)
    read = parser.parse_args(["--config", str(tmp_path / "run.yaml")])
    value = {"compile: true": True, "compile: false": False}.get(line, "auto")
    instantiate = getattr(parser, "instantiate", parser.instantiate_classes)  # the second is its name before 4.49
    assert instantiate(read).options == SamplingOptions("autoregressive", compile=value)


@needs_a_compiler
def test_samples_of_earlier_versions_are_replayed(tmp_path: Path) -> None:
    """The options that a Parquet file of an earlier version has in its column give the same events again."""
    model = attentive_model("thp")
    samples = tppsd.sample(model, "self", num_sequences=3, num_events=6, draft_length=3, compile=False)
    old = {"draft_length": 3, "drafter": "self", "method": "speculative", "rule": "joint"}  # what eager ones had
    again = tppsd.sample(model, num_sequences=3, num_events=6, options=SamplingOptions(**old))
    assert torch.equal(again.flat_marks, samples.flat_marks)
    torch.testing.assert_close(again.flat_event_times, samples.flat_event_times, rtol=1e-4, atol=1e-6)


# --- what is said ----------------------------------------------------------------------------------------------------


@needs_a_compiler
def test_what_is_not_compiled_is_said_once_and_what_is_says_nothing(said: pytest.LogCaptureFixture) -> None:
    target, draft = attentive_model("thp"), attentive_model("rotary")
    tppsd.sample(target, draft, method="speculative", **FEW)
    tppsd.sample(with_own_encoder(target), compile=False, **FEW)
    assert said.messages == []
    for _ in range(2):
        tppsd.sample(with_own_encoder(target), draft, method="speculative", **FEW)
    sentence = "native code is for the encoders of this package and their layers; this has a OwnTHPEncoder"
    assert said.messages == [f"the target is not compiled: {sentence}"]


def test_without_a_compiler_sampling_is_eager_and_that_is_said_once(
    said: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_compiler() -> None:
        raise ValueError("compile = True needs a C++ compiler (c++, g++ or clang++, or the one that CXX names); none")

    monkeypatch.setattr(native, "native_library", no_compiler)
    target, draft = attentive_model("thp"), attentive_model("rotary")
    for options in ({}, {"method": "speculative"}, {"method": "auto"}):
        found = [tppsd.sample(target, draft, compile=how, **options, **FEW) for how in ("auto", False)]
        assert events_of(found[0]) == events_of(found[1]) and found[0].options.method == found[1].options.method
    with pytest.raises(ValueError, match=r"needs a C\+\+ compiler"):
        tppsd.sample(target, compile=True, **FEW)
    with pytest.raises(ValueError, match=r"needs a C\+\+ compiler"):
        tppsd.compile(target)
    (sentence,) = [line for line in said.messages if "compile" in line]
    assert sentence.startswith("nothing is compiled, and sampling takes several times as long: ") and "g++" in sentence


@needs_a_compiler
def test_predict_records_why_a_draft_is_not_used(tmp_path: Path) -> None:
    """With the sampler's default options, in every chunk."""
    target, draft = tmp_path / "target.ckpt", tmp_path / "draft.ckpt"
    for path in (target, draft):
        attentive_model("thp").save(path)
    chunks: Any = trainer().predict(tppsd.Sampler(target, draft), Requests(4, num_events=3, chunk_size=2).loader())
    for chunk in chunks:
        assert chunk.options.method == "autoregressive" and chunk.draft_hash is None
        assert chunk.stats.choice.startswith("the draft is not used: compiled, an event of a target this small ")


# --- snapshots are of the present weights ----------------------------------------------------------------------------


def copy_averages(model: nn.Module) -> None:
    """As weight averaging does: no version counter notices."""
    for parameter in model.parameters():
        parameter.data.copy_(1.1 * parameter.data)


def exchange_a_part(model: Any) -> None:
    model.decoder.to_mixture = copy.deepcopy(model.decoder.to_mixture)
    model.decoder.to_mixture.weight.data.mul_(1.5)


def exchange_a_parameter(model: Any) -> None:
    model.decoder.to_mixture.weight = nn.Parameter(1.5 * model.decoder.to_mixture.weight.detach())


def change_statistics(model: Any) -> None:
    model.set_statistics(replace(model.statistics, log_mean=model.statistics.log_mean + 0.5))


CHANGES = [copy_averages, exchange_a_part, exchange_a_parameter, change_statistics]


@needs_a_compiler
@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("own", [False, True], ids=["compiled", "own encoder"])
def test_weights_changed_between_two_calls_are_packed_anew(change: Callable[[Any], None], own: bool) -> None:
    model = with_own_encoder(attentive_model("thp")) if own else attentive_model("thp")
    before = tppsd.sample(model, **FEW)
    change(model)
    changed, eager = tppsd.sample(model, **FEW), tppsd.sample(model, compile=False, **FEW)
    assert not torch.equal(before.flat_event_times, changed.flat_event_times)
    torch.testing.assert_close(changed.flat_event_times, eager.flat_event_times, rtol=1e-3, atol=1e-6)
    assert changed.target_hash == model.content_hash() != before.target_hash


@needs_a_compiler
def test_a_snapshot_is_compiled_once_as_long_as_the_weights_are_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    made, right = [], backend._compiled
    monkeypatch.setattr(backend, "_compiled", lambda model, dtype: made.append(dtype) or right(model, dtype))
    model = attentive_model("thp")
    for dtype in ("float32", "float32", "bfloat16", "bfloat16", "float32"):
        tppsd.sample(model, dtype=dtype, **FEW)
    assert made == [torch.float32, torch.bfloat16]
    copy_averages(model)
    tppsd.sample(model, **FEW)
    assert made[2:] == [torch.float32]


@needs_a_compiler
def test_a_stream_and_a_held_model_skip_the_check(monkeypatch: pytest.MonkeyPatch) -> None:
    compared, right = [], Snapshot.fits
    model, chunks_of = attentive_model("thp"), {"num_sequences": 6, "chunk_size": 1, "num_events": 3, "batch_size": 1}
    monkeypatch.setattr(Snapshot, "fits", lambda own, model: compared.append(1) or right(own, model))
    list(tppsd.sample_stream(model, **chunks_of))
    assert len(compared) <= 2, "once for the passes, and once for the hash, of all chunks"
    compared.clear()
    tppsd.sample(tppsd.compile(model), **FEW)
    assert not compared


@pytest.mark.parametrize("change", [*CHANGES, nn.Module.double])
def test_a_snapshot_is_of_its_models_present_parts_and_numbers(change: Callable[[Any], Any]) -> None:
    model = small_model(dtype=torch.float32)
    first = snapshot(model)
    assert snapshot(model) is first and content_hash(model) == model.content_hash()
    change(model)
    assert snapshot(model) is not first and content_hash(model) == model.content_hash()


def test_weights_that_are_not_finite_are_named_every_time() -> None:
    model = small_model(dtype=torch.float32)
    assert snapshot(model).not_finite is None
    model.decoder.to_mixture.bias.data[3] = torch.nan
    for given, role in ((({"draft": model}), "draft"), ({}, "target")):
        for compile in (False, "auto"):
            target = model if role == "target" else small_model(dtype=torch.float32)
            with pytest.raises(ValueError, match=f"{role}: parameter decoder.to_mixture.bias has values that are not"):
                tppsd.sample(target, num_events=3, compile=compile, **given)


@needs_a_compiler
def test_what_is_kept_keeps_no_model_alive_and_nothing_is_put_into_it() -> None:
    target, draft = attentive_model("thp"), attentive_model("rotary")
    attributes = [set(vars(module)) for model in (target, draft) for module in model.modules()]
    tppsd.sample(target, draft, draft_length="auto", **FEW)
    tppsd.sample(with_own_encoder(target), **FEW)
    assert [set(vars(module)) for model in (target, draft) for module in model.modules()] == attributes
    gone = [weakref.ref(model) for model in (target, draft)]
    del target, draft
    gc.collect()
    assert [reference() for reference in gone] == [None, None]


@needs_a_compiler
@pytest.mark.parametrize(
    ("compile", "own"),  # an encoder of one's own is refused where compiling is insisted on
    [(False, False), (True, False), ("auto", False), (False, True), ("auto", True)],
)
def test_a_model_in_training_is_sampled_without_dropout_and_left_in_training(compile: Any, own: bool) -> None:
    model = attentive_model("thp", dropout=0.5)
    model = with_own_encoder(model) if own else model
    expected = events_of(tppsd.sample(model, compile=compile, **FEW))
    model.train()
    model.decoder.eval()  # a part that is not
    modes = [module.training for module in model.modules()]
    history = random_sequence(4)
    assert events_of(tppsd.sample(model, compile=compile, **FEW)) == expected
    tppsd.sample(model, "self", history=history, compile=compile, num_events=4)
    assert [module.training for module in model.modules()] == modes
