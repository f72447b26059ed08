"""A small log of cases with dates and names, and a model that was made for it."""

from __future__ import annotations

from pathlib import Path

import torch
from small_models import attentive_model

from tppsd.data.statistics import DataStatistics
from tppsd.models.checkpoint import save
from tppsd.models.transformer_tpp import TransformerTPP

NAMES = ("admission", "discharge", "surgery")
READ = ["--columns", "{sequence: case, mark: activity}"]


def dated_model() -> TransformerTPP:
    """A target whose data began at an origin and count hours."""
    torch.manual_seed(0)
    made = attentive_model("thp", num_marks=3)
    made.set_statistics(
        DataStatistics(
            3, log_std=1.0, num_events=60, duration=60.0, mark_counts=(20, 20, 20), first_mark_counts=(1, 1, 1),
            mark_names=NAMES, time_unit="h", time_origin="2024-03-01T00:00:00",
        )
    )  # fmt: skip
    return made


def write_dated_log(folder: Path, num_cases: int) -> tuple[str, str]:
    """Write log.csv, with cases case-0, case-1, ... of five to nine events, and target.ckpt; return their paths."""
    rows = []
    for case in range(num_cases):
        for event in range(5 + case % 5):
            minute = 37 * event + 11 * case + (case * event) % 7
            when = f"2024-03-{2 + minute // 1440:02d}T{minute // 60 % 24:02d}:{minute % 60:02d}:00"
            rows.append(f"case-{case},{when},{NAMES[(case + event) % 3]}")
    (folder / "log.csv").write_text("case,time,activity\n" + "\n".join(rows) + "\n")
    save(dated_model(), folder / "target.ckpt")
    return str(folder / "log.csv"), str(folder / "target.ckpt")
