"""What a W&B run that was recorded on this machine holds, read from its file."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tppsd.lightning.recorded_run import item_key, logged_keys, records


@dataclass
class RecordedRun:
    """Holds what a run has recorded.

    Attributes:
        keys: of all that it has logged, as a dashboard's panels name them.
        project: its name.
        config: by the names of its sections.
        history: key -> its values in order, as they were logged; of pictures and tables what describes them.
        summary: key -> its last value.
        artifacts: (name, type, whether it was used rather than made, metadata) of each.
    """

    keys: set[str]
    project: str = ""
    config: dict[str, Any] = field(default_factory=dict)
    history: dict[str, list[Any]] = field(default_factory=dict)
    summary: dict[str, Any] = field(default_factory=dict)
    artifacts: list[tuple[str, str, bool, dict[str, Any]]] = field(default_factory=list)


def read_recorded_run(file: Path) -> RecordedRun:
    """Read the file of a run; what was not written to its end is left out."""
    run = RecordedRun(logged_keys(file))
    for record in records(file.read_bytes()):
        kind = record.WhichOneof("record_type")
        if kind == "run":
            run.project = record.run.project
            run.config.update({item.key: json.loads(item.value_json) for item in record.run.config.update})
        elif kind == "config":
            run.config.update({item.key: json.loads(item.value_json) for item in record.config.update if item.key})
        elif kind == "history":
            for key, value in _items(record.history.item):
                run.history.setdefault(key, []).append(value)
        elif kind == "summary":
            run.summary.update(_items(record.summary.update))
        elif kind == "artifact":
            made = record.artifact
            about = json.loads(made.metadata or "{}")
            run.artifacts.append((made.name, made.type, made.use_after_commit, about))
    return run


def _items(items: Any) -> Iterator[tuple[str, Any]]:
    for item in items:
        yield item_key(item), json.loads(item.value_json)
