"""Where a run goes on: the epoch and the batch that come next, as the Trainer's own counters say.

Lightning restores its counters, and nothing else: a loader begins its epoch anew. Some of the counters of a checkpoint
also say another thing than what was done. This file puts both right.
"""

from __future__ import annotations

from typing import Any

from lightning.pytorch import Trainer

from tppsd.data.batching import ResumableLoader


def mend_progress(fit_loop: dict[str, Any]) -> None:
    """Let the counters of a checkpoint say which batch comes next, in place.

    A checkpoint that is written when an epoch ends, or the next one begins, says that its epoch has no more batches.
    Where the run has `max_steps`, Lightning takes this for an epoch to be ended once more and counts it twice, so that
    the next one has the batches of the one after. A run that is stopped within an epoch (`max_steps`, `max_time`, a
    callback) says that its epoch is done, and the batches that are left would never be seen.

    Args:
        fit_loop: the state of Lightning's fit loop, of a checkpoint.
    """
    loaders = fit_loop.get("state_dict", {})
    if not any(loaders.get("combined_loader", [])):  # a ResumableLoader's, which is no concern of a loader without one
        loaders.pop("combined_loader", None)
    epoch, batch = fit_loop["epoch_progress"], fit_loop["epoch_loop.batch_progress"]
    if epoch["current"]["processed"] < epoch["current"]["started"]:
        return  # saved within an epoch
    is_whole = batch["is_last_batch"] or batch["current"]["ready"] == 0
    for each in (epoch["current"], epoch["total"]):
        if is_whole:
            each["ready"] = each["completed"] = each["processed"]
        else:
            each["processed"] = each["completed"] = each["started"] - 1
    if is_whole:
        batch["current"], batch["is_last_batch"] = dict.fromkeys(batch["current"], 0), False


def go_on(trainer: Trainer) -> None:
    """Let the Trainer's loader of training begin with the batch that comes next; to be called when training starts.

    That holds until the first step of this run is done. Every later iteration, and every other loader, has the whole
    epoch.
    """
    loop, loader = trainer.fit_loop.epoch_loop, trainer.train_dataloader
    progress, before = loop.batch_progress, loop.batch_progress.total.ready
    if isinstance(loader, ResumableLoader):
        loader.first_batch = lambda: progress.current.ready if progress.total.ready == before else 0
    if progress.current.ready == 0:  # there is no place within the epoch that Lightning would have to find again
        loop.restarting = False
