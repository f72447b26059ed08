"""`tppsd benchmark`: plans, samplers side by side, the table and the page."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import fields
from pathlib import Path

import pytest
import torch
from native_builds import needs_a_compiler
from rich.console import Console

from tppsd.benchmark.columns import COLUMNS
from tppsd.benchmark.config import read_yaml
from tppsd.benchmark.measuring import Machine, PeakMemory
from tppsd.benchmark.plan import PAPER_KEYS, read_plan, short_names
from tppsd.benchmark.report import draft_length_figures, write_report
from tppsd.benchmark.rows import Row
from tppsd.benchmark.samplers import Request, reencode
from tppsd.benchmark.table import averaged, markdown, print_table, summaries
from tppsd.commands import benchmark
from tppsd.data.sequences import EventSequence
from tppsd.models.checkpoint import load
from tppsd.models.protocol import EventTokens
from tppsd.models.transformer_tpp import TransformerTPP

CONFIGS = Path(__file__).parent.parent / "lightning_configs" / "benchmark"
FILES = sorted(CONFIGS.rglob("*.yaml"))

TINY = """
title: Tiny <plan>
data: [multivariate_hawkes, {events}]
target: {{num_layers: 2, num_heads: 2, embed_dim: 8, num_components: 4}}
drafts: [{{embed_dim: 8, num_components: 2}}, self, poisson]
training: {{target_seconds: 0.3, draft_seconds: 0.2, num_sequences: 20}}
draft_lengths: [1, 2, 3]
baselines: [reencode, draft]
repeats: 2
sequences_per_run: 2
num_events: 4
next_event_draws: 5
next_event_histories: 2
paper:
  - {{data: multivariate_hawkes, method: speculative, draft: 1x1, draft_length: 2, speedup_over_reencode: 2.117}}
"""


@pytest.fixture
def events(tmp_path):
    """A folder of JSON-lines splits without a window."""
    (tmp_path / "events").mkdir()
    for split in ("train", "validation", "test"):
        rows = [
            {"dim_process": 2, "seq_idx": i, "seq_len": 8,
             "time_since_start": [0.5 * j * (1 + i / 10) for j in range(8)],
             "time_since_last_event": [0.5 * (j > 0) * (1 + i / 10) for j in range(8)], "type_event": [0, 1] * 4}
            for i in range(6)
        ]  # fmt: skip
        (tmp_path / "events" / f"{split}.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    return tmp_path / "events"


def rows_of(printed: str) -> list[dict]:
    return [json.loads(line) for line in printed.splitlines()]


def plan_file(folder: Path, text: str) -> str:
    (folder / "plan.yaml").write_text(text, errors="surrogateescape")
    return str(folder / "plan.yaml")


def test_a_plan_from_data_to_page(tmp_path, events, monkeypatch, capsys):
    """Simulated and real data, models trained once, every kind of sampler, JSON and report."""
    monkeypatch.chdir(tmp_path)
    arguments = ["--config", plan_file(tmp_path, TINY.format(events=events)), "--json", "--report", "out/page.html"]
    benchmark.main(arguments)
    rows = rows_of(capsys.readouterr().out)
    samplers = 1 + 1 + 1 + 3 * 3  # autoregressive, reencode, draft alone, drafts x lengths
    assert [row["data"] for row in rows] == ["multivariate_hawkes"] * samplers + ["events"] * samplers
    assert all(Row(**row).to_dict() == row for row in rows)  # what a machine reads is the whole row
    for row in rows:
        drafted, simulated = row["method"] == "speculative", row["data"] == "multivariate_hawkes"
        assert (row["acceptance_rate"] is not None) == drafted
        assert row["num_events"] == 2 * 2 * 4 and 0 <= row["model_p_value"] <= 1
        assert (row["ks_statistic"] is not None) == simulated
        assert (row["wasserstein_time"] is not None) == (not simulated and row["method"] != "reencode")
        assert row["likelihood_discrepancy"] >= 0 and row["speedup_over_reencode"] > 0
        matches = simulated and drafted and row["draft"] == "1x1" and row["draft_length"] == 2
        assert row["paper"] == ({"speedup_over_reencode": 2.117} if matches else {})
    page = (tmp_path / "out" / "page.html").read_text()
    assert "Tiny &lt;plan&gt;" in page and "<td>2.12</td>" in page and "GFLOP/s in float32 matrix products" in page
    assert "compiled" not in page  # embed_dim = 8 is no multiple of 16
    for heading in (
        "Time rescaling",
        "Draft length",
        "Acceptance against position",
        "Accepted events per round",
        "Marks",
    ):
        assert f"<h2>{heading}</h2>" in page

    trained = {path: path.stat().st_mtime_ns for path in tmp_path.glob("outputs/benchmark/checkpoints/*.ckpt")}
    assert len(trained) == 4
    benchmark.main([*arguments, "--draft-length", "2", "--repeats", "1"])
    assert {path: path.stat().st_mtime_ns for path in trained} == trained  # a second call trains nothing


@needs_a_compiler
@pytest.mark.parametrize("compile", ["true", "auto", "false"])
def test_the_page_says_what_was_compiled(tmp_path, compile, capsys):
    text = f"compile: {compile}\nbaselines: [reencode{'' if compile == 'false' else ', eager'}]\ndraft_lengths: [2]\n"
    size = ["--num-events", "3", "--repeats", "1", "--report", str(tmp_path / "page.html")]
    benchmark.main(["--config", plan_file(tmp_path, text), "--untrained", "1,1", *size])
    page = (tmp_path / "page.html").read_text()
    said = "All are compiled but: autoregressive, eager; reencode (uncached). A speed-up" in page
    assert said == (compile != "false") and said == ("compiled" in page)


def test_drafts_are_distilled_from_the_target_of_the_same_cell(tmp_path, monkeypatch, capsys):
    """By name of the data and from a checkpoint; drafts of likelihood alone keep a place of their own."""
    monkeypatch.chdir(tmp_path)
    plan = """
data: [multivariate_hawkes]
target: {num_layers: 1, embed_dim: 8, num_components: 4}
drafts: [{embed_dim: 4, num_components: 2}]
training: {target_seconds: 0.2, draft_seconds: 0.2, num_sequences: 20, distilled: true, draft_learning_rate: 0.01}
draft_lengths: [2]
repeats: 1
num_events: 4
"""
    benchmark.main(["--config", plan_file(tmp_path, plan), "--json"])
    kept = {path: load(path) for path in tmp_path.glob("outputs/benchmark/checkpoints/*.ckpt")}
    records = {path: torch.load(path, weights_only=True)["tppsd"] for path in kept}
    (draft,) = [path for path, record in records.items() if record["role"] == "draft"]
    (target,) = [path for path, record in records.items() if record["role"] == "target"]
    assert records[draft]["distilled_from"] == kept[target].content_hash()
    benchmark.main(["--config", plan_file(tmp_path, plan), "--json", "--target", str(target)])
    assert set(tmp_path.glob("outputs/benchmark/checkpoints/*.ckpt")) == set(kept)  # the same target, by its file
    benchmark.main(["--config", plan_file(tmp_path, plan.replace("distilled: true, ", "")), "--json"])
    assert len(list(tmp_path.glob("outputs/benchmark/checkpoints/*.ckpt"))) == 3
    assert len(rows_of(capsys.readouterr().out)) == 6


def test_every_sampler_has_a_row(tmp_path, capsys):
    drafts = []
    for name in ("a", "b"):  # `tppsd fit` calls every best checkpoint best.ckpt
        TransformerTPP(2, embed_dim=8, num_heads=1, num_layers=1, num_components=2).save(tmp_path / name / "best.ckpt")
        drafts += ["--draft", str(tmp_path / name / "best.ckpt")]
    size = [
        "--num-events",
        "5",
        "--repeats",
        "2",
        "--draft-length",
        "2",
        "--batch-size",
        "1",
        "3",
        "--rule",
        "joint",
        "factorised",
    ]
    benchmark.main(["--untrained", "1,2", *drafts, "--draft", "self", *size, "--baseline", "reencode", "--json"])
    rows = rows_of(capsys.readouterr().out)
    assert [row["batch_size"] for row in rows] == [1] * 8 + [3] * 8
    assert len({row["sampler"] for row in rows}) == 8
    assert all(row["speedup"] == 1 for row in rows if row["sampler"] == "autoregressive")
    for row in rows:
        assert 0 < row["low"] <= row["milliseconds_per_event"] <= row["high"]
        assert row["speedup_low"] <= row["speedup"] <= row["speedup_high"]
        assert (row["acceptance_rate"] is not None) == row["sampler"].startswith("speculative")


def test_auto_is_offered_the_first_draft_that_is_a_model(capsys):
    size = ["--num-events", "130", "--repeats", "1", "--draft-length", "2", "--method", "auto", "--json"]
    size += ["--compile", "false"]
    for drafts, label in ((["self", "1,1"], "auto, 1x1"), (["self"], "auto")):
        benchmark.main(["--untrained", "1,2", *(word for draft in drafts for word in ("--draft", draft)), *size])
        row = rows_of(capsys.readouterr().out)[-1]
        assert (row["sampler"], row["draft"]) == (label, "1x1" if len(drafts) > 1 else None)
        assert row["choice"].startswith("model:" if len(drafts) > 1 else "autoregressive:")


def test_methods_have_a_place_in_the_report(tmp_path, capsys):
    """Also those that no draft helps."""
    page = tmp_path / "page.html"
    size = ["--num-events", "5", "--repeats", "1", "--draft-length", "2", "--method", "fixed_point", "auto", "--json"]
    benchmark.main(["--untrained", "1,2", "--draft", "self", *size, "--report", str(page)])
    samplers = re.findall(r"<tr><td>([^<]*)</td><td>", page.read_text())
    assert samplers == ["autoregressive", "speculative, self, 2", "fixed point, 2", "auto"]


def test_lines_over_draft_lengths_are_apart_by_draft_passes(capsys):
    size = ["--num-events", "5", "--repeats", "1", "--draft-length", "1", "2", "3", "--draft-passes", "2", "--json"]
    options = benchmark.parse(["--untrained", "1,2", "--draft", "1,1", *size])
    (figure,) = draft_length_figures(benchmark.measure(read_plan([], benchmark.overrides(options)), options))
    for axes in figure.axes:
        lines = {line.get_label(): line.get_xdata().tolist() for line in axes.lines if len(line.get_xdata()) == 3}
        assert lines == {"1x1": [1, 2, 3], "1x1 in 2 passes": [1, 2, 3]}
        assert len({line.get_color() for line in axes.lines[:2]}) == 2
    assert [axes.get_title("left") for axes in figure.axes] == ["speed-up", "alpha"]


def test_an_output_that_cannot_be_written_is_refused_before_measuring(tmp_path, monkeypatch):
    monkeypatch.setattr(benchmark, "measure", lambda *_: pytest.fail("measured"))
    (tmp_path / "folder.svg").mkdir()
    (tmp_path / "file").touch()
    for name, said in (
        ("folder.svg", "is a folder; name a file"),
        ("file/page.svg", "cannot be written (Not a directory)"),
    ):
        with pytest.raises(ValueError, match=re.escape(f"--report {tmp_path / name} {said}")):
            benchmark.main(["--untrained", "1,1", "--report", str(tmp_path / name)])
    assert {path.name for path in tmp_path.iterdir()} == {"folder.svg", "file"}


def test_a_report_of_nothing_is_refused(tmp_path):
    with pytest.raises(ValueError, match="a report needs at least one measurement"):
        write_report(read_plan([], {"untrained": True}), [], tmp_path / "page.html")


def test_the_machine_is_measured_with_sense():
    machine = Machine.measured()
    assert 1e8 < machine.flops < 1e15 and 1e8 < machine.bytes < 1e13
    assert str(Machine(71.4e9, 20.04e9)) == "71 GFLOP/s in float32 matrix products, 20.0 GB/s copied"


def test_data_sets_of_one_file_name_are_apart(events, tmp_path, capsys):
    shutil.copytree(events, tmp_path / "other" / "events")
    size = ["--num-events", "2", "--repeats", "1", "--draft-length", "1", "--json"]
    data = [str(events), str(tmp_path / "other" / "events")]
    benchmark.main(["--untrained", "1,1", "--data", *data, *size])
    names = list(dict.fromkeys(row["data"] for row in rows_of(capsys.readouterr().out)))
    assert names == [f"{tmp_path.name}/events", "other/events"]
    assert short_names(["easytpp/taxi", "a/b/c", "d/b/c", "b/c"]) == {
        "easytpp/taxi": "taxi", "a/b/c": "a/b/c", "d/b/c": "d/b/c", "b/c": "b/c"
    }  # fmt: skip


def test_drafts_of_one_size_in_heads_and_layers_are_apart(tmp_path, capsys):
    text = "drafts: [{embed_dim: 8}, {embed_dim: 16}, {num_layers: 2}]"
    size = ["--num-events", "3", "--repeats", "1", "--draft-length", "2", "--json"]
    benchmark.main(["--config", plan_file(tmp_path, text), "--untrained", "1,1", *size])
    drafts = [row["draft"] for row in rows_of(capsys.readouterr().out)[1:]]
    assert drafts == ["1x1 embed_dim 8", "1x1 embed_dim 16", "1x2"]


@pytest.mark.parametrize("width", [60, 100, 130, 240])
def test_the_table_keeps_to_the_width_of_the_terminal(width, capsys):
    row = Row(
        "speculative, draft best.ckpt, 16 in 2 passes", "speculative", "easytpp/taxi", "thp", "4x2",
        "a/b/best.ckpt", 16, "joint",
        1, 0, 3, 1, 100, 0.5, 12.34, 10.25, 14.5, 4.21, 3.5, 5.1, 81.0, 10.2, 0.8, 0.9, 6.54,
        0.1, 0.1, 0.2, 0.3, 0.4, 0.037,
    )  # fmt: skip
    print_table(read_plan([], {"untrained": True}), [row], Console(width=width))
    *table, last = capsys.readouterr().out.splitlines()
    assert max(map(len, table)) <= width and "…" not in "".join(table)
    for number in ("12.34", "4.21", "6.54", "0.037"):
        assert sum(number in line for line in table) == 1
    assert last.startswith("not shown for want of width: ΔL, D_KS, D_WS time") == (width < 240)
    assert ("10.25 to 14.50" in "".join(table)) == (width > 100)


@pytest.mark.parametrize(
    ("columns", "shown", "last"),
    [
        (["milliseconds_per_event"], "12.34", "not shown for want of width: spreads;"),
        (["seconds", "events_per_second"], "0.500", None),
    ],
)
def test_a_narrow_table_shows_what_the_plan_asks_for_and_says_what_it_lacks(columns, shown, last, capsys):
    """Mutants: no word on spreads where no column is left out; a table of names where no column is important."""
    size = 1, 0, 3, 1, 100, 0.5, 12.34, 10.25, 14.5, 4.21, 3.5, 5.1, 81.0
    row = Row("autoregressive", "autoregressive", "easytpp/taxi", "thp", "4x2", None, None, None, *size)
    print_table(read_plan([], {"untrained": True, "columns": columns}), [row], Console(width=42))
    printed = capsys.readouterr().out
    assert shown in printed and "10.25" not in printed
    assert printed.splitlines()[-1].startswith("not shown") == (last is not None) and (last or "") in printed


@pytest.mark.parametrize("width", [60, 240])
def test_the_table_says_what_auto_chose(width, capsys):
    size = 1, 0, 3, 1, 100, 0.5, 12.34, 10.25, 14.5, 4.21, 3.5, 5.1, 81.0
    choice = "self: events/s in a trial: self 90, autoregressive 30"
    rows = [
        Row("autoregressive", "autoregressive", "easytpp/taxi", "thp", "4x2", None, None, None, *size),
        Row("auto, 1x1", "auto", "easytpp/taxi", "thp", "4x2", "1x1", "auto", None, *size, choice=choice),
    ]
    print_table(read_plan([], {"untrained": True}), rows, Console(width=width))
    *table, last = capsys.readouterr().out.splitlines()
    assert last == f"auto, 1x1 (easytpp/taxi, THP, target 4x2) chose {choice}"
    assert "sampled by" not in "".join(table)


def test_sampler_names_leave_out_the_folders_of_a_checkpoint(tmp_path, capsys):
    path = tmp_path / "run" / "best.ckpt"
    TransformerTPP(2, embed_dim=8, num_heads=1, num_layers=1, num_components=2).save(path)
    size = ["--num-events", "3", "--repeats", "1", "--draft-length", "2", "--baseline", "draft", "--json"]
    benchmark.main(["--untrained", "1,2", "--draft", str(path), *size])
    rows = rows_of(capsys.readouterr().out)[1:]
    assert [row["sampler"] for row in rows] == ["draft best.ckpt alone", "speculative, draft best.ckpt, 2"]
    assert {row["draft"] for row in rows} == {str(path)}


def test_trees_are_timed_beside_chains(tmp_path, capsys):
    size = [
        "--num-events",
        "5",
        "--repeats",
        "1",
        "--draft-length",
        "2",
        "--candidates",
        "2,1",
        "3",
        "--rule",
        "joint",
        "mean",
    ]
    benchmark.main(["--untrained", "1,2", "--draft", "self", *size, "--json", "--report", str(tmp_path / "page.html")])
    rows = rows_of(capsys.readouterr().out)
    assert [(row["draft_length"], row["rule"], row["candidates"]) for row in rows[1:]] == [
        (2, "joint", None),
        (2, "mean", [2, 1]),
        (1, "mean", [3]),
    ]
    assert rows[2]["sampler"] == "speculative, self, tree 2x1, mean"
    assert all(Row(**row).to_dict() == row for row in rows)
    assert read_plan([], {"untrained": True, "candidates": [[4, 2]]}).speculative_options(True)[-1].rule == "linear"
    with pytest.raises(ValueError, match="--candidates 4;2 must be whole numbers with commas"):
        benchmark.main(["--untrained", "1,2", "--candidates", "4;2"])


def test_the_table_shows_cells_and_the_papers_numbers(tmp_path, capsys):
    text = "paper:\n  - {method: speculative, draft: self, speedup_over_reencode: 2.117}\n"
    size = ["--num-events", "3", "--repeats", "1", "--draft-length", "2", "--seed", "0", "1"]
    benchmark.main(["--config", plan_file(tmp_path, text), "--untrained", "1,1", *size])
    printed = capsys.readouterr().out
    assert "from scratch, THP, target 1x1" in printed and "2.12" in printed and "over re-encoding" in printed
    assert printed.count("speculative, self, 2") == 1  # one row for both seeds


def test_reencoding_draws_from_the_same_distribution_as_the_cached_sampler():
    """Both give the same sequence from the same uniforms: the baseline differs in speed only."""
    model = TransformerTPP(2, embed_dim=8, num_heads=1, num_layers=2, num_components=2).double().eval()
    (sequence,) = reencode(model, Request(1, None, None, 6), seed=3)
    generator = torch.Generator().manual_seed(3)
    cache = model.new_cache(1, 8)
    tokens = EventTokens(torch.zeros(1, 1, dtype=torch.int64), *[torch.zeros(1, 1, dtype=torch.float64)] * 2)
    with torch.inference_mode():
        for i in range(6):
            uniforms = torch.rand(1, 3, generator=generator, dtype=torch.float64)
            tau, marks = model.distribution(model.extend(tokens, cache)).sample(uniforms.unsqueeze(1))
            torch.testing.assert_close(sequence.inter_times[i : i + 1], tau[0], rtol=1e-9, atol=0)
            assert torch.equal(sequence.marks[i : i + 1], marks[0])
            tokens = EventTokens(marks + 1, tokens.times + tau, tau)


def test_reencoding_continues_a_history_to_its_end():
    model = TransformerTPP(2, embed_dim=8, num_heads=1, num_layers=1, num_components=2).eval()
    history = EventSequence.of([3.0, 3.5], [0, 1])
    (sequence,) = reencode(model, Request(1, [history], [40.0], None), seed=0)
    assert sequence.first_is_given and sequence.t_end == 40.0 and len(sequence) > 2
    assert torch.equal(sequence.event_times[:2], history.event_times) and float(sequence.event_times[-1]) <= 40


def test_peak_memory_sees_what_was_held():
    with PeakMemory() as peak:
        held = torch.ones(2**22, dtype=torch.float64)  # 32 MiB
        held = held[:1].clone()
    assert peak.bytes is None or 30 * 2**20 < peak.bytes < 64 * 2**20
    assert len(held) == 1


def test_rows_are_summed_up_in_a_table(capsys):
    size = ["--num-events", "5", "--repeats", "2", "--draft-length", "2", "3", "--batch-size", "1", "2", "--json"]
    benchmark.main(["--untrained", "1,2", "--draft", "self", "--method", "auto", "fixed_point", *size])
    rows = rows_of(capsys.readouterr().out)
    lines = markdown(summaries([Row(**row) for row in rows])).splitlines()
    assert len(lines) == 2 + 2
    for batch_size, line in zip((1, 2), lines[2:], strict=True):
        own = [row for row in rows if row["batch_size"] == batch_size]
        best = max((row for row in own if row["method"] == "speculative"), key=lambda row: row["speedup"])
        (auto,) = (row for row in own if row["method"] == "auto")
        cells = [cell.strip() for cell in line.split("|")[1:-1]]
        assert cells[3] == str(batch_size) and cells[5] == best["sampler"].removeprefix("speculative, ")
        assert cells[7].startswith(f"{best['speedup']:.2f} (") and cells[8].startswith(f"{auto['speedup']:.2f}")


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["--untrained", "1,2", "--threads", "0"], "--threads: 0 must be a whole number from 1 to 1,024"),
        (
            ["--data", "hawkes", "--training-seconds", "5", "-1"],
            "--training-seconds: -1 must be a positive number of seconds",
        ),
    ],
)
def test_options_that_contradict_each_other_are_refused_before_anything_runs(args, said, capsys):
    with pytest.raises(SystemExit):
        benchmark.main(args)
    assert said in capsys.readouterr().err


def test_seeds_are_averaged_and_p_values_are_not():
    values = {f.name: None for f in fields(Row)} | {"sampler": "a", "batch_size": 1, "num_events": 1, "paper": {}}
    numbers = [f.name for f in fields(Row) if f.type == "float"]
    rows = [
        Row(**{**values, **dict.fromkeys(numbers, float(seed)), "seed": seed, "model_p_value": p})
        for seed, p in ((1, 0.01), (2, 0.5), (6, 0.6))
    ]
    (mean,) = averaged(rows)
    assert mean.speedup == 3 and (mean.low, mean.high) == (1, 6) and mean.model_p_value == 0.5 and mean.num_events == 3


# --- plans -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(CONFIGS)))
def test_each_file_is_a_plan_that_says_what_it_reproduces(file):
    settings_for_other_plans = file.stem in ("size", "compiled_drafts", "model_drafts")
    read_plan([str(file)], {"data": ["hawkes"]} if settings_for_other_plans else {})
    assert file.read_text().startswith("# ")


@pytest.mark.parametrize("file", sorted(CONFIGS.glob("*.yaml")), ids=lambda file: file.stem)
def test_the_papers_numbers_belong_to_what_the_plan_runs(file):
    """Every entry names data, encoders, drafts of the plan, and numbers that are columns of its table."""
    plan = read_plan([str(file)], {})
    names = {Path(name).name for name in plan.data}
    drafts = {draft if isinstance(draft, str) else draft.name for draft in plan.drafts}
    assert (plan.target.num_layers, plan.target.num_heads) == (20, 8) and plan.draft_lengths
    for entry in plan.paper:
        assert entry["data"] in names and entry.get("encoder", plan.encoders[0]) in plan.encoders
        assert entry.get("draft", "1x1") in drafts and entry.keys() - set(PAPER_KEYS) <= set(plan.columns)


def test_tables_and_figures_of_the_paper_exist_in_both_sizes():
    wanted = {*(f"table{i}" for i in range(1, 7)), *(f"figure{i}" for i in (2, 3, 5, 6))}
    assert {file.stem for file in CONFIGS.glob("*.yaml")} == wanted
    assert {file.stem for file in (CONFIGS / "small").glob("*.yaml")} == wanted | {
        "size", "deep", "deep_processes", "recommended", "processes", "model_drafts",
    }  # fmt: skip


def test_small_plans_share_their_models():
    plans = [read_plan([str(file)], {}) for file in sorted((CONFIGS / "small").glob("[tf]*.yaml"))]
    assert len({(plan.target, plan.training, plan.seeds, plan.drafts[0]) for plan in plans}) == 1


def test_columns_of_plans_rows_and_tables_agree():
    assert set(COLUMNS) <= {f.name for f in fields(Row)}


def test_a_file_extends_others_and_the_command_line_wins(tmp_path):
    (tmp_path / "a.yaml").write_text("repeats: 3\ndata: [hawkes]\n")
    (tmp_path / "b.yaml").write_text("extends: [a.yaml]\nrepeats: 5\n")
    assert read_yaml(tmp_path / "b.yaml") == {"repeats": 5, "data": ["hawkes"]}
    options = benchmark.parse(
        ["--config", str(tmp_path / "b.yaml"), "--repeats", "2", "--draft", "4,2", "--draft", "self"]
    )
    plan = read_plan(options.config, benchmark.overrides(options))
    assert plan.repeats == 2 and plan.data == ("hawkes",) and plan.drafts[1] == "self"
    assert (plan.drafts[0].num_layers, plan.drafts[0].num_heads) == (4, 2)
    (tmp_path / "b.yaml").write_text("training: {learning_rate: 0.1}\n")
    options = benchmark.parse(
        ["--config", str(tmp_path / "b.yaml"), "--data", "hawkes", "--training-seconds", "5", "2"]
    )
    training = read_plan(options.config, benchmark.overrides(options)).training
    assert (training.learning_rate, training.target_seconds, training.draft_seconds) == (0.1, 5, 2)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("drats: [self]", "there is no key 'drats'; the keys are title, data, "),
        ("encoders: [lstm]", "encoders = 'lstm' is unknown; choose one of thp, sahp, attnhp"),
        ("repeats: many", "repeats = 'many' must be a whole number"),
        ("compile: maybe", "compile = 'maybe' must be true or false or auto"),
        ("paper: [taxi]", "paper = 'taxi' must be a mapping"),
        ("target: {layers: 3}", "target: there is no key 'layers'; the keys are num_layers, "),
        ("training: {target_seconds: soon}", "target_seconds = 'soon' must be a number or null"),
        ("draft_lengths: 4", "draft_lengths = 4 must be a list"),
        ("rules: [optimal]", "rule = 'optimal' is unknown; choose one of "),
        ("draft_lengths: [0]", "draft_length = 0 must be a whole number between 1 and 1024"),
        ("columns: [speed]", "there is no column 'speed'; the columns are likelihood_discrepancy, "),
        ("seeds: []", "seeds is empty; it needs at least one value"),
        ("repeats: 0", "repeats = 0 must be at least 1"),
        ("- a list", "must hold keys and values, it holds a list"),
        ("a: [", "not a YAML file"),
        ("\udcff", "not a text file in UTF-8 (invalid start byte at byte 0)"),
        ("extends: plan.yaml", "plan.yaml: extends itself"),
        ("extends: 5", "plan.yaml: extends = 5 must be a file or a list of files"),
        ("training: 5", "training = 5 must be a mapping with distilled, "),
        ("seeds: [1, 1]", "seeds: 1 is there twice; name it once"),
        ("data: [a, a/]", "data: a is there twice; name it once"),
        ("drafts: [{embed_dim: 8}, {embed_dim: 8}]", "drafts: 1x1 is there twice; name it once"),
        ("drafts: [a.ckpt, ./a.ckpt]", "drafts: a.ckpt is there twice; name it once"),
        ("paper: [{metod: draft}]", "paper: there is no key 'metod'; the keys are data, encoder, method, "),
        ("paper: [{speedup: fast}]", "paper: speedup = 'fast' must be a number"),
        ("repeats: 2", "there is nothing to train a target on"),
    ],
)
def test_a_mistake_in_a_plan_is_one_sentence(text, message, tmp_path):
    with pytest.raises(ValueError, match=re.escape(message)) as raised:
        read_plan([plan_file(tmp_path, text)], {})
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--untrained", "20"], "--untrained 20 must be layers,heads, such as 20,8"),
        (["--config", "absent.yaml"], "absent.yaml: there is no such configuration file"),
        (["--data", "absent"], "absent: no such file or folder"),
        (["--data", "absent", "gone"], "none of the data sets absent, gone could be read"),
        (["--target", "absent.ckpt"], "absent.ckpt: there is no such checkpoint file"),
    ],
)
def test_a_mistake_on_the_command_line_is_one_sentence(arguments, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises((ValueError, FileNotFoundError), match=re.escape(message)):
        benchmark.main(arguments)


def test_a_gpu_that_is_not_there_is_said(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ValueError, match="device = cuda, but there is no CUDA device; give --device cpu"):
        benchmark.main(["--untrained", "1,1", "--device", "cuda"])


def test_a_data_set_that_cannot_be_read_is_skipped_with_its_reason(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    size = ["--untrained", "1,1", "--num-events", "2", "--repeats", "1", "--draft-length", "1", "--json"]
    benchmark.main(["--data", "absent", "renewal", *size])
    printed = capsys.readouterr()
    assert {row["data"] for row in rows_of(printed.out)} == {"renewal"}
    assert "absent is skipped: absent: no such file or folder" in " ".join(printed.err.split())
