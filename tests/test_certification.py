"""The certification covers what it says, passes right samplers and rejects wrong ones."""

from __future__ import annotations

import itertools
import json
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from mutants import FORBID_MUTANTS, MUTANTS, STOP_MUTANTS
from small_models import attentive_model, random_sequence

from tppsd.certification import models
from tppsd.certification.cells import KINDS, TREE_FACTORS, Cell, all_cells, covering_cells, possible_cells
from tppsd.certification.certificate import (
    PACKAGE,
    Certificate,
    Line,
    certify,
    commit,
    new_certificate,
    passes_of,
    sources,
    with_lines_of,
)
from tppsd.certification.closed_form import RARE
from tppsd.certification.run import combined, holm, run_cell
from tppsd.certification.without_marks import WithoutMarks
from tppsd.commands.certify import main as command
from tppsd.commands.certify import parse, parser
from tppsd.data.batch import EventBatch
from tppsd.forecasting.integrals import mark_integrals
from tppsd.models.protocol import EventTokens

REJECTED, FALSE_ALARM = 1e-6, 1e-4


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder of models whose training is cut short: what is tested quickly need not be well trained."""
    return tmp_path_factory.mktemp("models")


@pytest.fixture(autouse=True)
def short_training(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(models, "TRAINING_STEPS", 20)


def choices(cell: Cell) -> set[tuple[str, str, str, str]]:
    values = {name: str(getattr(cell, name)) for name in TREE_FACTORS}
    return {(a, values[a], b, values[b]) for a, b in itertools.combinations(TREE_FACTORS, 2)}


@pytest.mark.parametrize("kind", KINDS)
def test_every_pair_of_choices_is_in_some_cell(kind: str) -> None:
    cells = covering_cells(kind)
    possible = possible_cells(KINDS[kind])
    assert set().union(*map(choices, possible)) == set().union(*map(choices, cells))
    assert len(cells) < {"chains": 80, "trees": 40}.get(kind, 20) and all(cell.is_possible for cell in cells)


def test_cells_have_names_of_their_own_and_pages_count_them() -> None:
    assert len({cell.name for cell in all_cells()}) == len(all_cells())
    for page in ("docs/concepts/fidelity.md", "tests/README.md"):
        assert f"in each of {len(all_cells())} cells" in (PACKAGE.parent / page).read_text()


@pytest.mark.parametrize("kind", ["chains", "trees"])
def test_every_method_is_certified_with_a_stop_mark(kind: str) -> None:
    """And, where there is a network, both eager and compiled."""
    stopped = [cell for cell in covering_cells(kind) if cell.end == "stop mark"]
    assert {cell.method for cell in stopped} == set(KINDS[kind]["method"])
    assert {cell.method for cell in stopped if cell.is_compilable} == set(KINDS[kind]["method"])


@pytest.mark.parametrize("cell", [cell for cell in all_cells() if cell.method != "rrs"], ids=lambda cell: cell.name)
def test_a_cell_passes_quickly(cell: Cell, folder: Path) -> None:
    """The quick tier: 2,000 events; a right sampler fails a cell for one seed in 10^4. (The integrals of `rrs` take too
    long.)"""
    result = run_cell(cell, 2000, 0, folder)
    assert result["num_events"] >= 1800
    assert result["p_value"] > FALSE_ALARM
    if cell.draft == "identical":
        assert result["step_acceptance"] == 1.0
    if cell.draft == "nearly disjoint":
        assert result["step_acceptance"] < 0.01 * max(1, cell.candidates)


MARKED = Cell("joint", "closed form", 5, "untrained", "another model", 4, "from scratch", "window")
REMEMBERED = Cell("joint", "closed form", 5, "untrained", "shifted", 1, "silence", "number of events")
TWO_COINS = Cell("factorised", "closed form", 5, "untrained", "another model", 4, "history", "number of events")
IN_BLOCKS = Cell("block", "closed form", 5, "untrained", "another model", 4, "history", "number of events")
ALONE = Cell("autoregressive", "closed form", 5, "untrained", "none", 0, "history", "number of events")


@pytest.mark.parametrize(
    ("name", "cell"),
    [
        ("marks_untested_joint", MARKED),
        ("adjusted_is_target_joint", MARKED),
        ("adjusted_distribution_of_the_next_position", MARKED),
        ("distribution_of_the_event_before", MARKED),
        ("no_rollback_after_rejection", MARKED),
        ("wrong_rollback_after_full_acceptance", REMEMBERED),
        ("row_reads_its_neighbours_cache", REMEMBERED),
        ("bonus_from_the_draft", REMEMBERED),
        ("silence_ignored", REMEMBERED),
        ("both_redrawn_from_adjusted", TWO_COINS),
        ("block_corrects_as_joint_does", IN_BLOCKS),
        ("autoregressive_stale_context", ALONE),
    ],
)
def test_a_wrong_sampler_is_not_certified(name: str, cell: Cell, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """20,000 events suffice for p < 1e-6, where the certification itself has 50 times as many."""
    monkeypatch.setattr("tppsd.certification.run.sample", MUTANTS[name].samples)
    assert run_cell(cell, 20_000, 0, folder)["p_value"] < REJECTED


STOPPED = [
    Cell("joint", "closed form", 5, "untrained", "another model", 4, "history", "stop mark"),
    Cell("block", "closed form", 5, "untrained", "another model", 4, "from scratch", "stop mark"),
    Cell("joint", "closed form", 5, "untrained", "self", 4, "history", "stop mark"),
    Cell("linear", "closed form", 5, "untrained", "another model", 2, "from scratch", "stop mark", 2),
    Cell("rrs", "closed form", 5, "untrained", "another model", 2, "from scratch", "stop mark", 2),
]
FORBIDDEN = Cell("without marks", "closed form", 5, "untrained", "none", 0, "history", "window")


@pytest.mark.parametrize(
    ("name", "cell"),
    [
        pytest.param(name, cell, id=f"{name}-{cell.method}-{cell.draft}")
        for name in STOP_MUTANTS
        for cell in STOPPED
        if name != "drafted_until_before_the_stop" or cell.method == "joint"  # of the others nothing is cut off
    ],
)
def test_a_wrong_stop_is_not_certified(name: str, cell: Cell, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No chance explains an event behind a stop, or a stop that is missing; a draft that is cut because of what it
    drafted shows in the marks."""
    monkeypatch.setattr("tppsd.certification.run.sample", STOP_MUTANTS[name].samples)
    found = run_cell(cell, 20_000, 0, folder)
    assert found["p_value"] < REJECTED
    assert ("marks" in found["p_values"]) == (name == "drafted_until_before_the_stop")


@pytest.mark.parametrize("name", FORBID_MUTANTS)
def test_wrong_samples_without_marks_are_not_certified(
    name: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tppsd.certification.run.sample", FORBID_MUTANTS[name].samples)
    assert run_cell(FORBIDDEN, 20_000, 0, folder)["p_value"] < REJECTED


@pytest.mark.parametrize("decoder", ["time_conditional", "independent"])
def test_the_intensity_without_marks_is_that_of_the_others(decoder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is a share of the whole intensity where marks do not depend on the time; else what the forecasts' integrals
    give, whose error is near 3e-4, and far nearer to what a finer rule gives."""
    model = attentive_model("thp", num_marks=5, mark_decoder=decoder).double()
    batch = EventBatch.from_sequences([random_sequence(n, 5, seed=n) for n in (9, 4)])
    intervals = torch.tensor([0.01, 0.1, 0.3, 0.7, 1.0, 2.0, 4.0, 9.0, 30.0, 0.0], dtype=torch.float64).expand(2, 10)
    is_allowed = torch.tensor([False, True, True, False, True])
    with torch.inference_mode():
        whole, without = model(batch), WithoutMarks(model, (0, 3))(batch)
        found = -without.inter_time.log_survival(intervals)
        if decoder == "independent":
            share = whole.mark_log_probs(intervals)[..., is_allowed].exp().sum(-1)
            torch.testing.assert_close(found, -whole.log_survival(intervals) * share, rtol=1e-6, atol=1e-8)
        _, hazards = mark_integrals(whole[0], intervals[0].unsqueeze(1), is_allowed.unsqueeze(0))
        torch.testing.assert_close(found[0], hazards[:, 0, 0], rtol=1e-3, atol=1e-3)
        monkeypatch.setattr("tppsd.certification.without_marks._NUM_PANELS", 64)
        torch.testing.assert_close(found, -without.inter_time.log_survival(intervals), rtol=1e-4, atol=1e-6)
        marks = without.mark_log_probs(intervals).exp()
        torch.testing.assert_close(marks.sum(-1), torch.ones_like(intervals))
        assert not marks[..., ~is_allowed].any()


@pytest.mark.parametrize(
    "cell", [MARKED, REMEMBERED, TWO_COINS, IN_BLOCKS, ALONE, *STOPPED, FORBIDDEN], ids=lambda cell: cell.name
)
def test_the_right_sampler_is(cell: Cell, folder: Path) -> None:
    assert run_cell(cell, 20_000, 0, folder)["p_value"] > FALSE_ALARM


@torch.inference_mode()
def test_rare_marks_are_as_rare_as_they_say(folder: Path) -> None:
    """The target gives mark 0, the draft mark 1, a probability of 1e-7; both distributions sum to one."""
    cell = next(cell for cell in all_cells() if cell.draft == "rare marks")
    for model, mark in zip(models.build(cell, folder), (0, 1), strict=True):
        context = model.extend(_start(), model.new_cache(1, 4))
        probs = model.distribution(context).mark_log_probs(torch.ones(1, 1, dtype=torch.float64)).exp()[0, 0]
        assert float(probs[mark]) == pytest.approx(RARE) and float(probs.sum()) == pytest.approx(1.0)


def _start() -> EventTokens:
    zero = torch.zeros(1, 1, dtype=torch.float64)
    return EventTokens(zero.long(), zero, zero)


def test_holm_is_the_step_down_of_bonferroni() -> None:
    assert holm({"a": 0.001, "b": 0.011, "c": 0.03, "d": 0.9}, 0.05) == {"a": True, "b": True, "c": False, "d": False}
    assert holm({"a": 0.02, "b": 0.03}, 0.05) == {"a": True, "b": True}
    assert holm({"a": 0.04, "b": 0.03}, 0.05) == {"a": False, "b": False}
    assert combined({"a": 0.2, "b": 0.6}) == 0.4 and combined({"a": 0.9, "b": 0.8}) == 1.0


def test_the_command_keeps_finished_cells_and_rejects_in_plain_words(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    cells = [cell for cell in all_cells() if cell.encoder == "closed form"][:2]
    first = certify(cells, 1000, 0, 1, tmp_path)
    assert not first.rejected and [line.cell for line in first.cells] == [cell.name for cell in cells]

    path = tmp_path / "cells" / "eager" / f"{cells[0].name}.json"
    kept = json.loads(path.read_text())
    kept["result"]["p_value"] = 1e-9
    path.write_text(json.dumps(kept))
    monkeypatch.setattr("tppsd.certification.certificate.run_cell", None)  # nothing is left to run
    with pytest.raises(SystemExit) as stopped:
        command(["--events", "1000", "--only", cells[0].name, "--output", str(tmp_path)])
    assert stopped.value.code == 1
    printed = capsys.readouterr().out
    assert "REJECTED" in printed and "certificate-partial.json" in printed
    assert [line.cell for line in Certificate.read(tmp_path / "certificate-partial.json").rejected] == [cells[0].name]
    assert not (tmp_path / "certificate.json").exists(), "a few cells are no certificate"
    monkeypatch.setattr("tppsd.certification.certificate.all_cells", lambda: cells)
    assert certify(cells, 1000, 0, 1, tmp_path) == Certificate.read(tmp_path / "certificate.json")


def test_the_examples_of_the_page_of_help_select_some_cells_but_not_all() -> None:
    for example in parser().examples:
        given = parse(example.removeprefix("tppsd certify").split())
        assert 0 < sum(given.only in cell.name for cell in all_cells()) < len(all_cells())


def line(cell: str, p_value: float = 0.5, passes: str = "eager") -> Line:
    return Line(passes, cell, 0, 1_000_000, None, p_value)


def test_a_certificate_has_one_short_line_per_cell(tmp_path: Path) -> None:
    certificate = new_certificate([line("a", 1e-9), line("b", 0.011), line("a", 0.2, "compiled")])
    certificate.write(tmp_path / "certificate.json")
    assert Certificate.read(tmp_path / "certificate.json") == certificate
    assert [row.rejected for row in certificate.cells] == [True, False, False]
    written = (tmp_path / "certificate.json").read_text().splitlines()
    assert len(written) == 7 + len(certificate.cells) + 2 and max(map(len, written)) <= 180
    assert list(tmp_path.iterdir()) == [tmp_path / "certificate.json"]
    for text in ("not JSON", "[]", '{"cells": []}', '{"cells": [{"cell": "a"}]}'):
        (tmp_path / "other.json").write_text(text)
        with pytest.raises(ValueError, match=r"other\.json is no certificate; `tppsd certify` writes one"):
            Certificate.read(tmp_path / "other.json")


def test_lines_of_other_passes_are_kept_if_the_sources_are_the_same(tmp_path: Path) -> None:
    path, new = tmp_path / "certificate.json", [line("a", passes="compiled"), line("b", passes="compiled")]
    assert with_lines_of(path, new) == new
    before = new_certificate([line("a", 0.003), line("a", 0.4, "compiled")])
    assert before.rejected, "0.003 < 0.01 / 2"
    before.write(path)
    assert with_lines_of(path, new) == [before.cells[0], *new], "the compiled line is replaced"
    assert not new_certificate([*with_lines_of(path, new), line("c")]).rejected, "verdicts are of all lines together"
    replace(before, sources="0" * 12).write(path)
    assert with_lines_of(path, new) == new, "of other sources"


def test_passes_have_names_of_their_own() -> None:
    ways = (
        {},
        {"compiled": True},
        {"dtype": "bfloat16"},
        {"compiled": True, "dtype": "bfloat16"},
        {"compiled": models.OWN_ENCODER},
    )
    names = ["eager", "compiled", "bfloat16", "compiled-bfloat16", "compiled-own-encoder"]
    assert [passes_of(how) for how in ways] == names


def test_a_certificate_is_of_a_commit_and_of_sources(tmp_path: Path) -> None:
    """Changed files are said, and only what samples are drawn by changes the sources."""
    package = tmp_path / "tppsd"
    shutil.copytree(PACKAGE, package, ignore=shutil.ignore_patterns("__pycache__"))
    assert sources(package) == sources() and commit(package) is None, "not a repository yet"

    def git(*words: str) -> str:
        me = ["-c", "user.name=test", "-c", "user.email=test@localhost"]
        return subprocess.run(
            ["git", "-C", str(tmp_path), *me, *words], capture_output=True, text=True, check=True
        ).stdout

    git("init", "--quiet")
    assert commit(package) is None, "in a repository that does not track it"
    git("add", ".")
    git("commit", "--quiet", "--message", "All")
    head = git("rev-parse", "HEAD").strip()
    assert commit(package) == head
    (package / "cli.py").write_text("# another")
    assert commit(package) == f"{head} with changes" and sources(package) == sources()
    for changed in ("sampling/rules.py", "backends/cpp/native/distributions.h"):
        before = sources(package)
        (package / changed).write_text("// another")
        assert sources(package) != before


def test_another_seed_or_number_of_events_is_another_run(tmp_path: Path) -> None:
    cell = next(cell for cell in all_cells() if cell.encoder == "closed form")
    certificates = [certify([cell], events, seed, 1, tmp_path) for events, seed in ((1000, 0), (1200, 0), (1200, 1))]
    assert len({certificate.cells[0].p_value for certificate in certificates}) == 3


@pytest.mark.parametrize(("args", "said"), [(["--only", "nowhere"], "nowhere"), (["--events", "10"], "at least 1000")])
def test_wrong_arguments_are_refused_in_one_sentence(args: list[str], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        command(args)
