"""Speculative rounds in one native call are those of speculative.py, to the last bit."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from faster_passes import head_of_compiled
from native_builds import compiled_wrong, needs_a_compiler
from small_models import ENCODERS, attentive_model, random_sequence

import tppsd
from tppsd.backends.cpp import rounds
from tppsd.models.transformer_tpp import TransformerTPP
from tppsd.sampling import compiled

pytestmark = needs_a_compiler


@pytest.fixture
def one_by_one(monkeypatch: pytest.MonkeyPatch) -> Callable[..., tppsd.SampledSequences]:
    """Sample with the rounds of speculative.py over the same compiled passes and distributions."""

    def sample(*arguments: Any, **options: Any) -> tppsd.SampledSequences:
        with monkeypatch.context() as patch:
            patch.setattr(compiled, "can_speculate", lambda *of_round: False)
            return tppsd.sample(*arguments, compile=True, **options)

    return sample


# who makes the target's passes: the native rounds, or a call of them that the rounds are interrupted for
WAYS: dict[str, Callable[..., Any]] = {"native": tppsd.compile, "own passes": head_of_compiled}


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Rounds of each call of native code."""
    made: list[int] = []
    right = rounds.speculate

    def speculate(*arguments: Any) -> rounds.Speculated:
        result = right(*arguments)
        made.append(int(result.num_rounds.sum()))
        return result

    monkeypatch.setattr(rounds, "speculate", speculate)
    return made


def pair(encoder: str, **settings: Any) -> tuple[TransformerTPP, TransformerTPP]:
    """A target and a draft of another encoder, accepted half the time."""
    draft = attentive_model("thp" if encoder == "rotary" else "rotary", num_layers=1, **settings)
    return attentive_model(encoder, embed_dim=32, num_layers=3, **settings), draft


def bits(samples: tppsd.SampledSequences) -> list[torch.Tensor]:
    stats = samples.stats
    counts = torch.tensor([stats.num_rounds, stats.num_events])
    return [
        samples.flat_event_times,
        samples.flat_inter_times,
        samples.flat_marks,
        samples.offsets,
        stats.accepted_counts,
        counts,
    ]


def assert_same(found: tppsd.SampledSequences, expected: tppsd.SampledSequences) -> None:
    for got, wanted in zip(bits(found), bits(expected), strict=True):
        assert torch.equal(got, wanted)


ENDS: list[dict[str, Any]] = [
    {"num_events": 90}, {"horizon": 25.0}, {"num_events": [1, 2, 70, 5, 9, 33, 40, 3, 150]},
    {"horizon": 25.0, "num_events": 20},
]  # fmt: skip


@pytest.mark.parametrize("encoder", ENCODERS)
@pytest.mark.parametrize("draft_length", [1, 2, 7])
@pytest.mark.parametrize("until", ENDS, ids=str)
def test_rounds_are_those_of_python(
    encoder: str, draft_length: int, until: dict[str, Any], one_by_one: Callable[..., Any], calls: list[int]
) -> None:
    """After histories with and without a silence, in any company, times, marks and counters."""
    histories = [random_sequence(n, seed=n) for n in (0, 4, 20)]
    arguments = {"draft_length": draft_length, "history": histories, "num_sequences": 3, "seed": 1, **until}
    target, draft = pair(encoder)
    expected = one_by_one(target, draft, **arguments)
    assert not calls and 0.1 < expected.stats.step_acceptance < 0.9
    for way in WAYS.values():
        compiled = way(target)
        for batch_size in (1, 4, 9):
            calls.clear()
            assert_same(tppsd.sample(compiled, draft, batch_size=batch_size, **arguments), expected)
            assert sum(calls) == expected.stats.num_rounds


@pytest.mark.parametrize(
    "settings",
    [{"num_marks": 1}, {"mark_decoder": "independent"}, {"max_context": 6}, {"num_marks": 3, "dtype": "bfloat16"}],
    ids=str,
)
def test_of_all_distributions_windows_and_types(
    settings: dict[str, Any], one_by_one: Callable[..., Any], calls: list[int]
) -> None:
    dtype = settings.get("dtype", "float32")
    target, draft = pair("thp", **{name: value for name, value in settings.items() if name != "dtype"})
    arguments = {"num_sequences": 4, "num_events": 200, "draft_length": 5, "dtype": dtype, "batch_size": 3}
    expected = one_by_one(target, draft, **arguments)
    for way in WAYS.values():
        calls.clear()
        assert_same(tppsd.sample(way(target, dtype), draft, **arguments), expected)
        assert len(calls) > 2 and max(calls) > 10


def test_threads_share_the_rows_and_change_nothing() -> None:
    models, threads = pair("rotary"), torch.get_num_threads()
    arguments: dict[str, Any] = {"num_sequences": 30, "num_events": 80, "draft_length": 6, "compile": True}
    expected = tppsd.sample(*models, **arguments)
    try:
        torch.set_num_threads(3)
        assert_same(tppsd.sample(*models, **arguments), expected)
    finally:
        torch.set_num_threads(threads)


@pytest.mark.parametrize("compile", [False, True], ids=["eager", "compiled"])
@pytest.mark.parametrize("options", [{}, {"draft_passes": 2}, {"rule": "block"}], ids=str)
def test_the_first_rounds_may_draft_nothing(compile: bool, options: dict[str, Any]) -> None:
    """As where an earlier job has learnt so: a draft equal to the target then still sees the same past."""
    target, _ = pair("thp")
    samples = tppsd.sample(
        target, target, history=[random_sequence(n, seed=n) for n in (0, 4, 9)], num_sequences=2, num_events=20,
        draft_length=((0, 3), (4, 2), (0, 1), (3, 40)), batch_size=4, compile=compile, **options,
    )  # fmt: skip
    assert samples.stats.num_rounds > 3 and (options or samples.stats.step_acceptance > 0.99)


LARGE: list[dict[str, Any]] = [
    {"encoder": "thp"}, {"encoder": "attnhp", "max_context": 30}, {"encoder": "rotary", "dtype": "bfloat16"},
]  # fmt: skip


def with_threads(num: int, models: Any, **arguments: Any) -> tppsd.SampledSequences:
    """A single sequence, whose passes over several events are shared out."""
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(num)
        return tppsd.sample(*models, num_events=250, compile=True, **arguments)
    finally:
        torch.set_num_threads(before)


def large_pair(encoder: str, **settings: Any) -> tuple[TransformerTPP, TransformerTPP]:
    """A target so large that threads share a pass over three events, and a draft."""
    target = attentive_model(encoder, embed_dim=256, num_layers=14, **settings)
    return target, attentive_model("thp", num_layers=1, **settings)


@pytest.mark.parametrize("settings", LARGE, ids=str)
@pytest.mark.parametrize("draft_length", [2, 5, 30])
def test_threads_share_the_events_of_a_pass_and_change_nothing(settings: dict[str, Any], draft_length: int) -> None:
    """Two, and more than there are events, parts or cores."""
    dtype = settings.get("dtype")
    models = large_pair(**{name: value for name, value in settings.items() if name != "dtype"})
    expected = with_threads(1, models, draft_length=draft_length, dtype=dtype)
    for num in (2, 20):
        assert_same(with_threads(num, models, draft_length=draft_length, dtype=dtype), expected)


SHARE = "run_part(encoder, pass, row, row + 1, share);"
LATE = "if (i == 0) std::this_thread::sleep_for(std::chrono::microseconds(300)); "
SHARES = {
    "more threads than cores": ("std::max<int64_t>(1, std::thread::hardware_concurrency())", "MOST_PARTS", True),
    "the first is late": (SHARE, LATE + SHARE, True),
    "the first is late and not waited for": (
        SHARE,
        LATE + SHARE.replace("share", "Whole{share.from, share.to}"),
        False,
    ),
    "events": ("i * pass.num_new / num, (i + 1)", "(i * pass.num_new + num - 1) / num, (i + 1)", False),
    "distributions": (
        "distributions.data() + from * decoder.width(), decoder.width());",
        "distributions.data(), decoder.width());",
        False,
    ),
}


@needs_a_compiler
@pytest.mark.skipif((os.cpu_count() or 1) < 2, reason="one core shares nothing")
@pytest.mark.parametrize("which", SHARES)
def test_what_threads_wait_for(which: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    right, wrong, is_right = SHARES[which]
    compiled_wrong(right, wrong, tmp_path, monkeypatch, "-O1")
    models = large_pair("thp")
    alone, together = (bits(with_threads(num, models, draft_length=6)) for num in (1, 20))
    assert all(a.shape == b.shape and torch.equal(a, b) for a, b in zip(alone, together, strict=True)) == is_right


FORKED = (
    None,
    ("[] { current() = new Pool; }", "[] {}"),
)  # the second: a child waits for threads that it does not have


@needs_a_compiler
@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork")
@pytest.mark.parametrize("wrong", FORKED)
def test_a_forked_process_starts_threads_of_its_own(
    wrong: tuple[str, str] | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As workers of a data loader do, after their parent has used threads."""
    if wrong:
        compiled_wrong(*wrong, tmp_path, monkeypatch, "-O1")
    models = large_pair("thp")
    # of native threads only: PyTorch's own do not survive a fork, so that its workers have one each
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)

    def drawn() -> list[torch.Tensor]:
        return bits(tppsd.sample(*models, num_events=250, draft_length=6, compile=True))

    expected = drawn()
    child = os.fork()
    if child == 0:
        signal.alarm(120 if wrong is None else 10)  # ends a child that waits forever
        os._exit(0 if all(map(torch.equal, drawn(), expected)) else 1)
    assert (os.waitpid(child, 0)[1] == 0) == (wrong is None)


@pytest.mark.parametrize(("num_sequences", "batch_size"), [(3, 1), (7, 4)])
def test_lengths_chosen_by_the_clock_are_recorded_and_replayed(
    num_sequences: int, batch_size: int, one_by_one: Callable[..., Any]
) -> None:
    """Also by the rounds of Python: a length is that of one round of all rows, or of several of a single one."""
    models = pair("thp")
    arguments: dict[str, Any] = {"num_sequences": num_sequences, "batch_size": batch_size, "num_events": 150}
    samples = tppsd.sample(*models, draft_length="auto", compile=True, **arguments)
    lengths = samples.options.draft_length
    assert isinstance(lengths, tuple) and len(lengths) > 2
    if batch_size == 1:
        assert sum(num for _, num in lengths) == samples.stats.num_rounds
    for again in (
        tppsd.sample(*models, options=samples.options, **arguments),
        one_by_one(*models, draft_length=lengths, **arguments),
    ):  # fmt: skip
        for got, wanted in zip(bits(again)[:4], bits(samples)[:4], strict=True):
            assert torch.equal(got, wanted)


@pytest.mark.parametrize("way", WAYS.values(), ids=list(WAYS))
def test_what_compiled_rounds_do_not_do_is_done_by_python(way: Callable[..., Any], calls: list[int]) -> None:
    """Other rules and drafters, densities and distributions of events."""
    target, draft = pair("thp")
    models = way(target), draft
    for options in (
        {"rule": "block"}, {"rule": "factorised"}, {"draft_passes": 2}, {"return_log_probs": True},
        {"return_distributions": True},
        {"candidates": (2, 1)},
    ):  # fmt: skip
        tppsd.sample(*models, num_events=20, method="speculative", **options)
    tppsd.sample(models[0], "self", num_events=20)
    assert not calls
    tppsd.sample(*models, num_events=20, method="speculative")
    assert calls


@pytest.mark.parametrize("way", WAYS.values(), ids=list(WAYS))
def test_distributions_that_are_no_densities_end_the_call(way: Callable[..., Any]) -> None:
    target, draft = pair("thp")
    with torch.no_grad():
        draft.decoder.to_mixture.weight.fill_(3e38)  # finite, but sums of it are not
    with pytest.raises(
        RuntimeError, match="no proposal was kept for 2 rows: target and draft distributions are not densities"
    ):
        tppsd.sample(way(target), draft, method="speculative", num_sequences=2, num_events=5)


WRONG = {
    "coins": ("draw(coins, TEST, 1)", "draw(coins, DRAFT, 1)"),
    "acceptance": ("!(std::log(coins[0]) <= log_ratio", "!(std::log(coins[0]) <= 0.5 * log_ratio"),
    "adjusted distribution": ("coins[0] < -std::expm1(-delta)", "coins[0] < 2"),
    "attempts": ("PROPOSAL, 2, num_accepted, attempt", "PROPOSAL, 2, num_accepted, attempt / 2"),
    "positions of proposals": ("PROPOSAL, 2, num_accepted, attempt", "PROPOSAL, 2, 0, attempt"),
    "bonus": ("noise.after(num_accepted).draw(uniforms, TARGET, 2)", "noise.draw(uniforms, TARGET, 2)"),
    "target's cache": ("target.move(n - num_drafted)", "target.move(n - num_drafted - (n > 0))"),
    "draft's cache": ("draft.move(num_kept - num_cached)", "draft.move(num_kept - num_cached - (num_kept > 0))"),
    "unseen events": ("if (n == num_drafted) draft.put", "if (false) draft.put"),
    "places in the sequence": ("*pass.lengths += num, *pass.num_before += num", "*pass.lengths += num"),
    "silence": ("noise = noise.after(n + 1), elapsed = 0", "noise = noise.after(n + 1)"),
    "silence of the first event": ("at == 0 ? elapsed : 0", "elapsed"),
    "noise": ("noise = noise.after(n + 1)", "noise = noise.after(n)"),
    "used noise": ("(uint32_t)rounds.cursors[row]", "0"),
    "keys": ("(uint32_t)rounds.keys[2 * row + 1]", "0"),
    "rows": ("row * encoder.dim * pass.capacity * entry", "0 * entry"),
    "ends": ("target.times[0] <= end && num_left > 0", "num_left > 0"),
    "limits": ("target.times[0] <= end && num_left > 0", "target.times[0] <= end"),
    "drafts beyond the end": ("&target.times[0], &elapsed, &end,", "&target.times[0], &elapsed, nullptr,"),
    "Philox": ("(uint32_t)(first >> 32) ^ c3 ^ k1", "(uint32_t)(first >> 32) ^ c3 ^ k0"),
}


def differs(
    way: Callable[..., Any],
    right: str,
    wrong: str,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    one_by_one: Callable[..., Any],
) -> bool:
    """Are rounds of that build others than those of Python with its passes?"""
    compiled_wrong(right, wrong, folder, monkeypatch)
    target, draft = pair("rotary")
    compiled = way(target)
    histories = [random_sequence(n, seed=n) for n in (3, 0, 12)]
    for until in ({"num_events": [150, 7, 20]}, {"horizon": 20.0}):
        arguments = {"history": histories, "draft_length": 5, "batch_size": 2, **until}
        expected, found = one_by_one(compiled, draft, **arguments), tppsd.sample(compiled, draft, **arguments)
        if any(
            got.shape != wanted.shape or not torch.equal(got, wanted)
            for got, wanted in zip(bits(found), bits(expected), strict=True)
        ):
            return True
    return False


@pytest.mark.parametrize("way", WAYS.values(), ids=list(WAYS))
def test_the_right_build_does_not_differ(
    way: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, one_by_one: Any
) -> None:
    """What the tests of wrong ones compare with."""
    assert not differs(way, "struct Rounds", "struct Rounds", tmp_path, monkeypatch, one_by_one)


@pytest.mark.parametrize("name", WRONG)
def test_wrong_rounds_are_told_from_right_ones(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, one_by_one: Callable[..., Any]
) -> None:
    assert differs(tppsd.compile, *WRONG[name], tmp_path, monkeypatch, one_by_one)


WRONG_IN_STEP = {
    "tokens that stay": ("num_kept = num_new + num", "num_kept = num_new"),
    "contexts": ("contexts + number * longest", "contexts + number"),
    "distributions": ("write_distributions(decoder, contexts, num_new,", "write_distributions(decoder, contexts, 1,"),
    "tokens": ("ids(target.ids + row * target.most)", "ids(target.ids)"),
}


@pytest.mark.parametrize("name", WRONG_IN_STEP)
def test_wrong_rounds_of_own_passes_are_told_from_right_ones(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, one_by_one: Callable[..., Any]
) -> None:
    assert differs(head_of_compiled, *WRONG_IN_STEP[name], tmp_path, monkeypatch, one_by_one)
