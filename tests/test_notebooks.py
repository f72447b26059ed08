"""The notebooks run from top to bottom, and what they link to is there."""

import re
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

ROOT = Path(__file__).resolve().parent.parent
FIGURES = {
    "01_log_to_forecast": 2,
    "02_is_it_any_good": 3,
    "03_speculative_sampling": 3,
    "04_train_a_draft": 2,
    "05_bring_your_own": 1,
    "06_many_histories": 2,
}
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))


def test_every_notebook_is_known_and_is_a_tutorial():
    assert [path.stem for path in NOTEBOOKS] == list(FIGURES)
    listed = re.findall(r"^tutorials/(\w+)$", (ROOT / "docs/index.md").read_text(), re.MULTILINE)
    assert listed == list(FIGURES)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_links_of_a_notebook_lead_somewhere(path):
    cells = nbformat.read(path, as_version=4).cells
    text = "\n".join(cell.source for cell in cells if cell.cell_type == "markdown")
    links = re.findall(r"\]\(([^)#\s]+)", text)
    assert links and all((path.parent / link).exists() for link in links if "://" not in link)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_runs_and_is_committed_without_output(path, tmp_path):
    notebook = nbformat.read(path, as_version=4)
    assert all(not cell.get("outputs") for cell in notebook.cells), (
        f"{path.name} carries outputs; clear them before committing"
    )
    NotebookClient(notebook, timeout=300, kernel_name="python3", resources={"metadata": {"path": tmp_path}}).execute()
    shown = [
        output
        for cell in notebook.cells
        for output in cell.get("outputs", [])
        if output.output_type == "execute_result"
    ]
    assert sum("image/png" in output.data for output in shown) == FIGURES[path.stem]
