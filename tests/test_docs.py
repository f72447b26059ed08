"""The pages of the repository: every link leads somewhere, every command, option and configuration that they name exists."""

from __future__ import annotations

import re
from dataclasses import fields
from pathlib import Path

import docstrings
import generate
import pytest

from tppsd.cli import COMMANDS
from tppsd.data.options import ReadOptions

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = (
    *("", "data", "lightning_configs", "lightning_configs/benchmark", "lightning_configs/recipes", "tests"),
    *("docs", "docs/concepts", "docs/guides", "docs/results"),
)
PAGES = [path for folder in FOLDERS for path in sorted((ROOT / folder).glob("*.md"))]
LINK = re.compile(r"\[[^\]]*\]\(([^)#\s]*)(#[^)\s]*)?\)")
FENCE = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)


def anchors(page: Path) -> set[str]:
    """Of the headings, as repository hosts make them, and of those of pages that are included."""
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


def test_the_table_of_options_has_every_option() -> None:
    named = re.findall(r"^\| `(\w+)` \| .{10,}", generate.reading_options(), re.MULTILINE)
    assert sorted(named) == sorted(option.name for option in fields(ReadOptions))


def test_links_of_copied_pages_are_seen_from_their_new_place() -> None:
    assert "](guides/data.md)" in generate.moved(ROOT / "README.md")
    assert "](contributing.md)" in generate.moved(ROOT / "README.md")
    assert "](../tppsd/sampling/rules.py)" in generate.moved(ROOT / "CONTRIBUTING.md")


def test_docstrings_become_plain_text() -> None:
    """What would be markup is escaped, formulas are literal, sections are left to napoleon."""
    text = """Return lambda*_k at `x*y`.

    D = |a - b|

With a_ and more.

Args:
    x: one of |x|.

Source: someone,
    somewhere.""".splitlines()
    assert docstrings.to_rst(text) == [
        "Return lambda\\*_k at `x*y`.", "", "::", "", "    D = |a - b|", "", "With a\\_ and more.", "",
        "Args:", "    x: one of \\|x\\|.", "", "Source: someone,", "somewhere.",
    ]  # fmt: skip
