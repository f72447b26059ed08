"""The way from this package's docstrings to reStructuredText: they are plain text with formulas, and no markup."""

from __future__ import annotations

import re
from typing import Any

_SECTIONS = ("Args:", "Attributes:", "Fields:", "Raises:", "Returns:", "Yields:")
_STARTS = re.compile(r"- |\d+\. |(Source|Fields)s?: ")  # what begins a line of its own
_SPECIAL = re.compile(r"(`[^`]*`)|([*|\\]|_(?=\W|$))")


def process(app: Any, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """Change the lines of a docstring in place; napoleon reads its sections afterwards."""
    lines[:] = to_rst(lines)


def skips(app: Any, what: str, name: str, obj: Any, skip: bool, options: Any) -> bool | None:
    """Leave out what Python says of the fields of a NamedTuple: its docstring has them."""
    return True if str(getattr(obj, "__doc__", "")).startswith("Alias for field number") else None


def to_rst(lines: list[str]) -> list[str]:
    """Escape what would be markup, set indented formulas as literal blocks, and join the lines of everything else.

    An example stands at the end of a docstring and stays as it is.

    Args:
        lines: of a docstring, dedented.
    """
    place = next((i for i, line in enumerate(lines) if line == "Example:"), len(lines))
    lines, example = lines[:place], lines[place:]
    done: list[str] = []
    in_section = in_formula = False
    for line in lines:
        text, indent, before = line.strip(), len(line) - len(line.lstrip()), done[-1] if done else ""
        if not text:
            done.append("")
        elif indent == 0 and text in _SECTIONS:
            in_section, in_formula = True, False
            done += [""] * bool(before) + [text]
        elif in_section and indent > 0:
            if indent > 4 and before and before not in _SECTIONS:
                done[-1] += f" {escaped(text)}"
            else:
                done.append(f"    {escaped(text)}")
        elif indent >= 4 and (in_formula or not before or before.endswith(":")):
            done += [line] if in_formula and before else ["", "::", "", line]
            in_formula = True
        else:
            starts = bool(_STARTS.match(text)) or in_formula or in_section
            done += [""] * (starts and bool(before))
            if starts or not before:
                done.append(escaped(text))
            else:
                done[-1] += f" {escaped(text)}"
            in_section = in_formula = False
    return [*done, "", *example] if example else done


def escaped(line: str) -> str:
    """A line without markup; what stands in backquotes stays as it is."""
    return _SPECIAL.sub(lambda found: found[1] or "\\" + found[2], line)
