"""Training, validation and test on windows that are scored in part: what they give is what whole windows give."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning_helpers import SMALL, fitted, small_data, trainer
from small_models import random_sequence
from torch.utils.data import DataLoader
from windows import OF_BATCHES, cut_in_two, tiled

from tppsd import DraftTPP, TargetTPP
from tppsd.data.batch import EventBatch
from tppsd.data.sequences import EventSequence
from tppsd.data.statistics import DataStatistics
from tppsd.lightning.distillation import Distillation

NUM_WINDOWS = 4


def windows() -> list[EventSequence]:
    """With given first events, so that both conventions score the same events."""
    return [random_sequence(12, seed=i, given=True) for i in range(NUM_WINDOWS)]


def parts() -> list[EventSequence]:
    """The same windows in five parts each, in the order of time."""
    rows = []
    for window in windows():
        edges = torch.linspace(window.window_start, window.window_end, 6, dtype=torch.float64).tolist()
        rows += tiled(window, edges)
    return [replace(row, index=i) for i, row in enumerate(rows)]


def loader(sequences: list[EventSequence]) -> DataLoader:
    """All of them in one batch."""
    return DataLoader(sequences, batch_size=len(sequences), collate_fn=EventBatch.from_sequences)  # type: ignore[arg-type]


def module(**settings: Any) -> TargetTPP:
    torch.manual_seed(0)
    made = TargetTPP(3, lr_scheduler=None, optimizer=lambda p: torch.optim.SGD(p, lr=0.05), **SMALL, **settings)
    made.model.set_statistics(DataStatistics.of(windows(), num_marks=3))
    return made.double()


def weights_after_training(sequences: list[EventSequence]) -> torch.Tensor:
    trained = module()
    trainer(max_epochs=4, precision="64-true").fit(trained, train_dataloaders=loader(sequences))
    return torch.nn.utils.parameters_to_vector(trained.parameters()).detach()


def test_training_on_the_parts_of_windows_is_training_on_the_windows() -> None:
    """By SGD, whose steps show by what the loss is divided; so does a mutant that divides by all events."""
    start = torch.nn.utils.parameters_to_vector(module().parameters()).detach()
    whole = weights_after_training(windows())
    assert (whole - start).abs().max() > 1e-3
    torch.testing.assert_close(weights_after_training(parts()), whole, rtol=0, atol=1e-12)
    with OF_BATCHES["lengths for num_scored"]():
        assert (weights_after_training(parts()) - whole).abs().max() > 1e-4


@pytest.mark.parametrize("stage", ["validate", "test"])
def test_scores_of_the_parts_are_those_of_the_windows(stage: str) -> None:
    """Every one of them: NLL in both conventions, baselines, calibration, CRPS, accuracies."""
    scored = module()
    run = trainer(precision="64-true")
    scores = [getattr(run, stage)(scored, dataloaders=loader(rows), verbose=False)[0] for rows in (windows(), parts())]
    assert scores[0].keys() == scores[1].keys() and len(scores[0]) >= 4
    for name, value in scores[0].items():
        assert scores[1][name] == pytest.approx(value, rel=1e-6), name


def test_a_draft_is_compared_where_something_is_scored(tmp_path: Path) -> None:
    fitted(TargetTPP(2, **SMALL), tmp_path / "target.ckpt", small_data())
    distillation = Distillation(tmp_path / "target.ckpt")
    distillation.load(2)
    draft = DraftTPP(2, **SMALL).model
    window = random_sequence(6, num_marks=2, seed=3)
    second = cut_in_two(window, float(window.event_times[3]))[1]
    second = replace(second, index=window.index)
    with torch.no_grad():
        whole, part = (
            distillation.overlap(draft(batch), batch, step=0)
            for batch in (EventBatch.from_sequences([rows]) for rows in (window, second))
        )
    assert len(whole[0]) == 7 and len(part[0]) == second.num_scored + 1 == 4
    torch.testing.assert_close(part[0], whole[0][3:])
