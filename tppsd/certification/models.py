"""The targets and drafts of the cells: small, made or trained within seconds, the same every time."""

from __future__ import annotations

import copy
import math
from functools import cache
from pathlib import Path
from typing import Any, cast

import torch

from tppsd.certification.cells import Cell
from tppsd.certification.closed_form import DISTORTIONS, ClosedFormTPP, DistortedTPP, rare_mark
from tppsd.data.batch import EventBatch
from tppsd.data.sequences import EventSequence
from tppsd.data.statistics import DataStatistics
from tppsd.models.checkpoint import load
from tppsd.models.transformer_tpp import TransformerTPP

MEAN_INTER_TIME = 0.4  # of the training data, about
_LENGTH = 40  # events
_SIZE = {"embed_dim": 16, "num_heads": 2, "num_components": 3}
_OTHER = {"thp": "sahp", "sahp": "attnhp", "attnhp": "rotary", "rotary": "thp"}
TRAINING_STEPS = 600
OWN_ENCODER = "own-encoder"  # kind of targets whose encoder native code does not know


@cache
def event_data(num_marks: int, num_sequences: int, seed: int) -> list[EventSequence]:
    """Simulate sequences of 40 events with memory.

    Both log inter-time and mark follow those of the event before the last one:

        log tau_i = c + 0.8 (log tau_{i-2} - c) + 0.6 e_i,   k_i = k_{i-2} + (0, 1 or 2) modulo num_marks

    so that a target must look back, and a wrong cache shows.
    """
    generator = torch.Generator().manual_seed(seed)
    deviations = torch.zeros(num_sequences, _LENGTH + 2, dtype=torch.float64)
    marks = torch.zeros(num_sequences, _LENGTH + 2, dtype=torch.int64)
    for i in range(2, _LENGTH + 2):
        noise = torch.randn(num_sequences, generator=generator, dtype=torch.float64)
        deviations[:, i] = 0.8 * deviations[:, i - 2] + 0.6 * noise
        marks[:, i] = (marks[:, i - 2] + torch.randint(3, (num_sequences,), generator=generator)) % num_marks
    times = (math.log(MEAN_INTER_TIME) - 0.5 + deviations[:, 2:]).exp().cumsum(1)
    rows = zip(times, marks[:, 2:], strict=True)
    return [EventSequence(time, mark.clone(), 0.0, float(time[-1]) + 0.1, i) for i, (time, mark) in enumerate(rows)]


def training_data(num_marks: int) -> list[EventSequence]:
    """Return the sequences that models are trained on."""
    return event_data(num_marks, 128, seed=0)


def make_lively(model: TransformerTPP) -> TransformerTPP:
    """Scale up the heads of an untrained model, so that its distributions differ much from history to history."""
    with torch.no_grad():
        model.decoder.to_mixture.weight.mul_(2.0)
        if model.decoder.marks is not None:
            model.decoder.marks.to_logits.weight.mul_(3.0)
    return model


def make_attentive(model: TransformerTPP) -> TransformerTPP:
    """Scale up what an untrained model makes of older events, so that a wrong cache shows."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("from_heads.weight"):
                parameter.mul_(4.0)
    return model


def with_own_encoder(target: TransformerTPP) -> TransformerTPP:
    """Return the same target with an encoder of another class, which native code does not know."""
    own = copy.deepcopy(target)
    own.encoder.__class__ = type(f"Own{type(own.encoder).__name__}", (type(own.encoder),), {})
    return own


def build(cell: Cell, folder: Path) -> tuple[Any, Any]:
    """Return (target, draft) of a cell; the draft may be None or the name of a drafter.

    Trained models are kept in `folder`.
    """
    target = _base(cell.encoder, cell, folder, num_layers=2)
    if cell.draft == "rare marks":
        target = DistortedTPP(target, rare_mark(0)).eval()
    if cell.draft == "none":
        return target, None
    if cell.draft in ("self", "jacobi", "poisson"):
        return target, cell.draft
    if cell.draft == "identical":
        return target, target
    if cell.draft in ("another model", "in two passes"):
        if isinstance(target, ClosedFormTPP):
            return target, target.moved(1, times=0.5, marks=0.7)
        return target, _base(_OTHER[cell.encoder], cell, folder, num_layers=1)
    base = target.model if isinstance(target, DistortedTPP) else target
    return target, DistortedTPP(base, DISTORTIONS[cell.draft]).eval()


def _base(encoder: str, cell: Cell, folder: Path, num_layers: int) -> Any:
    """Return a model of a cell by its encoder, made or trained where it is not kept already."""
    if encoder == "closed form":
        return ClosedFormTPP.swinging(cell.num_marks, seed=cell.num_marks)
    path = folder / f"{encoder}-{cell.num_marks}-{cell.weights}-{num_layers}.ckpt"
    if not path.exists():
        model = _train if cell.weights == "trained" else _untrained
        model(encoder, cell.num_marks, num_layers).save(path)
    return load(path)


def _untrained(encoder: str, num_marks: int, num_layers: int) -> TransformerTPP:
    """Return a model with random weights, scaled so that history matters."""
    decoder: Any = "independent" if encoder == "sahp" else "time_conditional"  # so that both are certified
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(num_layers)
        sizes: dict[str, Any] = {"num_layers": num_layers, "mark_decoder": decoder, **_SIZE}
        model = TransformerTPP(num_marks, cast(Any, encoder), **sizes)
    model.set_statistics(DataStatistics.of(training_data(num_marks), num_marks))
    return make_attentive(make_lively(model)).eval()


def _train(encoder: str, num_marks: int, num_layers: int) -> TransformerTPP:
    """Train a model for a few seconds with Adam on simulated events.

    It is no good model, but one whose weights are far from their initial ones.
    """
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
