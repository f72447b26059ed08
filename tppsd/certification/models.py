"""Targets and drafts of the cells: small, made or trained within seconds, the same every time."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import torch

from tppsd.certification.cells import Cell
from tppsd.certification.closed_form import ClosedFormTPP
from tppsd.certification.distorted import DISTORTIONS, DistortedTPP, rare_mark
from tppsd.data.sequences import EventBatch, EventSequence
from tppsd.data.statistics import DataStatistics
from tppsd.models.checkpoint import load
from tppsd.models.transformer_tpp import TransformerTPP
from tppsd.processes.hawkes import Hawkes

MEAN_INTER_TIME = 0.4  # about, of the process that targets are trained on
_SIZE = {"embed_dim": 16, "num_heads": 2, "num_components": 3}
_OTHER = {"thp": "sahp", "sahp": "attnhp", "attnhp": "thp"}
TRAINING_STEPS = 300


@cache
def event_data(num_marks: int, num_sequences: int, seed: int) -> list[EventSequence]:
    """Hawkes times, about 2.5 events per unit of time, on [0, 20]; each mark is the one before plus 0, 1 or 2, modulo num_marks."""
    generator = torch.Generator().manual_seed(seed)
    sequences = []
    for whole in Hawkes(1.25, 1.0, 2.0).simulate(num_sequences, t_end=20.0, seed=seed):
        marks = torch.randint(3, (len(whole),), generator=generator).cumsum(0) % num_marks
        sequences.append(EventSequence(whole.event_times, marks, whole.t_start, whole.t_end, whole.index))
    return sequences


def training_data(num_marks: int) -> list[EventSequence]:
    return event_data(num_marks, 128, seed=0)


def make_lively(model: TransformerTPP) -> TransformerTPP:
    """Scale up the heads of an untrained model, so that its laws differ much from history to history."""
    with torch.no_grad():
        model.decoder.to_mixture.weight.mul_(2.0)
        if model.decoder.marks is not None:
            model.decoder.marks.to_logits.weight.mul_(3.0)
    return model


def build(cell: Cell, folder: Path) -> tuple[Any, Any]:
    """(target, draft) of a cell; the draft may be None or the name of a drafter. Trained models are kept in `folder`."""
    target = _base(cell.encoder, cell, folder, num_layers=2)
    if cell.draft == "rare marks":
        target = DistortedTPP(target, rare_mark(0)).eval()
    if cell.draft == "none":
        return target, None
    if cell.draft in ("self", "poisson"):
        return target, cell.draft
    if cell.draft == "identical":
        return target, target
    if cell.draft == "another model":
        if isinstance(target, ClosedFormTPP):
            return target, target.moved(1, times=0.5, marks=0.7)
        return target, _base(_OTHER[cell.encoder], cell, folder, num_layers=1)
    base = target.model if isinstance(target, DistortedTPP) else target
    return target, DistortedTPP(base, DISTORTIONS[cell.draft]).eval()


def _base(encoder: str, cell: Cell, folder: Path, num_layers: int) -> Any:
    if encoder == "closed form":
        return ClosedFormTPP.random(cell.num_marks, seed=cell.num_marks)
    path = folder / f"{encoder}-{cell.num_marks}-{cell.weights}-{num_layers}.ckpt"
    if not path.exists():
        model = _train if cell.weights == "trained" else _untrained
        model(encoder, cell.num_marks, num_layers).save(path)
    return load(path)


def _untrained(encoder: str, num_marks: int, num_layers: int) -> TransformerTPP:
    decoder: Any = "independent" if encoder == "sahp" else "time_conditional"  # so that both are certified
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(num_layers)
        model = TransformerTPP(num_marks, encoder, num_layers=num_layers, mark_decoder=decoder, **_SIZE)  # type: ignore[arg-type]
    model.set_statistics(DataStatistics.of(training_data(num_marks), num_marks))
    return make_lively(model).eval()


def _train(encoder: str, num_marks: int, num_layers: int) -> TransformerTPP:
    """A few seconds of Adam on simulated events: no good model, but one whose weights are far from their initial ones."""
    model = _untrained(encoder, num_marks, num_layers).train()
    data = training_data(num_marks)
    generator = torch.Generator().manual_seed(0)
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    for _ in range(TRAINING_STEPS):
        which = torch.randint(len(data), (16,), generator=generator).tolist()
        batch = EventBatch.from_sequences([data[i] for i in which])
        loss = -model.log_likelihood(batch).sum() / model.num_scored(batch).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model.eval()
