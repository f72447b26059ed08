"""`tppsd demo` on models and data small enough for a minute, and numbers that the commands refuse."""

import json
import re
from types import SimpleNamespace

import pytest
import torch
from rich.console import Console
from stubs import lively_transformer

from tppsd.commands import benchmark, certify, demo, demo_forecasting, demo_sampling, demo_tables, demo_training
from tppsd.lightning.datamodule import EventDataModule
from tppsd.processes.presets import preset
from tppsd.sampling.sample import sample

KS = {"statistic", "p_value", "num_events"}
MODEL = {
    "nll_per_event",
    "nll_time",
    "nll_mark",
    "convention",
    "history_share",
    "num_parameters",
    "num_layers",
    "epochs",
}
RUN = {"num_events", "seconds", "events_per_second"}


@pytest.fixture
def events(tmp_path):
    """A folder of JSON-lines splits without a window: the first event of each sequence is given."""
    sequences = preset("multivariate_hawkes").process.simulate(60, t_end=12.0)
    (tmp_path / "events").mkdir()
    parts = {"train": sequences[:40], "validation": sequences[40:50], "test": sequences[50:]}
    for split, part in parts.items():
        rows = [
            {"dim_process": 2, "seq_idx": i, "seq_len": len(s), "time_since_start": s.event_times.tolist(),
             "time_since_last_event": s.inter_times.tolist(), "type_event": s.marks.tolist()}
            for i, s in enumerate(part) if len(s) > 1
        ]  # fmt: skip
        (tmp_path / "events" / f"{split}.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    return tmp_path / "events"


@pytest.fixture
def threads():
    """The demo sets the number of threads of its process."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def test_the_demo_tells_its_story_from_the_data_to_a_forecast(events, tmp_path, threads, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    options = ["--target-seconds", "2", "--draft-seconds", "1", "--num-sequences", "2", "--output", "out"]
    demo.main(["--data", str(events), *options])
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert summary["target"].keys() >= MODEL and summary["draft"].keys() >= MODEL
    assert summary["schema"] == 2 and summary["target"]["convention"] == "benchmark"
    assert summary["target"]["history_share"] is None and summary["true_nll_per_event"] is None
    assert summary["autoregressive"].keys() >= RUN
    assert RUN | {"acceptance_rate", "step_acceptance", "draft_length", "rule"} <= summary["speculative"].keys()
    ratio = summary["speculative"]["events_per_second"] / summary["autoregressive"]["events_per_second"]
    loop = summary["papers_loop"]
    assert summary["speedup"] == pytest.approx(ratio)
    of_loop = loop["events_per_second"] / loop["cached_events_per_second"]
    assert summary["speedup_over_papers_loop"] == pytest.approx(ratio / of_loop)
    assert loop["num_events"] == demo_sampling.LOOP_EVENTS and loop["events_per_second"] > 0
    assert summary["model_ks"].keys() == KS and summary["mark_pit_ks"].keys() == KS
    assert summary["true_process_ks"] is None
    assert summary["backtest"]["num_origins"] > 20 and summary["backtest"]["horizons"] == [summary["horizon"]]
    assert {row["model"] for row in summary["backtest"]["scores"]} == {"target", "Poisson", "renewal"}
    page = (tmp_path / "out" / "report.html").read_text()
    assert page.count("<svg ") == 7 and page.count("<table>") == 4
    story = ["1. The data", ">time between events<", "2. What was learnt", summary["learnt"][:40], "3. Sampling"]
    story += ["papers&#x27; loop)", "4. Is it the same distribution?", "5. A forecast", ">any<", ">Calibration at "]
    places = [page.find(text) for text in story]
    assert -1 not in places and places == sorted(places)
    assert list((tmp_path / "out" / "samples" / "speculative").glob("*.parquet"))
    printed = capsys.readouterr().out
    assert all(text in printed for text in ("speed-up", "out/report.html", "out/summary.json", "Next", "papers' loop"))
    assert "out/report.html  <- open this page" in printed.splitlines()[-2]


@pytest.mark.parametrize(
    ("nll", "renewal", "true", "said"),
    [
        (-7.98, -8.50, None, "Nothing was learnt of the history: the target scores -7.980 nats per event"),
        (0.580, 0.585, None, "Hardly anything was learnt of the history"),
        (0.530, 0.587, 0.503, "The history is worth 0.057 nats per event"),
        (1.001, 1.000, 0.998, "There is nothing to learn of the history of these events"),
    ],
)
def test_it_is_said_what_was_learnt_of_the_history(nll, renewal, true, said):
    """An order book of long sequences had the first of these scores."""
    results = {"convention": "window", "target": {"metrics": {"test/nll_window": nll}}, "renewal_nll": renewal}
    words = demo_tables.learnt(results | {"true_nll": true})
    assert words.startswith(said) and f"{renewal:.3f} of the best renewal model" in words
    assert ("68 % of what the true process knows" in words) == (true == 0.503)


def test_the_papers_loop_is_timed_on_a_request_that_is_also_sampled_with_a_cache(events):
    """Both continue the same history by as many events, so that their speeds compare."""
    settings = demo.parse(["--data", str(events)])
    data = demo_training.open_data(settings, Console())
    target = lively_transformer(2, "thp", seed=0)
    seen = []

    def sampled(model, **arguments):
        seen.append(arguments)
        return sample(model, **arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(demo_sampling, "sample", sampled)
        loop = demo_sampling.papers_loop(settings, data, target)
    history = seen[0]["history"].sequence(0)
    source = next(s for s in data.sequences("test") if len(s) > 1)
    assert history.event_times.equal(source.event_times[: len(source) // 2])
    assert loop["num_events"] == seen[0]["num_events"] == demo_sampling.LOOP_EVENTS
    assert loop["events_per_second"] == pytest.approx(loop["num_events"] / loop["seconds"])


def test_a_demo_whose_forecasts_cannot_be_scored_goes_on_and_says_why(events, monkeypatch):
    def refuse(*_, **__):
        raise ValueError("a path reached max_events")

    monkeypatch.setattr(demo_forecasting, "backtest", refuse)
    settings = demo.parse(["--data", str(events)])
    data = demo_training.open_data(settings, Console())
    results = {"target": {"module": SimpleNamespace(model=lively_transformer(2, "thp", seed=0))}, "renewal": None}
    found = demo_forecasting.forecast_test_split(settings, data, results, Console())
    assert found["backtest"] is None and found["why_not"] == "a path reached max_events"


def test_the_demo_does_without_a_compiler(monkeypatch):
    def refuse():
        raise ValueError("none was found")

    monkeypatch.setattr(demo_sampling, "check_compiler", refuse)
    assert not demo_sampling.is_compiled()
    assert demo_sampling.samplers()["speculative"][0].draft_passes == 2
    assert all(options.compile is not True for options, _ in demo_sampling.samplers().values())


def test_test_sequences_with_nothing_to_come_are_refused_before_training(events, tmp_path, monkeypatch):
    """Each has its given first event only."""
    rows = [json.loads(line) for line in (events / "test.jsonl").read_text().splitlines()]
    for row in rows:
        row |= {name: row[name][:1] for name in ("time_since_start", "time_since_last_event", "type_event")} | {
            "seq_len": 1
        }
    (events / "test.jsonl").write_text("\n".join(map(json.dumps, rows)))
    monkeypatch.setattr("tppsd.commands.demo_training.train_models", None)
    with pytest.raises(ValueError, match="no test sequence has an event after its given first half"):
        demo.main(["--data", str(events), "--output", str(tmp_path / "out")])


def test_samples_without_an_event_have_no_speed(events, tmp_path, threads, monkeypatch):
    """Windows that end as soon as they begin."""
    settings = demo.parse(["--data", str(events), "--output", str(tmp_path / "out")])
    data = demo_training.open_data(settings, Console())
    monkeypatch.setattr(demo_sampling, "_predict", lambda *_: [])
    monkeypatch.setattr(demo_sampling, "_judge", lambda *_: {"stats": SimpleNamespace(num_events=0)})
    with pytest.raises(ValueError, match=r"no event was sampled .* longer test sequences"):
        demo_sampling.sample_all_ways(settings, data, {}, Console())


def opened(*args: str) -> EventDataModule:
    """The data of `tppsd demo ARGS`."""
    return demo_training.open_data(demo.parse([*args]), Console())


def test_events_without_marks_are_taken_when_said(tmp_path):
    rows = [f"{sequence},{0.5 * i},{i}" for sequence in range(20) for i in range(1, 9)]
    path = tmp_path / "events.csv"
    path.write_text("\n".join(["seq_id,time,amount", *rows]))
    with pytest.raises(ValueError, match=re.escape("declare unmarked events with columns={'mark': None}")):
        opened("--data", str(path))
    assert opened("--data", str(path), "--columns.mark", "null").num_marks == 1
    with pytest.raises(ValueError, match=r"columns = .'mark': None. is for data at a path; the process hawkes has"):
        opened("--data", "hawkes", "--columns.mark", "null")


def test_columns_of_other_names_are_named(tmp_path):
    rows = [f"{sequence},{0.5 * i},{i % 3}" for sequence in range(20) for i in range(1, 9)]
    path = tmp_path / "events.csv"
    path.write_text("\n".join(["user,hours,kind", *rows]))
    columns = ["--columns.sequence", "user", "--columns.time", "hours", "--columns.mark", "kind"]
    for words in (["--data", path, *columns], [path, "--columns", "{sequence: user, time: hours, mark: kind}"]):
        data = opened(*map(str, words))
        assert data.num_marks == 3 and len(data.sequences("train")[0]) == 8
    for options, said in (
        (["--data", str(path), *columns[:-2]], "column mark or .* is missing"),
        (["--data", str(path), "--columns.tme", "hours"], "columns has the unknown field 'tme'"),
        (["--data", "hawkes", *columns], "columns = .* is for data at a path; the process hawkes has"),
    ):
        with pytest.raises(ValueError, match=said):
            opened(*options)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("--columns sequence=user time=hours", "say --columns '{sequence: user, time: hours}'"),
        ("--columns time", "say --columns '{sequence: case, time: when, mark: what}'"),
        ("--unmarked", "say --columns.mark null"),
        ("--observed 0..12 20..30", "say --observed '[[0, 12], [20, 30]]'"),
        ("--split-times 2025-04-15 20", "say --split_times '[2025-04-15, 20]'"),
        ("--fractions=0.6 0.2 0.2", "say --fractions '[0.6]'"),
        ("--data --seed 1", "--data needs a value"),
        ("--seed 1 --data.path=", "--data.path needs a value"),
    ],
)
def test_lists_and_maps_are_written_as_in_yaml(words, said):
    """How the demo took them before, and how others take them."""
    with pytest.raises(ValueError, match=re.escape(said)):
        demo.parse(words.split())


def test_the_demo_is_of_a_process_a_source_or_a_configuration(tmp_path):
    (tmp_path / "run.yaml").write_text("data: {path: log.csv, sort: true}")
    (tmp_path / "process.yaml").write_text("data: {class_path: A, init_args: {process: renewal, t_end: 9}}")
    assert demo.parse([]).data == demo.DEFAULT_PROCESS and demo.parse([]).reading.given() == {}
    assert demo.parse(["--data=log.csv"]).data == demo.parse(["log.csv"]).data == "log.csv"
    given = demo.parse(["--config", str(tmp_path / "run.yaml")])
    assert (given.data, given.reading.given()) == ("log.csv", {"sort": True})
    given = demo.parse(["--config", str(tmp_path / "process.yaml")])
    assert (given.data, given.reading.given()) == ("renewal", {"t_end": 9})


@pytest.mark.parametrize(
    ("parse", "args"),
    [
        (demo.parse, ["--num-sequences", "0"]),
        (demo.parse, ["--target-seconds", "0"]),
        (demo.parse, ["--draft-seconds", "nan"]),
        (demo.parse, ["--draft-seconds", "soon"]),
        (demo.parse, ["--seed", "-3"]),
        (certify.parse, ["--processes", "0"]),
        (benchmark.parse, ["--threads", "0"]),
        (benchmark.parse, ["--threads", "1.5"]),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else value.__module__.split(".")[-1],
)
def test_numbers_that_make_no_sense_are_refused_by_name(parse, args, capsys):
    with pytest.raises(SystemExit):
        parse(args)
    assert re.search(rf"argument {args[0]}\S*: {re.escape(args[1])} must be a ", capsys.readouterr().err)
