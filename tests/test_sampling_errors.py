"""Every mistake in the arguments of `sample` is one clear sentence that names the argument and its value."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from stubs import StubTPP, lively_transformer

from tppsd.data.sequences import EventSequence
from tppsd.sampling.options import SamplingOptions
from tppsd.sampling.sample import sample, sample_stream

MODEL = StubTPP.random(3, seed=0)
HISTORY = EventSequence.of([1.0, 2.0], [0, 2], t_start=0.0, t_end=2.5)


def damaged() -> Any:
    model = lively_transformer(3, "thp", seed=0)
    with torch.no_grad():
        model.encoder.blocks[1].expand.weight[0, 0] = math.nan
    return model


WRONG: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({}, ValueError, "sampling needs an end: give t_end, horizon or num_events"),
    ({"num_sequences": 0, "num_events": 1}, ValueError, "num_sequences = 0 must be a whole number of at least 1"),
    ({"num_events": 0}, ValueError, "num_events = 0 must be a whole number of at least 1"),
    ({"num_events": [3, 2.5], "num_sequences": 2}, ValueError, "num_events = 2.5 must be a whole number of at least 1"),
    ({"num_events": math.inf}, ValueError, "num_events = inf must be a whole number of at least 1"),
    ({"num_events": math.nan}, ValueError, "num_events is NaN; it must be a number"),
    ({"num_events": 1, "max_events": 0}, ValueError, "max_events = 0 must be a whole number of at least 1"),
    ({"num_events": 1, "batch_size": 0}, ValueError, "batch_size = 0 must be a whole number of at least 1"),
    ({"num_events": 1, "first_index": -1}, ValueError, "first_index = -1 must be a whole number between 0 and"),
    ({"num_events": 1, "seed": 1.5}, ValueError, "seed = 1.5 must be a whole number between"),
    (
        {"num_events": 1, "seed": 2**63},
        ValueError,
        f"seed = {2**63} must be a whole number between {-(2**63)} and {2**63 - 1}",
    ),
    ({"num_events": 1, "seed": None}, ValueError, "seed = None must be a whole number between"),
    ({"num_events": 1, "num_sequences": 2.5}, ValueError, "num_sequences = 2.5 must be a whole number of at least 1"),
    ({"num_events": 1, "num_sequences": "3"}, ValueError, "num_sequences = '3' must be a whole number of at least 1"),
    (
        {"num_events": 1, "first_index": 2**64},
        ValueError,
        f"first_index = {2**64} must be a whole number between 0 and",
    ),
    ({"t_end": 1.0, "max_events": 1.5}, ValueError, "max_events = 1.5 must be a whole number of at least 1"),
    ({"t_end": "5"}, ValueError, "t_end = '5' must be a number, or one number per sequence"),
    ({"num_events": {}}, ValueError, "num_events = {} must be a number, or one number per sequence"),
    (
        {"options": {"method": "auto"}, "num_events": 1},
        TypeError,
        "options is a dict; give SamplingOptions, or single options",
    ),
    ({"draft_length": [4, 4], "num_events": 1}, ValueError, "draft_length = [4, 4] must hold pairs"),
    ({"draft_length": [[4.7, 2]], "num_events": 1}, ValueError, "draft_length = [[4.7, 2]] must hold pairs"),
    (
        {"candidates": (2.5, 1), "num_events": 1},
        ValueError,
        "candidates = (2.5, 1) must be whole numbers between 1 and 64",
    ),
    (
        {"draft": "self", "drafter": "jacobi", "num_events": 1},
        ValueError,
        "draft = 'self' and drafter = 'jacobi' name two drafters",
    ),
    ({"t_end": math.nan}, ValueError, "t_end is NaN; it must be a number"),
    ({"t_end": [1.0, 2.0]}, ValueError, "t_end has 2 values for 1 sequences; give one value or one per sequence"),
    ({"horizon": [1.0, 2.0], "num_sequences": 3}, ValueError, "horizon has 2 values for 3 sequences"),
    ({"horizon": -1.0}, ValueError, "horizon = -1.0 must not be negative"),
    (
        {"t_start": 5.0, "t_end": 4.0},
        ValueError,
        "sequence 0: t_end = 4.0 lies before 5.0, up to which the sequence is already",
    ),
    ({"t_end": [1, -1], "num_sequences": 2}, ValueError, "sequence 1: t_end = -1.0 lies before 0.0"),
    (
        {"history": HISTORY, "t_end": 2.4},
        ValueError,
        "sequence 0: t_end = 2.4 lies before 2.5, up to which the sequence is",
    ),
    ({"t_start": math.inf, "num_events": 1}, ValueError, "t_start = inf must be finite"),
    (
        {"history": HISTORY, "t_start": 0.0, "num_events": 1},
        ValueError,
        "t_start = 0.0 was given together with a history",
    ),
    ({"history": 5, "num_events": 1}, TypeError, "history is a int; it must be an EventSequence"),
    ({"history": [], "num_events": 1}, ValueError, "history is an empty list; give at least one sequence"),
    (
        {"history": [HISTORY, [1.0, 2.0]], "num_events": 1},
        TypeError,
        "history 1 is a list; it must be an EventSequence",
    ),
    (
        {"history": [HISTORY, EventSequence.of([1.0], [3], t_start=0.0)], "num_events": 1},
        ValueError,
        "history 1: marks must be in 0..2 (the model's num_marks), found 3",
    ),
    ({"method": "ancestral", "num_events": 1}, ValueError, "method = 'ancestral' is unknown; choose one of"),
    ({"rule": "both", "num_events": 1}, ValueError, "rule = 'both' is unknown; choose one of"),
    ({"draft_length": 0, "num_events": 1}, ValueError, "draft_length = 0 must be a whole number between 1 and 1024"),
    (
        {"draft_length": 2.5, "num_events": 1},
        ValueError,
        "draft_length = 2.5 must be a whole number between 1 and 1024",
    ),
    (
        {"draft_length": 1025, "num_events": 1},
        ValueError,
        "draft_length = 1025 must be a whole number between 1 and 1024",
    ),
    ({"gamma": 4, "num_events": 1}, TypeError, "'gamma' is not an option of sample(); its options are"),
    (
        {"method": "autoregressive", "draft_length": 4, "num_events": 1},
        ValueError,
        "draft_length = 4 has no meaning for method = 'autoregressive'; leave it out",
    ),
    (
        {"options": SamplingOptions(rule="joint"), "method": "autoregressive", "num_events": 1},
        ValueError,
        "rule = 'joint' has no meaning for method = 'autoregressive'; leave it out",
    ),
    (
        {"draft": StubTPP.random(2, seed=0), "num_events": 1},
        ValueError,
        "draft has num_marks = 2, the target 3; they must agree",
    ),
    ({"draft": 7, "num_events": 1}, TypeError, "draft is a int; give an EventModel"),
    ({"target": StubTPP, "num_events": 1}, TypeError, "target is the class StubTPP; give an instance of it"),
    ({"target": None, "num_events": 1}, TypeError, "target is a NoneType; give an EventModel"),
    ({"target": "none.ckpt", "num_events": 1}, FileNotFoundError, "none.ckpt: there is no such checkpoint file"),
    ({"draft": Path("none.ckpt"), "num_events": 1}, FileNotFoundError, "none.ckpt: there is no such checkpoint file"),
    ({"draft": "", "num_events": 1}, FileNotFoundError, "draft = '' is neither a checkpoint file or run nor"),
    ({"draft": "slef", "num_events": 1}, FileNotFoundError, "draft = 'slef' is neither a checkpoint file or run nor"),
    ({"draft": "poisson", "num_events": 1}, ValueError, "draft = 'poisson' needs a target that carries the statistics"),
    (
        {"draft": "poisson", "method": "auto", "num_events": 1},
        ValueError,
        "draft = 'poisson' needs a target that carries",
    ),
    ({"drafter": "model", "method": "auto", "num_events": 1}, ValueError, "drafter = 'model' needs a draft"),
    (
        {"target": damaged(), "num_events": 1},
        ValueError,
        "target: parameter encoder.blocks.1.expand.weight has values that are not finite",
    ),
    (
        {"draft": damaged(), "num_events": 1},
        ValueError,
        "draft: parameter encoder.blocks.1.expand.weight has values that are",
    ),
]


@pytest.mark.parametrize(("arguments", "error", "sentence"), WRONG, ids=[sentence[:40] for _, _, sentence in WRONG])
def test_the_sentence(arguments: dict[str, Any], error: type[Exception], sentence: str) -> None:
    with pytest.raises(error, match=re.escape(sentence)) as raised:
        sample(**({"target": MODEL} | arguments))
    assert "\n" not in str(raised.value)


def test_whole_numbers_of_other_types_are_as_good() -> None:
    plain = sample(MODEL, num_sequences=3, num_events=4, seed=1, first_index=2, batch_size=2, draft_length=4)
    other = sample(
        MODEL, num_sequences=np.int64(3), num_events=4.0, seed=1.0, first_index=torch.tensor(2), batch_size=2.0,
        draft_length=np.int32(4), max_events=1e6,
    )  # fmt: skip
    assert torch.equal(plain.flat_event_times, other.flat_event_times) and plain.options == other.options
    assert (
        SamplingOptions(candidates=np.int64(2)) == SamplingOptions(candidates=(2.0,)) == SamplingOptions(candidates=2)
    )
    assert SamplingOptions(candidates=torch.tensor(2)) == SamplingOptions(candidates=2)  # type: ignore[arg-type]
    assert SamplingOptions(candidates=range(2, 4)) == SamplingOptions(candidates=(2, 3))  # type: ignore[arg-type]
    assert (
        SamplingOptions(draft_passes=2.0).draft_passes
        == SamplingOptions(draft_passes=torch.tensor(2.0)).draft_passes
        == 2
    )
    assert SamplingOptions(draft_length=np.float32(4)).draft_length == 4
    assert sample(MODEL, num_events=2, max_events=math.inf).truncated.sum() == 0


@pytest.mark.parametrize("num_histories", [0, 1, 1000])
def test_so_many_sequences_that_their_plan_fills_the_memory_are_refused_at_once(num_histories: int) -> None:
    """90 bytes each: 10^12 of them want 84,000 GiB. Nothing of it is taken before."""
    history = [EventSequence.of([1.0], [0], t_start=0.0)] * num_histories or None
    num_sequences = 10**12 // max(1, num_histories)
    with pytest.raises(ValueError, match=rf"num_sequences = {num_sequences:,}.* wants 83,819 GiB before the first"):
        sample(StubTPP.random(2, seed=0), history=history, num_sequences=num_sequences, num_events=1)


def test_a_stream_says_the_same() -> None:
    with pytest.raises(ValueError, match="sampling needs an end"):
        next(sample_stream(MODEL))
    with pytest.raises(ValueError, match="chunk_size = 0 must be a whole number of at least 1"):
        next(sample_stream(MODEL, num_events=1, chunk_size=0))
    with pytest.raises(TypeError, match="'gamma' is not an option"):
        next(sample_stream(MODEL, num_events=1, gamma=3))


def test_options_are_checked_without_sampling() -> None:
    assert SamplingOptions().resolved(None) == SamplingOptions("autoregressive")
    assert SamplingOptions().resolved("model") == SamplingOptions("speculative", 8, "joint", "model")
    assert SamplingOptions("speculative").resolved(None) == SamplingOptions("speculative", 8, "joint", "self")
    assert SamplingOptions(drafter="jacobi").resolved("model") == SamplingOptions("speculative", 8, "joint", "jacobi")
    assert SamplingOptions("fixed_point").resolved("model") == SamplingOptions("fixed_point", 8, tolerance=1e-6)
    assert SamplingOptions("auto").resolved(None) == SamplingOptions("auto", "auto")
    assert SamplingOptions(draft_length=[[4, 2], [0, 1]]).longest_draft == 4  # type: ignore[arg-type]
    assert SamplingOptions(rule="factorised").with_overrides(draft_length=3) == SamplingOptions(None, 3, "factorised")
    assert SamplingOptions("autoregressive").to_dict() == {"method": "autoregressive"}
    with pytest.raises(AttributeError):
        SamplingOptions().rule = "joint"  # type: ignore[misc]
