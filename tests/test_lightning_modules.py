"""TargetTPP and DraftTPP: losses and metrics against their formulas, checkpoints, resuming, refusals."""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from lightning.pytorch import Callback, LightningDataModule
from lightning.pytorch.callbacks import EMAWeightAveraging, ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger
from lightning_helpers import SMALL, fitted, small_data, trainer

from tppsd import DraftTPP, TargetTPP, load
from tppsd.data.batch import EventBatch
from tppsd.lightning.averaging import AveragedWeights
from tppsd.lightning.baseline import RenewalBaseline, poisson_log_likelihood
from tppsd.lightning.budget import TimeBudget
from tppsd.lightning.modules import TPPModule
from tppsd.lightning.processes import StartTogether
from tppsd.lightning.schedule import WarmupCosine
from tppsd.metrics.functional.likelihood import model_nll, process_nll
from tppsd.models.checkpoint import FORMAT_VERSION
from tppsd.models.renewal import fit_renewal
from tppsd.processes import fit_hawkes


@pytest.mark.parametrize("encoder", ["thp", "sahp", "attnhp"])
@pytest.mark.parametrize("process", ["hawkes", "multivariate_hawkes"])
def test_two_steps_move_every_parameter(encoder: str, process: str) -> None:
    """DDP without `find_unused_parameters` wants a gradient for each; the embedding of an absent token may be zero."""
    data = small_data(process=process)
    module = TargetTPP(data.num_marks, encoder=encoder, **SMALL)  # type: ignore[arg-type]
    before = {name: p.clone() for name, p in module.named_parameters()}
    trainer(max_steps=2).fit(module, datamodule=data)
    assert all(p.grad is not None for p in module.parameters())
    assert all(not torch.equal(before[name], p) for name, p in module.named_parameters())


@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler on a CPU")
def test_a_compiled_model_learns_the_same(tmp_path: Path) -> None:
    """Weights without a gradient (a key's bias) move with its rounding errors, so that likelihoods are compared."""
    data, scores = small_data(), []
    for compiled in (False, True):
        torch.manual_seed(0)
        module = TargetTPP(data.num_marks, num_layers=1, mark_decoder="independent", compile=compiled, **SMALL)
        before = model_nll(module.model, data.sequences("test"))
        model = load(fitted(module, tmp_path / f"{compiled}.ckpt", data, max_steps=3))
        scores.append(model_nll(model, data.sequences("test")))
        assert (module.model._compiled_call_impl is not None) == compiled  # what a call of the module runs
    assert scores[1] == pytest.approx(scores[0], abs=1e-5) and abs(scores[0] - before) > 1e-3


def test_default_sizes_of_target_and_draft() -> None:
    assert TargetTPP(3).model.num_layers == 2 and TargetTPP(3, num_events=1000).model.num_layers == 1
    assert DraftTPP(3).model.num_layers == DraftTPP(3, num_events=10**6).model.num_layers == 1
    given = TargetTPP(3, embed_dim=16, num_layers=4, dropout=0.3, num_events=1000)
    assert [given.model.config[name] for name in ("embed_dim", "num_layers", "dropout")] == [16, 4, 0.3]
    assert TargetTPP(3).forward(EventBatch.from_sequences(small_data().sequences("train")[:2])) is not None


@pytest.mark.parametrize("accumulated", [1, 2])
def test_training_nll_is_the_mean_since_the_last_log(accumulated: int, tmp_path: Path) -> None:
    """Over all events of three steps, whatever their batches; steps in between leave no line."""
    seen: list[tuple[float, int]] = []

    class Watch(Callback):
        def on_train_batch_end(
            self, trainer: object, pl_module: object, outputs: Any, batch: EventBatch, batch_idx: int
        ) -> None:
            seen.append((accumulated * float(outputs["loss"]), int(batch.mask.sum())))  # Lightning divides it

    data = small_data(batch_size=2)
    options = {
        "logger": CSVLogger(tmp_path),
        "log_every_n_steps": 3,
        "accumulate_grad_batches": accumulated,
        "callbacks": [Watch()],
    }
    trainer(max_steps=6, max_epochs=2, limit_val_batches=0, **options).fit(
        TargetTPP(data.num_marks, **SMALL), datamodule=data
    )
    logged = pd.read_csv(next(tmp_path.rglob("metrics.csv")))["train/nll"].tolist()
    stretches = [seen[: 3 * accumulated], seen[3 * accumulated :]]
    expected = [sum(loss * n for loss, n in part) / sum(n for _, n in part) for part in stretches]
    assert len(seen) == 6 * accumulated and logged == pytest.approx(expected, rel=1e-5)


def test_metrics_are_sums_over_all_sequences() -> None:
    """val and test NLL: whatever the batches, minus the sum of log-likelihoods over the number of scored events."""
    data = small_data(batch_size=1)
    module = TargetTPP(data.num_marks, **SMALL)
    run = trainer(max_steps=1)
    run.fit(module, datamodule=data)
    validated = run.validate(module, datamodule=data, verbose=False)[0]
    tested = run.test(module, datamodule=data, verbose=False)[0]

    both = {"window": "_window", "benchmark": "_benchmark"}
    for logged, split, conventions in ((validated, "validation", {"window": ""}), (tested, "test", both)):
        stage = "val" if split == "validation" else "test"
        batch = EventBatch.from_sequences(data.sequences(split))
        for convention, suffix in conventions.items():
            num_events = batch.lengths.sum() - (len(batch.lengths) if convention == "benchmark" else 0)
            with torch.no_grad():
                expected = -module.model.log_likelihood(batch, convention).sum() / num_events  # type: ignore[arg-type]
            nll, time, mark = (logged[f"{stage}/{name}{suffix}"] for name in ("nll", "nll_time", "nll_mark"))
            assert nll == pytest.approx(float(expected), rel=1e-6)
            assert nll == pytest.approx(time + mark, rel=1e-6)
        poisson = -poisson_log_likelihood(batch, data.statistics).sum() / batch.lengths.sum()
        assert logged[f"{stage}/nll_poisson"] == pytest.approx(float(poisson), rel=1e-9)


def test_poisson_baseline_is_the_poisson_likelihood() -> None:
    data = small_data()
    sequence, s = data.sequences("test")[0], data.statistics
    rate = s.num_events / s.duration
    by_hand = -rate * 8.0
    for mark in sequence.marks.tolist():
        by_hand += math.log(rate) + math.log((s.mark_counts[mark] + 1) / (s.num_events + 2))
    assert poisson_log_likelihood(EventBatch.from_sequences([sequence]), s).item() == pytest.approx(by_hand, rel=1e-12)


def test_checkpoint_is_self_contained_and_plain(tmp_path: Path) -> None:
    module = DraftTPP(2, encoder="sahp", dropout=0.1, **SMALL)
    path = fitted(module, tmp_path / "draft.ckpt")
    content = torch.load(path, weights_only=True)  # plain values only
    assert content["tppsd"]["format_version"] == FORMAT_VERSION
    assert content["tppsd"]["role"] == "draft"
    assert content["hyper_parameters"]["encoder"] == "sahp" and "optimizer" not in content["hyper_parameters"]
    core, lightning = load(path), DraftTPP.load_from_checkpoint(path, weights_only=True)
    assert core.content_hash() == lightning.model.content_hash() == module.model.content_hash()
    assert lightning.model.statistics == small_data().statistics


class StopAfter(Callback):
    """Ends a run as an interruption would, after whole epochs of the same plan."""

    def __init__(self, num_epochs: int) -> None:
        self.num_epochs = num_epochs

    def on_train_epoch_end(self, trainer, pl_module) -> None:
        trainer.should_stop = trainer.current_epoch + 1 == self.num_epochs


def test_a_resumed_run_equals_an_uninterrupted_one(tmp_path: Path) -> None:
    def module() -> TargetTPP:
        torch.manual_seed(1)
        return TargetTPP(2, **SMALL)

    whole, first, second = module(), module(), module()
    trainer(max_epochs=3).fit(whole, datamodule=small_data())
    path = fitted(first, tmp_path / "last.ckpt", max_epochs=3, callbacks=[StopAfter(2)])
    trainer(max_epochs=3).fit(second, datamodule=small_data(), ckpt_path=path, weights_only=True)
    assert second.model.content_hash() == whole.model.content_hash() != first.model.content_hash()


def test_a_trained_model_keeps_its_statistics(tmp_path: Path) -> None:
    """Its weights were learnt with them; other data would change its distribution before the first step."""
    module = TargetTPP.load_from_checkpoint(fitted(TargetTPP(2, **SMALL), tmp_path / "a.ckpt"), weights_only=True)
    before = module.model.statistics
    trainer().fit(module, datamodule=small_data(num_sequences=30))
    assert module.model.statistics == before


def test_bf16_mixed_trains_and_half_precision_is_refused() -> None:
    trainer(precision="bf16-mixed", max_steps=1).fit(TargetTPP(2, **SMALL), datamodule=small_data())
    with pytest.raises(ValueError, match=r"precision = 'bf16-true' would round event times; use 'bf16-mixed'"):
        trainer(precision="bf16-true").fit(TargetTPP(2, **SMALL), datamodule=small_data())


def test_mistakes_are_named(tmp_path: Path) -> None:
    data = small_data()
    with pytest.raises(ValueError, match=r"the data have num_marks = 2, but the model has num_marks = 3"):
        trainer().fit(TargetTPP(3, **SMALL), datamodule=data)
    with pytest.raises(ValueError, match=r"no statistics of a training split"):
        trainer().validate(TargetTPP(2, **SMALL), datamodule=data, verbose=False)
    path = fitted(TargetTPP(2, **SMALL), tmp_path / "a.ckpt")
    with pytest.raises(ValueError, match=r"trained with num_layers = 2, but this model has num_layers = 3"):
        trainer().validate(TargetTPP(2, num_layers=3, **SMALL), datamodule=data, ckpt_path=path, weights_only=True)


@pytest.mark.parametrize("number", [-1.0, math.nan, math.inf])
@pytest.mark.parametrize(
    ("kind", "name"),
    [(TimeBudget, "seconds"), (AveragedWeights, "power"), (StartTogether, "start_timeout"), (RenewalBaseline, "num_")],
)
def test_numbers_that_callbacks_cannot_have_are_refused_when_they_are_given(
    kind: Callable[[float], object], name: str, number: float
) -> None:
    """Mutant: numbers as they are. Averages of infinite power are NaN, an infinite budget ends at its tenth step."""
    with pytest.raises(ValueError, match=f"{name}.* = {number} must be"):
        kind(number)


def scheduled(module: TPPModule) -> WarmupCosine:
    run = trainer(max_epochs=5)
    run.fit(module, datamodule=small_data(batch_size=2))  # 8 steps per epoch
    scheduler = run.lr_scheduler_configs[0].scheduler
    assert isinstance(scheduler, WarmupCosine)
    return scheduler


def test_a_cosine_warms_up_and_ends_where_the_trainer_does() -> None:
    scheduler = scheduled(TargetTPP(2, lr_scheduler=WarmupCosine, **SMALL))
    assert scheduler.total_steps == 40 and scheduler.last_epoch == 40
    assert scheduler.factor(0) == pytest.approx(0.5) and scheduler.factor(1) == pytest.approx(1, abs=0.01)
    factors = [scheduler.factor(step) for step in range(1, 50)]
    assert factors == sorted(factors, reverse=True) and factors[-1] == pytest.approx(0.01)
    assert "total_steps" not in scheduler.state_dict()  # a plan, not a state


def test_optimiser_and_scheduler_are_the_users_choice() -> None:
    module = TargetTPP(
        2,
        optimizer=lambda params: torch.optim.SGD(params, lr=0.1),
        lr_scheduler=lambda optimizer: torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, patience=0),
        **SMALL,
    )
    run = trainer(max_epochs=2)
    run.fit(module, datamodule=small_data())
    assert isinstance(run.optimizers[0], torch.optim.SGD)
    assert run.lr_scheduler_configs[0].monitor == "val/nll"
    constant = TargetTPP(2, lr_scheduler=None, **SMALL)
    run.fit_loop.max_epochs = 3
    run.fit(constant, datamodule=small_data())
    assert not run.lr_scheduler_configs


def test_averaged_weights_are_kept_with_the_statistics_of_their_training_split(tmp_path: Path) -> None:
    """Lightning averages a copy of the module that it takes before the module has seen its data."""
    data = small_data()
    module = TargetTPP(data.num_marks, **SMALL)
    best = ModelCheckpoint(dirpath=tmp_path, filename="best", monitor="val/nll")
    averaging = EMAWeightAveraging(decay=0.5)
    run = trainer(max_epochs=2, enable_checkpointing=True, callbacks=[best, averaging])
    run.fit(module, datamodule=data)
    kept = load(best.best_model_path)
    assert kept.statistics == data.statistics
    batch = EventBatch.from_sequences(data.sequences("validation"))
    with torch.no_grad():
        scored = -kept.log_likelihood(batch).sum() / batch.lengths.sum()
    assert best.best_model_score is not None
    assert float(scored) == pytest.approx(float(best.best_model_score), rel=1e-5)


def test_the_renewal_baseline_is_logged_from_the_first_epoch_and_leaves_training_alone() -> None:
    data = small_data()
    weights = []
    for callbacks in ([], [RenewalBaseline(num_steps=20)]):
        torch.manual_seed(3)
        module = TargetTPP(data.num_marks, **SMALL)
        run = trainer(max_epochs=1, callbacks=callbacks)
        run.fit(module, datamodule=data)
        weights.append(torch.cat([p.detach().flatten() for p in module.parameters()]))
    renewal = fit_renewal(data.sequences("train"), data.statistics, num_steps=20)
    expected = model_nll(renewal, data.sequences("validation"))
    assert float(run.callback_metrics["val/nll_renewal"]) == pytest.approx(expected, rel=1e-6)
    assert torch.equal(*weights)


def test_testing_says_how_much_of_the_history_was_learnt(caplog: pytest.LogCaptureFixture) -> None:
    """Beside a Poisson process, the best renewal model, a fitted Hawkes process and, of simulated data, the truth."""
    data = small_data()
    torch.manual_seed(3)
    module = TargetTPP(data.num_marks, **SMALL)
    trainer(max_epochs=1).fit(module, datamodule=data)
    caplog.set_level("INFO")
    scores = trainer(callbacks=[RenewalBaseline(num_steps=20)]).test(module, datamodule=data, verbose=False)[0]
    test, process = data.sequences("test"), data.process_object
    true = -sum(process.log_likelihood(s) for s in test) / sum(len(s) for s in test)
    renewal = model_nll(fit_renewal(data.sequences("train"), data.statistics, num_steps=20), test)
    assert scores["test/nll_true"] == pytest.approx(true, rel=1e-6)
    assert scores["test/nll_renewal"] == pytest.approx(renewal, rel=1e-6)
    hawkes = fit_hawkes(data.sequences("train"), data.num_marks, pseudo_events=1.0).process
    assert scores["test/nll_hawkes"] == pytest.approx(process_nll(hawkes, test), rel=1e-6)
    assert scores["test/nll_hawkes"] < renewal
    nll, poisson = scores["test/nll_window"], scores["test/nll_poisson"]
    assert (f"{nll:.4f} nats per event beats a Poisson process ({poisson:.4f})" in caplog.text) == (nll < poisson)
    share = (renewal - scores["test/nll_window"]) / (renewal - true)
    assert scores["test/history_share"] == pytest.approx(share, rel=1e-4)
    assert (
        "test/nll_renewal"
        not in trainer(callbacks=[RenewalBaseline(0)]).test(module, datamodule=data, verbose=False)[0]
    )


def test_another_data_module_trains_without_the_baseline() -> None:
    """Loaders, `num_marks` and `statistics` are enough to fit; a renewal model needs the sequences."""
    source = small_data()

    class Loaders(LightningDataModule):
        num_marks, statistics = source.num_marks, source.statistics
        train_dataloader, val_dataloader, test_dataloader = (
            source.train_dataloader, source.val_dataloader, source.test_dataloader,
        )  # fmt: skip

    module, data = TargetTPP(2, **SMALL), Loaders()
    run = trainer(callbacks=[RenewalBaseline(num_steps=5)])
    run.fit(module, datamodule=data)
    assert "val/nll" in run.callback_metrics and "val/nll_renewal" not in run.callback_metrics
    assert "test/nll_renewal" not in run.test(module, datamodule=data, verbose=False)[0]
