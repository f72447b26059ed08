"""Snapshots of models are told from others by the models' parts and numbers, and go with them (see test_compile.py)."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch

import tppsd.backends.compile as snapshots
from tppsd.backends.compile import snapshot
from tppsd.models.transformer_tpp import TransformerTPP
from tppsd.sampling.sample import sample

SIZE: dict[str, Any] = {"num_sequences": 4, "num_events": 8}


def small(seed: int = 0) -> TransformerTPP:
    torch.manual_seed(seed)
    return TransformerTPP(3, "thp", 16, 2, 2, 4).eval()


class OtherBlock(torch.nn.Module):
    """Stands where a block of the encoder was."""


def average(model: TransformerTPP) -> None:
    """As averaged weights are put into place: neither identity nor version counters tell."""
    weight = model.encoder.blocks[1].expand.weight
    versions = weight._version
    weight.data.copy_(0.5 * weight.data)
    assert weight._version == versions


def other_statistics(model: TransformerTPP) -> None:
    model.set_statistics(replace(model.statistics, log_mean=1.5))


def another_class(model: TransformerTPP) -> None:
    block = model.encoder.blocks[0]
    block.__class__ = type("Subclass", (type(block),), {})


def another_module(model: TransformerTPP) -> None:
    model.decoder.extra = OtherBlock()


CHANGES: list[Callable[[TransformerTPP], None]] = [
    average,
    other_statistics,
    another_class,
    another_module,
]


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
def test_a_changed_model_is_looked_at_anew(change: Callable[[TransformerTPP], None]) -> None:
    model = small()
    before = snapshot(model)
    change(model)
    after = snapshot(model)
    assert after is not before and after.compiled == {}
    assert snapshot(model) is after


@pytest.mark.parametrize("change", [average, other_statistics], ids=lambda change: change.__name__)
@pytest.mark.parametrize("compile", [True, False])
def test_samples_after_a_change_are_those_of_the_changed_model(
    compile: bool, change: Callable[[TransformerTPP], None]
) -> None:
    model, other = small(), small()
    first = sample(model, compile=compile, **SIZE)
    change(model)
    change(other)
    changed, expected = (sample(each, compile=compile, **SIZE) for each in (model, other))
    assert torch.equal(changed.flat_event_times, expected.flat_event_times)
    assert not torch.equal(changed.flat_event_times, first.flat_event_times)
    assert changed.target_hash == expected.target_hash == model.content_hash() != first.target_hash


def test_the_comparison_of_numbers_is_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Mutant: snapshots that look at identities alone sample the weights of before."""
    monkeypatch.setattr(snapshots, "_equal", lambda now, copy: True)
    model = small()
    first = sample(model, **SIZE)
    average(model)
    assert torch.equal(sample(model, **SIZE).flat_event_times, first.flat_event_times)


def test_a_changed_class_is_not_compiled_any_more() -> None:
    model = small()
    sample(model, compile=True, **SIZE)
    another_class(model)
    with pytest.raises(ValueError, match="target: compile = True is for the encoders of this package and their layers"):
        sample(model, compile=True, **SIZE)


def test_a_weight_that_is_not_finite_is_named_and_mended_ones_are_seen() -> None:
    model = small()
    weight = model.encoder.blocks[1].expand.weight
    kept = weight.detach().clone()
    weight.data[0, 0] = torch.nan
    for _ in range(2):
        with pytest.raises(ValueError, match=r"target: parameter encoder\.blocks\.1\.expand\.weight has values"):
            sample(model, **SIZE)
    weight.data.copy_(kept)
    assert len(sample(model, **SIZE)) == 4


def test_a_snapshot_goes_when_its_model_goes() -> None:
    model = small()
    sample(model, draft="self", draft_length="auto", **SIZE)
    sample(model, compile=False, method="speculative", **SIZE)
    own, compiled = weakref.ref(snapshot(model)), weakref.ref(snapshot(model).compiled[torch.float32])
    assert own() is not None and compiled() is not None
    del model
    gc.collect()
    assert own() is None and compiled() is None
