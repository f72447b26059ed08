"""Names that are short and still differ."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path


def short_names(paths: Iterable[str]) -> dict[str, str]:
    """Return the last part of each path, with so many parent folders before it that no two are the same."""
    parts = {path: Path(path).parts for path in paths}
    names = {}
    for path, own in parts.items():
        others = [other for name, other in parts.items() if name != path]
        depths = range(1, len(own))
        depth = next((d for d in depths if all(other[-d:] != own[-d:] for other in others)), len(own))
        names[path] = str(Path(*own[-depth:])) if own else path
    return names


def in_passes(passes: int | None) -> str:
    """Return what the name of a sampler says of `draft_passes`."""
    return "" if passes is None else f" in {passes} pass{'es' if passes > 1 else ''}"


def repeated(values: Iterable[object]) -> object | None:
    """Return the first value that was there before, None where all differ."""
    seen: list[object] = []
    for value in values:
        if value in seen:
            return value
        seen.append(value)
    return None
