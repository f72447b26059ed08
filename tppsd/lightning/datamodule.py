"""`EventDataModule`: a data set or a simulated process, as Lightning wants it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields, replace
from functools import cached_property
from pathlib import Path
from typing import Any, cast

import torch
from lightning.pytorch import LightningDataModule, Trainer
from lightning.pytorch.utilities import rank_zero_info
from torch.utils.data import DataLoader, Dataset

from tppsd.data.batch import EventBatch
from tppsd.data.batching import LengthBucketSampler, ResumableLoader, SequenceDataset
from tppsd.data.flat_sequences import FlatSequences
from tppsd.data.options import FRACTIONS, ReadOptions
from tppsd.data.reading import EventDataset, read_dataset
from tppsd.data.remarks import check_floor, default_floor, describe_ties, remarks
from tppsd.data.sequences import EventSequence
from tppsd.data.splits import cut
from tppsd.data.statistics import DataStatistics
from tppsd.processes.base import Process
from tppsd.processes.presets import Preset, preset

_MOST_WORKERS = 1024  # processes that a loader starts: far above any use, and refused before the first


class EventDataModule(LightningDataModule):
    """Event sequences in splits, read from `path` or simulated from the preset `process`, in length-bucketed batches.

    `num_marks`, `num_events`, `statistics`, `sequences(split)` and `process_object` need no `setup()`: the data are
    read or simulated on first use, once.

    Args:
        path: folder of split files, one file (Parquet, CSV, TSV, JSON, JSON lines, Feather, compressed or not), a hub
            id such as easytpp/taxi, or a URL; in Python also a table of pandas, polars, Arrow or datasets, a list of
            EventSequence, or a dict of them by split.
        process: name of a process preset to simulate instead.
        batch_size: sequences per batch and process (batches are balanced: they may have fewer).
        columns: field -> column name, for the fields time, mark, sequence, inter_time, length, num_marks, t_start,
            t_end; null for a field that is not read.
        fractions: shares of train, validation and test, where the data come in one piece.
        t_start: start of every sequence's window, a number or a timestamp; without one (and no such column) the first
            event is given.
        t_end: end of every sequence's window: a number, a timestamp, the name of a column, or "last", the last time of
            the log; without one the window ends at the last event.
        min_inter_time: floor of the inter-times in training and scoring; without one, half the smallest positive
            inter-time of the training split if there are ties, else none.
        num_sequences: how many sequences to simulate in all splits together.
        seed: of the simulation and of the order of the batches.
        num_workers: processes that prepare batches.
        time_unit: unit of time; of timestamps one of ns, us, ms, s, min, h, d (default: the largest in which the median
            positive inter-time is at least 1).
        split_times: start of validation and of test, numbers or timestamps: sequences are cut there, and what comes
            before is given. Three times: the first is the start of training.
        window: length of the windows into which a stream is cut, in units of time or as 12h, 7d.
        lookback: how far the given events before each window reach, likewise.
        observed: intervals [start, end] in which every sequence was observed, one window each, instead of t_start and
            t_end.
        time_format: s, ms, us or ns (numbers since 1970), number, ISO8601, or a format such as '%d/%m/%Y'; several are
            tried in turn.
        origin: timestamp that is time 0 (default: the midnight, UTC, before the first event).
        sort: sort the events of each sequence by time.
        drop_duplicates: keep one of the rows that are equal in all columns.
        missing_mark: name of the mark that missing ones become.
        min_mark_count: marks with fewer events in the training split become "other", as do marks that it lacks.
        mark_bins: edges that make marks of numbers: [1, 2, 5] makes the marks [1, 2), [2, 5) and [5, inf).
        mark_names: names of the marks 0, 1, ..., such as those that a model was trained with (default: the sorted types
            of the training split); if the last is "other", it takes all that have no mark of their own.
        delimiter: of a CSV file (default: a comma; a tab in .tsv).
    """

    @classmethod
    def of_run(cls, run: str | Path, **options: Any) -> EventDataModule:
        """Return the data of a run of `tppsd fit`, read as they were there, with the marks and the clock of its model.

        Args:
            run: its folder, such as outputs/fit/version_0.
            options: what is to be otherwise, such as `path` for the same log with other rows.

        Raises:
            FileNotFoundError, ValueError: the folder is not that of a run.
        """
        from tppsd.lightning.runs import open_run

        return cls(**open_run(Path(run))[1]["init_args"] | options)

    def __init__(
        self,
        path: str | Any | None = None,
        process: str | None = None,
        batch_size: int = 32,
        columns: dict[str, str | None] | None = None,
        fractions: tuple[float, float, float] = FRACTIONS,
        t_start: float | str | None = None,
        t_end: float | str | None = None,
        min_inter_time: float | None = None,
        num_sequences: int | None = None,
        seed: int = 0,
        num_workers: int = 0,
        time_unit: str | None = None,
        split_times: list[float | str] | None = None,
        window: float | str | None = None,
        lookback: float | str | None = None,
        observed: list[list[float | str]] | None = None,
        time_format: str | list[str] | None = None,
        origin: str | None = None,
        sort: bool = False,
        drop_duplicates: bool = False,
        missing_mark: str | None = None,
        min_mark_count: int | None = None,
        mark_bins: list[float] | None = None,
        mark_names: list[str] | None = None,
        delimiter: str | None = None,
    ) -> None:
        super().__init__()
        if (path is None) == (process is None):
            given = repr(path) if path is None or isinstance(path, str) else f"a {type(path).__name__}"
            raise ValueError(
                f"give either path (data) or process (a preset to simulate); got path = {given} and "
                f"process = {process!r}"
            )
        if batch_size < 1:
            raise ValueError(f"batch_size = {batch_size} must be at least 1")
        if not 0 <= num_workers <= _MOST_WORKERS:
            raise ValueError(
                f"num_workers = {num_workers} must be from 0 to {_MOST_WORKERS:,} "
                "(0: batches are prepared in this process)"
            )
        if path is not None and num_sequences is not None:
            where = f"at {path}" if isinstance(path, str | Path) else f"in a {type(path).__name__}"
            raise ValueError(
                f"num_sequences = {num_sequences} is for a simulated process; the data {where} have the number they "
                "have"
            )
        if process is not None and columns is not None:
            raise ValueError(f"columns = {columns} is for data at a path; the process {process} has no columns")
        check_floor(min_inter_time)
        self.options = ReadOptions(
            columns=columns,
            fractions=fractions,
            split_times=split_times,
            window=window,
            lookback=lookback,
            t_start=t_start,
            t_end=t_end,
            observed=observed,
            time_format=time_format,
            time_unit=time_unit,
            origin=origin,
            sort=sort,
            drop_duplicates=drop_duplicates,
            missing_mark=missing_mark,
            min_mark_count=min_mark_count,
            mark_bins=mark_bins,
            mark_names=mark_names,
            delimiter=delimiter,
        )
        self.path, self.preset = path, None if process is None else preset(process)
        self.process, self._has_remarked = process, False
        self.batch_size, self.num_workers, self.seed = batch_size, num_workers, seed
        self.min_inter_time, self.num_sequences = min_inter_time, num_sequences
        if process is not None:
            self._check_process_options(process)

    def _check_process_options(self, process: str) -> None:
        """Refuse options that a simulated process does not take: all but fractions, t_start, t_end and time_unit."""
        taken = {"fractions", "t_start", "t_end", "time_unit"}
        for option in fields(self.options):
            value = getattr(self.options, option.name)
            if option.name not in taken and value != option.default:
                raise ValueError(f"{option.name} = {value!r} is for data at a path, not for the process {process}")
        for name in ("t_start", "t_end"):
            value = getattr(self.options, name)
            if isinstance(value, str):
                raise ValueError(f"{name} = {value!r} must be a number for the process {process}")

    @cached_property
    def dataset(self) -> EventDataset:
        """All splits, read or simulated on first use."""
        if self.preset is not None:
            assert self.process is not None
            return self._simulate(self.process, self.preset)
        assert self.path is not None
        dataset = read_dataset(self.path, **self.options.given())
        for note in dataset.notes:
            rank_zero_info(note)
        return dataset

    def _simulate(self, name: str, chosen: Preset) -> EventDataset:
        num_sequences = chosen.num_sequences if self.num_sequences is None else self.num_sequences
        splits = cut(num_sequences, self.options.fractions, name)
        t_start, t_end = self.options.t_start, self.options.t_end
        sequences = chosen.process.simulate(
            num_sequences,
            t_start=chosen.t_start if t_start is None else float(t_start),
            t_end=chosen.t_end if t_end is None else float(t_end),
            seed=self.seed,
        )
        parts = {
            split: [replace(sequence, index=i) for i, sequence in enumerate(sequences[start:stop])]
            for split, (start, stop) in splits.items()
        }
        return EventDataset(name, parts, chosen.process.num_marks, time_unit=self.options.time_unit)

    @cached_property
    def statistics(self) -> DataStatistics:
        """Moments, scales and frequencies of the training split; says on first use how ties are treated."""
        dataset, declared = self.dataset, self.min_inter_time is not None
        floor = self.min_inter_time if self.min_inter_time is not None else default_floor(dataset.splits)
        unit = dataset.time_unit
        if (ties := describe_ties(dataset.name, dataset.splits, floor, declared, self.num_marks, unit)) is not None:
            rank_zero_info(ties)
        statistics = DataStatistics.of(
            dataset.sequences("train"), self.num_marks, floor, dataset.mark_names, dataset.time_unit
        )
        return replace(statistics, time_origin=dataset.time_origin, window=dataset.window, lookback=dataset.lookback)

    @property
    def num_marks(self) -> int:
        """Size of the mark vocabulary (1 = unmarked)."""
        return self.dataset.num_marks if self.preset is None else self.preset.process.num_marks

    @property
    def num_events(self) -> int:
        """How many events of the training split have a likelihood term: what the size of a model is chosen by."""
        return int(FlatSequences.of(self.sequences("train")).num_scored.sum())

    @property
    def dataset_name(self) -> str:
        """Name of the data set or of the process."""
        return self.dataset.name if self.process is None else self.process

    @property
    def process_object(self) -> Process | None:
        """The true process of simulated data; None for real data."""
        return None if self.preset is None else self.preset.process

    def sequences(self, split: str) -> Sequence[EventSequence]:
        """Return all sequences of train, validation or test."""
        return self.dataset.sequences(split)

    def setup(self, stage: str) -> None:
        """Read or simulate now, so that a mistake in the data shows before training starts, and say what to mind."""
        _ = self.statistics
        if stage == "fit" and self.preset is None and not self._has_remarked:
            self._has_remarked = True
            for remark in remarks(self.dataset):
                rank_zero_info(remark)

    def train_dataloader(self) -> DataLoader[Any]:
        """Return a loader of length-bucketed batches, other ones in every epoch."""
        return self._loader("train", shuffle=True)

    def val_dataloader(self) -> DataLoader[Any]:
        """Return a loader that gives every validation sequence exactly once over all processes."""
        return self._loader("validation", shuffle=False)

    def test_dataloader(self) -> DataLoader[Any]:
        """Return a loader that gives every test sequence exactly once over all processes."""
        return self._loader("test", shuffle=False)

    def _loader(self, split: str, shuffle: bool) -> DataLoader[Any]:
        sequences = self.sequences(split)
        options: dict[str, Any] = {
            "collate_fn": EventBatch.from_sequences,
            "num_workers": self.num_workers,
            "persistent_workers": self.num_workers > 0,
            "generator": torch.Generator(),  # a loader would otherwise draw its workers' seed from the global generator
        }
        if getattr(
            self.trainer, "overfit_batches", 0
        ):  # Lightning then replaces every sampler but the plain sequential one
            return DataLoader(dataset=cast(Dataset[EventSequence], sequences), batch_size=self.batch_size, **options)
        flat = FlatSequences.of(sequences)
        sampler = LengthBucketSampler(
            flat.lengths - flat.first_is_given.long(),
            self.batch_size,
            num_replicas=1 if self.trainer is None else self.trainer.world_size,
            rank=0 if self.trainer is None else self.trainer.global_rank,
            shuffle=shuffle,
            seed=self.seed,
        )
        return ResumableLoader(SequenceDataset(sequences), sampler, **options)


def data_of(trainer: Trainer) -> EventDataModule | None:
    """Return the EventDataModule of a run; None where it has another one, or only loaders."""
    data = getattr(trainer, "datamodule", None)
    return data if isinstance(data, EventDataModule) else None
