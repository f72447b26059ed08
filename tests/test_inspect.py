"""`tppsd inspect` and `tppsd convert`: the whole account in one run, a page that stands alone, and files that read
back."""

from __future__ import annotations

import json
import re
import shlex
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
from same_data import same

from tppsd import EventDataModule, cli
from tppsd.data.interchange import write_parquet
from tppsd.data.log import read_log
from tppsd.data.options import ReadOptions
from tppsd.data.reading import read_dataset

OPTIONS = ["--columns", "{sequence: case, time: when, mark: activity}", "--sort", "true", "--missing_mark", "missing"]


@pytest.fixture
def desk(tmp_path: Path) -> Path:
    """A log of 60 cases with offsets, missing types, exact copies, ties, in no order: as people have them."""
    rng = np.random.default_rng(3)
    rows = []
    for case in range(60):
        time = np.datetime64("2025-03-29T12:00:00") + np.timedelta64(int(rng.integers(0, 40 * 86400)), "s")
        for what in ["created", *rng.choice(["comment", "reply", ""], int(rng.integers(1, 9)), p=[0.55, 0.4, 0.05])]:
            rows.append(f"{time}+02:00,C{case:02d},{what}")
            time += np.timedelta64(int(rng.choice([0, rng.exponential(7200)], p=[0.2, 0.8])), "s")
    rows += rows[:7]
    rng.shuffle(rows)
    path = tmp_path / "desk.csv"
    path.write_text("\n".join(["when,case,activity", *rows]))
    return path


def run(capsys: pytest.CaptureFixture[str], *args: Any) -> tuple[int, str, str]:
    """Exit status, output and messages of `tppsd ARGS`."""
    try:
        status = cli.main(list(map(str, args)))
    except SystemExit as stop:
        status = int(stop.code or 0)
    captured = capsys.readouterr()
    return status, captured.out, captured.err


def test_one_run_names_all_obstacles_and_describes_the_log_all_the_same(desk: Path, capsys: Any) -> None:
    status, out, _ = run(capsys, "inspect", desk)
    assert status == 2 and "5 things are to mend:" in out
    for option in ("'sequence': 'case'", "'time': 'when'", "missing_mark: NAME", "sort: true sorts them"):
        assert option in out
    assert "With these options it is read so:" in out
    assert "7 of" in out and "are exact copies of others" in out and "are ties" in out
    assert "no end of observation is given" in out and "t_end: last" in out


def test_the_command_that_it_ends_with_reads_the_log(desk: Path, capsys: Any) -> None:
    status, out, _ = run(capsys, "inspect", desk, *OPTIONS, "--data.drop_duplicates", "true", "--t_end", "last")
    assert status == 0 and "things are to mend" not in out and "no end of observation" not in out
    assert re.search(r"sequences +60\n", out) and "time 0 is 2025-03-30T00:00:00" in out
    words = shlex.split(out.split("The same in training:")[1].strip())
    assert words[:4] == ["tppsd", "fit", "--data.path", str(desk)]
    from jsonargparse import ArgumentParser

    parser = ArgumentParser()
    parser.add_class_arguments(EventDataModule, "data")
    data = EventDataModule(**parser.parse_args(words[2:]).data)
    assert sum(len(data.sequences(split)) for split in ("train", "validation", "test")) == 60
    config = desk.parent / "run.yaml"
    lines = [
        "data:",
        "  class_path: tppsd.EventDataModule",
        "  init_args:",
        f"    path: {desk}",
        "    sort: true",
        "    columns: {sequence: case, time: when, mark: null}",
        "    split_times: [2025-04-15, 2025-04-25]",
    ]
    config.write_text("\n".join(lines))
    status, out, _ = run(capsys, "inspect", "--config", config)
    assert status == 0 and "by time, at 2025-04-15, 2025-04-25" in out


def test_names_that_look_like_markup_are_shown_as_they_are(tmp_path: Path, capsys: Any) -> None:
    names = ["[red]", "<b>", "[/]"]
    lines = [f"{case},{i},{names[(case + i) % 3]}" for case in range(10) for i in range(6)]
    (tmp_path / "log.csv").write_text("\n".join(["sequence,time,mark", *lines]))
    status, out, _ = run(capsys, "inspect", tmp_path / "log.csv", "--report", tmp_path / "log.html")
    assert status == 0 and all(name in out for name in names)
    page = (tmp_path / "log.html").read_text()
    assert "&lt;b&gt;" in page and "<b>" not in page


def test_mistakes_are_one_sentence(desk: Path, capsys: Any) -> None:
    for args, said in (
        ([], "there is no SOURCE"),
        ([desk, "--windw", "5"], "windw"),
        ([desk, "--config", "nowhere.yaml"], "--config nowhere.yaml: there is no such configuration file"),
        ([desk, "--report", "page.pdf"], "give a name that ends in .html"),
        (["nowhere.csv"], "nowhere.csv: no such file or folder"),
    ):
        status, _, err = run(capsys, "inspect", *args)
        assert status == 2 and said in err and err.count("\n") == 1
    status, _, err = run(capsys, "convert", desk, desk.parent / "out.csv", *OPTIONS)
    assert status == 2 and "must end in .parquet, .arrow, .json or .jsonl" in err
    assert sorted(file.name for file in desk.parent.iterdir()) == ["desk.csv"], "nothing half-written is left behind"


class Page(HTMLParser):
    """What a page refers to, and the identifiers that its parts have."""

    def __init__(self) -> None:
        super().__init__()
        self.links: list[str] = []
        self.ids: list[str] = []
        self.tags: list[str] = []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        for name, value in attributes:
            if name in ("href", "src", "xlink:href") and value is not None:
                self.links.append(value)
            if name == "id" and value is not None:
                self.ids.append(value)


@pytest.mark.parametrize(
    ("options", "num_figures"),
    [(OPTIONS, 6), ([*OPTIONS[:1], "{sequence: case, time: when, mark: null}", "--sort", "true"], 4)],
)
def test_the_page_stands_alone_in_light_and_dark(desk: Path, capsys: Any, options: list[str], num_figures: int) -> None:
    page = desk.parent / "pages" / "desk.html"
    status, out, _ = run(capsys, "inspect", desk, *options, "--report", page)
    assert status == 0 and f"Written: {page}" in out
    text = page.read_text()
    parsed = Page()
    parsed.feed(text)
    assert parsed.tags.count("svg") == num_figures
    assert all(link.startswith(("#", "data:")) for link in parsed.links), "nothing is loaded from anywhere"
    assert len(parsed.ids) == len(set(parsed.ids)) and all(
        link[1:] in parsed.ids for link in parsed.links if link[0] == "#"
    )
    assert "prefers-color-scheme: dark" in text
    used, defined = set(re.findall(r"var\(--(\w+)\)", text)), set(re.findall(r"--(\w+):", text))
    assert used <= defined and {"c22262b", "c3a3f47"} <= used
    assert "#22262b" not in text.partition("<body>")[2].lower(), "a colour that is the same in light and dark"
    assert [file.name for file in page.parent.iterdir()] == ["desk.html"]


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"t_end": "last", "time_unit": "min", "origin": "2025-01-01"},
        {"split_times": ("2025-04-15", "2025-04-25"), "t_end": "last"},
        {"split_times": ("2025-04-15", "2025-04-25"), "window": "2h", "lookback": "5h"},
        {"columns": {"sequence": "case", "time": "when", "mark": None}, "missing_mark": None},
        {"min_mark_count": 100},
    ],
)
def test_a_converted_log_reads_back_bit_for_bit(desk: Path, capsys: Any, options: dict[str, Any]) -> None:
    chosen = {
        "columns": {"sequence": "case", "time": "when", "mark": "activity"},
        "sort": True,
        "missing_mark": "?",
    } | options
    path = write_parquet(read_log(desk, ReadOptions(**chosen)), desk.parent / "out" / "desk.parquet")
    assert [file.name for file in path.parent.iterdir()] == ["desk.parquet"]
    columns = {"mark": None} if chosen["columns"]["mark"] is None else None
    assert same(read_dataset(desk, **chosen), read_dataset(path, columns=columns))


def test_numbers_convert_too_and_other_readers_find_the_usual_columns(tmp_path: Path, capsys: Any) -> None:
    rows = pa.table({"sequence": [7, 7, 8, 9], "time": [0.1, 0.30000000000000004, 5.0, 2.0], "mark": [0, 2, 1, 0]})
    pyarrow.parquet.write_table(rows, tmp_path / "log.parquet")
    status, out, _ = run(
        capsys, "convert", tmp_path / "log.parquet", tmp_path / "out.parquet", "--fractions", "[0.34, 0.33, 0.33]",
        "--t_start", "0", "--t_end", "9", "--time_unit", "10,000 s", "--min_mark_count", "1",
    )  # fmt: skip
    assert status == 0 and "1 train, 1 validation, 1 test sequences, 3 marks" in out
    options: dict[str, Any] = {"fractions": (0.34, 0.33, 0.33), "t_start": 0, "t_end": 9, "time_unit": "10,000 s"}
    assert same(read_dataset(rows, min_mark_count=1, **options), read_dataset(tmp_path / "out.parquet"))
    table = pyarrow.parquet.read_table(tmp_path / "out.parquet").to_pylist()[0]
    assert (table["dim_process"], table["seq_idx"], table["seq_len"]) == (3, 0, 2)
    assert table["time_since_start"] == [0.1, 0.30000000000000004] and table["type_event"] == [0, 1]


def test_what_is_typed_counts_before_a_configuration_also_where_it_is_the_default(tmp_path: Path, capsys: Any) -> None:
    """Mutant: an option counts as given where it differs from its default."""
    rows = [f"{case},{time},a" for case in range(9) for time in (2.5, 1.5, 1.5)]
    (tmp_path / "log.csv").write_text("\n".join(["sequence,time,mark", *rows]) + "\n")
    data = {"path": str(tmp_path / "log.csv"), "sort": True, "drop_duplicates": True, "window": 1}
    (tmp_path / "run.yaml").write_text(json.dumps({"data": data}))
    words = ["inspect", "--config", tmp_path / "run.yaml"]
    out = run(capsys, *words)[1]
    assert "dropped 9 rows that were exact copies" in out and "--data.window 1 --data.sort true" in out
    status, out, _ = run(capsys, *words, "--drop_duplicates", "false", "--data.window", "null")
    assert status == 0 and "9 of 27 rows are exact copies of others, and are kept" in out and "window" not in out
    status, out, _ = run(capsys, *words, "--sort=false")
    assert status == 2 and "sort: true sorts them" in out


@pytest.mark.parametrize("empty", ["train", "validation", "test", "all"])
@pytest.mark.filterwarnings("error")
def test_windows_without_events_are_described(tmp_path: Path, empty: str, capsys: Any) -> None:
    """What has no event has no first time and no marks to drift; windows may be observed and empty."""
    for split in ("train", "validation", "test"):
        times = [] if empty in (split, "all") else [1.0, 2.0]
        row = {"seq_idx": 0, "time_since_start": times, "type_event": [0, 1][: len(times)], "dim_process": 2}
        (tmp_path / f"{split}.json").write_text(json.dumps([row | {"t_start": 0.0, "t_end": 5.0}] * 4))
    status, out, err = run(capsys, "inspect", tmp_path, "--report", tmp_path / "page.html")
    assert status == 0, err
    assert f"numbers {'of no event' if empty == 'all' else 'from 1.0 to 2.0'}; unit" in " ".join(out.split())
    assert f"{12 if empty == 'all' else 4} of 12 sequences have no event that is scored" in out
    assert "drift" not in out and "<svg " in (tmp_path / "page.html").read_text()


@pytest.mark.parametrize("time", ["{case}.5", "2024-01-{case:02d}"])
@pytest.mark.filterwarnings("error")
def test_a_log_of_one_event_per_case_is_described(tmp_path: Path, time: str, capsys: Any) -> None:
    """With t_end the training split has been observed for a while, and has no scored event: its rate is 0."""
    rows = [f"{case},{time.format(case=case)},{'ab'[case % 2]}" for case in range(1, 21)]
    (tmp_path / "log.csv").write_text("\n".join(["case,when,what", *rows]) + "\n")
    words = [f"--columns.{field}={name}" for field, name in (("sequence", "case"), ("time", "when"), ("mark", "what"))]
    page = tmp_path / "page.html"
    status, out, err = run(capsys, "inspect", tmp_path / "log.csv", *words, "--t_end", "last", "--report", page)
    assert status == 0 and "20 of 20 sequences have no event that is scored" in out, err
    assert "drift" not in out and "When in the day" not in page.read_text()


def test_a_source_with_obstacles_is_not_converted(desk: Path, capsys: Any) -> None:
    status, _, err = run(capsys, "convert", desk, desk.parent / "out.parquet")
    assert status == 2 and "5 things are to mend" in err and not (desk.parent / "out.parquet").exists()


def test_the_demo_takes_the_same_options(desk: Path) -> None:
    from tppsd.commands import demo, inspect
    from tppsd.commands.data_options import parse_source

    options = ["--split_times", "[2025-04-15, 20]", "--window=7d", "--lookback", "5", "--columns.sequence", "case"]
    options += ["--t_end", "last", "--sort", "true", "--drop_duplicates", "false", "--min_mark_count", "3"]
    options += [
        "--time_format",
        "['%d/%m/%Y', ISO8601]",
        "--fractions",
        "[0.6, 0.2, 0.2]",
        "--data.origin",
        "2025-01-01",
    ]
    read = {
        "split_times": ["2025-04-15", 20.0], "window": "7d", "lookback": 5.0, "t_end": "last", "sort": True,
        "columns": {"sequence": "case"}, "time_format": ["%d/%m/%Y", "ISO8601"], "min_mark_count": 3,
        "fractions": [0.6, 0.2, 0.2], "origin": "2025-01-01",
    }  # fmt: skip
    reading = demo.parse(["--data", str(desk), *options]).reading
    assert reading.given() == read and reading == parse_source(inspect.parser(), [str(desk), *options])[2]
    assert demo.parse(["--observed", "[[0, 12], [20, 30]]"]).reading.observed == [[0.0, 12.0], [20.0, 30.0]]
