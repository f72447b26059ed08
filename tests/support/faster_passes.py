"""What compiled models are held to: every sampler, and chains of events decoded in one call or one by one."""

from __future__ import annotations

from typing import Any

import torch
from small_models import attentive_model, random_batch, random_sequence, tokens_of

import tppsd
from tppsd.backends.cpp.model import CompiledHeadTPP
from tppsd.models.protocol import EventTokens
from tppsd.models.transformer_tpp import TransformerTPP

SAMPLERS: list[dict[str, Any]] = [
    {"method": "autoregressive"}, {"draft_length": 5}, {"rule": "block"}, {"draft_passes": 2}, {"drafter": "jacobi"},
    {"candidates": (3, 2)}, {"method": "fixed_point"},
]  # fmt: skip


def name_of(options: dict[str, Any]) -> str:
    return "-".join(map(str, options.values()))


def head_of_compiled(model: TransformerTPP, dtype: str = "float32") -> CompiledHeadTPP:
    """A model whose own passes are those of a compiled one: what follows them can be compared to the last bit."""
    head: Any = CompiledHeadTPP(model)
    head.model = tppsd.compile(model, dtype)
    head.dtype = head.model.dtype
    return head


def both_ways(
    target: TransformerTPP, draft: TransformerTPP, options: dict[str, Any]
) -> tuple[tppsd.SampledSequences, tppsd.SampledSequences, bool]:
    """The same samples without and with `compile`, and whether the draft is asked."""
    drafts = not (options.get("method") or options.get("drafter"))
    plain, fast = (
        tppsd.sample(
            target, draft if drafts else None, history=[random_sequence(n, seed=n) for n in (0, 3, 12)],
            num_sequences=4,
            num_events=12, compile=compile, **options,
        )
        for compile in (False, True)
    )  # fmt: skip
    return plain, fast, drafts


def assert_same_events(
    found: tppsd.SampledSequences, expected: tppsd.SampledSequences, compares_counters: bool = True
) -> None:
    """The same events and counters, up to rounding that decides nothing."""
    assert torch.equal(found.flat_marks, expected.flat_marks) and torch.equal(found.offsets, expected.offsets)
    torch.testing.assert_close(found.flat_inter_times, expected.flat_inter_times, rtol=1e-3, atol=1e-6)
    if compares_counters:
        assert torch.equal(found.stats.accepted_counts, expected.stats.accepted_counts)
        assert found.stats.num_rounds == expected.stats.num_rounds


def target_and_draft() -> tuple[TransformerTPP, TransformerTPP]:
    return attentive_model("rotary", embed_dim=32, num_layers=3), attentive_model("thp")


def chain(
    model: Any,
    num: int,
    at_once: bool,
    rows: slice = slice(None),
    *until: torch.Tensor,
    is_silent: bool = False,
) -> list[torch.Tensor]:
    """Inter-times, times, marks, distributions and the next context of `num` events per row, drawn by `decode` or step
    by step: of some of nine rows of different lengths, with the first of at most 60 events' noise.

    Args:
        model: compiled.
        until: ends and limits, which end nothing.
        is_silent: the first events come after silences.
    """
    tokens = tokens_of(random_batch([20] * 9, model.num_marks), model.num_marks).map(lambda field: field[rows])
    cache = model.new_cache(len(tokens.ids), 3)
    distribution = model.distribution(model.extend(tokens, cache))[:, -1:]
    if is_silent:
        distribution = distribution.truncated(torch.linspace(0, 2, 9, dtype=torch.float64)[rows].unsqueeze(1))
    cache.roll_back(torch.arange(9)[rows])
    last, events = tokens.times[:, -1], []
    uniforms = torch.rand(9, 60, 4, generator=torch.Generator().manual_seed(2), dtype=torch.float64)[rows, :num]
    if at_once:
        decoded = model.decode(distribution, cache, last, uniforms, True, *until)
        assert decoded.num.tolist() == [num] * len(last)
        fields = [decoded.inter_times, decoded.times, decoded.marks, decoded.parameters]
    else:
        for j in range(num):
            tau, marks = distribution.sample(uniforms[:, j : j + 1, :3])
            last = last + tau[:, 0]
            events.append((tau, last.unsqueeze(1), marks, distribution.parameters))
            if j < num - 1:
                distribution = model.distribution(model.extend(EventTokens(marks + 1, last.unsqueeze(1), tau), cache))
        fields = [torch.cat(field, 1) for field in zip(*events, strict=True)]
    return [*fields, cache.num_tokens, model.extend(tokens.map(lambda field: field[:, -1:]), cache)]
