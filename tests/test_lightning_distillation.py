"""Drafts that learn from a frozen target: what they gain, what their checkpoints hold, what is logged, and refusals."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import seed_everything
from lightning_helpers import SMALL as SIZE
from lightning_helpers import fitted, small_data, trainer

import tppsd
from tppsd import Distillation, DraftTPP, EventBatch, TargetTPP, load
from tppsd.data.sequences import EventSequence
from tppsd.metrics.functional import Overlap

SMALL = SIZE | {"encoder": "thp"}  # which learns something in the few steps of these tests
WATCH = {"nll_weight": 1.0, "kl_weight": 0.0, "tv_weight": 0.0}  # likelihood alone
LOGGED = {"train/kl", "train/step_acceptance", "val/kl", "val/step_acceptance"}


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A target that has learnt something in a few seconds: of 160 sequences."""
    torch.manual_seed(0)
    data = small_data(num_sequences=200, batch_size=16)
    return fitted(TargetTPP(2, **SMALL), tmp_path_factory.mktemp("target") / "target.ckpt", data, max_epochs=8)


def run(distillation: Distillation | None, **arguments: Any) -> tuple[DraftTPP, dict[str, float]]:
    """A draft from one seed, and what was logged."""
    seed_everything(1, verbose=False)
    draft = DraftTPP(2, dropout=0.1, distillation=distillation, **SMALL)
    fit = trainer(**({"max_epochs": 2, "num_sanity_val_steps": 1} | arguments))
    fit.fit(draft, datamodule=small_data())
    return draft, {name: float(value) for name, value in fit.callback_metrics.items()}


def overlap_of(draft: DraftTPP, sequences: list[EventSequence]) -> Overlap:
    """In every context of `sequences`, as validation has it."""
    assert draft.distillation is not None
    batch = EventBatch.from_sequences(sequences)
    with torch.no_grad():
        return draft.distillation.overlap(draft.eval().model(batch), batch, step=0)


def test_it_raises_acceptance_over_likelihood_alone(target: Path) -> None:
    """The same steps on the same batches, from the same weights."""
    logged = {}
    for name, weights in {"nll": (1, 0, 0), "both": (1, 1, 0), "kl": (0, 1, 0), "tv": (0, 1, 1)}.items():
        _, logged[name] = run(Distillation(target, *weights), max_epochs=8)
    assert logged["kl"].keys() >= LOGGED and logged["nll"].keys() & LOGGED == {"val/kl", "val/step_acceptance"}
    rejected = {name: 1 - metrics["val/step_acceptance"] for name, metrics in logged.items()}
    assert rejected["kl"] < 0.8 * rejected["nll"] and rejected["tv"] < 0.8 * rejected["nll"]
    assert logged["both"]["val/kl"] < logged["nll"]["val/kl"]


def test_a_target_that_only_measures_does_not_disturb_training(target: Path) -> None:
    """The same weights, bit for bit, as without one; and two distilled runs are equal."""
    plain, watched = run(None)[0], run(Distillation(target, **WATCH))[0]
    assert plain.model.content_hash() == watched.model.content_hash()
    assert run(Distillation(target))[0].model.content_hash() == run(Distillation(target))[0].model.content_hash()


def test_checkpoints_hold_nothing_of_the_target_but_its_hash(target: Path, tmp_path: Path) -> None:
    draft = DraftTPP(2, distillation=Distillation(target), **SMALL)
    path = fitted(draft, tmp_path / "draft.ckpt")
    plain = fitted(DraftTPP(2, **SMALL), tmp_path / "plain.ckpt")
    content, other = (torch.load(p, weights_only=True) for p in (path, plain))
    assert content["state_dict"].keys() == other["state_dict"].keys()
    assert content["hyper_parameters"].keys() == other["hyper_parameters"].keys()
    assert content["tppsd"].pop("distilled_from") == load(target).content_hash()
    assert content["tppsd"] == other["tppsd"]

    target.rename(tmp_path / "gone.ckpt")  # it loads with nothing else
    try:
        loaded = DraftTPP.load_from_checkpoint(path, weights_only=True)
        assert load(path).content_hash() == loaded.model.content_hash() == draft.model.content_hash()
    finally:
        (tmp_path / "gone.ckpt").rename(target)
    again = torch.load(fitted(loaded, tmp_path / "again.ckpt"), weights_only=True)
    assert again["tppsd"]["distilled_from"] == load(target).content_hash()
    assert run(Distillation(target, **WATCH), max_steps=1)[0].distilled_from is None  # it only measured


@pytest.mark.parametrize("batch_size", [1, 4])
def test_what_is_logged_is_the_mean_over_contexts(batch_size: int, target: Path) -> None:
    """Every position that has a distribution, whatever the batches: number of events + 1 of a sequence with a
    t_start."""
    draft, _ = run(Distillation(target))
    data = small_data(batch_size=batch_size, num_sequences=60)
    for stage, split, score in (("val", "validation", trainer().validate), ("test", "test", trainer().test)):
        sequences, (logged,) = data.sequences(split), score(draft, data, verbose=False)
        overlap = overlap_of(draft, sequences)
        assert len(overlap.kl) == sum(len(sequence) + 1 for sequence in sequences)
        assert logged[f"{stage}/kl"] == pytest.approx(float(overlap.kl.double().mean()), rel=1e-5)
        assert logged[f"{stage}/step_acceptance"] == pytest.approx(float(overlap.acceptance.double().mean()), rel=1e-5)


def test_a_sampler_accepts_as_many_as_expected(target: Path) -> None:
    """One drafted event after each of many histories: within four standard errors of the mean over their last
    contexts."""
    draft, _ = run(Distillation(target, num_draws=64))
    histories = small_data(num_sequences=100).sequences("train")
    last = torch.tensor([len(history) + 1 for history in histories]).cumsum(0) - 1
    expected = overlap_of(draft, histories).acceptance[last].double()
    stats = tppsd.sample(
        load(target),
        draft,
        history=[h.prefix(len(h)) for h in histories],
        num_sequences=20,
        num_events=1,
        draft_length=1,
        seed=0,
    ).stats
    num_tested = 20 * len(histories)
    assert int(stats.accepted_counts.sum()) == num_tested and 0.5 < float(expected.mean()) < 0.99
    standard_error = math.sqrt(float((expected * (1 - expected)).mean()) / num_tested)
    assert abs(stats.step_acceptance - float(expected.mean())) < 4 * standard_error


def test_a_draft_equal_to_its_target(target: Path) -> None:
    draft = DraftTPP(2, num_layers=2, distillation=Distillation(target), **SMALL)
    draft.model = load(target)
    (logged,) = trainer().validate(draft, small_data(), verbose=False)
    assert abs(logged["val/kl"]) < 1e-6 and logged["val/step_acceptance"] == pytest.approx(1, abs=1e-6)


def test_several_targets_are_an_ensemble(target: Path, tmp_path: Path) -> None:
    """Training takes them in turn, validation is the mean over them, and two copies of one target are that target."""
    torch.manual_seed(1)
    other = fitted(TargetTPP(2, **SMALL), tmp_path / "other.ckpt", max_epochs=1)
    single, twice, both = (
        run(Distillation(names))[0] for names in (target, [str(target)] * 2, [str(target), str(other)])
    )
    assert single.model.content_hash() == twice.model.content_hash() != both.model.content_hash()
    assert both.distilled_from == f"{load(target).content_hash()},{load(other).content_hash()}"

    batch = EventBatch.from_sequences(small_data().sequences("test"))
    distribution, alone = both.eval().model(batch), []
    assert both.distillation is not None
    for path in (target, other):
        alone.append(Distillation(path, seed=both.distillation.seed))
        alone[-1].load(2)
    for step, expected in (
        (1, alone[1].overlap(distribution, batch, 1).kl),
        (2, alone[0].overlap(distribution, batch, 2).kl),
    ):
        assert torch.equal(both.distillation.overlap(distribution, batch, step).kl, expected)
    mean = (alone[0].overlap(distribution, batch, 0).kl + alone[1].overlap(distribution, batch, 0).kl) / 2
    torch.testing.assert_close(both.distillation.overlap(distribution, batch, 0).kl, mean)


def test_autocast_leaves_the_target_as_it_is_sampled(target: Path) -> None:
    draft, _ = run(Distillation(target), precision="bf16-mixed", max_epochs=1)
    batch = EventBatch.from_sequences(small_data().sequences("test"))
    with torch.no_grad():
        distribution = draft.model(batch)
        expected = draft.distillation.overlap(distribution, batch, step=0)  # type: ignore[union-attr]
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert torch.equal(draft.distillation.overlap(distribution, batch, step=0).kl, expected.kl)  # type: ignore[union-attr]


def test_mistakes_are_named(target: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"nowhere.ckpt: there is no such checkpoint"):
        run(Distillation("nowhere.ckpt"))
    with pytest.raises(ValueError, match=r"target.ckpt: this target has num_marks = 2, its draft 1; they must agree"):
        trainer().fit(DraftTPP(1, distillation=Distillation(target), **SMALL), small_data(process="hawkes"))
    with pytest.raises(ValueError, match=r"must not be negative, and one of them must be positive"):
        Distillation(target, kl_weight=0.0, tv_weight=0.0)
    with pytest.raises(ValueError, match=r"num_draws = 3 must be an even number"):
        Distillation(target, num_draws=3)
