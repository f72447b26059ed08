"""The pages of the repository: every link leads somewhere, every command, option and configuration that they name
exists."""

from __future__ import annotations

import ast
import json
import os
import re
import subprocess
import sys
from dataclasses import fields
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import docstrings
import figures
import generate
import pytest
import tables

import tppsd
from tppsd.cli import COMMANDS
from tppsd.data.options import ReadOptions
from tppsd.models.transformer_tpp import ENCODERS

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = (
    *("", "data", "lightning_configs", "lightning_configs/benchmark", "lightning_configs/recipes", "tests"),
    *("docs", "docs/concepts", "docs/guides", "docs/results"),
)
PAGES = [path for folder in FOLDERS for path in sorted((ROOT / folder).glob("*.md"))]
LINK = re.compile(r"\[[^\]]*\]\(([^)#\s]*)(#[^)\s]*)?\)")
FENCE = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)


def anchors(page: Path) -> set[str]:
    """Return the anchors of the headings, as repository hosts make them, and of those of pages that are included."""
    text = page.read_text()
    for name in re.findall(r"{include} [./]*_generated/(\S+)", text):
        text += (ROOT / generate.COPIES[name]).read_text() if name in generate.COPIES else ""
    titles = re.findall(r"^#+ (.+)$", FENCE.sub("", text), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    for target, anchor in LINK.findall(FENCE.sub("", page.read_text())):
        if target.startswith(("http:", "https:")):
            continue
        linked = (page.parent / target).resolve() if target else page
        assert linked.exists(), f"{target} is not there"
        assert not anchor or anchor[1:] in anchors(linked), f"{target}{anchor}: there is no such heading"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_commands_and_configurations_exist(page: Path) -> None:
    text = page.read_text()
    named = {name for name in re.findall(r"(?:^|`)(?:    )?tppsd ([a-z]+)\b", text, re.MULTILINE)}
    assert named <= set(COMMANDS)
    for path in re.findall(r"(?:lightning_configs|\$C)/([\w/]+\.yaml)", text):
        assert (ROOT / "lightning_configs" / path).exists(), f"{path} is not there"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_code_names_what_is_public(page: Path) -> None:
    """Blocks of Python are Python, and the names that they take from `tppsd` are there."""
    for code in re.findall(r"^```python\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL):
        taken = (node for node in ast.walk(ast.parse(code)) if isinstance(node, ast.Attribute))
        named = {node.attr for node in taken if isinstance(node.value, ast.Name) and node.value.id == "tppsd"}
        assert named <= set(tppsd.__all__)


def test_the_front_page_is_short_and_names_the_commands_of_make() -> None:
    page = (ROOT / "README.md").read_text()
    assert len(page.encode()) <= 10_000
    assert {"make demo", "make check", "make test", "make docs"} <= set(re.findall(r"make [a-z]+", page))


def test_commands_of_make_exist() -> None:
    """A page must not name a target that the Makefile lacks."""
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = {
        name for page in PAGES for name in re.findall(r"(?:^    |`)make ([a-z]+)\b", page.read_text(), re.MULTILINE)
    }
    assert named and named <= targets


# --- pages made from the code ----------------------------------------------------------------------------------------


def test_the_file_tree_has_every_module_with_its_purpose() -> None:
    lines = dict(re.findall(r"^ +(\S+\.(?:py|h|cpp)) +(.*)$", generate.tree(), re.MULTILINE))
    files = [path for path in (ROOT / "tppsd").rglob("*.py") if not path.name.startswith("_")]
    assert {path.name for path in files} <= set(lines)
    assert not [name for name, purpose in lines.items() if not purpose.endswith((".", "!", "?"))]
    folders = dict(re.findall(r"^ +(\w+)/ *(.*)$", generate.tree(), re.MULTILINE))
    assert [name for name, purpose in folders.items() if not purpose] == ["native"]  # no package of Python


def test_the_table_of_options_has_every_option() -> None:
    named = re.findall(r"^\| `(\w+)` \| .{10,}", generate.reading_options(), re.MULTILINE)
    assert sorted(named) == sorted(option.name for option in fields(ReadOptions))


def test_the_reference_has_every_public_name() -> None:
    named = set(re.findall(r"^\.\. auto(?:class|function):: tppsd\.(\w+)$", generate.api(), re.MULTILINE))
    modules = set(re.findall(r"^\.\. automodule:: tppsd\.(\w+)$", (ROOT / "docs/api.md").read_text(), re.MULTILINE))
    assert named | modules == set(tppsd.__all__) - {"__version__"}


def test_links_of_copied_pages_are_seen_from_their_new_place() -> None:
    assert "](guides/data.md)" in generate.moved(ROOT / "README.md")
    assert "](contributing.md)" in generate.moved(ROOT / "README.md")
    assert "](tutorials/01_log_to_forecast.ipynb)" in generate.moved(ROOT / "README.md")
    assert "](../tppsd/sampling/rules.py)" in generate.moved(ROOT / "CONTRIBUTING.md")


def test_docstrings_become_plain_text() -> None:
    """Markup is escaped, formulas and examples are literal, lines are joined, and sections are left alone."""
    text = """Return lambda*_k at `x*y`,
and more.

    D = |a - b|
      + c

- one
  thing;
- another.
Args:
    x: one of |x|,
          or none.
    y: a_.
Source: someone,
    somewhere.

Example:
    >>> f(2 * a_)
    [1,
     2]""".splitlines()
    assert [line for line in docstrings.to_rst(text) if line] == [
        "Return lambda\\*_k at `x*y`, and more.", "::", "    D = |a - b|", "      + c", "- one thing;", "- another.",
        "Args:", "    x: one of \\|x\\|, or none.", "    y: a\\_.", "Source: someone, somewhere.", "Example:",
        "    >>> f(2 * a_)", "    [1,", "     2]",
    ]  # fmt: skip


# --- tables of results -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("page", tables.PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_tables_are_those_of_their_json_lines(page: Path) -> None:
    """A number that is typed into a page is not a result: `python docs/tables.py` writes what the lines say."""
    text = page.read_text()
    assert text == tables.with_tables(text), "run: python docs/tables.py"
    outside = tables.PLACE.sub("", FENCE.sub("", text))
    is_results = page.parent == tables.RESULTS
    assert not (is_results and re.search(r"^\|", outside, re.MULTILINE)), "a table that has no JSON lines"


def test_every_file_of_results_has_a_place() -> None:
    assert not list(tables.without_place())
    assert len(list(tables.RESULTS.glob("*.jsonl"))) > 20


def test_values_are_written_as_they_were_measured() -> None:
    numbers = json.loads("[0.930, 26000, 9999, -0.5]", parse_float=tables.Number, parse_int=tables.Number)
    assert list(map(tables.value_text, numbers)) == ["0.930", "26,000", "9999", "-0.5"]
    assert (
        tables.value_text({"median": "1.5", "min": "1.2", "max": "1.9", "draft_length": "8"}) == "1.5 (1.2 to 1.9), 8"
    )
    assert tables.value_text({"mean": "2.1", "std": "0.1"}) == "2.1 ± 0.1"
    assert tables.value_text([{"value": "1", "published": "2"}, None]) == "1 (*2*), "
    table = tables.Table({"bold": ["gain"], "table": "Here"}, [{"gain": {"median": 2, "min": 1, "max": 3}, "n": None}])
    assert tables.written(table) == "| gain | n |\n| --- | --- |\n| **2** (1 to 3) | |\n\n*Here.*"


# --- pictures --------------------------------------------------------------------------------------------------------


def test_the_rounds_of_the_picture_make_the_sequence_that_is_sampled() -> None:
    rounds = figures.sampled_rounds()
    drawn = [time for one in rounds for time in (*one.drafted[: one.num_accepted].tolist(), one.last)]
    options = {"method": "speculative", "draft_length": figures.DRAFT_LENGTH, "seed": figures.SEED}
    samples = tppsd.sample(figures.TARGET, figures.DRAFT, t_end=figures.END, **options)
    assert [time for time in drawn if time <= figures.END] == samples.event_times[0].tolist()
    assert sum(len(one.drafted) - one.num_accepted for one in rounds) > 0


@pytest.mark.parametrize("draw", figures.PICTURES.values(), ids=figures.PICTURES)
def test_pictures_show_something_with_titles_or_legends_and_labelled_axes(draw: Any) -> None:
    figure = draw()
    assert all(axes.has_data() for axes in figure.axes)
    assert all(axes.get_xlabel() for axes in figure.axes)
    assert figure.legends or all(axes.get_legend() for axes in figure.axes)


# --- the quick start -------------------------------------------------------------------------------------------------


def block(page: str, language: str, number: int = 0) -> str:
    """A block of code on the front page."""
    return re.findall(rf"^```{language}\n(.*?)^```", page, re.MULTILINE | re.DOTALL)[number]


def tickets() -> str:
    """Cases of three to six events, the last of them `closed`, with dates; rows in no order."""
    rows, start = [], datetime(2025, 3, 3, tzinfo=UTC)
    for case in range(60):
        for i in range(length := 3 + case % 4):
            when = start + timedelta(hours=7 * case + 11 * i, minutes=13 * ((case * i) % 7))
            kind = "closed" if i == length - 1 else ("created", "comment", "escalated")[(case + i) % 3 if i else 0]
            rows.append(f"TCK-{case:03},{when.isoformat()},{kind}")
    return "\n".join(["case,timestamp,activity", *sorted(rows, key=lambda row: row[::-1])]) + "\n"


@pytest.mark.slow
def test_the_quick_start_runs(tmp_path: Path) -> None:
    """As the front page has it, from the log to the forecast, with one epoch of training."""
    page = (ROOT / "README.md").read_text()
    (tmp_path / "tickets.csv").write_text(tickets())
    (tmp_path / "tickets.yaml").write_text(block(page, "yaml"))
    options = {"cwd": tmp_path, "env": os.environ | {"PYTHONPATH": str(ROOT)}, "capture_output": True, "text": True}
    inspect, fit = (block(page, "bash", number).partition("#")[0].split() for number in (0, 1))
    assert inspect[:2] == ["tppsd", "inspect"] and fit[:2] == ["tppsd", "fit"]
    quick = ["--trainer.max_epochs", "1", "--model.num_layers", "1"]
    done = [
        subprocess.run([sys.executable, "-m", *command], check=False, **options)  # type: ignore[call-overload]
        for command in (inspect, [*fit, *quick])
    ]
    assert done[0].returncode == 2 and "columns: {sequence: case, time: timestamp, mark: activity}" in done[0].stdout
    assert done[1].returncode == 0, done[1].stderr
    code = block(page, "python") + "\nassert 0 < float(forecast.probability('closed').value) < 1.2\n"
    asked = subprocess.run([sys.executable, "-c", code], check=False, **options)  # type: ignore[call-overload]
    assert asked.returncode == 0, asked.stderr


def test_the_encoder_of_the_recipe_can_be_sampled() -> None:
    """As the guide for contributors has it."""
    names: dict[str, Any] = {}
    before = dict(ENCODERS)
    try:
        exec(block((ROOT / "CONTRIBUTING.md").read_text(), "python"), names)
        assert "mine" in ENCODERS and type(names["model"].encoder) is names["MyEncoder"]
        samples = tppsd.sample(names["model"], num_sequences=2, num_events=5)
    finally:
        ENCODERS.clear()
        ENCODERS.update(before)
    assert samples.stats.num_events == 10


# --- the documentation -----------------------------------------------------------------------------------------------


def test_what_a_build_leaves_is_no_source_of_the_next() -> None:
    """Executed notebooks among them, which lie beside the pages; the tutorials are made anew, and are pages."""
    left = set(re.findall(r"^/docs/(\w+)/$", (ROOT / ".gitignore").read_text(), re.MULTILINE)) - {"tutorials"}
    excluded = re.search(r"^exclude_patterns = (\[.*?\])", (ROOT / "docs/conf.py").read_text(), re.MULTILINE)
    assert excluded is not None and len(left) > 1 and set(ast.literal_eval(excluded[1])) >= left


@pytest.mark.slow
def test_the_documentation_builds_without_a_warning(tmp_path: Path) -> None:
    for package in ("sphinx", "myst_nb", "furo"):
        pytest.importorskip(package, reason=f"{package} is not installed: `make docs` installs it")
    quiet = ["-W", "--keep-going", "-q", "-D", "nb_execution_mode=off"]  # tests/test_notebooks.py runs them
    command = [sys.executable, "-m", "sphinx", *quiet, "docs", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    pages = ("index", "api", "tutorials/01_log_to_forecast")
    assert all((tmp_path / f"{page}.html").exists() for page in pages)
