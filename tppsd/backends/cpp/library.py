"""The exported functions of the native library: their argument types, how they fail, and which structures they read."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Iterator
from typing import Any

from tppsd.backends.cpp import structures
from tppsd.backends.cpp.structures import (
    Chain,
    Decoder,
    Double,
    Encoder,
    HeadPasses,
    Int,
    Model,
    Newest,
    Pass,
    Pointer,
    Rounds,
    Views,
)

ABI_VERSION = 3  # native/layout.h has the same number

_CONSTANTS: dict[str, tuple[type, ...]] = {  # result type, argument types; they cannot fail
    "abi_version": (Int,),
    "panel_width": (Int,),
    "last_error": (ctypes.c_char_p,),
}
_INTEGRALS = (Pointer, Pointer, Int, Pointer, Int, Pointer, Int, Int, Pointer, Pointer)
# Argument types, and the type of the result or None. Each function returns a status; its result is written to a pointer
# behind its arguments and is what the call gives in Python. A pointer to a structure accepts no other structure.
_CALLS: dict[str, tuple[tuple[type, ...], type | None]] = {
    "pass_tokens": ((Encoder, Pass), None),
    "distributions_after": ((Decoder, Pointer, Int, Pointer), None),
    "decode": ((Encoder, Decoder, Pass, Chain), None),
    "decode_next": ((Decoder, Chain, Newest, Pointer, Int, Int, Int), Int),
    "speculate": ((Model, Model, Rounds), Int),
    "begin_rounds": ((HeadPasses, Model, Rounds), Pointer),
    "propose": ((Pointer,), Int),
    "conclude": ((Pointer, Pointer), Int),
    "end_rounds": ((Pointer,), None),
    "draw_events": ((Decoder, Views, *(5 * [Pointer])), None),
    "log_densities": ((Decoder, Views, *(5 * [Pointer])), None),
    "mark_integrals": ((Decoder, *_INTEGRALS), None),
}
_OUT_OF_MEMORY = 1  # the other values of a status: 0 = done, anything else = failed
_KINDS: dict[Any, str] = {Pointer: "p", Double: "d", Int: "i"}


class MirroredField(ctypes.Structure):
    """Describes one field of a structure as the library reads it.

    A whole structure has the name "" and its size as its offset.
    """

    _fields_ = [("structure", ctypes.c_char_p), ("field", ctypes.c_char_p), ("offset", Int), ("kind", Int)]


class LayoutError(RuntimeError):
    """Says that a library reads other structures, or has other functions, than this package passes to it."""


def declare(library: ctypes.CDLL) -> ctypes.CDLL:
    """Give every function of a loaded library its types, after its layout has been checked.

    Every call raises MemoryError or RuntimeError where the library reports a failure.

    Raises:
        LayoutError: library and package are of different versions; the sentence names the first difference.
    """
    try:
        for name, (result, *arguments) in _CONSTANTS.items():
            constant = getattr(library, name)
            constant.restype, constant.argtypes = result, arguments
        _check_layout(library)
        for name, (given, outcome) in _CALLS.items():
            setattr(library, name, _call(library, name, given, outcome))
    except AttributeError as error:
        raise LayoutError(f"the compiled library lacks a function: {error}; reinstall tppsd") from None
    return library


def _call(library: ctypes.CDLL, name: str, given: tuple[type, ...], outcome: type | None) -> Any:
    types: list[Any] = [ctypes.POINTER(kind) if issubclass(kind, ctypes.Structure) else kind for kind in given]
    directions = [(1, f"argument_{i}") for i in range(len(types))]
    if outcome is not None:
        types.append(ctypes.POINTER(outcome))
        directions.append((2, "outcome"))
    function: Any = ctypes.CFUNCTYPE(ctypes.c_int, *types)((name, library), tuple(directions))

    def check(status: int, _function: Any, arguments: tuple[Any, ...]) -> tuple[Any, ...]:
        if not status:
            return arguments  # ctypes takes the outcome out of these
        message = f"compiled code: {name} failed: {library.last_error().decode(errors='replace')}"
        raise MemoryError(message) if status == _OUT_OF_MEMORY else RuntimeError(message)

    function.errcheck = check
    return function


def _check_layout(library: ctypes.CDLL) -> None:
    version = library.abi_version()
    if version != ABI_VERSION:
        raise LayoutError(
            f"the compiled library has ABI version {version}, this package {ABI_VERSION}; reinstall tppsd"
        )
    library.mirrored_fields.restype = ctypes.POINTER(MirroredField)
    library.mirrored_fields.argtypes = [ctypes.POINTER(Int)]
    num = Int()
    fields = library.mirrored_fields(ctypes.byref(num))
    found = {
        (entry.structure.decode(), entry.field.decode()): (entry.offset, chr(entry.kind))
        for entry in (fields[i] for i in range(num.value))
    }
    expected = dict(_expected_fields())
    for key in (*expected, *found):
        if found.get(key) != expected.get(key):
            name = ".".join(filter(None, key))
            raise LayoutError(
                f"the compiled library reads {name} as {_described(found.get(key))}, this package passes "
                f"{_described(expected.get(key))}; reinstall tppsd"
            )


def _expected_fields() -> Iterator[tuple[tuple[str, str], tuple[int, str]]]:
    for name, structure in vars(structures).items():
        if not (isinstance(structure, type) and issubclass(structure, ctypes.Structure)):
            continue
        yield (name, ""), (ctypes.sizeof(structure), "s")
        for field, kind in structure._fields_:  # type: ignore[misc]
            # a name that Python reserves ends with an underscore here
            yield (name, field.rstrip("_")), (getattr(structure, field).offset, _KINDS.get(kind, "s"))


def _described(field: tuple[int, str] | None) -> str:
    return "nothing" if field is None else f"offset or size {field[0]} of kind {field[1]!r}"


def declared_in() -> tuple[str, ...]:
    """Return the files of the Python modules whose contents a library depends on."""
    return tuple(str(sys.modules[name].__file__) for name in (__name__, structures.__name__))
