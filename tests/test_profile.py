"""The account of a round: nothing is counted twice, nothing is changed, and the counts are those of known work."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from native_builds import needs_a_compiler
from small_models import small_model

from tppsd.commands import profile
from tppsd.profiling import account as account_module
from tppsd.profiling import machine as machine_module
from tppsd.profiling.account import BETWEEN, COMMIT, DRAFT, ROUNDS, STEPS, TARGET, Account
from tppsd.profiling.counters import counted
from tppsd.profiling.machine import Machine
from tppsd.sampling.sample import sample
from tppsd.sampling.speculative import Speculative

SIZE = {"num_sequences": 3, "num_events": 12, "batch_size": 2, "seed": 3}


@pytest.mark.parametrize("draft", ["model", "self", "jacobi", None])
def test_watched_sampling_is_the_same_sampling(draft: str | None) -> None:
    target = small_model("thp")
    chosen = small_model("thp") if draft == "model" else draft
    alone, right = sample(target, chosen, **SIZE), Speculative.verify
    account = Account(torch.device("cpu"))
    with account.watching():
        watched = sample(target, chosen, **SIZE)
    assert torch.equal(alone.flat_event_times, watched.flat_event_times)
    assert Speculative.verify is right
    expected = set(STEPS) - {ROUNDS} - ({DRAFT, "acceptance"} if draft is None else set())
    assert {step for step, seconds in account.seconds.items() if seconds > 0} == expected
    assert sum(account.seconds.values()) < watched.stats.seconds


@needs_a_compiler
@pytest.mark.parametrize("drafts", [True, False], ids=["speculative", "autoregressive"])
@pytest.mark.parametrize(
    ("compile", "steps", "left"),
    [(True, set(), 0.5), ("draft", {TARGET, "cache writes"}, 0.8)],
    ids=["passes", "draft"],
)
def test_compiled_rounds_are_a_step_and_an_operator(compile: Any, steps: set[str], left: float, drafts: bool) -> None:
    """Passes by operators within them are steps of their own."""
    target, draft = (small_model("thp", dtype=torch.float32) for _ in range(2))
    models, account = (target, draft if drafts else None), Account(torch.device("cpu"))
    with account.watching():
        sample(*models, compile=compile, **SIZE)
    alone = {ROUNDS} if drafts else ({TARGET, "noise"} if compile is True else {ROUNDS, "noise"})
    assert {step for step, seconds in account.seconds.items() if seconds > 0} == {*alone, *steps, COMMIT, BETWEEN}
    plain, compiled = (counted(lambda c=c: sample(*models, compile=c, **SIZE)) for c in (False, compile))
    assert compiled.operators < left * plain.operators
    assert 0.5 < compiled.flops / plain.flops < 2, "matrix products are what they are"


def test_the_time_of_a_step_is_without_those_within_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """A clock that advances by one at each look: an inner step interrupts the outer one."""
    ticks = iter(range(100))
    monkeypatch.setattr(account_module.time, "perf_counter", lambda: float(next(ticks)))
    account = Account(torch.device("cpu"))
    inner = account._timed(lambda: None, TARGET)
    outer = account._timed(lambda: inner(), BETWEEN)
    outer()
    assert account.seconds[BETWEEN] == 2.0 and account.seconds[TARGET] == 1.0
    drafting = account._timed(lambda: inner(), DRAFT)
    drafting()
    assert account.seconds[DRAFT] == 3.0 and account.seconds[TARGET] == 1.0  # the draft model's own pass


def test_counts_are_those_of_the_work() -> None:
    a, b = torch.ones(3, 4), torch.ones(4, 5)
    counts = counted(lambda: torch.mm(a, b).t().contiguous())
    assert counts.flops == 2 * 3 * 4 * 5
    assert counts.operators == 2  # the transposition is a view, its copy is not
    assert counts.bytes == 4 * (12 + 20 + 15) + 4 * (15 + 15)
    assert counted(lambda: torch.ones(1).expand(1000) + torch.ones(1)).bytes == 4 * (1 + 1 + 1 + 1 + 1000)


def test_limits_are_work_over_the_median_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """A clock by which every timed piece of work takes 2 s, but the warm-up 100 s and one run 50 s."""
    durations = [100.0, 2.0, 2.0, 50.0, 2.0, 2.0, 2.0, 2.0]
    ticks = itertools.accumulate(itertools.chain.from_iterable((1.0, d) for _ in range(3) for d in durations))
    monkeypatch.setattr(machine_module.time, "perf_counter", lambda: next(ticks))
    machine = Machine.measured(torch.device("cpu"))
    assert machine.flops == 2 * 1024**3 / 2 and machine.bytes == 2 * 128 * 1024**2 / 2
    assert machine.operator == 2 / 2000


def test_the_command_prints_and_writes_the_account(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    small_model("thp").save(tmp_path / "target.ckpt")
    path = tmp_path / "new" / "account.json"
    profile.main(
        ["--target", str(tmp_path / "target.ckpt"), "--num-events", "8", "--draft-length", "3", "--json", str(path)]
    )
    printed = capsys.readouterr().out
    assert "target pass" in printed and "calls of operators would take" in printed and "GFLOP/s" in printed
    account = json.loads(path.read_text())
    assert list(account["samplers"]) == ["autoregressive", "speculative, jacobi"]
    for one in account["samplers"].values():
        total = sum(one["seconds_per_round"].values())
        assert total == pytest.approx(one["stats"]["seconds"] / one["stats"]["num_target_passes"])
