"""What tests/test_ddp.py runs on one process (imported) and on two (as a script, which Lightning starts once more).

python tests/support/ddp_script.py FOLDER DRAFT: fit on two processes with the callback, test, compute every metric,
then predict, and leave what came of it in FOLDER.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import seed_everything
from lightning_helpers import SMALL, small_data, trainer
from metric_cases import results

from tppsd import Distillation, DraftTPP, Sampler, SampleWriter, SamplingOptions, SpeculativeSampling, TargetTPP
from tppsd.lightning.requests import Requests

GLOBAL_BATCH = 6  # 16 sequences: batches of 5 and 6, which two processes share unevenly
PRECISION = "64-true"  # so that only a wrong reduction can make a difference


def fit_and_predict(folder: Path, world_size: int, draft: Path) -> None:
    """Leave fit.pt, distilled.pt (weights and metrics), RANK.pt (of every metric class), target.ckpt and samples/ in
    `folder`."""
    distributed = {"devices": world_size, "strategy": "ddp" if world_size > 1 else "auto"}
    seed_everything(0, verbose=False)
    callback = SpeculativeSampling(
        draft=draft, every_n_epochs=1, num_sequences=3, options=SamplingOptions(draft_length=3)
    )
    module = TargetTPP(2, **SMALL)
    run = trainer(max_epochs=3, precision=PRECISION, gradient_clip_val=1.0, callbacks=[callback], **distributed)
    run.fit(module, datamodule=small_data(batch_size=GLOBAL_BATCH // world_size))
    metrics = {name: float(value) for name, value in run.callback_metrics.items()}
    run.save_checkpoint(folder / "target.ckpt")
    metrics |= run.test(module, datamodule=small_data(batch_size=GLOBAL_BATCH // world_size), verbose=False)[0]
    torch.save(results(run.global_rank, world_size), folder / f"{run.global_rank}.pt")
    if run.is_global_zero:
        torch.save({"weights": module.state_dict(), "metrics": metrics}, folder / "fit.pt")

    seed_everything(1, verbose=False)
    distilled = DraftTPP(2, distillation=Distillation(folder / "target.ckpt", nll_weight=1.0), **SMALL)
    run = trainer(max_epochs=2, precision=PRECISION, **distributed)
    run.fit(distilled, datamodule=small_data(batch_size=GLOBAL_BATCH // world_size))
    metrics = {name: float(value) for name, value in run.callback_metrics.items()}
    if run.is_global_zero:
        torch.save({"weights": distilled.state_dict(), "metrics": metrics}, folder / "distilled.pt")

    predict(folder / "samples", folder / "target.ckpt", draft, **distributed)
    few = Requests(3, num_events=4)  # one chunk: nothing for a second process
    writer = SampleWriter(folder / "few")
    trainer(callbacks=[writer], **distributed).predict(
        Sampler(folder / "target.ckpt"), few.loader(), return_predictions=False
    )


def predict(samples: Path, target: Path, draft: Path, **distributed: Any) -> int:
    """Five chunks, 3 and 2 for two processes; returns how many of their nine sequences this process has written."""
    requests = Requests(1, "train", max_histories=9, given_fraction=0.3, chunk_size=2)
    writer, sampler = SampleWriter(samples), Sampler(target, draft, seed=4)
    trainer(callbacks=[writer], **distributed).predict(sampler, requests.loader(small_data()), return_predictions=False)
    return writer.num_sequences


if __name__ == "__main__":
    fit_and_predict(Path(sys.argv[1]), 2, Path(sys.argv[2]))
