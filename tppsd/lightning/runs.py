"""Runs as arguments: `tppsd test --run outputs/fit/version_0` takes the data and the best checkpoint of a run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tppsd.data.options import READING
from tppsd.data.stamps import as_trained
from tppsd.data.statistics import DataStatistics
from tppsd.data.yaml_files import read_mapping
from tppsd.models.checkpoint import CHECKPOINT_KEY, best_of_run, read_checkpoint

FIT_ONLY = ("early_stopping", "checkpoint")  # sections by which the configuration of a run is known
CHECKPOINT_OPTION = {"validate": "--ckpt_path", "test": "--ckpt_path", "predict": "--model.target"}
HELP = "folder of a run of fit: its data, as they were read there, and its best checkpoint; further options come on top"


def with_run(args: list[str]) -> list[str]:
    """Return the arguments of a verb with `--run RUN`, or with `--config` of a run's own configuration, spelt out.

    Raises:
        FileNotFoundError, ValueError: the folder is not that of a run, or the verb is fit.
    """
    verb, rest, run = args[0], [], None
    words = [
        part
        for word in args[1:]
        for part in (word.split("=", 1) if word.startswith(("--run=", "--config=")) else [word])
    ]
    while words:
        word = words.pop(0)
        is_run = word == "--run" or (word == "--config" and verb != "fit" and words and _is_of_a_run(words[0]))
        if not (is_run and words):
            rest.append(word)
            continue
        run = Path(words.pop(0))
        run = run.parent if word == "--config" else run
    if run is None:
        return args
    if verb not in CHECKPOINT_OPTION:
        raise ValueError(f"--run {run} is for {', '.join(CHECKPOINT_OPTION)}; fit goes on from --ckpt_path CHECKPOINT")
    checkpoint, data = open_run(run)
    given = [CHECKPOINT_OPTION[verb], str(checkpoint)]
    return [verb, f"--data={json.dumps(data, default=str)}", *given, *rest]


def open_run(run: Path) -> tuple[Path, dict[str, Any]]:
    """Return the best checkpoint of a run's folder and the section `data` of its configuration.

    Raises:
        FileNotFoundError, ValueError: the folder is not that of a run.
    """
    checkpoint = best_of_run(run)
    return checkpoint, _data(run, checkpoint)


def run_of(checkpoint: Path) -> Path | None:
    """Return the folder of the run for which `--run` takes this checkpoint; None: it takes no run, or another one."""
    run = checkpoint.parent.parent
    try:
        return run if best_of_run(run) == checkpoint and (run / "config.yaml").is_file() else None
    except FileNotFoundError:
        return None


def _is_of_a_run(path: str) -> bool:
    file = Path(path)
    return file.name == "config.yaml" and file.is_file() and all(name in read_mapping(file) for name in FIT_ONLY)


def _data(run: Path, checkpoint: Path) -> dict[str, Any]:
    """Return the section `data` of a run, with the marks and the clock of its model."""
    file = run / "config.yaml"
    if not file.is_file():
        raise FileNotFoundError(f"{run}: has no config.yaml; it must be a folder of `tppsd fit`")
    section = read_mapping(file).get("data")
    if not isinstance(section, dict) or "class_path" not in section:
        raise ValueError(f"{file}: does not say which data the run was trained on")
    options = section.setdefault("init_args", {})
    if not isinstance(options, dict):
        raise ValueError(f"{file}: init_args of data must hold options, it holds a {type(options).__name__}")
    known = read_checkpoint(checkpoint)[CHECKPOINT_KEY].get("statistics")
    statistics = None if known is None else DataStatistics.from_dict(known)
    read = as_trained(statistics, {}, {name: options[name] for name in READING if name in options})
    # another class of data may have only some of the options
    options |= {name: read.get(name) for name in READING if name in options}
    return section
