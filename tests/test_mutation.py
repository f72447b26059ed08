"""The list of planted mistakes keeps in step with the code, and the runner tells what is caught from what is not."""

from __future__ import annotations

import ast
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from tests.mutation.__main__ import try_mistake  # noqa: E402
from tests.mutation.mistakes import Mistake, mistakes, pytest_arguments  # noqa: E402


def test_every_mistake_can_be_planted() -> None:
    """Its text stands in the file once; what takes its place is another line, and Python where it must be."""
    assert len(mistakes()) >= 150
    assert len({(one.path, one.old, one.new) for one in mistakes()}) == len(mistakes())
    for one in mistakes():
        wrong = one.plant((ROOT / "tppsd" / one.path).read_text())
        assert one.new != one.old and "\n" not in one.old + one.new, one
        if one.path.endswith(".py"):
            ast.parse(wrong)


def test_the_tests_that_must_catch_them_exist() -> None:
    for one in mistakes():
        files = [word for word in pytest_arguments(one.tests) if word.endswith(".py")]
        assert files and all((ROOT / name).exists() for name in files), one


def test_a_text_that_is_not_there_once_is_refused() -> None:
    one = Mistake("a.py", "x = 1", "x = 2", "", "")
    assert one.plant("x = 1\ny = 1\n") == "x = 2\ny = 1\n"
    for text in ("x = 3", "x = 1\nx = 1\n"):
        with pytest.raises(ValueError, match="not once"):
            one.plant(text)


def test_a_mistake_is_caught_or_survives_and_is_taken_out(tmp_path: Path) -> None:
    """On a package of one line: one test looks at it, another does not, and a third selection is empty."""
    (tmp_path / "tppsd").mkdir()
    (tmp_path / "tests").mkdir()
    module = tmp_path / "tppsd" / "planted_here.py"
    module.write_text("x = 1\n")
    code = "import sys\nsys.path.insert(0, 'tppsd')\nfrom planted_here import x\ndef test_it(): assert {}\n"
    (tmp_path / "tests/test_looks.py").write_text(code.format("x == 1"))
    (tmp_path / "tests/test_does_not.py").write_text(code.format("x"))
    verdicts = {
        "test_looks.py": "caught",
        "test_does_not.py": "SURVIVED",
        "test_looks.py -k none": "SURVIVED (pytest ran nothing, status 5)",
    }
    for tests, verdict in verdicts.items():
        assert try_mistake(tmp_path, Mistake("planted_here.py", "x = 1", "x = 2", tests, ""), None)[0] == verdict
        assert module.read_text() == "x = 1\n"
    explained = Mistake("planted_here.py", "x = 1", "x = 2", "test_does_not.py", "nobody looks")
    assert try_mistake(tmp_path, explained, None)[0] == "survives (nobody looks)"
