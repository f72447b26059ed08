"""The script that holds estimators against plain paths finds right ones right, and wrong ones wrong."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import estimators
import pytest
import torch
from small_models import attentive_model, random_sequence
from test_forecast import forgets_the_stop, forgets_the_truncation, integrates_from_zero_after_w

MODEL = attentive_model("thp", num_marks=3)
HISTORY = random_sequence(6, 3, seed=1)  # observed for half a unit after its last event
STEP_SUM = "P(A): step sum"


@pytest.fixture(autouse=True)
def few_paths(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, number in {"NUM_PLAIN": 20_000, "CHUNK": 10_000, "NUM_PATHS": 2000}.items():
        monkeypatch.setattr(estimators, name, number)


def largest(estimate: str | None = None) -> float:
    found, plain = estimators.scores(MODEL, HISTORY, 4.0)
    assert len(found) == 8 and 0.5 < float(plain.counts[-1, -1]) < 5
    return max(abs(z) for name, values in found.items() if estimate in (None, name) for z in values)


def test_all_estimates_are_those_of_plain_paths() -> None:
    """46 comparisons: one is beyond 4.9 standard errors once in 20,000 runs."""
    assert largest() < 4.9


@pytest.mark.parametrize("wrong", [forgets_the_stop, forgets_the_truncation, integrates_from_zero_after_w])
def test_biased_estimates_are_not(wrong: Callable[[pytest.MonkeyPatch], None], monkeypatch: pytest.MonkeyPatch) -> None:
    wrong(monkeypatch)
    assert largest(STEP_SUM) > 6


def test_depths_are_measured(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name, value in {"DEPTHS": (1,), "NUM_HISTORIES": 2, "OF_HISTORY": 40, "TURNS": 1, "RESULTS": tmp_path}.items():
        monkeypatch.setattr(estimators, name, value)
    monkeypatch.setattr(estimators, "trained", lambda *of: attentive_model("thp", num_marks=4))
    estimators.depth()
    assert (tmp_path / "estimators_depth.jsonl").read_text().count("\n") == 3


def test_training_takes_the_loss_down() -> None:
    data = estimators.simulated()[:40]
    untrained, model = (estimators.trained(data, 4, num_layers=1, num_steps=n) for n in (0, 40))
    batch = estimators.EventBatch.from_sequences(data)
    with torch.inference_mode():
        assert model.log_likelihood(batch).sum() > untrained.log_likelihood(batch).sum() + 50
