"""The way from this package's docstrings to reStructuredText: they are plain text with formulas, and no markup."""

from __future__ import annotations

import re
from typing import Any

_SECTIONS = ("Args:", "Attributes:", "Raises:", "Returns:", "Yields:")
_SPECIAL = re.compile(r"(`[^`]*`)|([*|\\]|_(?=\W|$))")


def process(app: Any, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """Change the lines of a docstring in place; napoleon reads its sections afterwards."""
    lines[:] = to_rst(lines)


def skips(app: Any, what: str, name: str, obj: Any, skip: bool, options: Any) -> bool | None:
    """Leave out what Python says of the fields of a NamedTuple: its docstring has them."""
    return True if str(getattr(obj, "__doc__", "")).startswith("Alias for field number") else None


def to_rst(lines: list[str]) -> list[str]:
    """Escape what would be markup, and set indented formulas as literal blocks.

    Args:
        lines: of a docstring, dedented.
    """
    changed: list[str] = []
    in_section, in_formula, in_source = False, False, False
    for line in lines:
        text, indent = line.strip(), len(line) - len(line.lstrip())
        if indent == 0 and text:
            in_section, in_formula = text in _SECTIONS, False
        if re.match(r"(Source|Fields)s?: ", text) and indent == 0:
            in_source, in_section = True, False
            changed += [] if not changed or not changed[-1] else [""]
        elif not text:
            in_source = False
        if not in_section and not in_source and indent >= 4 and not in_formula and (not changed or not changed[-1]):
            changed += ["::", ""]
            in_formula = True
        if in_formula and not in_section:
            changed.append(line)
        elif in_source:
            changed.append(escaped(text))
        else:
            changed.append(escaped(line))
        if in_section and text in _SECTIONS and len(changed) > 1 and changed[-2]:
            changed.insert(-1, "")
    return changed


def escaped(line: str) -> str:
    """A line without markup; what stands in backquotes stays as it is."""
    return _SPECIAL.sub(lambda found: found[1] or "\\" + found[2], line)
