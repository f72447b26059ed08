"""Checks of numbers that callers give; every message names the argument, its value and what would be right."""

from __future__ import annotations

import operator
from collections.abc import Iterable, Sequence
from typing import Any


def whole_number(name: str, value: Any, least: int, most: int | None = None, or_else: str = "") -> int:
    """Return `value` as an int where it is a whole number from `least` to `most`: 4, NumPy's or torch's 4, or 4.0.

    Args:
        name: of the argument, for the message.
        value: what the caller gave.
        least, most: bounds; None = no upper one.
        or_else: what else the argument may be, for the message.

    Raises:
        ValueError: it is something else.
    """
    number = _as_int(value)
    if number is None or number < least or (most is not None and number > most):
        bounds = f"of at least {least}" if most is None else f"between {least} and {most}"
        raise ValueError(f"{name} = {value!r} must be a whole number {bounds}{or_else}")
    return number


def _as_int(value: Any) -> int | None:
    if isinstance(value, bool | str | bytes):
        return None
    try:
        return operator.index(value)
    except TypeError:
        pass
    try:  # Python's, NumPy's and torch's floating-point numbers
        number = float(value)
    except (TypeError, ValueError, RuntimeError):
        return None
    return int(number) if number.is_integer() else None


def is_single(value: Any) -> bool:
    """Say whether `value` is a text or a number, Python's, NumPy's or torch's, and no collection."""
    return isinstance(value, str | bytes) or not isinstance(value, Iterable) or getattr(value, "ndim", 1) == 0


def several(value: Any) -> list[Any]:
    """Return the items of a collection; a text or a number is the only item."""
    return [value] if is_single(value) else list(value)


def mark_set(name: str, value: Any) -> tuple[int | str, ...] | None:
    """Return a set of marks, by index or name, as a tuple in a fixed order; None stays None.

    Raises:
        ValueError: it is empty, or something else than marks.
    """
    if value is None:
        return None
    marks = {mark if isinstance(mark, str) else _as_int(mark) for mark in several(value)}
    if not marks or any(mark is None or (isinstance(mark, int) and mark < 0) for mark in marks):
        raise ValueError(f"{name} = {value!r} must be marks, by index or name, such as [2, 3]; None is for no marks")
    return tuple(sorted((mark for mark in marks if mark is not None), key=lambda mark: (isinstance(mark, str), mark)))


def mark_indices(name: str, marks: Iterable[int | str], num_marks: int, mark_names: Sequence[str] | None) -> list[int]:
    """Return the indices of marks that are given by index or name.

    Args:
        name: of the argument, for the message.
        marks: indices or names.
        num_marks: of the model.
        mark_names: names of marks 0, 1, ... in the model's data; None where they have none.

    Raises:
        ValueError: the model has no such mark.
    """
    known = {} if mark_names is None else {mark: i for i, mark in enumerate(mark_names)}
    found = []
    for mark in marks:
        index = known.get(mark, -1) if isinstance(mark, str) else mark
        if not 0 <= index < num_marks:
            names = f", or names such as {list(known)[:6]}" if known else ""
            from tppsd.data.obstacles import nearest  # of no use to a request that is right

            near = nearest(mark, known) if isinstance(mark, str) else ""
            raise ValueError(
                f"{name}: {mark!r} is not a mark of the target; its marks are 0..{num_marks - 1}{names}{near}"
            )
        found.append(index)
    return found
