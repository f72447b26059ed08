"""`EventDataModule`: lazy properties, ties, simulated processes, loaders, and Lightning leaving the sampler in
place."""

from __future__ import annotations

import logging
from itertools import chain
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from test_data_reading import SPLITS, Rows, full, write
from torch import Tensor
from torch.utils.data import DataLoader

from tppsd import EventBatch, EventDataModule
from tppsd.data import reading
from tppsd.data.sequences import EventSequence
from tppsd.lightning import datamodule


def folder(tmp_path: Path, splits: dict[str, Rows] = SPLITS) -> str:
    for split, rows in splits.items():
        write(tmp_path / f"{split}.parquet", full(rows))
    return str(tmp_path)


def with_times(*times: list[float]) -> Rows:
    return [{"time_since_start": row, "type_event": [0] * len(row)} for row in times]


def indices(loader: DataLoader) -> list[int]:
    return [index for batch in loader for index in batch.index.tolist()]


def test_properties_need_no_setup_and_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reads: list[str] = []

    def read_dataset(path: str, **options: Any) -> reading.EventDataset:
        reads.append(path)
        return reading.read_dataset(path, **options)

    monkeypatch.setattr(datamodule, "read_dataset", read_dataset)
    data = EventDataModule(path=folder(tmp_path), time_unit="h")
    assert not reads
    assert (data.num_marks, data.dataset_name, data.process_object) == (3, tmp_path.name, None)
    assert len(data.sequences("train")) == 2 and len(data.sequences("val")) == 1
    statistics = data.statistics
    data.setup("fit")
    assert data.statistics is statistics and len(reads) == 1
    assert (statistics.num_marks, statistics.num_events, statistics.time_unit) == (3, 3, "h")
    assert statistics.first_is_given and statistics.first_mark_counts == (1, 0, 1)


def test_statistics_are_of_the_training_split_only(tmp_path: Path) -> None:
    data = EventDataModule(path=folder(tmp_path, SPLITS | {"test": with_times([0.0, 1e6])}))
    assert data.statistics.time_scale == pytest.approx((0.5 + 1.5 + 0.25) / 3)


def test_mark_names_reach_the_statistics(tmp_path: Path) -> None:
    rows = [{"sequence": 0, "time": 0.5 * i, "mark": name} for i, name in enumerate(["taxi", "bus", "taxi"])]
    for split in SPLITS:
        write(tmp_path / f"{split}.csv", rows)
    assert EventDataModule(path=str(tmp_path)).statistics.mark_names == ("bus", "taxi")


class TestTies:
    tied = SPLITS | {"train": with_times([0.0, 1.0, 1.0, 1.5], [0.0, 0.25]), "test": with_times([0.0, 2.0, 2.0])}

    def told(self, data: EventDataModule, caplog: pytest.LogCaptureFixture) -> list[str]:
        with caplog.at_level(logging.INFO, logger="lightning.pytorch.utilities.rank_zero"):
            _ = data.statistics
        return [record.getMessage() for record in caplog.records]

    def test_default_floor_is_half_the_smallest_positive_inter_time(self, tmp_path: Path, caplog: Any) -> None:
        data = EventDataModule(path=folder(tmp_path, self.tied))
        assert self.told(data, caplog) == [
            f"{tmp_path.name}: 2 of 7 inter-times are ties (train 1, validation 0, test 1), "
            "floored at 0.125 in training and scoring: half the smallest positive inter-time of the training split; "
            "events of a tie keep the order of the data, on which the score of their marks depends"
        ]
        assert (data.statistics.min_inter_time, data.statistics.num_ties) == (0.125, 1)
        assert data.sequences("train")[0].inter_times.tolist() == [0.0, 1.0, 0.0, 0.5]  # the data keep their ties

    def test_declared_floor(self, tmp_path: Path, caplog: Any) -> None:
        data = EventDataModule(path=folder(tmp_path, self.tied), min_inter_time=0.3)
        assert self.told(data, caplog) == [
            f"{tmp_path.name}: 3 of 7 inter-times are ties (train 2, validation 0, test 1), "
            "floored at 0.3 in training and scoring: as min_inter_time says; "
            "events of a tie keep the order of the data, on which the score of their marks depends"
        ]
        assert (data.statistics.min_inter_time, data.statistics.num_ties) == (0.3, 2)

    def test_declared_absence_of_a_floor(self, tmp_path: Path, caplog: Any) -> None:
        data = EventDataModule(path=folder(tmp_path, self.tied), min_inter_time=0)
        assert self.told(data, caplog) == [
            f"{tmp_path.name}: 2 of 7 inter-times are 0 (train 1, validation 0, test 1); "
            "min_inter_time = 0 leaves them without a density"
        ]
        assert data.statistics.min_inter_time == 0

    def test_no_ties_no_floor_no_word(self, tmp_path: Path, caplog: Any) -> None:
        data = EventDataModule(path=folder(tmp_path))
        assert self.told(data, caplog) == [] and data.statistics.min_inter_time == 0

    def test_ties_in_another_split_need_a_floor_too(self, tmp_path: Path) -> None:
        data = EventDataModule(path=folder(tmp_path, SPLITS | {"test": with_times([0.0, 2.0, 2.0])}))
        assert data.statistics.min_inter_time == 0.125 and data.statistics.num_ties == 0

    def test_given_first_events_are_no_ties(self, tmp_path: Path) -> None:
        rows = with_times([0.0, 1.0], [0.0, 2.0])
        splits = dict.fromkeys(SPLITS, rows)
        assert EventDataModule(path=folder(tmp_path, splits)).statistics.min_inter_time == 0
        assert EventDataModule(path=folder(tmp_path, splits), t_start=0).statistics.num_ties == 2

    @pytest.mark.parametrize("floor", [-0.1, float("nan"), float("inf")])
    def test_impossible_floor(self, floor: float) -> None:
        with pytest.raises(ValueError, match=f"min_inter_time = {floor} must be a finite number of at least 0"):
            EventDataModule(path="x", min_inter_time=floor)


def test_ignored_files_are_reported(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = folder(tmp_path, SPLITS | {"official_validation": SPLITS["test"]})
    with caplog.at_level(logging.INFO, logger="lightning.pytorch.utilities.rank_zero"):
        _ = EventDataModule(path=path).num_marks
    assert "ignored official_validation.parquet" in caplog.text


class TestProcess:
    def test_simulated_data(self) -> None:
        data = EventDataModule(process="multivariate_hawkes", num_sequences=20, t_end=5.0, fractions=(0.5, 0.25, 0.25))
        assert (data.num_marks, data.dataset_name) == (2, "multivariate_hawkes")
        assert data.process_object is not None and data.process_object.num_marks == 2
        assert "dataset" not in vars(data)  # nothing simulated yet
        assert {split: len(part) for split, part in data.dataset.splits.items()} == {
            "train": 10,
            "validation": 5,
            "test": 5,
        }
        test = data.sequences("test")
        assert [sequence.index for sequence in test] == [0, 1, 2, 3, 4]
        assert {(sequence.t_start, sequence.t_end) for sequence in test} == {(0.0, 5.0)}
        assert data.sequences("test") is test
        assert not data.statistics.first_is_given and data.statistics.min_inter_time == 0

    def test_splits_do_not_share_sequences_and_depend_on_the_seed(self) -> None:
        def times(seed: int) -> list[list[float]]:
            data = EventDataModule(process="hawkes", num_sequences=10, t_end=2.0, seed=seed)
            return [sequence.event_times.tolist() for part in data.dataset.splits.values() for sequence in part]

        assert times(0) == times(0)
        assert all(not set(one) & set(other) for i, one in enumerate(times(0)) for other in times(0)[:i])
        assert times(0) != times(1)

    def test_too_few_sequences(self) -> None:
        with pytest.raises(
            ValueError, match=r"hawkes: fractions = \(0.8, 0.1, 0.1\) of 2 sequences leave the validation split"
        ):
            _ = EventDataModule(process="hawkes", num_sequences=2).dataset


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, "give either path (data) or process (a preset to simulate); got path = None and process = None"),
        (
            {"path": "a", "process": "hawkes"},
            "give either path (data) or process (a preset to simulate); got path = 'a' and process = 'hawkes'",
        ),
        ({"path": "a", "batch_size": 0}, "batch_size = 0 must be at least 1"),
        (
            {"path": "a", "num_workers": -1},
            "num_workers = -1 must be from 0 to 1,024 (0: batches are prepared in this process)",
        ),
        (
            {"path": "a", "num_workers": 10**9},
            "num_workers = 1000000000 must be from 0 to 1,024 (0: batches are prepared in this process)",
        ),
        (
            {"path": "a", "num_sequences": 5},
            "num_sequences = 5 is for a simulated process; the data at a have the number they have",
        ),
        (
            {"path": [EventSequence.of([0.5], [0], t_start=0.0)] * 3000, "num_sequences": 3},
            "num_sequences = 3 is for a simulated process; the data in a list have the number they have",
        ),
        (
            {"process": "hawkes", "columns": {"time": "t"}},
            "columns = {'time': 't'} is for data at a path; the process hawkes has no columns",
        ),
    ],
)
def test_option_mistakes(options: dict[str, Any], expected: str) -> None:
    with pytest.raises(ValueError) as error:
        EventDataModule(**options)
    assert str(error.value) == expected


def test_unknown_process() -> None:
    with pytest.raises(ValueError, match="there is no process preset 'hawk'; choose one of"):
        EventDataModule(process="hawk")


@pytest.mark.parametrize("num_workers", [0, 1])
def test_loaders_hold_every_sequence_once(num_workers: int) -> None:
    data = EventDataModule(process="hawkes", num_sequences=50, t_end=4.0, batch_size=7, num_workers=num_workers)
    for loader, num_sequences in [
        (data.train_dataloader(), 40),
        (data.val_dataloader(), 5),
        (data.test_dataloader(), 5),
    ]:
        assert sorted(indices(loader)) == list(range(num_sequences))
        assert len(loader) == -(-num_sequences // 7)
        batch = next(iter(loader))
        assert isinstance(batch, EventBatch) and batch.event_times.dtype == torch.float64 and len(batch.index) <= 7


def test_batch_is_the_sequences_with_its_index() -> None:
    data = EventDataModule(process="multivariate_hawkes", num_sequences=20, t_end=4.0, batch_size=4)
    train = data.sequences("train")
    for batch in data.train_dataloader():
        expected = EventBatch.from_sequences([train[index] for index in batch.index.tolist()])
        assert all(torch.equal(field, other) for field, other in zip(batch, expected, strict=True))


def test_two_processes_share_what_one_process_has() -> None:
    def loader(world_size: int, rank: int, batch_size: int, split: str) -> DataLoader:
        data = EventDataModule(
            process="hawkes", num_sequences=60, t_end=2.0, batch_size=batch_size, fractions=(0.5, 0.25, 0.25)
        )
        data.trainer = SimpleNamespace(world_size=world_size, global_rank=rank, overfit_batches=0)  # type: ignore[assignment]
        return data.train_dataloader() if split == "train" else data.test_dataloader()

    for split, n in (("train", 30), ("test", 15)):
        first, second, alone = loader(2, 0, 4, split), loader(2, 1, 4, split), loader(1, 0, 8, split)
        steps = [sorted([*one.index.tolist(), *two.index.tolist()]) for one, two in zip(first, second, strict=True)]
        assert steps == [sorted(batch.index.tolist()) for batch in alone]
        assert sorted(chain(*steps)) == list(range(n))


def test_global_generator_is_not_touched() -> None:
    torch.manual_seed(11)
    before = torch.get_rng_state()
    data = EventDataModule(process="hawkes", num_sequences=20, t_end=2.0, batch_size=4)
    data.setup("fit")
    for loader in (data.train_dataloader(), data.val_dataloader(), data.test_dataloader()):
        indices(loader)
    assert torch.equal(torch.get_rng_state(), before)


class Recorder(LightningModule):
    """Keeps the indices of every epoch's batches."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.train_epochs: list[list[list[int]]] = []
        self.val_epochs: list[list[list[int]]] = []

    def on_train_epoch_start(self) -> None:
        self.train_epochs.append([])

    def training_step(self, batch: EventBatch, batch_idx: int) -> Tensor:
        self.train_epochs[-1].append(batch.index.tolist())
        return self.weight * batch.mask.sum()

    def on_validation_epoch_start(self) -> None:
        self.val_epochs.append([])

    def validation_step(self, batch: EventBatch, batch_idx: int) -> None:
        self.val_epochs[-1].append(batch.index.tolist())

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def trainer(tmp_path: Path, **options: Any) -> Trainer:
    quiet = {
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
    }
    return Trainer(accelerator="cpu", default_root_dir=tmp_path, **(quiet | options))


def test_trainer_advances_the_epoch(tmp_path: Path) -> None:
    data = EventDataModule(process="hawkes", num_sequences=50, t_end=2.0, batch_size=8)
    model = Recorder()
    trainer(tmp_path, max_epochs=2, num_sanity_val_steps=0).fit(model, datamodule=data)
    first, second = model.train_epochs
    assert first != second
    assert sorted(chain(*first)) == sorted(chain(*second)) == list(range(40))
    assert model.val_epochs[0] == model.val_epochs[1] and sorted(chain(*model.val_epochs[0])) == list(range(5))


def test_overfit_batches_repeats_whole_batches(tmp_path: Path) -> None:
    data = EventDataModule(process="hawkes", num_sequences=50, t_end=2.0, batch_size=8)
    model = Recorder()
    trainer(tmp_path, max_epochs=2, overfit_batches=1).fit(model, datamodule=data)
    assert model.train_epochs == [[list(range(8))]] * 2


def test_lightning_leaves_the_sampler_in_place_in_distributed_runs(tmp_path: Path) -> None:
    """The condition on which Lightning wraps a loader's sampler, without the user setting use_distributed_sampler."""
    data = EventDataModule(process="hawkes", num_sequences=50, t_end=2.0, batch_size=8)
    connector = trainer(tmp_path, strategy="ddp", devices=2)._data_connector
    for loader in (data.train_dataloader(), data.val_dataloader(), data.test_dataloader()):
        assert not connector._requires_distributed_sampler(loader)
    assert connector._requires_distributed_sampler(DataLoader(dataset=data.sequences("train")))  # type: ignore[arg-type]
