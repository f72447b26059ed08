"""The way from YAML to dataclasses: files that extend each other, and mistakes that end in one sentence."""

from __future__ import annotations

import dataclasses
import types
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from tppsd.data.yaml_files import read_mapping

T = TypeVar("T")


def read_yaml(path: str | Path, extended_by: tuple[Path, ...] = ()) -> dict[str, Any]:
    """Return the keys of a file and of the files that it names in `extends`, relative to itself.

    Its own keys win, then those of later files.

    Args:
        extended_by: the files that led here, each named in `extends` of the one before.

    Raises:
        FileNotFoundError: no such file.
        ValueError: not YAML, not a mapping, or it extends itself.
    """
    path = Path(path)
    if path.resolve() in extended_by:
        raise ValueError(f"{path}: extends itself; leave it out of extends here or in the files that it extends")
    own = read_mapping(path)
    bases = own.pop("extends", [])
    bases = [bases] if isinstance(bases, str) else bases
    if not isinstance(bases, list) or not all(isinstance(base, str) for base in bases):
        raise ValueError(f"{path}: extends = {bases!r} must be a file or a list of files")
    merged: dict[str, Any] = {}
    for base in bases:
        merged |= read_yaml(path.parent / base, (*extended_by, path.resolve()))
    return merged | own


def build(cls: type[T], values: dict[str, Any], where: str) -> T:
    """Build a dataclass from the keys and values of a mapping; lists become tuples.

    Raises:
        ValueError: an unknown key, or a value of another type than the field's; the sentence begins with `where`.
    """
    hints = get_type_hints(cls)
    for key in values:
        if key not in hints:
            raise ValueError(f"{where}: there is no key {key!r}; the keys are {', '.join(hints)}")
    return cls(**{key: _convert(hints[key], value, f"{where}: {key}") for key, value in values.items()})


def _convert(hint: Any, value: Any, where: str) -> Any:
    """Return `value` as what `hint` describes; a union is the first of its members that fits."""
    origin = get_origin(hint)
    if origin in (types.UnionType, Union):
        for member in get_args(hint):
            if _fits(member, value):
                return _convert(member, value, where)
    elif origin is Literal and value not in get_args(hint):
        raise ValueError(f"{where} = {value!r} is unknown; choose one of {', '.join(map(str, get_args(hint)))}")
    elif _fits(hint, value):
        if dataclasses.is_dataclass(hint):
            return build(hint, value, where)  # type: ignore[arg-type]
        if origin is tuple:
            return tuple(_convert(get_args(hint)[0], item, where) for item in value)
        return float(value) if hint is float else value
    raise ValueError(f"{where} = {value!r} must be {_in_words(hint)}")


def _fits(hint: Any, value: Any) -> bool:
    """Say whether `value` is of the kind that `hint` describes.

    Whole numbers are numbers; true and false are neither.
    """
    origin = get_origin(hint)
    if origin is Literal:
        return value in get_args(hint)
    if dataclasses.is_dataclass(hint) or origin is dict:
        return isinstance(value, dict)
    if origin is tuple:
        return isinstance(value, list | tuple)
    return type(value) in ((int, float) if hint is float else (hint,))


def _in_words(hint: Any) -> str:
    """Return what `hint` describes in words."""
    if get_origin(hint) is tuple:
        return "a list"
    if get_origin(hint) in (types.UnionType, Union):
        return " or ".join(_in_words(member) for member in get_args(hint))
    if get_origin(hint) is Literal:
        return " or ".join(map(str, get_args(hint)))
    if get_origin(hint) is dict:
        return "a mapping"
    if dataclasses.is_dataclass(hint):
        return f"a mapping with {', '.join(field.name for field in dataclasses.fields(hint))}"
    names = {int: "a whole number", float: "a number", str: "a word", bool: "true or false", type(None): "null"}
    return names.get(hint, str(hint))
