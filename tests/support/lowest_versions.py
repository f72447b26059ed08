"""Prints the lowest version of every dependency that pyproject.toml allows, as constraints for pip.

Test tools are left out: only what users install must work from its lowest version on.
"""

from __future__ import annotations

import tomllib
from pathlib import Path

from packaging.requirements import Requirement

PYPROJECT = Path(__file__).resolve().parents[2] / "pyproject.toml"


def lowest_versions(pyproject: Path = PYPROJECT) -> dict[str, str]:
    """Return the lowest version of each dependency by name; every one must have a lower bound."""
    lowest = {}
    for text in tomllib.loads(pyproject.read_text())["project"]["dependencies"]:
        requirement = Requirement(text)
        bounds = [bound.version for bound in requirement.specifier if bound.operator == ">="]
        if len(bounds) != 1:
            raise ValueError(f"{pyproject}: {text} has no lower bound")
        lowest[requirement.name] = bounds[0]
    return lowest


if __name__ == "__main__":
    for name, version in lowest_versions().items():
        print(f"{name}=={version}")
