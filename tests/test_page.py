"""One HTML page of figures and tables: well formed, self-contained, in light and in dark."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
import torch

from tppsd import EventSequence, plots
from tppsd.plots.page import Page
from tppsd.plots.style import MARKS


def test_sentences_of_an_account_wrap_and_begin_at_the_left() -> None:
    page = Page("an account")
    page.account([("times", "timestamps <in UTC>")])
    page.table(["", "n"], [["a", "1"]])
    html = page.html()
    account, numbers = re.findall(r"<table.*?</table>", html)
    assert 'class="text"' in account and "&lt;in UTC&gt;" in account and 'class="text"' not in numbers
    (rule,) = re.findall(r"table\.text td \{(.*?)\}", html)
    assert "text-align: left" in rule and "white-space: normal" in rule


class Parser(HTMLParser):
    """Checks that tags close in order, and collects ids and where attributes point."""

    VOID = ("meta", "br")

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.addresses: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.ids += [str(value) for name, value in attrs if name == "id"]
        self.addresses += [str(value) for name, value in attrs if name in ("src", "href", "srcset", "action")]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in self.VOID:
            self.handle_endtag(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def example() -> Page:
    page = Page("Times & <marks>")
    page.heading("A < B")
    page.paragraph("Of one & all")
    page.table(["sampler", "events/s"], [["THP, <1 row>"], ["a & b", "12"]])
    gaps = -torch.rand(300, generator=torch.Generator().manual_seed(0)).log()
    counts = torch.tensor([[0, 0, 0], [1, 3, 0], [4, 5, 30]])
    for _ in range(2):  # twice the same figure: its ids must not be there twice
        page.figure(plots.ks_plot({"autoregressive": gaps, "speculative": gaps[:90]}))
        page.figure(plots.accepted_counts_plot(counts))
    page.lead("The main thing")
    marks = torch.arange(40) % len(MARKS)
    sequence = EventSequence.of(torch.arange(1.0, 41.0), marks=marks, t_start=0.0, t_end=41.0)
    page.figure(plots.data_plot([sequence]))
    return page


def test_the_page_is_well_formed_and_loads_nothing(tmp_path: Path) -> None:
    path = example().write(tmp_path / "new" / "page.html")
    assert [file.name for file in path.parent.iterdir()] == ["page.html"]
    html = path.read_text()
    parser = Parser()
    parser.feed(html.partition(">")[2])  # after the document type
    assert not parser.open
    assert len(parser.ids) == len(set(parser.ids)), "an id names one thing"
    pointed = {address.removeprefix("#") for address in parser.addresses} | set(re.findall(r"url\(#([^)]+)\)", html))
    assert pointed and pointed <= set(parser.ids)
    assert not re.search(r"https?://|url\([^#]|@import|<script|<link", html)
    assert "<h2>A &lt; B</h2>" in html and "Of one &amp; all" in html and "Times &amp; &lt;marks&gt;" in html
    assert '<td colspan="2">THP, &lt;1 row&gt;</td>' in html and "<td>a &amp; b</td><td>12</td>" in html
    assert html.count("<svg ") == 5 and ">empirical probability</text>" in html


def test_every_colour_has_one_for_dark_screens() -> None:
    """Lines, text and backgrounds are variables that are set twice, to different colours."""
    html = example().html()
    light, dark = re.findall(r":root \{ ?(?:color-scheme: light dark; )?(--[^}]*)\}", html)
    colours = [dict(re.findall(r"(--\w+): (#\w+);", part)) for part in (light, dark)]
    used = set(re.findall(r"var\((--\w+)\)", html))
    assert used and used <= colours[0].keys() == colours[1].keys()
    assert all(colours[0][name] != colours[1][name] for name in used)
    assert "prefers-color-scheme: dark" in html
    body = html.partition("<body>")[2]
    assert not re.search(r"#[0-9a-fA-F]{6}", body), "a colour that does not change"


def test_a_row_that_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match="a row of 3 cells does not fit a table of 2 columns"):
        Page("title").table(["a", "b"], [["1", "2", "3"]])


def test_a_page_that_cannot_be_written_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    with pytest.raises(ValueError, match="folder' is a folder, not a file to write; name a file"):
        Page("title").write(tmp_path / "folder")
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]
