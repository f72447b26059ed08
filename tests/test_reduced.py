"""Passes in bfloat16, by operators, compiled and captured; and the laws that are recorded because such passes round by
shape."""

from __future__ import annotations

import contextlib
import copy
import json
import weakref
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from faster_passes import SAMPLERS, name_of, target_and_draft
from lightning_helpers import SMALL, fitted, small_data, trainer
from mutants import mutant
from native_builds import needs_a_compiler
from small_models import (
    ENCODERS,
    assert_same_law,
    attentive_model,
    cut,
    random_batch,
    random_sequence,
    small_model,
    tokens_of,
)

import tppsd
from tppsd.backends.cpp import active
from tppsd.backends.cpp.active import stand_in, standing_in
from tppsd.backends.cpp.captured import CapturedModel
from tppsd.certification.cells import Cell, all_cells
from tppsd.certification.judge import combined, judge
from tppsd.certification.recorded import RecordedLaws, divergence
from tppsd.certification.run import run_cell
from tppsd.commands import benchmark
from tppsd.lightning.requests import Requests
from tppsd.models.cache import KVCache
from tppsd.models.fast import Kept
from tppsd.models.law import NextEventLaw
from tppsd.models.transformer_tpp import TransformerTPP
from tppsd.processes.event_model import ProcessModel
from tppsd.processes.presets import PRESETS
from tppsd.sampling.resolve import reading

BF16 = torch.bfloat16
WAYS = [pytest.param(True, id="compiled", marks=needs_a_compiler), pytest.param(False, id="operators")]
both = pytest.mark.parametrize("compiled", WAYS)


def steps(model: TransformerTPP) -> torch.Tensor:
    """Contexts of chains, rollbacks by row and a tree, and the tensors' dtype in the cache as an attribute of the
    model's."""
    tokens, where = tokens_of(random_batch([60, 60, 60])), 0
    cache, contexts = model.new_cache(3, 3), []
    for num, parents in ((1, None), (17, None), (2, None), (6, None), (1, None), (3, (-1, -1, 0)), (20, None)):
        contexts.append(model.extend(cut(tokens, where, where + num), cache, parents))
        where += num
        if num == 2:
            cache.roll_back(torch.tensor([0, 3, 1]))
        if parents:
            cache.keep_path(torch.tensor([[0, 2]] * 3), torch.tensor([2, 0, 1]))
    assert isinstance(cache, KVCache)
    assert cache.tensors[0].dtype == (model.decoder.to_mixture.weight.dtype if stand_in(model) is None else BF16)
    return torch.cat([context.flatten(0, 1) for context in contexts])


def rounded(model: TransformerTPP) -> TransformerTPP:
    """The matrices of layers in bfloat16, in place."""
    for name, weight in model.encoder.named_parameters():
        if weight.dim() == 2 and name.split(".")[0] in ("blocks", "layers"):
            weight.data = weight.data.bfloat16().float()
    return model


@contextlib.contextmanager
def rounded_keys(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Keys and values in bfloat16, in a cache that is float32."""
    right = KVCache.write_layer
    with monkeypatch.context() as patch:
        patch.setattr(KVCache, "write_layer", lambda cache, layer, new: right(cache, layer, new.bfloat16().float()))
        yield


@needs_a_compiler
@pytest.mark.parametrize("encoder", ENCODERS)
@pytest.mark.parametrize(
    "settings", [{}, {"embed_dim": 48, "feedforward_dim": 70}, {"embed_dim": 64, "max_context": 5}], ids=str
)
def test_compiled_passes_are_those_of_rounded_matrices_keys_and_values(
    encoder: str, settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of all that rounding changes, nine tenths are what rounding these changes: a key that float32 arithmetic moves by
    its last digit may round to the other side."""
    model = attentive_model(encoder, **settings)
    exact = steps(model)
    with standing_in(model, dtype=BF16):
        found = steps(model)
    with rounded_keys(monkeypatch):
        expected = steps(rounded(model))
    off, changed = (found - expected).abs(), (exact - expected).abs()
    assert 1e-4 < changed.mean() < 0.01 and off.mean() < 0.1 * changed.mean()


@pytest.mark.parametrize("encoder", ENCODERS)
def test_passes_by_operators_round_products_and_nothing_after_them(encoder: str) -> None:
    model = attentive_model(encoder, embed_dim=32)
    exact = steps(model)
    with standing_in(model, False, BF16):
        found = steps(model)
        law = model.law(found.unsqueeze(0))
    assert found.dtype == torch.float32
    assert 1e-4 < (found - exact).abs().mean() < 0.02 and (found - exact).abs().max() < 0.2
    assert_same_law(law, model.law(found.unsqueeze(0)))
    assert not torch.equal(found, found.bfloat16().float()), "the stream of tokens was rounded"


@pytest.mark.parametrize("encoder", ENCODERS)
def test_late_times_keep_their_digits(encoder: str) -> None:
    """In bfloat16 a time of 3e7 and one a second later would be the same, and so would frequencies that differ by 0.4
    %."""
    model = attentive_model(encoder)
    tokens = tokens_of(random_batch([30, 30]))
    late = tokens._replace(times=tokens.times + 3e7)
    exact = model.extend(late, model.new_cache(2, 31))
    with standing_in(model, False, BF16):
        found = model.extend(late, model.new_cache(2, 31))
    assert (found - exact).abs().max() < 0.2


def test_what_stands_in_is_the_calls_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """Weights, autocast around a call and other calls do not notice, and a change of the weights is noticed."""
    model = attentive_model("thp")
    arguments: dict[str, Any] = {"num_sequences": 2, "num_events": 8, "method": "autoregressive"}
    plain = tppsd.sample(model, **arguments)
    reduced = tppsd.sample(model, dtype="bfloat16", **arguments)
    assert not torch.equal(plain.flat_event_times, reduced.flat_event_times)
    assert torch.equal(tppsd.sample(model, **arguments).flat_event_times, plain.flat_event_times)
    with torch.autocast("cpu", BF16):
        assert torch.equal(
            tppsd.sample(model, dtype="bfloat16", **arguments).flat_event_times, reduced.flat_event_times
        )
    assert all(weight.dtype == torch.float32 for weight in model.parameters())
    model.encoder.blocks[0].to_qkv.weight.data.mul_(3.0)
    changed = tppsd.sample(model, dtype="bfloat16", **arguments)
    assert not torch.equal(changed.flat_event_times, reduced.flat_event_times)
    torch.testing.assert_close(
        changed.flat_inter_times, tppsd.sample(model, **arguments).flat_inter_times, rtol=0.5, atol=0
    )


@needs_a_compiler
@pytest.mark.parametrize("encoder", ENCODERS)
def test_compiled_contexts_have_the_same_bits_in_any_company(encoder: str) -> None:
    """So that the laws do not depend on the pass: samples are those of one batch size or another, and of a draft or
    none."""
    model = attentive_model(encoder, embed_dim=32, num_layers=4)
    tokens = tokens_of(random_batch([40] * 9))
    with torch.inference_mode(), standing_in(model, dtype=BF16):
        whole = model.extend(tokens, model.new_cache(9, 41))
        cache, parts, where = model.new_cache(1, 41), [], 0
        for size in (1, 3, 20, 17):
            parts.append(model.extend(cut(tokens, where, where + size).map(lambda field: field[4:5]), cache))
            where += size
    assert torch.equal(torch.cat(parts, 1), whole[4:5])


@pytest.mark.parametrize("encoder", ENCODERS)
def test_captured_passes_are_those_by_operators(encoder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a CPU, where a replay is a call."""
    model = attentive_model(encoder, embed_dim=32)
    with standing_in(model, False, BF16):
        expected = steps(model)
    monkeypatch.setattr(active, "_made", lambda model, _, dtype: CapturedModel(weakref.proxy(model), dtype))
    with torch.inference_mode(), standing_in(model, dtype=BF16):
        steps(model)
        found = steps(model)
        graphs = stand_in(model)._graphs  # type: ignore[union-attr]
    assert any(graph is not None for graph in graphs.values())
    assert (found - expected).abs().mean() < 0.01


# --- recorded laws ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [*SAMPLERS, {"drafter": "self"}], ids=name_of)
@pytest.mark.parametrize(
    "passes", [{}, {"dtype": "bfloat16"}, pytest.param({"compile": True}, marks=needs_a_compiler)], ids=str
)
def test_laws_are_those_that_events_were_judged_by(options: dict[str, Any], passes: dict[str, Any]) -> None:
    """Their densities are the recorded ones; without rounding they are the target's, after a silence too."""
    target, draft = target_and_draft()
    drafts = not (options.get("method") or options.get("drafter"))
    histories = [
        replace(random_sequence(n, seed=n), t_end=random_sequence(n, seed=n).window_end + 0.3) for n in (0, 3, 12)
    ]
    for end in ({"num_events": 9}, {"horizon": 6.0}):
        samples = tppsd.sample(
            target, draft if drafts else None, history=histories, num_sequences=3, return_log_probs=True, return_laws=True,
            batch_size=4, **end, **options, **passes,
        )  # fmt: skip
        assert samples.laws is not None and samples.log_probs is not None
        recorded, has_end = RecordedLaws(samples), "horizon" in end
        for i, (sequence, law, log_probs) in enumerate(zip(samples, samples.laws, samples.log_probs, strict=True)):
            assert law.batch_shape == (len(sequence) + has_end,) and type(law) is NextEventLaw
            times, marks = samples._own(samples.flat_inter_times, i), sequence.marks
            torch.testing.assert_close(law[: len(sequence)].log_prob(times, marks), log_probs, rtol=0, atol=1e-9)
            assert law.elapsed is not None and law.elapsed[0] == pytest.approx(0.8)
            assert not law.parameters.is_inference()
        sequences = [replace(whole, index=i) for i, whole in enumerate(samples.with_history())]
        assert abs(divergence(target, sequences, recorded)) < (0.05 if "dtype" in passes else 1e-5)


def test_a_drawn_first_mark_has_no_law() -> None:
    """Where windows begin with a given event."""
    model = attentive_model("thp")
    model.set_statistics(replace(model.statistics, first_mark_counts=(5, 3, 2)))
    samples = tppsd.sample(model, num_sequences=4, num_events=5, return_laws=True)
    assert samples.laws is not None and [law.batch_shape[0] for law in samples.laws] == [5] * 4


def test_a_copy_of_a_model_in_training_drops_nothing() -> None:
    model = attentive_model("thp", dropout=0.5).train()
    with standing_in(model, False, BF16):
        assert torch.equal(steps(model), steps(model))


def test_inter_times_keep_their_digits() -> None:
    """tau = 5.0 and 5.006 are one number in bfloat16."""
    model = attentive_model("thp")
    tokens = tokens_of(random_batch([1]))
    contexts = []
    with standing_in(model, False, BF16):
        for tau in (5.0, 5.006):
            contexts.append(
                model.extend(tokens._replace(inter_times=torch.full_like(tokens.times, tau)), model.new_cache(1, 2))
            )
    assert not torch.equal(*contexts)


@pytest.mark.parametrize("passes", [{}, {"dtype": "bfloat16"}], ids=str)
def test_dropout_is_off_while_another_thread_reads_a_model_in_training(passes: dict[str, Any]) -> None:
    """Who comes second finds it in evaluation mode, which ends with the last."""
    model = attentive_model("thp", dropout=0.5)
    arguments: dict[str, Any] = {"num_events": 8, "method": "autoregressive", **passes}
    expected = tppsd.sample(model, **arguments).flat_event_times
    model.train()
    with contextlib.ExitStack() as second:
        with reading(model):
            second.enter_context(reading(model, **passes))
        assert not model.encoder.training
        assert torch.equal(tppsd.sample(model, **arguments).flat_event_times, expected)
    assert all(module.training for module in model.modules())
    assert torch.equal(tppsd.sample(model, **arguments).flat_event_times, expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_laws_do_not_change_with_the_model(dtype: torch.dtype) -> None:
    model = small_model(dtype=dtype)
    laws = tppsd.sample(model, num_events=5, return_laws=True).laws
    assert laws is not None
    tau = torch.linspace(0.1, 3.0, 5, dtype=torch.float64)
    before = laws[0].mark_log_probs(tau)
    for weight in model.parameters():
        weight.data.zero_()
    assert torch.equal(laws[0].mark_log_probs(tau), before) and before.std() > 0.01


def test_laws_are_of_networks() -> None:
    model = ProcessModel(PRESETS["hawkes"].process)
    with pytest.raises(TypeError, match="return_laws = True needs a target whose laws are NextEventLaw; these are"):
        tppsd.sample(model, num_events=3, return_laws=True)
    assert tppsd.sample(small_model(), num_events=3).laws is None


# --- own laws ---------------------------------------------------------------------------------------------------------

CELLS = [cell for cell in all_cells() if cell.is_compilable and cell.method != "rrs"]
WITH_MEMORY = Cell("joint", "thp", 5, "untrained", "another model", 4, "history", "number of events")


@both
@pytest.mark.parametrize("cell", CELLS[1::8], ids=lambda cell: cell.name)
def test_a_cell_passes_quickly(cell: Cell, compiled: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """2,000 events; a right sampler fails a cell for one seed in 10^4."""
    monkeypatch.setattr("tppsd.certification.models.TRAINING_STEPS", 20)
    result = run_cell(cell, 2000, 0, tmp_path, compiled, "bfloat16")
    assert result["num_events"] >= 1800 and result["p_value"] > 1e-4


@both
@pytest.mark.parametrize(("name", "is_far"), [("marks_untested_joint", False), ("no_rollback_after_rejection", True)])
def test_a_wrong_sampler_is_told_by_its_own_laws_or_by_their_distance(
    name: str, is_far: bool, compiled: bool, tmp_path: Path
) -> None:
    """A wrong rule shows in residuals under the recorded laws; a wrong cache has made these laws, and shows in what
    they are."""
    with mutant(name):
        assert run_cell(WITH_MEMORY, 20_000, 0, tmp_path, compiled, "bfloat16")["p_value"] == pytest.approx(0, abs=1e-6)
    with mutant(name):
        target = tppsd.load(next(tmp_path.glob("thp-5-*-2.ckpt")))
        draft = attentive_model("sahp", num_marks=5)
        samples = tppsd.sample(
            target,
            draft,
            num_sequences=60,
            num_events=20,
            draft_length=4,
            return_laws=True,
            compile=compiled,
            dtype="bfloat16",
        )
    assert (list(judge(target, samples)) == ["laws near the target's"]) == is_far


# --- options, commands, Lightning
# -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"dtype": "float16"}, r"dtype = 'float16' is unknown; choose one of \('float32', 'bfloat16'\)"),
        ({"dtype": "bfloat16"}, "target: dtype = 'bfloat16' is for float32 weights on a CPU; these are float64 on cpu"),
    ],
)
def test_what_cannot_be_is_refused_in_one_sentence(arguments: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        tppsd.sample(small_model(), num_events=3, **arguments)


def test_a_process_has_no_dtype() -> None:
    with pytest.raises(ValueError, match="target: dtype = 'bfloat16' is for a TransformerTPP; this is a ProcessModel"):
        tppsd.sample(ProcessModel(PRESETS["hawkes"].process), num_events=3, dtype="bfloat16")


def test_samples_say_their_dtype_and_float32_says_nothing() -> None:
    assert tppsd.SamplingOptions(dtype="float32") == tppsd.SamplingOptions()
    assert tppsd.SamplingOptions("autoregressive", dtype="bfloat16").resolved(None).to_dict()["dtype"] == "bfloat16"
    samples = tppsd.sample(attentive_model("thp"), method="auto", num_events=5, dtype="bfloat16")
    assert samples.options.dtype == "bfloat16"


def test_the_benchmark_samples_in_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "target.ckpt"
    attentive_model("thp", num_components=64).save(path)
    size = ["--num-events", "8", "--draft-length", "3", "--dtype", "bfloat16"]
    benchmark.main(["--target", str(path), "--draft", "self", *size, "--repeats", "1", "--json"])
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines() if line.startswith("{")]
    assert [row["method"] for row in rows] == ["autoregressive", "speculative"]


def test_a_draft_that_cannot_have_it_is_timed_as_it_is(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target, draft = tmp_path / "target.ckpt", tmp_path / "draft.ckpt"
    attentive_model("thp").save(target)
    small_model("thp").save(draft)  # in float64
    size = ["--num-events", "8", "--draft-length", "3", "--repeats", "1", "--dtype", "bfloat16", "--baseline", "draft"]
    benchmark.main(["--target", str(target), "--draft", str(draft), *size, "--json"])
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines() if line.startswith("{")]
    assert {row["method"] for row in rows} == {"autoregressive", "draft", "speculative"}


@pytest.mark.parametrize("passes", [{}, {"dtype": "bfloat16"}], ids=str)
def test_a_chunk_of_a_stream_compares_weights_once(passes: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    compared, right = [], Kept.fits
    model = attentive_model("thp")
    chunks = tppsd.sample_stream(model, num_sequences=6, chunk_size=1, num_events=3, batch_size=1, **passes)
    next(chunks)
    monkeypatch.setattr(Kept, "fits", lambda own, model: compared.append(1) or right(own, model))
    for _ in range(4):
        next(chunks)
    assert len(compared) <= 2 * 4, "once for the passes of a chunk, and once for the hash that it carries"


def test_predict_and_the_callback_sample_in_it(tmp_path: Path) -> None:
    target = fitted(tppsd.TargetTPP(2, **SMALL), tmp_path / "target.ckpt")
    options = tppsd.SamplingOptions("speculative", 3, dtype="bfloat16")

    def predict(**arguments: Any) -> Any:
        sampler = tppsd.Sampler(target, options=options, seed=5)
        return trainer(**arguments).predict(sampler, Requests(5, t_end=6.0, chunk_size=5).loader())

    with pytest.raises(
        ValueError, match="precision = 64-true makes float64 weights; dtype = 'bfloat16' is for float32 ones"
    ):
        predict(precision="64-true")
    (chunk,) = predict()
    expected = tppsd.sample(target, num_sequences=5, t_end=6.0, seed=5, options=options)
    assert chunk.options.dtype == "bfloat16" and torch.equal(chunk.flat_event_times, expected.flat_event_times)
    callback = tppsd.SpeculativeSampling(num_sequences=2, every_n_epochs=1, options=options)
    fit = trainer(max_epochs=1, callbacks=[callback])
    fit.fit(tppsd.TargetTPP(2, **SMALL), datamodule=small_data())
    assert fit.logged_metrics["fidelity/own_law_p_value"] >= 0


# --- on a device that is there
# -------------------------------------------------------------------------------------------


@pytest.mark.gpu
@pytest.mark.parametrize("compile", [False, True], ids=["operators", "graphs"])
@pytest.mark.parametrize(
    "options", [{"method": "autoregressive"}, {"draft_length": 5}, {"candidates": (3, 2)}], ids=str
)
def test_samples_of_a_gpu_have_the_laws_that_were_recorded(options: dict[str, Any], compile: bool) -> None:
    """Which are near the target's own, and on the CPU."""
    target, draft = (attentive_model("rotary", num_layers=layers) for layers in (3, 1))
    samples = tppsd.sample(
        copy.deepcopy(target).cuda(), None if options.get("method") else draft.cuda(), num_sequences=300, num_events=30,
        return_laws=True, dtype="bfloat16", compile=compile, **options,
    )  # fmt: skip
    assert samples.laws is not None and samples.laws[0].parameters.device.type == "cpu"
    assert combined(judge(target, samples)) > 1e-4
