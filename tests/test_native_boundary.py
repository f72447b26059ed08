"""What lies between Python and compiled code: argument types, layouts, and failures that become exceptions."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from native_builds import compiled_wrong, needs_a_compiler, needs_a_plain_build
from small_models import attentive_model, random_batch, tokens_of

from tppsd.backends.cpp import structures
from tppsd.backends.cpp.library import ABI_VERSION, LayoutError, declare
from tppsd.backends.cpp.model import CompiledTPP, native_library
from tppsd.backends.cpp.structures import Chain, Double, Int, Pass, Pointer

pytestmark = needs_a_compiler


def test_a_structure_in_place_of_another_and_a_missing_argument_are_refused() -> None:
    """Undeclared functions would read whatever lies at the address."""
    model = CompiledTPP(attentive_model("thp"))
    with pytest.raises(ctypes.ArgumentError, match="argument 2"):
        model.library.pass_tokens(ctypes.byref(model.encoder), ctypes.byref(model.decoder))
    with pytest.raises(ctypes.ArgumentError, match="argument 3"):
        model.library.distributions_after(ctypes.byref(model.decoder), None, 0.5, None)
    with pytest.raises(TypeError):
        model.library.pass_tokens(ctypes.byref(model.encoder))


def test_results_have_64_bits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Undeclared results are read as a C int, of which this one has the value -1."""
    compiled_wrong("int64_t panel_width() noexcept { return TILE * LANES; }",
                   "int64_t panel_width() noexcept { return 0x7fffffffffffffff; }", tmp_path, monkeypatch)  # fmt: skip
    assert native_library().panel_width() == 2**63 - 1


@pytest.mark.parametrize("result", [2**40 + 1, -1])
def test_outcomes_have_64_bits(result: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compiled_wrong("*num_new = rounds->propose();", f"*num_new = {result}LL; (void)rounds;", tmp_path, monkeypatch)
    assert native_library().propose(Pointer(0)) == result


# --- layouts ----------------------------------------------------------------------------------------------------------


class LongerChain(ctypes.Structure):
    _fields_ = [*Chain._fields_, ("added", Int)]


class SwappedPass(ctypes.Structure):  # two fields in each other's place
    _fields_ = [Pass._fields_[1], Pass._fields_[0], *Pass._fields_[2:]]


class RoundedChain(ctypes.Structure):  # a number of another kind
    _fields_ = [*Chain._fields_[:-1], (Chain._fields_[-1][0], Double)]


@pytest.mark.parametrize(
    ("name", "wrong", "said"),
    [
        ("Chain", LongerChain, r"reads Chain as offset or size 128 of kind 's', this package passes .* 136"),
        ("Pass", SwappedPass, r"reads Pass.ids as offset or size 8 of kind 'p', this package passes .* 0 of"),
        ("Chain", RoundedChain, r"reads Chain.keeps_distributions as .* kind 'i', this package passes .* kind 'd'"),
        ("Added", LongerChain, r"reads Added as nothing"),
    ],
)
def test_structures_that_the_library_reads_in_another_way_are_refused(
    name: str, wrong: type, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(structures, name, wrong, raising=False)
    loaded = ctypes.CDLL("the same", handle=native_library()._handle)
    with pytest.raises(LayoutError, match=said):
        declare(loaded)


WRONG_SOURCES = {
    "version": (
        f"ABI_VERSION = {ABI_VERSION};", "ABI_VERSION = 0;", LayoutError,
        f"has ABI version 0, this package {ABI_VERSION}",
    ),
    "missing structure": ("  SIZE(Newest, 24)", "  SIZE(Views, 48)", LayoutError, "reads Newest as nothing"),
    "missing function": ("int end_rounds(", "int finish_rounds(", LayoutError, "lacks a function: .*end_rounds"),
    "field added in C++ alone": (
        "int64_t num, num_uniforms, keeps_distributions;", "int64_t num, num_uniforms, added, keeps_distributions;",
        ValueError, "size of Chain",
    ),
    "field added in Python alone": ("SIZE(Chain, 128)", "SIZE(Chain, 136)", ValueError, "size of Chain"),
}  # fmt: skip


@pytest.mark.parametrize("which", WRONG_SOURCES)
def test_sources_of_another_version_are_refused(which: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """When they are compiled, where the structures alone tell it, or when the library is loaded."""
    right, wrong, error, said = WRONG_SOURCES[which]
    compiled_wrong(right, wrong, tmp_path, monkeypatch)
    with pytest.raises(error, match=said):
        native_library()


# --- failures ---------------------------------------------------------------------------------------------------------

TOO_MANY = 1 << 40  # new tokens: what they need is larger than an address space
PASSES = {"this thread": (1, 1), "threads that share rows": (4, 3), "threads that share tokens": (1, 2)}


def pass_that_does_not_fit(rows: int, num_threads: int) -> None:
    """A pass over more tokens than there is memory for, which it finds out before it reads any."""
    model = CompiledTPP(attentive_model("thp"))
    one_pass = Pass(rows=rows, num_new=TOO_MANY, num_threads=num_threads)
    model.library.pass_tokens(ctypes.byref(model.encoder), ctypes.byref(one_pass))


@needs_a_plain_build
@pytest.mark.parametrize("which", PASSES)
def test_a_failed_allocation_is_a_memory_error(which: str) -> None:
    """And the library goes on."""
    with pytest.raises(MemoryError, match="compiled code: pass_tokens failed: an allocation"):
        pass_that_does_not_fit(*PASSES[which])
    model = CompiledTPP(attentive_model("thp"))
    model.library.pass_tokens(ctypes.byref(model.encoder), ctypes.byref(Pass()))


UNGUARDED = {  # the pass, what is replaced by what, and how the process then ends
    "the call": (
        "this thread", "} catch (const std::bad_alloc &) {", "} catch (const int &) {", "RuntimeError: compiled code",
    ),
    "a thread of rows": (
        "threads that share rows",
        "failure.catch_from([&] {\n      for",
        "([](auto f) { f(); })([&] {\n      for",
        "terminate called",
    ),
    "a thread of tokens": (
        "threads that share tokens",
        "== num; });\n    failure.rethrow();",
        "== num; });",
        "nothing was raised",
    ),
}  # fmt: skip


@needs_a_plain_build
@pytest.mark.parametrize("which", UNGUARDED)
def test_a_build_without_one_of_the_guards_is_told_from_the_right_one(which: str, tmp_path: Path) -> None:
    """It ends the process, loses the failure or mistakes its kind."""
    case, right, wrong, said = UNGUARDED[which]
    code = (
        "from pathlib import Path; import pytest; from native_builds import compiled_wrong; "
        "from test_native_boundary import PASSES, pass_that_does_not_fit; "
        f"compiled_wrong({right!r}, {wrong!r}, Path({str(tmp_path)!r}), pytest.MonkeyPatch()); "
        f"pass_that_does_not_fit(*PASSES[{case!r}]); raise SystemExit('nothing was raised')"
    )
    places = [str(Path(__file__).parent), str(Path(__file__).parent / "support"), *filter(None, sys.path)]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(places)}
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
    assert ended.returncode != 0 and said in ended.stderr


FAILING = {"row": ("first == 1", 4, 3), "first share": ("part.from == 0", 1, 2), "last share": ("part.from > 0", 1, 2)}


@pytest.mark.skipif((os.cpu_count() or 1) < 2, reason="one core shares no tokens")
@pytest.mark.parametrize("which", FAILING)
def test_what_one_of_several_threads_throws_reaches_the_caller(
    which: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The shares of tokens behind the one that fails would wait for it forever."""
    condition, rows, num_threads = FAILING[which]
    place = "const bool is_attnhp = encoder.kind == ATTNHP;"
    compiled_wrong(place, f'{place} if ({condition}) throw std::runtime_error("as planned");', tmp_path, monkeypatch)
    model, threads = CompiledTPP(attentive_model("thp", num_layers=16)), torch.get_num_threads()
    try:
        torch.set_num_threads(num_threads)
        with torch.inference_mode():
            tokens, cache = tokens_of(random_batch([39] * rows)), model.new_cache(rows, 40)
            for _ in range(20):  # whichever thread runs it
                with pytest.raises(RuntimeError, match="compiled code: pass_tokens failed: as planned"):
                    model.extend(tokens, cache)
    finally:
        torch.set_num_threads(threads)


def test_no_rows_are_no_work() -> None:
    """A division by their number would end the process."""
    model = CompiledTPP(attentive_model("thp"))
    nothing, rounds = Pass(), structures.Rounds(draft_length=30, most_rounds=3)
    own = structures.Model(*map(ctypes.addressof, (model.encoder, model.decoder, nothing)))
    model.library.decode(model.encoder, model.decoder, nothing, Chain())
    assert model.library.speculate(own, own, rounds) == 0
    target = structures.HeadPasses(decoder=ctypes.addressof(model.decoder))
    handle = Pointer(model.library.begin_rounds(target, own, rounds))
    assert model.library.propose(handle) == 0
    model.library.end_rounds(handle)
