"""`tppsd demo` on models and data small enough for a minute."""

import json

import pytest
import torch

from tppsd.commands import demo
from tppsd.processes.presets import preset

KS = {"statistic", "p_value", "num_events"}
MODEL = {"nll_per_event", "nll_time", "nll_mark", "convention", "history_share", "num_parameters", "num_layers", "epochs"}
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


def test_the_demo_writes_what_it_promises(events, tmp_path, threads, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    options = ["--target-seconds", "2", "--draft-seconds", "1", "--num-sequences", "2", "--output", "out"]
    demo.main(["--data", str(events), *options])
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert summary["target"].keys() >= MODEL and summary["draft"].keys() >= MODEL
    assert summary["schema"] == 1 and summary["target"]["convention"] == "benchmark"
    assert summary["target"]["history_share"] is None and summary["true_nll_per_event"] is None
    assert summary["autoregressive"].keys() >= RUN
    assert RUN | {"acceptance_rate", "step_acceptance", "draft_length", "rule"} <= summary["speculative"].keys()
    ratio = summary["speculative"]["events_per_second"] / summary["autoregressive"]["events_per_second"]
    assert summary["speedup"] == pytest.approx(ratio)
    assert summary["own_law_ks"].keys() == KS and summary["mark_pit_ks"].keys() == KS
    assert summary["true_process_ks"] is None
    for figure in ("ks", "raster", "intensity", "rounds"):
        assert (tmp_path / "out" / f"{figure}.png").stat().st_size > 10_000
    assert list((tmp_path / "out" / "samples" / "speculative").glob("*.parquet"))
    printed = capsys.readouterr().out
    assert "speed-up" in printed and "out/summary.json" in printed and "Next" in printed
