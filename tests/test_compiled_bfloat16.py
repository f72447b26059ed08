"""Compiled passes in bfloat16, and the distributions that are recorded because such passes round."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from faster_passes import SAMPLERS, name_of, target_and_draft
from lightning_helpers import SMALL, fitted, small_data, trainer
from mutants import MUTANTS
from native_builds import needs_a_compiler
from small_models import ENCODERS, attentive_model, cut, random_batch, random_sequence, small_model, tokens_of

import tppsd
from tppsd.certification.cells import Cell
from tppsd.certification.certificate import Certificate, cells_of
from tppsd.certification.run import RecordedDistributions, divergence, judge, run_cell
from tppsd.commands import benchmark, certify
from tppsd.lightning.requests import Requests
from tppsd.models.cache import KVCache
from tppsd.models.distribution import NextEventDistribution
from tppsd.models.transformer_tpp import TransformerTPP
from tppsd.processes.event_model import ProcessModel
from tppsd.processes.presets import PRESETS

pytestmark = needs_a_compiler
BF16 = torch.bfloat16


def steps(model: Any) -> torch.Tensor:
    """Contexts of chains, rollbacks by row and a tree."""
    tokens, where = tokens_of(random_batch([60, 60, 60])), 0
    cache, contexts = model.new_cache(3, 3), []
    with torch.inference_mode():
        for num, parents in ((1, None), (17, None), (2, None), (6, None), (1, None), (3, (-1, -1, 0)), (20, None)):
            contexts.append(model.extend(cut(tokens, where, where + num), cache, parents))
            where += num
            if num == 2:
                cache.roll_back(torch.tensor([0, 3, 1]))
            if parents:
                cache.keep_path(torch.tensor([[0, 2]] * 3), torch.tensor([2, 0, 1]))
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


@pytest.mark.parametrize("encoder", ENCODERS)
@pytest.mark.parametrize(
    "settings", [{}, {"embed_dim": 48, "feedforward_dim": 70}, {"embed_dim": 64, "max_context": 5}], ids=str
)
def test_passes_are_those_of_rounded_matrices_keys_and_values(
    encoder: str, settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of all that rounding changes, nine tenths are what rounding these changes: a key that float32 arithmetic moves by
    its last digit may round to the other side."""
    model = attentive_model(encoder, **settings)
    exact, found = steps(model), steps(tppsd.compile(model, "bfloat16"))
    with rounded_keys(monkeypatch):
        expected = steps(rounded(model))
    off, changed = (found - expected).abs(), (exact - expected).abs()
    assert 1e-4 < changed.mean() < 0.01 and off.mean() < 0.1 * changed.mean()


@pytest.mark.parametrize("encoder", ENCODERS)
def test_late_times_keep_their_digits(encoder: str) -> None:
    """In bfloat16 a time of 3e7 and one a second later would be the same."""
    model = attentive_model(encoder)
    tokens = tokens_of(random_batch([30, 30]))
    late, compiled = tokens._replace(times=tokens.times + 3e7), tppsd.compile(model, "bfloat16")
    with torch.inference_mode():
        exact = model.extend(late, model.new_cache(2, 31))
        found = compiled.extend(late, compiled.new_cache(2, 31))
    assert (found - exact).abs().max() < 0.2


def test_inter_times_keep_their_digits() -> None:
    """tau = 5.0 and 5.006 are one number in bfloat16."""
    model, tokens = tppsd.compile(attentive_model("thp"), "bfloat16"), tokens_of(random_batch([1]))
    both = (tokens._replace(inter_times=torch.full_like(tokens.times, tau)) for tau in (5.0, 5.006))
    contexts = [model.extend(given, model.new_cache(1, 2)) for given in both]
    assert not torch.equal(*contexts)


@pytest.mark.parametrize("encoder", ENCODERS)
def test_contexts_have_the_same_bits_in_any_company(encoder: str) -> None:
    """So that distributions do not depend on the pass: samples are those of one batch size or another."""
    model = tppsd.compile(attentive_model(encoder, embed_dim=32, num_layers=4), "bfloat16")
    tokens = tokens_of(random_batch([40] * 9))
    with torch.inference_mode():
        whole = model.extend(tokens, model.new_cache(9, 41))
        cache, parts, where = model.new_cache(1, 41), [], 0
        for size in (1, 3, 20, 17):
            parts.append(model.extend(cut(tokens, where, where + size).map(lambda field: field[4:5]), cache))
            where += size
    assert torch.equal(torch.cat(parts, 1), whole[4:5])


def test_weights_autocast_and_other_calls_do_not_notice() -> None:
    model = attentive_model("thp")
    arguments: dict[str, Any] = {"num_sequences": 2, "num_events": 8, "method": "autoregressive"}
    plain = tppsd.sample(model, **arguments)
    reduced = tppsd.sample(model, dtype="bfloat16", **arguments)
    assert not torch.equal(plain.flat_event_times, reduced.flat_event_times)
    assert torch.equal(tppsd.sample(model, **arguments).flat_event_times, plain.flat_event_times)
    with torch.autocast("cpu", BF16):
        again = tppsd.sample(model, dtype="bfloat16", **arguments)
    assert torch.equal(again.flat_event_times, reduced.flat_event_times)
    assert all(weight.dtype == torch.float32 for weight in model.parameters())
    model.encoder.blocks[0].to_qkv.weight.data.mul_(3.0)
    changed = tppsd.sample(model, dtype="bfloat16", **arguments)
    assert not torch.equal(changed.flat_event_times, reduced.flat_event_times)
    exact = tppsd.sample(model, **arguments)
    torch.testing.assert_close(changed.flat_inter_times, exact.flat_inter_times, rtol=0.5, atol=0)


def test_samples_say_their_dtype_and_float32_says_nothing() -> None:
    assert tppsd.SamplingOptions(dtype="float32") == tppsd.SamplingOptions()
    assert tppsd.SamplingOptions("autoregressive", dtype="bfloat16").resolved(None).to_dict()["dtype"] == "bfloat16"
    samples = tppsd.sample(attentive_model("thp"), method="auto", num_events=5, dtype="bfloat16")
    assert samples.options.dtype == "bfloat16"


@pytest.mark.parametrize(
    "arguments",
    [{}, {"compile": False}, {"draft_length": 3}, {"draft": "self", "draft_length": "auto"}, {"method": "auto"}],
    ids=str,
)
@pytest.mark.parametrize("has_draft", [False, True])
def test_recorded_options_replay_the_samples_of_a_compiled_model(arguments: dict[str, Any], has_draft: bool) -> None:
    """From the weights, in another process: nothing but the options says in which dtype they were compiled."""
    target, draft = attentive_model("thp"), attentive_model("thp", num_layers=1)
    if has_draft and "draft" not in arguments:
        arguments = {"draft": tppsd.compile(draft, "bfloat16"), **arguments}
    wanted: dict[str, Any] = {"num_sequences": 3, "num_events": 30, "seed": 5}
    samples = tppsd.sample(tppsd.compile(target, "bfloat16"), **arguments, **wanted)
    (recorded,) = set(samples.to_columns()["options"])
    recorded = tppsd.SamplingOptions(**json.loads(recorded))
    source = draft if recorded.drafter == "model" else None
    again = tppsd.sample(target, source, options=recorded, batch_size=samples.batch_size, **wanted)
    assert again.options == samples.options and again.options.dtype == "bfloat16"
    assert torch.equal(again.flat_event_times, samples.flat_event_times)
    assert torch.equal(again.flat_marks, samples.flat_marks)


def test_the_options_do_not_say_what_they_do_not_replay() -> None:
    """A draft in float32 beside a target in bfloat16 is what no one dtype stands for."""
    target, draft = attentive_model("thp"), attentive_model("thp", num_layers=1)
    compiled, wanted = tppsd.compile(target, "bfloat16"), {"num_sequences": 3, "num_events": 30}
    samples = tppsd.sample(compiled, draft, draft_length=3, **wanted)
    assert samples.options.dtype is None
    again = tppsd.sample(compiled, draft, options=samples.options, **wanted)
    assert torch.equal(again.flat_event_times, samples.flat_event_times)


# --- recorded distributions ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [*SAMPLERS, {"drafter": "self"}], ids=name_of)
@pytest.mark.parametrize("passes", [{"compile": False}, {"dtype": "bfloat16"}, {"compile": True}], ids=str)
def test_distributions_are_those_that_events_were_judged_by(options: dict[str, Any], passes: dict[str, Any]) -> None:
    """Their densities are the recorded ones; without rounding they are the target's, after a silence too."""
    target, draft = target_and_draft()
    drafts = not (options.get("method") or options.get("drafter"))
    sequences = [random_sequence(n, seed=n) for n in (0, 3, 12)]
    histories = [replace(sequence, t_end=sequence.window_end + 0.3) for sequence in sequences]
    for end in ({"num_events": 9}, {"horizon": 6.0}):
        samples = tppsd.sample(
            target, draft if drafts else None, history=histories, num_sequences=3, return_log_probs=True,
            return_distributions=True, batch_size=4, **end, **options, **passes,
        )  # fmt: skip
        assert samples.distributions is not None and samples.log_probs is not None
        recorded, has_end = RecordedDistributions(samples), "horizon" in end
        for i, (sequence, distribution, log_probs) in enumerate(
            zip(samples, samples.distributions, samples.log_probs, strict=True)
        ):
            assert (
                distribution.batch_shape == (len(sequence) + has_end,) and type(distribution) is NextEventDistribution
            )
            times, marks = samples._own(samples.flat_inter_times, i), sequence.marks
            torch.testing.assert_close(
                distribution[: len(sequence)].log_prob(times, marks), log_probs, rtol=0, atol=1e-9
            )
            assert distribution.elapsed is not None and distribution.elapsed[0] == pytest.approx(0.8)
            assert not distribution.parameters.is_inference()
        whole = [replace(one, index=i) for i, one in enumerate(samples.with_history())]
        assert abs(divergence(target, whole, recorded)) < (0.05 if "dtype" in passes else 1e-5)


def test_a_drawn_first_mark_has_no_distribution() -> None:
    """Where windows begin with a given event."""
    model = attentive_model("thp")
    model.set_statistics(replace(model.statistics, first_mark_counts=(5, 3, 2)))
    samples = tppsd.sample(model, num_sequences=4, num_events=5, return_distributions=True)
    assert (
        samples.distributions is not None
        and [distribution.batch_shape[0] for distribution in samples.distributions] == [5] * 4
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_distributions_do_not_change_with_the_model(dtype: torch.dtype) -> None:
    """Compiled ones, and eager ones in float64."""
    model = small_model(dtype=dtype)
    distributions = tppsd.sample(model, num_events=5, return_distributions=True).distributions
    assert distributions is not None
    tau = torch.linspace(0.1, 3.0, 5, dtype=torch.float64)
    before = distributions[0].mark_log_probs(tau)
    for weight in model.parameters():
        weight.data.zero_()
    assert torch.equal(distributions[0].mark_log_probs(tau), before) and before.std() > 0.01


def test_distributions_are_of_networks() -> None:
    model = ProcessModel(PRESETS["hawkes"].process)
    with pytest.raises(
        TypeError,
        match="return_distributions = True needs a target whose distributions are NextEventDistribution; these are",
    ):
        tppsd.sample(model, num_events=3, return_distributions=True)
    assert tppsd.sample(small_model(), num_events=3).distributions is None


# --- certified by the distributions that were recorded ---------------------------------------------------------------

CELLS = [cell for cell in cells_of({"compiled": True, "dtype": "bfloat16"}) if cell.method != "rrs"]
WITH_MEMORY = Cell("joint", "thp", 5, "untrained", "another model", 4, "history", "number of events")


@pytest.mark.parametrize("cell", CELLS[1::8], ids=lambda cell: cell.name)
def test_a_cell_passes_quickly(cell: Cell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """2,000 events; a right sampler fails a cell for one seed in 10^4."""
    monkeypatch.setattr("tppsd.certification.models.TRAINING_STEPS", 20)
    result = run_cell(cell, 2000, 0, tmp_path, True, "bfloat16")
    assert result["num_events"] >= 1800 and result["p_value"] > 1e-4


@pytest.mark.parametrize(("name", "is_far"), [("marks_untested_joint", False), ("no_rollback_after_rejection", True)])
def test_a_wrong_sampler_is_told_by_its_own_distributions_or_by_their_distance(
    name: str, is_far: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A wrong rule shows in residuals under the recorded distributions; a wrong cache has made these distributions, and
    shows in what they are."""
    monkeypatch.setattr("tppsd.certification.run.sample", MUTANTS[name].samples)
    result = run_cell(WITH_MEMORY, 20_000, 0, tmp_path, True, "bfloat16")
    assert result["p_value"] == pytest.approx(0, abs=1e-6)
    target = tppsd.load(next(tmp_path.glob("thp-5-*-2.ckpt")))
    samples = MUTANTS[name].samples(
        target, attentive_model("sahp", num_marks=5), num_sequences=60, num_events=20, draft_length=4,
        return_distributions=True,
        compile=True, dtype="bfloat16",
    )  # fmt: skip
    assert (list(judge(target, samples)) == ["distributions near the target's"]) == is_far


def test_lines_of_a_certificate_say_their_dtype(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cells = [cell for cell in CELLS if cell.weights == "untrained"][:1]
    monkeypatch.setattr("tppsd.certification.certificate.all_cells", lambda: cells)
    certify.main(
        ["--dtype", "bfloat16", "--compile", "--events", "1000", "--processes", "1", "--output", str(tmp_path)]
    )
    (line,) = Certificate.read(tmp_path / "certificate.json").cells
    assert line.passes == "compiled-bfloat16" and not line.rejected


# --- commands, Lightning ---------------------------------------------------------------------------------------------


def test_a_draft_that_cannot_have_it_is_timed_as_it_is(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target, draft = tmp_path / "target.ckpt", tmp_path / "draft.ckpt"
    attentive_model("thp").save(target)
    small_model("thp").save(draft)  # in float64
    size = ["--num-events", "8", "--draft-length", "3", "--repeats", "1", "--dtype", "bfloat16", "--baseline", "draft"]
    benchmark.main(["--target", str(target), "--draft", str(draft), *size, "--json"])
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines() if line.startswith("{")]
    assert {row["method"] for row in rows} == {"autoregressive", "draft", "speculative"}


def test_predict_and_the_callback_sample_in_it(tmp_path: Path) -> None:
    size = SMALL | {"embed_dim": 16}
    target = fitted(tppsd.TargetTPP(2, **size), tmp_path / "target.ckpt")
    options = tppsd.SamplingOptions("speculative", 3, dtype="bfloat16")

    def predict(**arguments: Any) -> Any:
        sampler = tppsd.Sampler(target, options=options, seed=5)
        return trainer(**arguments).predict(sampler, Requests(5, t_end=6.0, chunk_size=5).loader())

    with pytest.raises(
        ValueError, match="precision = 64-true makes float64 weights; dtype = 'bfloat16' is for float32"
    ):
        predict(precision="64-true")
    (chunk,) = predict()
    expected = tppsd.sample(target, num_sequences=5, t_end=6.0, seed=5, options=options)
    assert chunk.options.dtype == "bfloat16" and torch.equal(chunk.flat_event_times, expected.flat_event_times)
    callback = tppsd.SpeculativeSampling(num_sequences=2, every_n_epochs=1, options=options)
    fit = trainer(max_epochs=1, callbacks=[callback])
    fit.fit(tppsd.TargetTPP(2, **size), datamodule=small_data())
    assert fit.logged_metrics["fidelity/model_p_value"] >= 0
