"""The certification covers what it says, passes right samplers and rejects wrong ones."""

from __future__ import annotations

import itertools
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from mutants import mutant

from tppsd.certification import models
from tppsd.certification.carry_over import Drawn, draw_cells
from tppsd.certification.cells import KINDS, TREE_FACTORS, Cell, all_cells, covering_cells, possible_cells
from tppsd.certification.certificate import cells_of, file_name, sources_hash, sources_of
from tppsd.certification.certify import certify
from tppsd.certification.distorted import RARE
from tppsd.certification.judge import combined, holm
from tppsd.certification.run import run_cell
from tppsd.commands.certify import main as command
from tppsd.models.protocol import EventTokens

REJECTED, FALSE_ALARM = 1e-6, 1e-4
CERTIFICATE = Path(__file__).with_name("certificate.json")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of models whose training is cut short: what is tested quickly need not be well trained."""
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


def test_cells_have_names_of_their_own() -> None:
    assert len({cell.name for cell in all_cells()}) == len(all_cells())


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
        ("adjusted_law_of_the_next_position", MARKED),
        ("law_of_the_event_before", MARKED),
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
def test_a_wrong_sampler_is_not_certified(name: str, cell: Cell, folder: Path) -> None:
    """20,000 events suffice for p < 1e-6, where the certification itself has 50 times as many."""
    with mutant(name):
        assert run_cell(cell, 20_000, 0, folder)["p_value"] < REJECTED


@pytest.mark.parametrize("cell", [MARKED, REMEMBERED, TWO_COINS, IN_BLOCKS, ALONE], ids=lambda cell: cell.name)
def test_the_right_sampler_is(cell: Cell, folder: Path) -> None:
    assert run_cell(cell, 20_000, 0, folder)["p_value"] > FALSE_ALARM


@torch.inference_mode()
def test_rare_marks_are_as_rare_as_they_say(folder: Path) -> None:
    """The target gives mark 0, the draft mark 1, a probability of 1e-7; both laws sum to one."""
    cell = next(cell for cell in all_cells() if cell.draft == "rare marks")
    for model, mark in zip(models.build(cell, folder), (0, 1), strict=True):
        context = model.extend(_start(), model.new_cache(1, 4))
        probs = model.law(context).mark_log_probs(torch.ones(1, 1, dtype=torch.float64)).exp()[0, 0]
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
    assert first["exact"] and [row["name"] for row in first["cells"]] == [cell.name for cell in cells]

    path = tmp_path / "cells" / f"{cells[0].name}.json"
    kept = json.loads(path.read_text())
    kept["result"]["p_value"] = 1e-9
    path.write_text(json.dumps(kept))
    monkeypatch.setattr("tppsd.certification.certify.run_cell", None)  # nothing is left to run
    with pytest.raises(SystemExit) as stopped:
        command(["--events", "1000", "--only", cells[0].name, "--output", str(tmp_path)])
    assert stopped.value.code == 1
    assert "REJECTED" in capsys.readouterr().out
    assert json.loads((tmp_path / "certificate-partial.json").read_text())["exact"] is False
    assert not (tmp_path / "certificate.json").exists(), "a few cells are no certificate"
    monkeypatch.setattr("tppsd.certification.certificate.all_cells", lambda: cells)
    certify(cells, 1000, 0, 1, tmp_path)
    assert (tmp_path / "certificate.json").exists()


def test_another_seed_or_number_of_events_is_another_run(tmp_path: Path) -> None:
    cell = next(cell for cell in all_cells() if cell.encoder == "closed form")
    certificates = [certify([cell], events, seed, 1, tmp_path) for events, seed in ((1000, 0), (1200, 0), (1200, 1))]
    assert len({certificate["cells"][0]["p_value"] for certificate in certificates}) == 3


@pytest.mark.parametrize(("args", "said"), [(["--only", "nowhere"], "nowhere"), (["--events", "10"], "at least 1000")])
def test_wrong_arguments_are_refused_in_one_sentence(args: list[str], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        command(args)


ROOT = Path(__file__).parent.parent


def drawn(root: Path, folder: Path) -> Drawn:
    return draw_cells(root, 1000, 0, 2, folder, "joint-closed_form-1-untrained-s", {}, lambda: None)


def test_other_samples_are_told_from_the_same_ones(tmp_path: Path, folder: Path) -> None:
    """What is wrong in the copy is wrong for one event in 2,000."""
    certified = drawn(ROOT, folder)
    assert len(certified) > 1 and drawn(ROOT, folder) == certified
    shutil.copytree(ROOT / "tppsd", tmp_path / "tppsd", ignore=shutil.ignore_patterns("__pycache__"))
    noise = tmp_path / "tppsd" / "sampling" / "noise.py"
    text = noise.read_text()
    assert text.count("_tensor((even << 20)") == 1
    noise.write_text(text.replace("_tensor((even << 20)", "_tensor((even - even % 2048 // 2047 << 20)"))
    assert sources_hash(tmp_path / "tppsd") != sources_hash()
    assert all(other != certified[name] for name, other in drawn(tmp_path, folder).items())
    noise.write_text("raise SystemError('broken')")
    with pytest.raises(ValueError, match="the samplers failed: SystemError: broken"):
        drawn(tmp_path, folder)


def test_only_cells_that_draw_other_samples_are_certified_anew(
    tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The first cell draws the same, the second does not, the third is new."""
    cells = tuple(cell for cell in all_cells() if cell.encoder == "closed form" and cell.num_marks == 1)[:3]
    old, output, lines = (
        tmp_path / "old",
        tmp_path / "outputs",
        {cell.name: {"num_events": 1000, "samples": "1"} for cell in cells},
    )
    shutil.copytree(ROOT / "tppsd", old / "tppsd", ignore=shutil.ignore_patterns("__pycache__"))
    (old / "tppsd" / "sampling" / "unseen.py").write_text("# no more")
    sources = sources_hash(old / "tppsd")
    monkeypatch.setattr("tppsd.certification.certificate.all_cells", lambda: cells[:2])
    monkeypatch.setattr("tppsd.certification.certify.sources_hash", lambda package=None: sources)
    before = certify(list(cells[:2]), 1000, 0, 1, old / "tests")
    monkeypatch.undo()
    monkeypatch.setattr("tppsd.certification.certificate.all_cells", lambda: cells)
    drawn_by = {
        old: {name: lines[name] for name in list(lines)[:2]},
        ROOT: {**lines, cells[1].name: {"num_events": 1000, "samples": "2"}},
    }
    monkeypatch.setattr("tppsd.certification.carry_over.draw_cells", lambda root, *_: drawn_by[root])
    for _ in range(2):  # the second time it finds what it has done
        command(["--same-as", str(old), "--output", str(output), "--processes", "1"])
        said = capsys.readouterr().out
        assert "The same samples to the last bit in 1 cells, 1,000 events; others in 2." in said
        assert "No cell is rejected (Holm over 3 cells" in said
    after = json.loads((output / "certificate.json").read_text())
    assert [row["name"] for row in after["cells"]] == [cell.name for cell in cells]
    assert after["cells"][0] == before["cells"][0] and after["run"] == before["run"]
    assert [row.get("sources") for row in after["cells"]] == [None, sources_hash(), sources_hash()]
    assert after["same_samples"] == {"sources": sources_hash(), "num_cells": 1, "num_events": 1000, "seed": 0}
    shutil.copy(output / "certificate.json", old / "tests")
    with pytest.raises(ValueError, match="is not what its certificate is of"):  # some of its cells are of other sources
        command(["--same-as", str(old), "--output", str(output)])


def test_a_folder_that_cannot_lend_its_certificate_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="is no checkout of this project"):
        drawn(tmp_path, tmp_path)
    with pytest.raises(ValueError, match=r"has no tests/certificate\.json"):
        command(["--same-as", str(tmp_path)])
    (tmp_path / "tests").mkdir()
    for text in ('{"schema": 1}', "[]", "not JSON"):
        (tmp_path / "tests" / "certificate.json").write_text(text)
        with pytest.raises(ValueError, match=r"certificate\.json is no certificate: it does not say of which sources"):
            command(["--same-as", str(tmp_path)])
    shutil.copy(CERTIFICATE, tmp_path / "tests")
    with pytest.raises(ValueError, match="is not what its certificate is of"):
        command(["--same-as", str(tmp_path)])
    with pytest.raises(ValueError, match="--only joint and --same-as do not go together"):
        command(["--same-as", str(tmp_path), "--only", "joint"])


PASSES: list[dict[str, Any]] = [{}, {"compiled": True}, {"compiled": True, "dtype": "bfloat16"}, {"compiled": "draft"}]
RECORDED = pytest.mark.parametrize("how", PASSES, ids=["plain", "compiled", "compiled-bfloat16", "compiled-draft"])


def recorded(how: dict[str, Any]) -> dict[str, Any]:
    return dict(json.loads(CERTIFICATE.with_name(file_name(how)).read_text()))


@RECORDED
def test_the_recorded_certificate_is_of_these_sources(how: dict[str, Any]) -> None:
    """After a change in tppsd/sampling or tppsd/models: `tppsd certify`, or with --same-as if the samples are the same;
    and both once more with --compile, with --compile --dtype bfloat16, and with --compile draft."""
    certificate = recorded(how)
    run = certificate["run"]
    assert sources_hash() in sources_of(certificate)
    assert {name: run[name] for name in ("compiled", "dtype") if name in run} == how


@RECORDED
def test_the_recorded_certificate_covers_every_cell_with_a_million_events(how: dict[str, Any]) -> None:
    certificate = recorded(how)
    assert certificate["exact"]
    assert {row["name"] for row in certificate["cells"]} == {cell.name for cell in cells_of(how)}
    assert all(row["num_events"] >= 1_000_000 and row["exact"] for row in certificate["cells"])
