"""Streams in windows, splits by time, ends of observation: every event is scored once, and nothing is seen too
early."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch

from tppsd.data.reading import EventDataset, read_dataset
from tppsd.data.sequences import EventSequence

SPLIT_TIMES = (60.0, 80.0)
THIRDS = (1 / 3, 1 / 3, 1 / 3)


def stream(seed: int = 0, num_events: int = 300, end: float = 100.0, resolution: float = 0.0) -> np.ndarray:
    times = np.sort(np.random.default_rng(seed).uniform(0, end, num_events))
    return np.round(times / resolution) * resolution if resolution else times


def read(times: Any, **options: Any) -> EventDataset:
    return read_dataset(pa.table({"time": times, "mark": ["a"] * len(times)}), **options)


def windows(dataset: EventDataset) -> list[EventSequence]:
    return [window for part in dataset.splits.values() for window in part]


def scored(sequences: list[EventSequence]) -> list[float]:
    """The times that have a likelihood term, in order."""
    return torch.cat([sequence.event_times[sequence.num_given :] for sequence in sequences]).tolist()


class TestWindows:
    @pytest.mark.parametrize("lookback", [None, 3.0, 25.0])
    @pytest.mark.parametrize("resolution", [0.0, 2.5])  # with 2.5, many events lie on boundaries
    def test_every_event_is_scored_by_exactly_one_window(self, lookback: float | None, resolution: float) -> None:
        """A mutant that closes every window on the right, or takes the boundary into none, fails at resolution 2.5."""
        times = stream(resolution=resolution)
        dataset = read(times, window=5.0, lookback=lookback, t_start=0, t_end=100)
        assert scored(windows(dataset)) == times.tolist()
        own = [window.t_start if window.score_start is None else window.score_start for window in windows(dataset)]
        assert own == [5.0 * i for i in range(20)]
        assert [window.t_end for window in windows(dataset)] == [5.0 * (i + 1) for i in range(20)]

    def test_the_boundary_belongs_to_the_later_window_and_the_end_to_the_last(self) -> None:
        dataset = read([1.0, 5.0, 7.0, 10.0, 15.0], window=5.0, t_start=0, t_end=15, fractions=(0.4, 0.3, 0.3))
        assert [window.event_times.tolist() for window in windows(dataset)] == [[1.0], [5.0, 7.0], [10.0, 15.0]]

    def test_empty_windows_are_kept(self) -> None:
        dataset = read([1.0, 21.0, 22.0], window=5.0, t_start=0, t_end=30, fractions=THIRDS)
        assert [len(window) for window in windows(dataset)] == [1, 0, 0, 0, 2, 0]

    def test_a_lookback_holds_the_events_before_and_nothing_else(self) -> None:
        times = stream()
        for window in windows(read(times, window=5.0, lookback=12.0, t_start=0, t_end=100)):
            assert window.score_start is not None and window.t_end is not None
            assert window.t_start == max(0.0, window.score_start - 12.0)
            inside = (times >= window.t_start) & (times < window.t_end)
            assert window.event_times.tolist() == times[inside].tolist()
            assert window.censored_start == (window.score_start > 12.0), (
                "before the stream's own start there is nothing"
            )

    def test_an_inter_time_that_begins_at_the_edge_of_a_lookback_is_none(self) -> None:
        dataset = read([1.0, 21.0, 22.0], window=5.0, lookback=2.0, t_start=0, t_end=30, fractions=THIRDS)
        at_20 = windows(dataset)[4]
        assert at_20.event_times.tolist() == [21.0, 22.0] and at_20.num_scored == 1

    def test_without_a_start_observation_begins_with_the_first_event(self) -> None:
        for lookback in (None, 4.0):
            dataset = read([3.0, 4.0, 8.0, 10.0, 13.5], window=5.0, lookback=lookback, fractions=(0.4, 0.3, 0.3))
            assert scored(windows(dataset)) == [4.0, 8.0, 10.0, 13.5]
            assert windows(dataset)[0].t_start == 3.0 and not windows(dataset)[0].first_is_given
            assert windows(dataset)[-1].t_end is None, "observed until the last event"

    def test_every_sequence_is_cut_on_its_own_and_no_split_shares_one(self) -> None:
        rows = [(f"s{i}", t + 7 * i) for i in range(10) for t in stream(i, 30, 20.0)]
        table = pa.table({"sequence": [name for name, _ in rows], "time": [t for _, t in rows]})
        dataset = read_dataset(table, window=4.0)
        names = [{window.id for window in part} for part in dataset.splits.values()]
        assert [len(found) for found in names] == [8, 1, 1]
        assert sorted(scored(windows(dataset))) == sorted(
            t for i in range(10) for t in (stream(i, 30, 20.0) + 7 * i).tolist()[1:]
        )

    def test_timestamps_are_cut_in_whole_nanoseconds(self) -> None:
        """0.1 s is no float64; ten thousand windows later the boundaries are still exact."""
        stamps = pa.array(np.arange(0, 10**12, 10**8)).cast(pa.timestamp("ns"))
        dataset = read(stamps, window="100ms", t_start="1970-01-01", time_unit="s")
        assert all(len(window) == 1 for window in windows(dataset)[:-1])
        assert len(windows(dataset)) == 9_999 and len(windows(dataset)[-1]) == 2, "the last one is closed"

    def test_windows_that_are_far_too_short(self) -> None:
        with pytest.raises(ValueError, match="windows of this length would be 1,000,000 for 3 events; give a longer"):
            read([0.0, 1.0, 1e6], window=1.0, t_start=0)


class TestSplitTimes:
    @pytest.mark.parametrize("options", [{"window": 7.0}, {"window": 7.0, "lookback": 30.0}])
    def test_a_stream(self, options: dict[str, Any]) -> None:
        times = stream(resolution=2.0)  # with events at the very times of the splits
        assert 60.0 in times and 80.0 in times
        dataset = read(times, split_times=SPLIT_TIMES, t_start=0, t_end=100, **options)
        for split, low, high in (("train", 0, 60), ("validation", 60, 80), ("test", 80, 101)):
            part = dataset.sequences(split)
            assert scored(part) == times[(times >= low) & (times < high)].tolist()
            edges = [window.t_start if window.score_start is None else window.score_start for window in part]
            assert edges[0] == low and part[-1].t_end == min(high, 100)
            assert all(a.t_end == edge for a, edge in zip(part, edges[1:], strict=False))
        assert max(float(window.event_times.max()) for window in dataset.sequences("train") if len(window)) < 60

    def test_the_start_of_training(self) -> None:
        times = stream()
        dataset = read(times, split_times=(20.0, *SPLIT_TIMES), t_start=0, t_end=100, window=10.0, lookback=15.0)
        assert scored(dataset.sequences("train")) == times[(times >= 20) & (times < 60)].tolist()
        assert dataset.sequences("train")[0].t_start == 5.0, "what comes before training is context"

    def many(self, **options: Any) -> tuple[EventDataset, dict[str, np.ndarray]]:
        """Sequences that end before, begin after and straddle the times of the splits."""
        rng = np.random.default_rng(5)
        own = {f"s{i}": np.sort(rng.uniform(*sorted(rng.uniform(0, 100, 2)), 12)) for i in range(40)}
        own |= {"early": np.array([1.0, 2.0]), "late": np.array([90.0, 95.0]), "edge": np.array([50.0, 60.0, 80.0])}
        rows = [(name, t) for name, times in own.items() for t in times]
        table = pa.table({"sequence": [name for name, _ in rows], "time": [t for _, t in rows]})
        return read_dataset(table, split_times=SPLIT_TIMES, **options), own

    def test_many_sequences(self) -> None:
        dataset, own = self.many()
        for split, low, high in (("train", -1, 60), ("validation", 60, 80), ("test", 80, 101)):
            part = dataset.sequences(split)
            assert len({sequence.id for sequence in part}) == len(part)
            for sequence in part:
                times = own[sequence.id]
                assert sequence.event_times.tolist() == times[times < high].tolist(), "all that came before is given"
                inside = times[(times >= low) & (times < high)]
                first_is_given = times[0] >= low  # without a t_start
                assert sequence.event_times[sequence.num_given :].tolist() == inside[int(first_is_given) :].tolist()
                assert sequence.t_end == (high if times[-1] >= high else None)
        everything = [time for part in dataset.splits.values() for time in scored(part)]
        assert sorted(everything) == sorted(time for times in own.values() for time in times[1:].tolist())
        ids = {split: {sequence.id for sequence in part} for split, part in dataset.splits.items()}
        assert "early" not in ids["validation"] and "late" not in ids["train"] and "edge" in ids["test"]

    def test_parts_add_up_to_the_whole(self) -> None:
        """Durations of the scored parts tile each sequence's window, so a Poisson process scores each moment once."""
        dataset, own = self.many(t_start=0, t_end="last")
        length = sum(s.window_end - s.scored_from for part in dataset.splits.values() for s in part)
        last = max(times[-1] for times in own.values())
        assert length == pytest.approx(len(own) * last)

    def test_in_order_and_none_empty(self) -> None:
        for times, said in (
            ((80.0, 60.0), "split_times = 80.0, 60.0 must be in order of time"),
            ((60.0, 200.0), "leave the test split empty; the data reach from"),
            ((-5.0, 60.0), "leave the train split empty"),
        ):
            with pytest.raises(ValueError, match=said):
                read(stream(), window=5.0, split_times=times)
        with pytest.raises(
            ValueError, match=r"split_times = \[60.0\] must be the start of validation and the start of"
        ):
            read(stream(), window=5.0, split_times=[60.0])
        parts = {"train": pa.table({"sequence": [1, 1], "time": [1.0, 2.0]})}
        with pytest.raises(ValueError, match="split_times cuts one table into splits, but the data come in splits"):
            read_dataset(parts | {"test": parts["train"]}, split_times=SPLIT_TIMES)


class TestEnds:
    rows = pa.table({
        "sequence": ["a", "a", "b", "b", "c"], "time": [0.0, 2.0, 1.0, 9.0, 4.0], "closed": [3.0, 3.0, None, None, 8.0]
    })  # fmt: skip

    def ends(self, **options: Any) -> list[float | None]:
        dataset = read_dataset(self.rows, columns={"mark": None}, fractions=(0.4, 0.3, 0.3), **options)
        return [sequence.t_end for part in dataset.splits.values() for sequence in part]

    def test_a_value_a_column_or_the_last_time_of_the_log(self) -> None:
        assert self.ends(t_end=12) == self.ends(t_end="12") == [12.0] * 3
        assert self.ends(t_end="closed") == [3.0, None, 8.0]
        assert self.ends(t_end="last") == [9.0] * 3
        assert self.ends() == [None] * 3

    def test_intervals_of_observation(self) -> None:
        dataset = read_dataset(self.rows, columns={"mark": None}, observed=[[0, 2], [2, 4.5], [8, 10]])
        found = [(s.id, s.t_start, s.t_end, s.event_times.tolist()) for s in windows(dataset)]
        assert found[:3] == [("a", 0.0, 2.0, [0.0]), ("a", 2.0, 4.5, [2.0]), ("a", 8.0, 10.0, [])]
        assert found[5] == ("b", 8.0, 10.0, [9.0])
        with pytest.raises(ValueError, match=r"time = 9.0 lies in none of the intervals of observed"):
            read_dataset(self.rows, columns={"mark": None}, observed=[[0, 5], [6, 8]])
        with pytest.raises(ValueError, match="must be intervals in order of time that do not overlap"):
            read_dataset(self.rows, columns={"mark": None}, observed=[[5, 10], [0, 6]])


class TestOrder:
    def test_rows_that_go_back_are_refused_and_sorted_when_said(self) -> None:
        rows = pa.table({"sequence": list("aabcba"), "time": [3, 1, 5, 5, 5, 2], "mark": list("xyzwwv")})
        with pytest.raises(ValueError) as error:
            read_dataset(rows)
        assert str(error.value) == (
            "Table, row 1 (sequence 'a'): time = 1.0 comes before the event at 3.0; the times of a sequence must not "
            "decrease: sort: true sorts them"
        )
        dataset = read_dataset(rows, sort=True, fractions=THIRDS, min_mark_count=1)
        a = dataset.sequences("train")[0]
        assert (a.event_times.tolist(), [(dataset.mark_names or ())[k] for k in a.marks]) == (
            [1, 2, 3],
            ["y", "v", "x"],
        )

    def test_ties_keep_the_order_of_their_rows(self) -> None:
        rows = pa.table({"sequence": list("aaaabc"), "time": [2, 1, 1, 1, 0, 0], "mark": list("zcabab")})
        dataset = read_dataset(rows, sort=True, fractions=(0.4, 0.3, 0.3))
        assert [(dataset.mark_names or ())[k] for k in dataset.sequences("train")[0].marks] == ["c", "a", "b", "z"]

    def test_exact_copies_are_no_ties(self) -> None:
        """Rows that differ in a column which is not read are two events."""
        columns = {
            "sequence": list("aaaabc"),
            "time": [1, 1, 1, 2, 0, 0],
            "mark": list("xxxxxx"),
            "amount": [5, 5, 6, 5, 1, 1],
        }
        kept, dropped = (
            read_dataset(pa.table(columns), fractions=(0.4, 0.3, 0.3), drop_duplicates=drop) for drop in (False, True)
        )
        assert len(kept.sequences("train")[0]) == 4 and "1 of 6 rows are exact copies of others" in kept.notes[0]
        assert dropped.sequences("train")[0].event_times.tolist() == [1, 1, 2]

    def test_lists_are_sorted_too(self) -> None:
        rows = pa.table({"time_since_start": [[2.0, 1.0], [5.0], [4.0]], "type_event": [["b", "a"], ["a"], ["b"]]})
        sequence = read_dataset(rows, sort=True, fractions=(0.4, 0.3, 0.3)).sequences("train")[0]
        assert (sequence.event_times.tolist(), sequence.marks.tolist()) == ([1.0, 2.0], [0, 1])


class TestMarks:
    def test_missing_marks_become_one_of_their_own(self) -> None:
        for marks, names in ((["x", None, "y"], ("?", "x", "y")), ([7, None, 3], ("3", "7", "?"))):
            rows = pa.table({"sequence": list("abc") * 3, "time": [0.0] * 3 + [1.0] * 3 + [2.0] * 3, "mark": marks * 3})
            with pytest.raises(ValueError, match=r"row 1: mark is missing; .* 3 of 9 are missing: missing_mark: NAME"):
                read_dataset(rows, fractions=(0.4, 0.3, 0.3))
            dataset = read_dataset(rows, missing_mark="?", split_times=(1, 2))
            assert dataset.mark_names == names

    def test_rare_and_unseen_marks_become_other(self) -> None:
        marks = ["a", "a", "b", "c", "a", "new"]
        rows = pa.table({"sequence": [1] * 6, "time": [0.0, 1.0, 2.0, 3.0, 10.0, 20.0], "mark": marks})
        dataset = read_dataset(rows, min_mark_count=2, split_times=(5, 15))
        assert dataset.mark_names == ("a", "other")
        assert dataset.sequences("test")[0].marks.tolist() == [0, 0, 1, 1, 0, 1]
        with pytest.raises(ValueError, match=r"mark = 'new' does not occur in the training split;.*min_mark_count: 1"):
            read_dataset(rows, split_times=(5, 15))
        assert read_dataset(rows, min_mark_count=1, split_times=(5, 15)).mark_names == ("a", "b", "c", "other")

    def test_a_vocabulary_that_is_given_is_kept(self) -> None:
        """What a model was trained with: order and marks that the data lack stay, and nothing is added in silence."""
        rows = pa.table({"sequence": [1] * 3, "time": [0.0, 10.0, 20.0], "mark": ["b", "a", "new"]})
        dataset = read_dataset(rows, mark_names=["z", "b", "a", "other"], split_times=(5, 15))
        assert dataset.mark_names == ("z", "b", "a", "other")
        assert dataset.sequences("test")[0].marks.tolist() == [1, 2, 3]
        with pytest.raises(ValueError, match="mark = 'new' is none of mark_names, which are z, b, a"):
            read_dataset(rows, mark_names=["z", "b", "a"], split_times=(5, 15))
        with pytest.raises(ValueError, match="mark_names names each mark once"):
            read_dataset(rows, mark_names=["a", "a"])

    def test_bins_make_marks_of_numbers(self) -> None:
        rows = pa.table(
            {"sequence": list("abc") * 2, "time": [0.0] * 3 + [1.0] * 3, "mark": [1.0, 1.49, 1.5, 12.0, 9.99, 10.0]}
        )
        with pytest.raises(ValueError, match=r"mark = 1.49 .* or strings \(mark_bins makes marks of numbers\)"):
            read_dataset(rows, fractions=THIRDS)
        dataset = read_dataset(rows, mark_bins=[1, 1.5, 2, 10], fractions=THIRDS)
        assert dataset.mark_names == ("[1, 1.5)", "[1.5, 2)", "[2, 10)", "[10, inf)") and dataset.num_marks == 4
        assert [s.marks.tolist() for s in windows(dataset)] == [[0, 3], [0, 2], [1, 3]]
        with pytest.raises(ValueError, match=r"row 0: mark = 1.0 lies in none of mark_bins, which begin at 1.2"):
            read_dataset(rows, mark_bins=[1.2, 5], fractions=THIRDS)
        with pytest.raises(ValueError, match=r"mark_bins = \[2, 1\] must be edges that increase"):
            read_dataset(rows, mark_bins=[2, 1])

    def test_counts_are_of_the_training_split_and_of_no_lookback(self) -> None:
        """`b` occurs once before validation: a mutant that counts the given copies in lookbacks finds it three
        times."""
        rows = pa.table({"time": [0.0, 3.5, *range(4, 30)], "mark": ["a", "b", *["a"] * 26]})
        dataset = read_dataset(
            rows,
            window=4.0,
            lookback=12.0,
            t_start=0,
            split_times=(20, 25),
            min_mark_count=2,
            columns={"sequence": None},
        )
        assert dataset.mark_names == ("a", "other")


def test_windows_follow_one_another_in_each_split_by_fractions() -> None:
    dataset = read(stream(), window=5.0, t_start=0, t_end=100)
    assert [len(part) for part in dataset.splits.values()] == [16, 2, 2]
    assert all(one.t_end == two.t_start for one, two in pairwise(windows(dataset)))
