"""SpeculativeSampling: what it logs, when, and that training does not notice it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import seed_everything
from lightning_helpers import SMALL, fitted, small_data, trainer
from stubs import lively_transformer

from tppsd import DraftTPP, SamplingOptions, SpeculativeSampling, TargetTPP
from tppsd.lightning.modules import TPPModule

LOGGED = {
    "sampling/speedup",
    "sampling/acceptance_rate",
    "sampling/step_acceptance",
    "sampling/events_per_second",
    "sampling/events_per_round",
    "fidelity/model_ks",
    "fidelity/model_p_value",
    "fidelity/true_process_ks",
}


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("checkpoints")
    torch.manual_seed(0)
    target = fitted(TargetTPP(2, **SMALL), folder / "target.ckpt")
    return {"target": target, "draft": fitted(DraftTPP(2, **SMALL), folder / "draft.ckpt")}


def run(
    module: type[TPPModule], callbacks: list[SpeculativeSampling], **arguments: Any
) -> tuple[TPPModule, dict[str, float]]:
    """Two epochs with dropout, from one seed."""
    seed_everything(3, verbose=False)
    trained = module(2, dropout=0.2, **SMALL)
    fit = trainer(**({"max_epochs": 2, "callbacks": callbacks, "num_sanity_val_steps": 1} | arguments))
    fit.fit(trained, datamodule=small_data())
    return trained, {name: float(value) for name, value in fit.callback_metrics.items()}


@pytest.mark.parametrize(("module", "other"), [(DraftTPP, "target"), (TargetTPP, "draft")])
def test_training_does_not_notice(module: type[TPPModule], other: str, checkpoints: dict[str, Path]) -> None:
    """With and without the callback: the same weights, bit for bit, for a draft and for a target."""
    plain, _ = run(module, [])
    callback = SpeculativeSampling(
        **{other: checkpoints[other]},  # type: ignore[arg-type]
        every_n_epochs=1,
        num_sequences=3,
        options=SamplingOptions(draft_length=3),
    )
    watched, metrics = run(module, [callback])
    assert plain.training and watched.training
    assert watched.model.content_hash() == plain.model.content_hash()
    assert metrics.keys() >= LOGGED
    assert 0 <= metrics["sampling/acceptance_rate"] <= metrics["sampling/step_acceptance"] <= 1
    assert 1 <= metrics["sampling/events_per_round"] <= 4
    assert 0 < metrics["fidelity/model_p_value"] <= 1
    assert all(part is not callback.other for part in watched.modules())  # or it would end up in the checkpoint


def test_a_draft_equal_to_its_target_is_always_accepted(checkpoints: dict[str, Path]) -> None:
    options = SamplingOptions(draft_length=2)
    callback = SpeculativeSampling(draft=checkpoints["target"], num_sequences=2, num_events=12, options=options)
    module = TargetTPP.load_from_checkpoint(checkpoints["target"], weights_only=True)
    metrics = trainer(callbacks=[callback]).validate(module, datamodule=small_data(), verbose=False)[0]
    assert metrics["sampling/acceptance_rate"] > 0.99 and metrics["sampling/events_per_round"] > 2.9


def test_a_tree_counts_every_candidate_as_drafted(checkpoints: dict[str, Path]) -> None:
    """(2, 2) equal to the target: two of six candidates are accepted."""
    options = SamplingOptions(candidates=(2, 2))
    callback = SpeculativeSampling(draft=checkpoints["target"], num_sequences=2, num_events=12, options=options)
    module = TargetTPP.load_from_checkpoint(checkpoints["target"], weights_only=True)
    metrics = trainer(callbacks=[callback]).validate(module, datamodule=small_data(), verbose=False)[0]
    assert metrics["sampling/step_acceptance"] > 0.99 and metrics["sampling/acceptance_rate"] == pytest.approx(
        1 / 3, abs=0.01
    )


@pytest.mark.parametrize("drafter", [None, "poisson"])
def test_a_target_needs_no_draft(drafter: str | None) -> None:
    """Without one, the target's own recent distributions propose."""
    metrics = run(TargetTPP, [SpeculativeSampling(draft=drafter, every_n_epochs=1, num_sequences=2)], max_epochs=1)[1]
    assert metrics.keys() >= LOGGED and 0 < metrics["sampling/acceptance_rate"] <= 1


def test_the_schedule(checkpoints: dict[str, Path]) -> None:
    """Every second epoch, and never while Lightning checks its sanity."""
    callback = SpeculativeSampling(draft=checkpoints["draft"], every_n_epochs=2, num_sequences=1, num_events=2)
    assert "sampling/speedup" not in run(TargetTPP, [callback], max_epochs=1)[1]
    assert "sampling/speedup" in run(TargetTPP, [callback], max_epochs=2)[1]


def test_mistakes_are_named(checkpoints: dict[str, Path]) -> None:
    with pytest.raises(ValueError, match=r"one of target and draft"):
        SpeculativeSampling(target="a.ckpt", draft="b.ckpt")
    with pytest.raises(ValueError, match=r"a draft in training needs a target"):
        run(DraftTPP, [SpeculativeSampling()])
    with pytest.raises(FileNotFoundError, match=r"nowhere.ckpt: there is no such checkpoint"):
        run(TargetTPP, [SpeculativeSampling(draft="nowhere.ckpt")])


def test_another_model_that_does_not_fit_is_refused_before_training(tmp_path: Path) -> None:
    lively_transformer(3, "thp", seed=0).save(tmp_path / "other.ckpt")
    callback = SpeculativeSampling(draft=tmp_path / "other.ckpt")
    with pytest.raises(ValueError, match=r"draft has num_marks = 3, the target 2"):
        run(TargetTPP, [callback], max_steps=0)
