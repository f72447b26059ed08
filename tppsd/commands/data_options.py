"""The command line of commands that read one source: SOURCE and the options of `ReadOptions`, the same as in `fit`."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import fields
from datetime import date
from pathlib import Path
from typing import Any, NoReturn

from jsonargparse import ArgumentParser

from tppsd.arguments import THREADS, Option, names_of, options_of, page, unrecognized, use_threads
from tppsd.data.options import ReadOptions
from tppsd.data.paths import local_path

TRAINER = {  # options of the Trainer that a page shows
    "--trainer.devices": "processes that share the work (default: 1)",
    "--trainer.num_nodes": "machines that share the work (default: 1)",
    "--trainer.enable_progress_bar": "show how far the work is (default: true)",
    "--start_timeout": "seconds that processes wait for each other at the start (default: 60)",
}

OneSet = int | str | list[int | str]
MarkSets = list[OneSet] | dict[str, OneSet] | None  # marks, sets of them, or sets with names


class SourceParser(ArgumentParser):
    """Takes SOURCE, every option of `ReadOptions`, with or without the prefix `--data.`, and a run's configuration.

    Args:
        prog: the command, as `tppsd inspect`.
        description: what it does.
        examples: calls of it, for its page.
        has_threads: it computes, and takes `--threads`.
    """

    def __init__(self, prog: str, description: str, examples: tuple[str, ...] = (), has_threads: bool = False) -> None:
        super().__init__(prog=prog, description=description)
        self.examples, self.has_threads = examples, has_threads
        self.add_argument("source", type=str | None, default=None, nargs="?",
                          help="file, folder of split files, hub id or URL; of --config unless given")  # fmt: skip
        self.add_argument("--config", type=str | None, default=None,
                          help="a configuration file with a section `data`, such as that of a run")  # fmt: skip
        self.add_class_arguments(ReadOptions)
        if has_threads:
            self.add_argument("--threads", type=int | None, default=None, help=THREADS)

    def format_help(self, *_: Any) -> str:
        """Return the page of --help: what is the command's own comes before how a log is read."""
        of_reading = {f"--{field.name}" for field in fields(ReadOptions)}
        options = options_of(self)
        words = [option for option in options if not option.name.startswith("--")]
        groups = {
            "What is given": words,
            "Options": sorted(
                (one for one in options if one not in words and one.name not in of_reading and not _is_trainers(one)),
                key=lambda option: option.name == "--threads",
            ),
            "Several processes, by PyTorch Lightning's Trainer": _of_trainer(options),
            "How the log is read, as in `tppsd fit` under --data.": [one for one in options if one.name in of_reading],
        }
        usage = " ".join([self.prog, *(word.name.upper() for word in words), "[OPTIONS]"])
        footer = "\n".join(["Examples:", *(f"  {example}" for example in self.examples)])
        groups = {title: several for title, several in groups.items() if several}
        return page(usage, self.description or "", groups, footer if self.examples else "")

    def parse_args(self, *args: Any, **options: Any) -> Any:
        """Parse a command line, and take the threads that it asks for."""
        parsed = super().parse_args(*args, **options)
        if self.has_threads:
            use_threads(parsed.threads)
        return parsed

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Say what is wrong in one sentence, and where all options are listed."""
        known = names_of(options_of(self))
        sentence = unrecognized(" ".join(message.split()), known)
        sys.stderr.write(f"{self.prog}: error: {sentence} (`{self.prog} --help` lists the options)\n")
        raise SystemExit(2)


def parse_job(parser: SourceParser, args: list[str]) -> Any:
    """Return the options of a command that forecasts: of a run or a model, to a horizon, into a folder.

    Raises:
        ValueError: there is neither or both of --run and --model, no horizon, or the output is no local folder.
    """
    parsed = parser.parse_args(without_prefix(args))
    if (parsed.run is None) == (parsed.model is None):
        raise ValueError("give either --run RUN, a folder of `tppsd fit`, or --model CHECKPOINT with its data")
    if parsed.horizon is None:
        raise ValueError("--horizon is missing: give a number of units of time, or a duration such as 7d")
    local_path(parsed.output, "--output")
    return parsed


def _is_trainers(option: Option) -> bool:
    return option.name.startswith("--trainer.") or option.name == "--start_timeout"


def _of_trainer(options: Sequence[Option]) -> list[Option]:
    """Return those of the Trainer's options that a page shows; all are taken, as in `tppsd predict --help-all`."""
    return [one._replace(text=TRAINER[one.name]) for one in options if one.name in TRAINER]


def parse_source(parser: SourceParser, args: list[str]) -> tuple[Any, str, ReadOptions]:
    """Return the parsed namespace, the source, and how it is read.

    Raises:
        FileNotFoundError, ValueError: the configuration cannot be read, or there is no source.
    """
    parsed = parser.parse_args(without_prefix(args))
    return parsed, *source_of(parsed)


def without_prefix(args: list[str]) -> list[str]:
    """Return the words of a command line with `--data.NAME` as `--NAME`, and the value of `--data.path` as SOURCE."""
    words = [word.removeprefix("--data.path=") for word in args if word != "--data.path"]
    return ["--" + word.removeprefix("--data.") if word.startswith("--data.") else word for word in words]


def source_of(parsed: Any) -> tuple[str, ReadOptions]:
    """Return the source of a parsed namespace, and how it is read.

    Raises:
        FileNotFoundError, ValueError: as `parse_source`.
    """
    names = [option.name for option in fields(ReadOptions)]
    values = {} if parsed.config is None else _section(parsed.config)
    source = parsed.source or values.get("path")
    if source is None:
        raise ValueError("there is no SOURCE: give a file, a folder, a hub id or a URL")
    read = {name: values[name] for name in names if values.get(name) is not None}
    return source, ReadOptions(**read | given_options(parsed))


def given_options(parsed: Any) -> dict[str, Any]:
    """Return the options of `ReadOptions` that the command line itself gives."""
    names = [option.name for option in fields(ReadOptions)]
    defaults = ReadOptions()
    return {name: parsed[name] for name in names if parsed[name] not in (getattr(defaults, name), None)}


def _section(path: str) -> dict[str, Any]:
    """Return the section `data` of a configuration file."""
    import yaml

    if not Path(path).is_file():
        raise FileNotFoundError(f"--config {path}: there is no such file")
    content = _without_dates(yaml.safe_load(Path(path).read_text(encoding="utf-8")))
    section = content.get("data") if isinstance(content, dict) else None
    if not isinstance(section, dict):
        raise ValueError(f"--config {path}: has no section `data`")
    found: dict[str, Any] = section.get("init_args", section)
    return found


def _without_dates(value: Any) -> Any:
    """Return what YAML read, with its dates as text."""
    if isinstance(value, dict):
        return {name: _without_dates(one) for name, one in value.items()}
    if isinstance(value, list):
        return [_without_dates(one) for one in value]
    return str(value) if isinstance(value, date) else value
