"""The pages of the repository: every link leads somewhere, every command and configuration that they name exists."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tppsd.cli import COMMANDS

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = ("", "data", "lightning_configs", "lightning_configs/benchmark", "lightning_configs/recipes", "tests")
PAGES = [path for folder in FOLDERS for path in sorted((ROOT / folder).glob("*.md"))]
LINK = re.compile(r"\[[^\]]*\]\(([^)#\s]*)(#[^)\s]*)?\)")
FENCE = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)


def anchors(page: Path) -> set[str]:
    """Of the headings, as repository hosts make them."""
    titles = re.findall(r"^#+ (.+)$", FENCE.sub("", page.read_text()), re.MULTILINE)
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
