"""Training that diverges ends at once, says where, and leaves the last good weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from lightning_helpers import SMALL, fitted, small_data, tppsd, trainer

from tppsd import EventBatch, TargetTPP, load
from tppsd.lightning.divergence import DivergedError, StopAtDivergence, all_finite

DATA = ["--data.process", "multivariate_hawkes", "--data.num_sequences", "20", "--data.t_end", "8"]
QUIET = ["--trainer.enable_progress_bar", "false", "--trainer.accelerator", "cpu", "--trainer.devices", "1"]
SIZE = ["--model.embed_dim", "8", "--model.num_heads", "2", "--trainer.log_every_n_steps", "1"]


@pytest.fixture(autouse=True)
def _somewhere_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


class Blind(StopAtDivergence):
    """A guard that looks at nothing: what the other tests must tell from the right one."""

    def on_before_optimizer_step(self, *_: Any) -> None: ...
    def on_train_batch_end(self, *_: Any) -> None: ...
    def on_validation_end(self, *_: Any) -> None: ...


def poison(module: TargetTPP, from_call: int, row: int) -> None:
    """From this call on, one row of the first block's output is not a number."""
    calls = [0]

    def hook(block: Any, arguments: Any, output: torch.Tensor) -> torch.Tensor:
        calls[0] += 1
        if calls[0] < from_call:
            return output
        mask = torch.zeros_like(output)
        mask[row] = torch.nan
        return output + mask

    module.model.encoder.blocks[0].register_forward_hook(hook)  # type: ignore[union-attr, operator]


def test_a_huge_learning_rate_is_no_success(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["fit", *DATA, *QUIET, *SIZE, "--trainer.max_epochs", "30", "--model.optimizer", "AdamW"]
    assert tppsd(*arguments, "--model.optimizer.lr", "1e3") == 2
    (error,) = [line for line in capsys.readouterr().err.splitlines() if "error:" in line]
    assert error.startswith("tppsd fit: error: training diverged")
    kept = Path("outputs/fit/version_0/checkpoints")
    for path in kept.glob("*.ckpt"):
        assert str(path) in error or path.name == "best.ckpt"
        assert all(p.isfinite().all() for p in load(path).parameters())
    assert tppsd(*arguments, "--model.optimizer.lr", "1e20") == 2


@pytest.mark.parametrize("accumulated", [1, 2])
def test_the_batch_the_sequences_and_the_module_are_named_and_kept(accumulated: int) -> None:
    """The third batch, of which one sequence is poisoned; its weights are those from before the step."""
    torch.manual_seed(0)
    module = TargetTPP(2, num_layers=2, **SMALL)
    poison(module, from_call=3, row=1)
    seen: list[list[int]] = []
    step = module.training_step
    module.training_step = (  # type: ignore[method-assign]
        lambda batch, batch_idx: (seen.append(batch.index.tolist()), step(batch, batch_idx))[1]
    )
    options: dict[str, Any] = {"enable_checkpointing": True, "logger": False, "default_root_dir": "run"}
    with pytest.raises(DivergedError, match="training diverged") as error:
        trainer(max_epochs=3, accumulate_grad_batches=accumulated, limit_val_batches=0, **options).fit(
            module, datamodule=small_data()
        )
    said = str(error.value)
    assert f"(epoch 0, batch 2, training sequences {seen[2][1]}): loss nan, not finite first in module" in said
    assert "module encoder.blocks.0;" in said and "gradient of model.encoder." in said
    content = torch.load(next(Path("run").rglob("diverged.pt")), weights_only=True)
    assert content["batch_idx"] == ([2] if accumulated == 1 else [2, 3]) and str(content["losses"][0]) == "nan"
    assert EventBatch(**content["batches"][0]).index.tolist() == seen[2]
    assert all_finite(value for value in content["state_dict"].values() if isinstance(value, torch.Tensor))


def test_a_step_that_breaks_a_weight_is_named() -> None:
    class Breaking(torch.optim.SGD):
        def step(self, closure: Any = None) -> Any:  # type: ignore[override]
            loss = super().step(closure)
            self.param_groups[0]["params"][-1].data.view(-1)[0] = torch.inf
            return loss

    module = TargetTPP(2, optimizer=lambda parameters: Breaking(parameters, 0.01), lr_scheduler=None, **SMALL)
    last = [name for name, _ in module.named_parameters()][-1]
    with pytest.raises(DivergedError, match=rf"batch 0, .* after the step, parameter of {last} not finite"):
        trainer().fit(module, datamodule=small_data())
    assert not list(Path().iterdir()), "a run that keeps nothing keeps nothing of this"


def test_a_gradient_alone_is_enough() -> None:
    """The loss is finite, its derivative is not."""
    module = TargetTPP(2, **SMALL)
    before = {name: value.clone() for name, value in module.named_parameters()}
    weight = module.model.decoder.to_mixture.weight
    weight.register_hook(lambda gradient: gradient * torch.inf)
    with pytest.raises(DivergedError, match=r"gradient of model.decoder.to_mixture.weight not finite"):
        trainer().fit(module, datamodule=small_data())
    assert all(torch.equal(before[name], value) for name, value in module.named_parameters())


def test_a_score_that_is_not_finite_never_is_the_best(monkeypatch: pytest.MonkeyPatch) -> None:
    module = TargetTPP(2, **SMALL)
    step = module.validation_step

    def infinite(batch: EventBatch, batch_idx: int) -> None:
        step(batch._replace(t_end=batch.t_end + torch.inf), batch_idx)

    module.validation_step = infinite  # type: ignore[method-assign]
    with pytest.raises(DivergedError, match=r"val/nll = (inf|nan) after step 4"):
        trainer(enable_checkpointing=True, default_root_dir="run").fit(module, datamodule=small_data())
    assert not list(Path("run").rglob("*.ckpt"))


def test_these_tests_tell_a_blind_guard_from_the_right_one() -> None:
    module = TargetTPP(2, num_layers=2, **SMALL)
    poison(module, from_call=3, row=1)
    trainer(max_epochs=2, callbacks=[Blind()]).fit(module, datamodule=small_data())
    assert not all_finite(module.parameters())


def test_ordinary_training_is_left_alone() -> None:
    """The same weights with and without a guard; values whose norm overflows are no alarm."""
    hashes = []
    for callbacks in ([], [Blind()]):
        torch.manual_seed(0)
        module = TargetTPP(2, dropout=0.1, **SMALL)
        trainer(max_epochs=2, callbacks=callbacks, gradient_clip_val=1.0).fit(module, datamodule=small_data())
        hashes.append(module.model.content_hash())
    assert hashes[0] == hashes[1]
    large = [torch.tensor([1e30, -1e30]), torch.zeros(0), torch.ones(2, dtype=torch.float64), torch.tensor(3)]
    assert all_finite(large) and all_finite([])
    for wrong in (torch.nan, torch.inf, -torch.inf):
        assert not all_finite([*large, torch.tensor([0.0, wrong])])


def test_weights_that_are_not_finite_are_nothing_to_go_on_from(capsys: pytest.CaptureFixture[str]) -> None:
    content = torch.load(fitted(TargetTPP(2, **SMALL), Path("good.ckpt")), weights_only=True)
    del content["content_sha256"]
    content["state_dict"]["model.decoder.to_mixture.bias"][0] = torch.nan
    torch.save(content, "nan.ckpt")
    for arguments in (["fit", *SIZE, "--trainer.max_epochs", "2"], ["validate"], ["test"]):
        assert tppsd(*arguments, *DATA, *QUIET, "--ckpt_path", "nan.ckpt") == 2
        said = capsys.readouterr().err
        assert "nan.ckpt: parameter model.decoder.to_mixture.bias has values that are not finite" in said
    assert not Path("outputs").exists() or not list(Path("outputs").rglob("*.ckpt"))
    assert tppsd("predict", *QUIET, "--model.target", "nan.ckpt", "--requests.num_events", "2") == 2
    assert "parameter decoder.to_mixture.bias has values that are not finite" in capsys.readouterr().err
