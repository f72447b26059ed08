"""Artifacts of W&B: the facts of the data, checkpoints and samples, each with the run that made it and what it used.

Events are never uploaded with the data: their artifact holds numbers of them and a fingerprint.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from lightning.pytorch import Trainer
from lightning.pytorch.loggers import WandbLogger

from tppsd.lightning.datamodule import EventDataModule
from tppsd.models.checkpoint import CHECKPOINT_KEY, load, read_checkpoint


def wandb_runs(trainer: Trainer) -> list[Any]:
    """Return the runs of a Trainer's W&B loggers; empty on all ranks but zero."""
    if not trainer.is_global_zero:
        return []
    return [logger.experiment for logger in trainer.loggers if isinstance(logger, WandbLogger)]


def data_artifact(data: EventDataModule) -> Any:
    """Return the artifact of a data set: facts.json, and no events."""
    facts = data_facts(data)
    artifact = _artifact(data.dataset_name, "dataset", facts)
    with artifact.new_file("facts.json") as file:
        file.write(json.dumps(facts, indent=1))
    return artifact


def data_facts(data: EventDataModule) -> dict[str, Any]:
    """Return what is said of a data set: numbers of sequences and events, marks, unit, and a fingerprint of events."""
    fingerprint = hashlib.sha256()
    splits = {}
    for name, sequences in data.dataset.splits.items():
        for sequence in sequences:
            fingerprint.update(sequence.event_times.numpy().tobytes() + sequence.marks.numpy().tobytes())
        splits[name] = {"sequences": len(sequences), "events": sum(map(len, sequences))}
    return {
        "name": data.dataset_name,
        "path": None if data.path is None else str(data.path)[:300],
        "splits": splits,
        "num_marks": data.num_marks,
        "time_unit": data.statistics.time_unit,
        "sha256": fingerprint.hexdigest(),
    }


def model_artifact(checkpoint: Path, data_name: str, scores: Mapping[str, float] | None = None) -> Any:
    """Return the artifact of a checkpoint, with what the model is and scores.

    Args:
        checkpoint: of a training run, or of a model alone.
        data_name: of the data that it was trained on; the artifact is called after it and the model's role.
        scores: of the best epoch.
    """
    record = read_checkpoint(checkpoint)[CHECKPOINT_KEY]
    role = record.get("role", "model")
    about = {"role": role, "config": record["config"], "content_hash": load(checkpoint).content_hash()}
    if "distilled_from" in record:
        about["distilled_from"] = record["distilled_from"]
    artifact = _artifact(f"{data_name}-{role}", "model", {**about, **(scores or {})})
    artifact.add_file(str(checkpoint), name=checkpoint.name)
    return artifact


def samples_artifact(files: Iterable[Path], data_name: str, about: Mapping[str, Any]) -> Any:
    """Return the artifact of samples in Parquet files."""
    artifact = _artifact(f"{data_name}-samples", "samples", about)
    for file in files:
        artifact.add_file(str(file), name=file.name)
    return artifact


def use(run: Any, artifact: Any) -> None:
    """Record an artifact as what a run has used.

    W&B refuses to do so offline, although the file of an offline run can say it: what it does online is done there.
    """
    if not run.offline:
        run.use_artifact(artifact)
        return
    run._log_artifact(artifact, is_user_created=True, use_after_commit=True)


def _artifact(name: str, kind: str, about: Mapping[str, Any]) -> Any:
    """Return an artifact of that name, as far as W&B takes it: ASCII, and the last 128 characters."""
    import wandb

    return wandb.Artifact(re.sub(r"[^\w.-]+", "-", name, flags=re.ASCII)[-128:], type=kind, metadata=dict(about))
