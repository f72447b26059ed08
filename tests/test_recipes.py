"""The recipes: each has its data, and the loop over encoders and seeds that their page shows runs as it stands."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

CONFIGS = Path(__file__).parent.parent / "lightning_configs"
RECIPE = """
model:
  class_path: tppsd.TargetTPP
  init_args: {encoder: thp, embed_dim: 8, num_heads: 2, num_layers: 1, num_components: 4}
trainer: {max_epochs: 1, accelerator: cpu, devices: 1}
"""
DATA = "data: {process: multivariate_hawkes, num_sequences: 20, t_end: 8.0, batch_size: 4}"


def code(language: str) -> str:
    """The first block of code in `language` on the page of the recipes."""
    page = (CONFIGS / "recipes" / "README.md").read_text()
    (block, *_) = re.findall(rf"^```{language}\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    return str(block)


def test_every_recipe_has_its_data() -> None:
    found = sorted((CONFIGS / "recipes").glob("*.yaml"))
    assert found and all((CONFIGS / "data" / recipe.name).exists() for recipe in found)


@pytest.mark.slow
def test_the_loop_of_the_page_trains_tests_and_sums_up(tmp_path: Path) -> None:
    """With a small recipe in place of taxi's, one encoder and two seeds."""
    for folder, text in (("data", DATA), ("recipes", RECIPE)):
        (tmp_path / "lightning_configs" / folder).mkdir(parents=True)
        (tmp_path / "lightning_configs" / folder / "taxi.yaml").write_text(text)
    loop = code("bash").replace("in thp sahp attnhp rotary", "in sahp").replace("in 0 1 2", "in 0 1")
    assert "in sahp" in loop and "in 0 1;" in loop
    script = f'set -e\ntppsd() {{ {shlex.quote(sys.executable)} -m tppsd "$@"; }}\n{loop}'
    root = str(CONFIGS.parent)
    options = {"cwd": tmp_path, "env": os.environ | {"PYTHONPATH": root}, "capture_output": True, "text": True}
    done = subprocess.run(["bash", "-c", script], check=False, **options)  # type: ignore[call-overload]
    assert done.returncode == 0, done.stderr
    summed = subprocess.run([sys.executable, "-c", code("python")], check=False, **options)  # type: ignore[call-overload]
    assert summed.returncode == 0, summed.stderr
    assert re.search(r"^taxi +sahp +2 +[\d.]+ +[\d.]+ +2 +", summed.stdout, re.MULTILINE), summed.stdout
    configs = sorted(tmp_path.glob("outputs/recipes/taxi/sahp-*/fit/config.yaml"))
    assert [re.findall(r"seed_everything: (\d)", path.read_text()) for path in configs] == [["0"], ["1"]]
