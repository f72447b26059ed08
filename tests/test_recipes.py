"""`tppsd recipes`: every recipe trained and tested once per encoder and seed, and its table."""

from __future__ import annotations

import itertools
import json
import shutil
import subprocess
import sys
from contextlib import redirect_stdout
from pathlib import Path
from types import SimpleNamespace
from typing import TextIO

import pytest
import torch
from lightning_helpers import tppsd as run_here

import tppsd
from tppsd.commands import recipes

CONFIGS = Path(__file__).parent.parent / "lightning_configs"
RECIPE = """
model:
  class_path: tppsd.TargetTPP
  init_args: {encoder: thp, embed_dim: 8, num_heads: 2, num_layers: 1, num_components: 4}
trainer: {max_epochs: 1, accelerator: cpu, devices: 1}
"""
DATA = "data: {process: multivariate_hawkes, num_sequences: 20, t_end: 8.0, batch_size: 4}"


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    for folder, text in (("data", DATA), ("recipes", RECIPE)):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "small.yaml").write_text(text)
    return tmp_path / "recipes" / "small.yaml"


def test_a_recipe_becomes_a_line_of_the_table_and_is_run_once(
    recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = [str(recipe), "--encoder", "sahp", "--seed", "3", "--output", str(tmp_path / "out")]
    options = ["--model.num_layers", "2", "--renewal_baseline.num_steps", "5"]
    recipes.main([*arguments, "--", *options])
    first = capsys.readouterr().out
    heading, _, line = (row.strip("| ").split(" | ") for row in first.strip().splitlines())
    row = dict(zip((name.strip() for name in heading), (cell.strip() for cell in line), strict=True))
    folder = tmp_path / "out" / "small" / "sahp" / "seed_3"
    result = json.loads((folder / "result.json").read_text())
    assert (row["data"], row["encoder"], row["seeds"]) == ("small", "sahp", "1")
    assert float(row["NLL"]) == pytest.approx(result["metrics"]["test/nll_window"], abs=1e-4)
    assert (
        float(row["true"]) < float(row["renewal"])
        and int(row["parameters"].replace(",", "")) == result["num_parameters"]
    )
    assert (folder / "fit" / "version_0" / "config.yaml").exists()
    monkeypatch.setattr(subprocess, "run", None)  # nothing is left to run
    recipes.main([*arguments, "--", *options])
    assert capsys.readouterr().out == first
    with pytest.raises(ValueError, match=r"was made with the options .*num_layers.*, not \[\]: set --output"):
        recipes.main(arguments)


def in_this_process(words: list[str], stdout: TextIO, **_: object) -> subprocess.CompletedProcess[str]:
    """A command without importing everything once more."""
    with redirect_stdout(stdout):
        return subprocess.CompletedProcess(words, run_here(*words[words.index("tppsd") + 1 :]))


def test_a_second_generation_agrees_with_all_seeds_of_the_first(
    recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = [
        str(recipe),
        "--encoder",
        "thp",
        "--seed",
        "0",
        "1",
        "--generations",
        "2",
        "--output",
        str(tmp_path / "out"),
    ]
    with pytest.raises(FileNotFoundError, match=r"a second generation of .* needs .*born_again\.yaml"):
        recipes.main(arguments)
    (tmp_path / "model").mkdir()
    shutil.copy(CONFIGS / "model" / "born_again.yaml", tmp_path / "model")
    monkeypatch.setattr(subprocess, "run", in_this_process)
    monkeypatch.setattr(
        recipes, "time", SimpleNamespace(perf_counter=itertools.count(step=60.0).__next__)
    )  # a minute per `fit`
    recipes.main(arguments)
    lines = capsys.readouterr().out.strip().splitlines()[2:]
    assert [line.split(" | ")[1] for line in lines] == ["thp", "thp, generation 2"]
    first, second = (float(line.split(" | ")[-1].strip(" |")) for line in lines)
    assert (first, second) == (1.0, 3.0), "the minutes of the second generation count those of its teachers"
    names = ["seed_0", "seed_1", "seed_0_generation_2", "seed_1_generation_2"]
    folders = [tmp_path / "out" / "small" / "thp" / name for name in names]
    best = [folder / "fit" / "version_0" / "checkpoints" / "best.ckpt" for folder in folders]
    records = [torch.load(path, weights_only=True)["tppsd"] for path in best]
    hashes = [tppsd.load(path).content_hash() for path in best]
    assert (
        len(set(hashes)) == 4 and [r.get("distilled_from") for r in records] == [None] * 2 + [",".join(hashes[:2])] * 2
    )

    with pytest.raises(ValueError, match=r"was taught by \['seed_0', 'seed_1'\], not by \['seed_1'\]: set --output"):
        recipes.main([word for word in arguments if word != "0"])
    done: list[str] = []
    monkeypatch.setattr(
        recipes.Run, "complete", lambda run: done.append(run.folder.name)
    )  # as if interrupted before its result
    (folders[1] / "result.json").unlink()
    monkeypatch.setattr(recipes, "markdown", lambda runs: "")
    recipes.main(arguments)
    assert done == ["seed_1", *names[2:]], "a teacher that is not there is trained first, and its pupils after it"
    assert [(folder / "result.json").exists() for folder in folders] == [True, False, False, False]


def test_results_of_other_data_are_refused(
    recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    result = {"seconds": 60.0, "num_parameters": 7, "metrics": {}}

    def complete(run: recipes.Run) -> None:
        run.folder.mkdir(parents=True, exist_ok=True)
        written = {"options": run.options, "sources": dict(run.sources), "teachers": [], **result}
        (run.folder / "result.json").write_text(json.dumps(written))

    monkeypatch.setattr(recipes.Run, "complete", complete)
    arguments = [str(recipe), "--encoder", "thp", "--seed", "0", "--output", str(tmp_path / "out")]
    recipes.main(arguments)
    data = tmp_path / "data" / "small.yaml"
    data.write_text("# the same, said in another way\n" + DATA.replace("{", "{ "))
    recipes.main(arguments)
    for file, name in ((data, "data config"), (recipe, "recipe")):
        before = file.read_text()
        file.write_text(before.replace("20", "30").replace("max_epochs: 1", "max_epochs: 2"))
        with pytest.raises(ValueError, match=rf"seed_0/result\.json was made from another {name} .*: set --output"):
            recipes.main(arguments)
        file.write_text(before)
    (tmp_path / "root" / "small").mkdir(parents=True)
    with pytest.raises(
        ValueError, match=r"made from another --data-root \(no folder of it, not .*root/small\): set --output"
    ):
        recipes.main([*arguments, "--data-root", str(tmp_path / "root")])
    path = tmp_path / "out" / "small" / "thp" / "seed_0" / "result.json"
    path.write_text(json.dumps({"options": [], **result}))
    with pytest.raises(ValueError, match="does not say from which recipe it was made, as an older version wrote it"):
        recipes.main(arguments)
    data.unlink()
    with pytest.raises(FileNotFoundError, match=r"needs .*data/small\.yaml, which is not there"):
        recipes.main(arguments)


def test_a_run_that_fails_says_where_to_look(recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(ValueError, match=r"`tppsd fit` failed for .*seed_0: .*fit.log says why"):
        recipes.main([str(recipe), "--encoder", "thp", "--seed", "0", "--output", str(tmp_path / "out")])
    assert not list(tmp_path.glob("out/**/result.json"))
    with pytest.raises(FileNotFoundError, match="there is no recipe"):
        recipes.main([str(tmp_path / "none.yaml")])
    with pytest.raises(SystemExit):
        recipes.main([str(recipe), "--generations", "0"])


def test_options_of_data_and_baseline_are_those_of_the_test_too() -> None:
    options = ("--data.path", "a b", "--model.num_layers=2", "--data.batch_size=4", "--trainer.max_epochs", "1")
    assert recipes.for_test(options) == ["--data.path", "a b", "--data.batch_size=4"]


def test_every_recipe_has_its_data() -> None:
    found = sorted((CONFIGS / "recipes").glob("*.yaml"))
    assert found and all((CONFIGS / "data" / recipe.name).exists() for recipe in found)
