"""Checks of numbers that callers give; every message names the argument, its value and what would be right."""

from __future__ import annotations

import operator
from typing import Any


def whole_number(name: str, value: Any, least: int, most: int | None = None, or_else: str = "") -> int:
    """`value` as an int where it is a whole number from `least` to `most`: 4, NumPy's or torch's 4, or 4.0.

    Args:
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
