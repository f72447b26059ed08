"""The command line of commands that read one source: SOURCE and the options of `ReadOptions`, the same as in `fit`."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date
from itertools import takewhile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jsonargparse import ArgumentParser

from tppsd.arguments import THREADS, Option, options_of, use_threads
from tppsd.commands.console import OnePage
from tppsd.data.options import READING, ReadOptions
from tppsd.data.paths import local_path
from tppsd.data.units import check_duration
from tppsd.data.yaml_files import read_mapping

if TYPE_CHECKING:
    from tppsd.models.transformer_tpp import TransformerTPP

LISTS = ("fractions", "split_times", "mark_bins", "mark_names")
COLUMNS = "'{sequence: case, time: when, mark: what}'"
NO_SOURCE = "there is no SOURCE: give a file, a folder, a hub id or a URL"
TRAINER = {  # options of the Trainer that a page shows
    "--trainer.devices": "processes that share the work (default: 1)",
    "--trainer.num_nodes": "machines that share the work (default: 1)",
    "--trainer.enable_progress_bar": "show how far the work is (default: true)",
    "--start_timeout": "seconds that processes wait for each other at the start (default: 60)",
}

OneSet = int | str | list[int | str]
MarkSets = list[OneSet] | dict[str, OneSet] | None  # marks, sets of them, or sets with names


class SourceParser(OnePage, ArgumentParser):
    """Takes SOURCE, every option of `ReadOptions`, with or without the prefix `--data.`, and a run's configuration.

    Args:
        prog: the command, as `tppsd inspect`.
        description: what it does.
        examples: calls of it, for its page.
        has_threads: it computes, and takes `--threads`.
        source: what SOURCE may be.
    """

    def __init__(
        self,
        prog: str,
        description: str,
        examples: tuple[str, ...],
        has_threads: bool = False,
        source: str = "file, folder of split files, hub id or URL; of --config unless given",
    ) -> None:
        super().__init__(prog=prog, description=description, allow_abbrev=False)
        self.examples, self.has_threads = examples, has_threads
        self.add_argument("source", type=str | None, default=None, nargs="?", help=source)
        self.add_argument("--config", type=str | None, default=None,
                          help="a configuration file with a section `data`, such as that of a run")  # fmt: skip
        self.add_class_arguments(ReadOptions)
        if has_threads:
            self.add_argument("--threads", type=int | None, default=None, help=THREADS)

    def on_the_page(self) -> dict[str, list[Option]]:
        """Return what is the command's own before how a log is read."""
        of_reading = {f"--{name}" for name in READING}
        options = options_of(self)
        words = [option for option in options if not option.name.startswith("--")]
        return {
            "What is given": words,
            "Options": sorted(
                (one for one in options if one not in words and one.name not in of_reading and not _is_trainers(one)),
                key=lambda option: option.name == "--threads",
            ),
            "Several processes, by PyTorch Lightning's Trainer": _of_trainer(options),
            "How the log is read, as in `tppsd fit` under --data.": [one for one in options if one.name in of_reading],
        }

    def parse_args(self, *args: Any, **options: Any) -> Any:
        """Parse a command line, and take the threads that it asks for.

        Of the options of reading, the result has those that were typed, and no defaults: so one that is typed counts
        before a configuration or a run also where it equals its default, as `--sort false`.
        """
        parsed = super().parse_args(*args, **options)
        typed = super().parse_args(*args, **options | {"defaults": False})
        for name in READING:
            if name not in typed:
                del parsed[name]
        if self.has_threads:
            use_threads(parsed.threads)
        return parsed


def add_job_options(
    parser: SourceParser, output: str, each: str, several: str, num_paths: int, max_events: int
) -> None:
    """Add what commands that forecast share: the model, the length and the number of paths, and where results go.

    Args:
        parser: of the command.
        output: default of `--output`.
        each, several: what paths continue, such as "history" and "histories".
        num_paths, max_events: defaults.
    """
    from tppsd.lightning.running import add_trainer_options

    add = parser.add_argument
    add("--run", type=str | None, default=None, help="folder of a run of fit: its best checkpoint, and its data")
    add("--model", type=str | None, default=None, help="checkpoint, where SOURCE gives the data")
    add("--draft", type=str | None, default=None, help="checkpoint of a draft, or the name of a drafter, for speed")
    add("--horizon", type=str | None, default=None, help="length of the forecasts: a number of units, or 7d")
    add("--output", type=str, default=output, help="folder for the results, and for what is done")
    add("--num_paths", type=int, default=num_paths, help=f"sampled continuations of each {each}")
    add("--marks", type=MarkSets, default=None,
        help="marks or sets of marks to forecast: '[closed, [won, lost]]', or with names '{done: [won, lost]}' "
        "(default: each mark)")  # fmt: skip
    add("--history_lookback", type=str | None, default=None,
        help="how much of every history is taken, as 28d (default: all, or as much as the model has seen in "
        "training)")  # fmt: skip
    add("--max_events", type=int, default=max_events, help="most events of a path; one that has more is an error")
    add("--seed", type=int, default=0, help="of the paths")
    add("--chunk_size", type=int | None, default=None,
        help=f"{several} that are done and written together (default: some 20,000 paths)")  # fmt: skip
    add_trainer_options(parser)


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
    for option in ("horizon", "history_lookback"):  # before a long log is read
        if (length := getattr(parsed, option)) is not None:
            check_duration(length, f"--{option}")
    local_path(parsed.output, "--output")
    return parsed


def _is_trainers(option: Option) -> bool:
    return option.name.startswith("--trainer.") or option.name == "--start_timeout"


def _of_trainer(options: Sequence[Option]) -> list[Option]:
    """Return those of the Trainer's options that a page shows; all are taken, as in `tppsd predict --help-all`."""
    return [one._replace(text=TRAINER[one.name]) for one in options if one.name in TRAINER]


def parse_source(parser: SourceParser, args: list[str], process: str | None = None) -> tuple[Any, str, ReadOptions]:
    """Return the parsed namespace, the source, and how it is read.

    Args:
        parser: of the command.
        args: its words.
        process: name of a process preset that is simulated where there is no source; None: one is needed.

    Raises:
        FileNotFoundError, ValueError: the configuration cannot be read, or there is no source.
    """
    parsed = parser.parse_args(without_prefix(args))
    return parsed, *source_of(parsed, process)


def without_prefix(args: list[str]) -> list[str]:
    """Return the words of a command line with `--data.NAME` as `--NAME`.

    The value of `--data.path`, or of `--data`, becomes SOURCE.

    Raises:
        ValueError: it has none, or another option has a value that is plainly meant as a list or a map and is none.
    """
    words = []
    for place, word in enumerate(args):
        name, is_joined, value = word.partition("=")
        if name in ("--data", "--data.path"):
            if (args[place + 1 : place + 2] or ["--"])[0].startswith("--") and not value:
                raise ValueError(f"{name} needs a value: a file, a folder, a hub id or a URL")
            words += [value] if is_joined else []
        else:
            words.append("--" + word.removeprefix("--data.") if word.startswith("--data.") else word)
    for place, word in enumerate(words):
        if (said := _misspelt(word, words[place + 1 :])) is not None:
            raise ValueError(said)
    return words


def _misspelt(word: str, following: list[str]) -> str | None:
    """Return how a list or map is written, where an option is followed by words that are meant as one."""
    option, is_joined, value = word.partition("=")
    values = [value] if is_joined else [*takewhile(lambda word: not word.startswith("--"), following)]
    name = option.removeprefix("--").replace("-", "_")
    if option == "--unmarked":
        return "there is no option --unmarked: say --columns.mark null"
    if not option.startswith("--") or not values or values[0] == "null" or values[0].startswith(("[", "{")):
        return None
    if name == "columns":
        pairs = (value.partition("=") for value in takewhile(lambda value: "=" in value, values))
        meant = "{" + ", ".join(f"{field}: {column}" for field, _, column in pairs) + "}"
    elif name == "observed":
        edges = (value.split("..") for value in takewhile(lambda value: ".." in value, values))
        meant = "[" + ", ".join(f"[{', '.join(own)}]" for own in edges) + "]"
    elif name in LISTS:
        meant = f"[{', '.join(values)}]"
    else:
        return None
    kind, shown = ("map", COLUMNS) if name == "columns" else ("list", "'[...]'")
    return f"{option} {values[0]} is no {kind}: say --{name} {shown if meant in ('{}', '[]') else repr(meant)}"


def source_of(parsed: Any, process: str | None = None) -> tuple[str, ReadOptions]:
    """Return the source of a parsed namespace, and how it is read.

    Raises:
        FileNotFoundError, ValueError: as `parse_source`.
    """
    values = {} if parsed.config is None else _section(parsed.config)
    source = parsed.source or values.get("path") or (process and (values.get("process") or process))
    if source is None:
        raise ValueError(NO_SOURCE)
    stored = {name: values[name] for name in READING if values.get(name) is not None}  # null: it is not given
    return source, ReadOptions(**stored | typed_options(parsed))


def opened(parsed: Any) -> tuple[TransformerTPP, str | None, ReadOptions]:
    """Return the model of --run or --model, the source of its data, and how it is read: as the model's own data were.

    The source is SOURCE, else that of --config, else the run's; None: the run has simulated its data. An option is what
    was typed, else what --config or the run says of it, else what the model knows (tppsd.data.stamps.as_trained).

    Raises:
        FileNotFoundError, ValueError: the run, the model or the configuration cannot be read, or there is no source.
    """
    from tppsd.data.stamps import as_trained
    from tppsd.lightning.runs import open_run
    from tppsd.models.checkpoint import load

    values: dict[str, Any] = {}
    if parsed.run is None:
        target = load(parsed.model)
    else:
        checkpoint, section = open_run(Path(parsed.run))
        target, values = load(checkpoint), section["init_args"]
    if parsed.config is not None:
        values = _section(parsed.config)
    source = parsed.source or values.get("path")
    if source is None and (parsed.run is None or parsed.config is not None):
        raise ValueError(NO_SOURCE)
    stored = {name: values[name] for name in READING if name in values}
    return target, source, ReadOptions(**as_trained(target.statistics, typed_options(parsed), stored))


def typed_options(parsed: Any) -> dict[str, Any]:
    """Return the options of `ReadOptions` that the command line itself gives."""
    return {name: parsed[name] for name in READING if name in parsed}


def _section(path: str) -> dict[str, Any]:
    """Return the section `data` of a configuration file."""
    section = _without_dates(read_mapping(path, "--config")).get("data")
    if not isinstance(section, dict):
        raise ValueError(f"--config {path}: has no section `data`")
    found = section.get("init_args", section)
    if not isinstance(found, dict):
        raise ValueError(f"--config {path}: init_args of data must hold options, it holds a {type(found).__name__}")
    return found


def _without_dates(value: Any) -> Any:
    """Return what YAML read, with its dates as text."""
    if isinstance(value, dict):
        return {name: _without_dates(one) for name, one in value.items()}
    if isinstance(value, list):
        return [_without_dates(one) for one in value]
    return str(value) if isinstance(value, date) else value
