"""`tppsd inspect SOURCE`: what was understood of a log, what is in it, and what is to mind.

It is for the time before anything is trained.
"""

from __future__ import annotations

import json
import shlex
from pathlib import Path

from tppsd.commands.data_options import SourceParser, parse_source
from tppsd.data.obstacles import DataError
from tppsd.data.options import ReadOptions
from tppsd.data.paths import local_path


def parser() -> SourceParser:
    """Return the parser of the command line."""
    parser = SourceParser(
        "tppsd inspect",
        "Say what was understood of a log of events, and what is in it.",
        ("tppsd inspect log.csv --report log.html", "tppsd inspect log.csv --window 7d --lookback 30d"),
    )
    parser.add_argument(
        "--report", type=str | None, default=None, metavar="PAGE.html", help="also draw it, on one page"
    )
    return parser


def main(args: list[str]) -> None:
    """Print the account of a source and, with `--report`, write a page with pictures.

    What stands in the way of reading is named; where options would mend all of it, the log is described as it is read
    with them, and the exit status is 2 all the same.

    Raises:
        FileNotFoundError, ValueError: it cannot be read, and options alone do not mend it.
    """
    parsed, source, options = parse_source(parser(), args)
    if parsed.report is not None and Path(parsed.report).suffix.lower() not in (".html", ".htm"):
        raise ValueError(f"--report {parsed.report} must be a page: give a name that ends in .html")

    if parsed.report is not None:
        local_path(parsed.report, "--report")

    from rich.console import Console

    from tppsd.commands.inspect_text import describe, page_of
    from tppsd.data.facts import LogFacts
    from tppsd.data.log import read_log

    console = Console(soft_wrap=True, highlight=False, markup=False)  # names may look like markup
    obstacles: DataError | None = None
    try:
        log = read_log(source, options)
    except DataError as error:
        if not error.options:
            raise
        obstacles, options = error, options.with_options(error.options)
        log = read_log(source, options)  # raises what comes to light only now
        console.print(f"{error}\n\nWith these options it is read so:\n")
    facts = LogFacts.of(log)
    for part in describe(facts):
        console.print(part)
    if parsed.report is not None:
        console.print(f"\nWritten: {page_of(facts).write(parsed.report)}")
    console.print(f"\nThe same in training:\n  {command_line(source, options)}")
    if obstacles is not None:
        raise SystemExit(2)


def command_line(source: str, options: ReadOptions) -> str:
    """Return the command that trains on a source with the same options."""
    words = ["tppsd", "fit", "--data.path", source]
    for name, value in options.given().items():
        text = value if isinstance(value, str) else json.dumps(value)
        words += [f"--data.{name}", text]
    return shlex.join(words)
