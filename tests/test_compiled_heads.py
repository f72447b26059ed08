"""Targets with an encoder of one's own: their passes are their own, and everything else is native code."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import itertools
import logging
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import torch
from faster_passes import assert_same_events, target_and_draft
from lightning_helpers import trainer
from native_builds import needs_a_compiler
from small_models import ENCODERS, attentive_model, random_sequence, small_model
from torch import Tensor, nn

import tppsd
from tppsd.backends.compile import _say_once
from tppsd.backends.cpp import rounds
from tppsd.backends.cpp.model import CompiledHeadTPP
from tppsd.certification.cells import Cell
from tppsd.certification.certificate import cells_of
from tppsd.certification.models import OWN_ENCODER, with_own_encoder
from tppsd.certification.run import run_cell
from tppsd.lightning.requests import Requests
from tppsd.models.blocks import TransformerBlock
from tppsd.models.decoder import NextEventDecoder
from tppsd.models.distribution import NextEventDistribution
from tppsd.models.protocol import EventTokens
from tppsd.models.transformer_tpp import TransformerTPP
from tppsd.sampling import auto

pytestmark = needs_a_compiler


class OwnTarget(TransformerTPP):
    """Anything: native code knows nothing of it, nor of its distributions."""


class OwnBlock(TransformerBlock):
    """A layer of one's own."""


def with_own_blocks(model: TransformerTPP) -> TransformerTPP:
    """A target with layers of one's own, whose distributions are made as ever."""
    own: Any = copy.deepcopy(model)
    for block in own.encoder.blocks:
        block.__class__ = OwnBlock
    return own


def own_and_draft() -> tuple[TransformerTPP, TransformerTPP]:
    target, draft = target_and_draft()
    return with_own_encoder(target), draft


@contextlib.contextmanager
def count_calls(owner: Any, name: str) -> Iterator[list[int]]:
    num, right = [0], getattr(owner, name)

    def counting(*arguments: Any) -> Any:
        num[0] += 1
        return right(*arguments)

    with patch.object(owner, name, counting):
        yield num


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Rounds of each call of native code with passes of the target's own."""
    made: list[int] = []
    right = rounds.speculate

    def speculate(target: Any, *arguments: Any) -> rounds.Speculated:
        assert isinstance(target, CompiledHeadTPP)
        result = right(target, *arguments)
        made.append(int(result.num_rounds.sum()))
        return result

    monkeypatch.setattr(rounds, "speculate", speculate)
    return made


@pytest.mark.parametrize("encoder", ENCODERS)
@pytest.mark.parametrize("until", [{"num_events": 12}, {"horizon": 6.0}, {"num_events": [1, 2, 15, 5, 9, 12]}], ids=str)
@pytest.mark.parametrize(
    "settings", [{}, {"max_context": 5}, {"num_marks": 1}, {"mark_decoder": "independent"}], ids=str
)
def test_events_are_those_of_eager_sampling(
    encoder: str, until: dict[str, Any], settings: dict[str, Any], calls: list[int]
) -> None:
    """After histories with and without a silence, in any company."""
    target = attentive_model(encoder, num_layers=2, **settings)
    models = with_own_encoder(target), attentive_model("thp", **settings)
    histories = [random_sequence(n, num_marks=settings.get("num_marks", 3), seed=n) for n in (0, 4, 20)]
    arguments: dict[str, Any] = {"history": histories, "num_sequences": 2, "draft_length": 4, **until}
    expected = tppsd.sample(*models, compile=False, **arguments)
    assert not calls
    for batch_size in (1, 4):
        calls.clear()
        assert_same_events(tppsd.sample(*models, batch_size=batch_size, **arguments), expected)
        assert sum(calls) == expected.stats.num_rounds


@pytest.mark.parametrize("encoder", ENCODERS)
@pytest.mark.parametrize("until", [{"num_events": 12}, {"horizon": 6.0}, {"num_events": [1, 2, 15, 5, 9, 12]}], ids=str)
@pytest.mark.parametrize("options", [{}, {"return_distributions": True}, {"return_log_probs": True}], ids=str)
def test_autoregressive_events_are_those_of_eager_sampling(
    encoder: str, until: dict[str, Any], options: dict[str, Any]
) -> None:
    """After histories with and without a silence, in any company; many events of a call."""
    target = with_own_encoder(attentive_model(encoder, num_layers=2))
    arguments = {
        "history": [random_sequence(n, num_marks=3, seed=n) for n in (0, 4, 20)],
        "num_sequences": 2,
        **until,
        **options,
    }
    expected = tppsd.sample(target, compile=False, **arguments)
    for batch_size in (1, 4):
        with count_calls(CompiledHeadTPP, "decode") as num_calls:
            found = tppsd.sample(target, batch_size=batch_size, **arguments)
        assert torch.equal(found.flat_marks, expected.flat_marks) and torch.equal(found.offsets, expected.offsets)
        torch.testing.assert_close(found.flat_inter_times, expected.flat_inter_times, rtol=1e-3, atol=1e-6)
        assert 0 < num_calls[0] <= 12 and found.stats.num_rounds == expected.stats.num_rounds
        if found.distributions is not None and expected.distributions is not None:
            medians = (
                torch.cat([distribution.inter_time.median for distribution in samples.distributions])
                for samples in (found, expected)
            )
            torch.testing.assert_close(*medians, rtol=1e-4, atol=1e-6)


def test_targets_that_no_native_code_knows(calls: list[int]) -> None:
    """With layers or an encoder of one's own rounds are native; of another class of model, drafts alone are
    compiled."""
    target, draft = attentive_model("thp", num_layers=2), attentive_model("thp")
    arguments: dict[str, Any] = {"num_sequences": 3, "num_events": 15, "draft_length": 4}
    expected, other = tppsd.sample(target, draft, compile=False, **arguments), copy.deepcopy(target)
    other.__class__ = OwnTarget
    for model, is_called in ((with_own_encoder(target), True), (with_own_blocks(target), True), (other, False)):
        with pytest.raises(ValueError, match="target: compile = True is for "):
            tppsd.sample(model, draft, compile=True, **arguments)
        calls.clear()
        assert_same_events(tppsd.sample(model, draft, **arguments), expected)
        assert bool(calls) == is_called


@pytest.mark.parametrize(
    "options",
    [
        {"method": "autoregressive"}, {"drafter": "self"}, {"rule": "block"}, {"candidates": (2, 1)},
        {"draft_passes": 2},
        {"return_log_probs": True}, {"return_distributions": True}, {"draft_length": [[3, 2], [0, 2], [5, 9]]},
    ],
    ids=str,
)  # fmt: skip
def test_all_other_samplers_draw_what_they_draw(options: dict[str, Any], calls: list[int]) -> None:
    target, draft = own_and_draft()
    named = "method" in options or "drafter" in options
    arguments = {"num_sequences": 3, "num_events": 12, "method": "speculative", **options}
    expected = tppsd.sample(target, None if named else draft, compile=False, **arguments)
    found = tppsd.sample(target, None if named else draft, **arguments)
    assert torch.equal(found.flat_marks, expected.flat_marks) and bool(calls) == ("draft_length" in options)
    torch.testing.assert_close(found.flat_inter_times, expected.flat_inter_times, rtol=1e-3, atol=1e-6)


def test_lengths_chosen_by_the_clock_are_recorded_and_replayed() -> None:
    models, arguments = own_and_draft(), {"num_sequences": 5, "batch_size": 3, "num_events": 60}
    samples = tppsd.sample(*models, draft_length="auto", **arguments)
    assert samples.options.compile == "auto" and isinstance(samples.options.draft_length, tuple)
    again = tppsd.sample(*models, options=samples.options, **arguments)
    assert torch.equal(samples.flat_event_times, again.flat_event_times) and torch.equal(
        samples.flat_marks, again.flat_marks
    )


def test_auto_tries_compiled_drafts(calls: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(auto, "_EVENTS_PER_ROUND", (20, 20))
    samples = tppsd.sample(*own_and_draft(), method="auto", num_events=300)
    assert "events/s in a trial" in (samples.stats.choice or "")
    assert calls and "model" in samples.stats.choice


@pytest.mark.parametrize("method", [None, "auto"])
@pytest.mark.parametrize(("num_sequences", "length"), [(1, 16), (3, 8), (16, 4), (17, None)])
def test_few_rows_of_a_shallow_target_are_drafted_for(
    method: Any, num_sequences: int, length: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(auto, "_try", None)  # no trial
    many: dict[str, Any] = {"num_events": 5, "num_sequences": num_sequences, "batch_size": num_sequences}
    samples = tppsd.sample(*own_and_draft(), method=method, **many)
    assert samples.options.method == ("autoregressive" if length is None else "speculative")
    assert samples.options.draft_length == length
    said = "the draft is not used: " if length is None else f"the draft proposes {length} events per round"
    assert said in (samples.stats.choice or "")


class OwnDecoder(NextEventDecoder):
    """Another distribution of the same contexts."""

    def forward(self, context: Tensor, shift: float, scale: float, double: bool = False) -> NextEventDistribution:
        return super().forward(1.5 * context, shift, scale, double)


def test_distributions_of_ones_own_are_not_replaced(calls: list[int]) -> None:
    target, draft = attentive_model("thp", num_layers=2), attentive_model("thp")
    target.decoder.__class__ = OwnDecoder
    arguments: dict[str, Any] = {"num_events": 12, "draft_length": 3}
    eager = tppsd.sample(target, draft, compile=False, **arguments)
    assert_same_events(tppsd.sample(target, draft, **arguments), eager)
    assert not calls
    with pytest.raises(ValueError, match="is for the decoders of this package; this has a OwnDecoder"):
        tppsd.sample(target, draft, compile=True, **arguments)


@pytest.mark.parametrize(
    "draft", [small_model("thp"), small_model("thp", dtype=torch.float32, embed_dim=24)], ids=["float64", "24"]
)
def test_a_draft_that_cannot_be_compiled_drafts_as_it_is_and_that_is_said(
    draft: TransformerTPP, calls: list[int], caplog: pytest.LogCaptureFixture
) -> None:
    target = with_own_encoder(attentive_model("thp"))
    arguments: dict[str, Any] = {"num_events": 12, "draft_length": 3}
    _say_once.cache_clear()
    with caplog.at_level(logging.INFO, "tppsd"):
        found = tppsd.sample(target, draft, **arguments)
    assert_same_events(found, tppsd.sample(target, draft, compile=False, **arguments))
    assert any(line.startswith("the draft is not compiled: native code ") for line in caplog.messages) and not calls


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="there are no timers that send signals")
def test_ctrl_c_ends_the_call_at_any_moment() -> None:
    """It comes while compiled code runs, or a pass of the target."""
    target, draft = own_and_draft()
    tppsd.sample(target, draft, num_events=20)
    before = signal.signal(signal.SIGALRM, signal.default_int_handler)
    try:
        for milliseconds in (31, 37, 43, 51, 57, 63):
            with pytest.raises(KeyboardInterrupt):
                signal.setitimer(signal.ITIMER_REAL, milliseconds / 1000)
                tppsd.sample(target, draft, num_events=1_000_000, draft_length=6)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert len(tppsd.sample(target, draft, num_events=20)[0]) == 20


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError])
def test_what_a_pass_raises_ends_the_call(error: type[BaseException], monkeypatch: pytest.MonkeyPatch) -> None:
    (target, draft), passes, right = own_and_draft(), itertools.count(), TransformerTPP.extend

    def extend(self: TransformerTPP, tokens: EventTokens, *others: Any) -> Tensor:
        if next(passes) == 3:
            raise error("in the third pass")
        return right(self, tokens, *others)

    with monkeypatch.context() as patch, pytest.raises(error, match="in the third pass"):
        patch.setattr(TransformerTPP, "extend", extend)  # of the target alone: the draft's are native
        tppsd.sample(target, draft, num_events=200)
    assert next(passes) == 4
    assert len(tppsd.sample(target, draft, num_events=20)[0]) == 20


def test_under_autocast_contexts_are_read_as_they_are(calls: list[int]) -> None:
    models, arguments = own_and_draft(), {"num_events": 30, "draft_length": 4}
    expected = tppsd.sample(*models, **arguments)
    with torch.autocast("cpu", torch.bfloat16):
        samples = tppsd.sample(*models, **arguments)
    assert len(calls) >= 2 and samples.stats.step_acceptance == pytest.approx(expected.stats.step_acceptance, abs=0.3)
    assert bool(torch.isfinite(samples.flat_event_times).all())


def test_distributions_that_are_no_densities_end_the_call() -> None:
    target, draft = own_and_draft()
    with torch.no_grad():
        draft.decoder.to_mixture.weight.fill_(3e38)  # finite, but sums of it are not
    with pytest.raises(
        RuntimeError, match="no proposal was kept for 2 rows: target and draft distributions are not densities"
    ):
        tppsd.sample(target, draft, num_sequences=2, num_events=5)


def test_statistics_and_weights_of_a_target_may_change() -> None:
    """What is kept of its decoder follows them."""
    target, draft = with_own_encoder(attentive_model("thp")), attentive_model("sahp")
    arguments: dict[str, Any] = {"num_events": 6, "draft_length": 4}
    tppsd.sample(target, draft, **arguments)
    with torch.no_grad():
        target.decoder.to_mixture.bias.add_(0.5)
        for parameter in nn.ModuleList([target.decoder.marks]).parameters():
            parameter.mul_(1.5)
    statistics = target.statistics
    target.set_statistics(type(statistics).from_dict({**statistics.to_dict(), "log_mean": statistics.log_mean + 0.7}))
    eager = tppsd.sample(target, draft, compile=False, **arguments)
    assert_same_events(tppsd.sample(target, draft, **arguments), eager)


@pytest.mark.parametrize("cell", cells_of({"compiled": OWN_ENCODER}), ids=lambda cell: cell.name)
def test_a_cell_of_the_certificate_passes_quickly(
    cell: Cell, tmp_path_factory: pytest.TempPathFactory, calls: list[int]
) -> None:
    """2,000 events; a right sampler fails a cell for one seed in 10^4."""
    folder = tmp_path_factory.getbasetemp() / "cells"
    folder.mkdir(exist_ok=True)
    with count_calls(CompiledHeadTPP, "distribution") as num_calls:
        result = run_cell(dataclasses.replace(cell, weights="untrained"), 2000, 1, folder, compiled=OWN_ENCODER)
    assert result["num_events"] >= 1900 and result["p_value"] > 1e-4
    assert calls if cell.draft == "another model" else num_calls[0] > 0


def test_a_target_in_float64_is_sampled_eagerly(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """What `Trainer.predict` in that precision makes of it has nothing that can be compiled."""
    attentive_model("thp").save(path := tmp_path / "target.ckpt")
    _say_once.cache_clear()
    with caplog.at_level(logging.INFO, "tppsd"):
        chunks = trainer(precision="64-true").predict(tppsd.Sampler(path, seed=5), Requests(3, num_events=6).loader())
    expected = tppsd.sample(tppsd.load(path).double(), num_sequences=3, num_events=6, seed=5, compile=False)
    torch.testing.assert_close(
        torch.cat([c.flat_event_times for c in chunks]), expected.flat_event_times, rtol=1e-9, atol=0
    )
    said = "the target is not compiled: native code is for float32 weights on a CPU; these are float64 on cpu"
    assert caplog.messages.count(said) == 1
