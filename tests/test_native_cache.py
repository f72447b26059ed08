"""A library that is loaded is one that this user has compiled, whole, and from these sources."""

from __future__ import annotations

import ctypes
import logging
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from native_builds import HAS_COMPILER, SOURCE, needs_a_compiler

from tppsd.backends.cpp import cache_folders, compiling
from tppsd.backends.cpp.compiling import library

pytestmark = needs_a_compiler
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files to other users or mount folders")
STRANGER = 12345  # the number of a user
COMPILER = compiling._compiler() if HAS_COMPILER else []


@pytest.fixture(scope="module")
def prebuilt(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The library, quickly compiled."""
    built = tmp_path_factory.mktemp("prebuilt") / "library.so"
    command = [*COMPILER, "-std=c++17", "-O0", *compiling._LINKED, str(SOURCE), "-o", str(built)]
    subprocess.run(command, check=True)
    return built


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, prebuilt: Path) -> Path:
    """A cache folder of the test's own with a good library; folders for temporary files are below it, too. Instead of
    compiling, the compiler copies what has been compiled before."""
    compiler, command = tmp_path / "compiler", " ".join(COMPILER)
    copies = f'for output; do :; done; exec cp {prebuilt} "$output"'
    compiler.write_text(f'#!/bin/sh\ncase "$*" in *-shared*) {copies};; esac\nexec {command} "$@"\n')
    compiler.chmod(0o700)
    monkeypatch.setenv("CXX", str(compiler))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "temporary").mkdir(mode=0o700)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    (tmp_path / "cache").mkdir(mode=0o700)
    library.__wrapped__(SOURCE)
    path = the_only_library(tmp_path / "cache" / "tppsd")
    path.rename(tmp_path / "loaded")  # tests change a file that nothing has loaded
    shutil.copy(tmp_path / "loaded", path)
    return path.parent


@pytest.fixture
def compilations(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """The commands that make a library."""
    commands: list[list[str]] = []
    right = compiling._run

    def run(command: list[str], **variables: str) -> str:
        if "-shared" in command:
            commands.append(command)
        return right(command, **variables)

    monkeypatch.setattr(compiling, "_run", run)
    return commands


def the_only_library(folder: Path) -> Path:
    (path,) = folder.iterdir()
    return path


def planted_library(folder: Path) -> Path:
    """One that says so when it is loaded."""
    source, built, mark = folder / "planted.cpp", folder / "planted.so", folder / "was-run"
    source.write_text(
        "#include <fstream>\n"
        f'__attribute__((constructor)) static void run() {{ std::ofstream("{mark}") << 1; }}\n'
        'extern "C" long panel_width() { return 1; }\n'
    )
    subprocess.run([*COMPILER, "-shared", "-fPIC", "-o", str(built), str(source)], check=True)
    return built


def test_a_good_library_is_loaded_and_not_compiled_again(folder: Path, compilations: list[list[str]]) -> None:
    """What the tests below differ from."""
    assert library.__wrapped__(SOURCE).panel_width() > 1 and not compilations


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:5000])


def flip_a_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def empty(path: Path) -> None:
    path.write_bytes(b"")


def replace_by_another(path: Path) -> None:
    """Another library takes its name, so that its digest does not fit."""
    shutil.copy(planted_library(path.parents[2]), path)


def replace_by_a_link(path: Path) -> None:
    elsewhere = path.parents[2] / "elsewhere.so"
    path.rename(elsewhere)
    path.symlink_to(elsewhere)


def replace_by_a_pipe(path: Path) -> None:
    """A pipe would be waited for."""
    path.unlink()
    os.mkfifo(path, 0o600)


def let_others_write(path: Path) -> None:
    path.chmod(0o722)


def give_away(path: Path) -> None:
    os.chown(path, STRANGER, STRANGER)


DAMAGES = [cut, flip_a_bit, empty, replace_by_another, replace_by_a_link, replace_by_a_pipe, let_others_write]


@pytest.mark.parametrize(
    "damage", [*DAMAGES, pytest.param(give_away, marks=as_root)], ids=lambda damage: damage.__name__
)
def test_a_library_that_is_not_whole_or_not_this_users_own_is_replaced(
    damage: object, folder: Path, compilations: list[list[str]]
) -> None:
    assert callable(damage)
    path = the_only_library(folder)
    expected = path.read_bytes()
    damage(path)
    assert library.__wrapped__(SOURCE).panel_width() > 1 and len(compilations) == 1
    new = the_only_library(folder)
    assert not new.is_symlink() and cache_folders.is_whole(new, new.stem.rpartition("-")[2])
    assert len(new.read_bytes()) == len(expected) and new.stat().st_uid == os.geteuid()
    assert not (folder.parents[1] / "was-run").exists()
    assert library.__wrapped__(SOURCE).panel_width() > 1 and len(compilations) == 1


def test_without_the_check_a_planted_library_runs(
    folder: Path, compilations: list[list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the test above looks for."""
    replace_by_another(the_only_library(folder))
    monkeypatch.setattr(compiling, "is_whole", lambda path, digest: True)
    library.__wrapped__(SOURCE)
    assert (folder.parents[1] / "was-run").exists()


# --- folders ----------------------------------------------------------------------------------------------------------


def open_to_all(folder: Path) -> None:
    folder.chmod(0o777)


def open_to_a_group(folder: Path) -> None:
    folder.chmod(0o770)


def open_above(folder: Path) -> None:
    folder.parent.chmod(0o777)


def of_a_stranger(folder: Path) -> None:
    os.chown(folder, STRANGER, STRANGER)


def above_of_a_stranger(folder: Path) -> None:
    os.chown(folder.parent, STRANGER, STRANGER)


def sticky(folder: Path) -> None:
    """Such a folder is nobody's to keep libraries in, as others can still add files."""
    folder.chmod(0o1777)


OPENINGS = {open_to_all: "mode 777", open_to_a_group: "mode 770", open_above: "mode 777", sticky: "mode 1777"}


@pytest.mark.parametrize(
    ("opening", "said"),
    [
        *OPENINGS.items(),
        pytest.param(of_a_stranger, f"another user .number {STRANGER}", marks=as_root),
        pytest.param(above_of_a_stranger, f"another user .number {STRANGER}", marks=as_root),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_a_folder_that_others_can_change_is_not_used(
    opening: object, said: str, folder: Path, compilations: list[list[str]], caplog: pytest.LogCaptureFixture
) -> None:
    """One for temporary files takes its place, and the next call finds the library there."""
    assert callable(opening)
    before = the_only_library(folder)
    opening(folder)
    with caplog.at_level(logging.WARNING):
        assert library.__wrapped__(SOURCE).panel_width() > 1
    assert len(caplog.messages) == 1 and said.split(" .")[0] in caplog.text and str(folder) in caplog.text
    assert len(compilations) == 1 and the_only_library(folder) == before
    own = Path(tempfile.gettempdir()) / f"tppsd-{os.geteuid()}"
    assert the_only_library(own).stem.rpartition("-")[0] == before.stem.rpartition("-")[0]
    assert own.stat().st_mode & 0o777 == 0o700
    library.__wrapped__(SOURCE)
    assert len(compilations) == 1


@pytest.mark.parametrize("is_sticky", [True, False])
def test_a_folder_below_one_that_all_may_write_to_needs_its_sticky_bit(tmp_path: Path, is_sticky: bool) -> None:
    """As /tmp has it: without it others could rename what is in it."""
    shared = tmp_path / "shared"
    shared.mkdir()
    shared.chmod(0o1777 if is_sticky else 0o777)
    if is_sticky:
        assert cache_folders.prepared(shared / "new" / "tppsd").stat().st_mode & 0o777 == 0o700
    else:
        with pytest.raises(cache_folders.UntrustedFolderError, match=r"others can write to .*shared"):
            cache_folders.prepared(shared / "new" / "tppsd")
        assert not list(shared.iterdir()), "nothing is made there"


def test_folders_are_made_private_whatever_the_umask(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        folder = cache_folders.prepared(tmp_path / "a" / "b")
    finally:
        os.umask(before)
    assert {place.stat().st_mode & 0o777 for place in (folder, folder.parent)} == {0o700}


@pytest.fixture
def mounted(folder: Path) -> Iterator[Path]:
    """The cache folder, to be mounted over; what is mounted is taken away."""
    shutil.rmtree(folder)
    folder.mkdir()
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], capture_output=True)


@as_root
@pytest.mark.parametrize("options", ["noexec", "size=64k", "ro"])
def test_a_folder_without_execution_or_space_is_passed_over(
    options: str, mounted: Path, compilations: list[list[str]]
) -> None:
    command = ["mount", "-t", "tmpfs", "-o", f"{options},mode=700", "tmpfs", str(mounted)]
    if subprocess.run(command, capture_output=True).returncode:
        pytest.skip("nothing can be mounted here")
    assert library.__wrapped__(SOURCE).panel_width() > 1
    assert not list(mounted.iterdir()), "nothing is left there"
    library.__wrapped__(SOURCE)
    assert the_only_library(Path(tempfile.gettempdir()) / f"tppsd-{os.geteuid()}")


def test_where_no_folder_can_be_used_the_reasons_are_said(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder.chmod(0o777)
    monkeypatch.setattr(tempfile, "tempdir", str(folder / "missing"))
    (folder / "missing").touch()
    with pytest.raises(ValueError, match=r"no folder to compile in; name one in XDG_CACHE_HOME \(others can write to"):
        library.__wrapped__(SOURCE)


# --- several processes ------------------------------------------------------------------------------------------------


def started(count: int, environment: dict[str, str]) -> list[subprocess.Popen[str]]:
    code = (
        "import sys; from pathlib import Path; from tppsd.backends.cpp import compiling; sys.stdin.read(1); "
        f"print(compiling.library(Path({str(SOURCE)!r})).panel_width())"
    )
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    processes = [
        subprocess.Popen([sys.executable, "-c", code], env=os.environ | environment, text=True, **pipes)
        for _ in range(count)
    ]
    return processes


def counting_compiler(folder: Path) -> tuple[str, Path]:
    """A compiler that writes a line for every library that it makes, and the file it writes to."""
    script, lines = folder / "counting-compiler", folder / "compilations"
    command = " ".join(COMPILER)
    script.write_text(f'#!/bin/sh\ncase "$*" in *-shared*) echo started >> {lines};; esac\nexec {command} "$@" -O0\n')
    script.chmod(0o700)
    return str(script), lines


def test_eight_processes_compile_once(tmp_path: Path) -> None:
    compiler, lines = counting_compiler(tmp_path)
    processes = started(8, {"XDG_CACHE_HOME": str(tmp_path), "CXX": compiler})
    ends = [process.communicate("x") for process in processes]
    assert [process.returncode for process in processes] == 8 * [0], ends
    assert len({out for out, _ in ends}) == 1
    assert lines.read_text().splitlines() == ["started"]
    assert len(list((tmp_path / "tppsd").iterdir())) == 1


def test_a_process_that_is_killed_leaves_nothing_that_the_next_one_trips_over(folder: Path, tmp_path: Path) -> None:
    """While it compiles: its lock is gone, and its half-made library is removed."""
    shutil.rmtree(folder)
    compiler, lines = counting_compiler(tmp_path)
    (process,) = started(1, {"XDG_CACHE_HOME": str(folder.parent), "CXX": compiler})
    assert process.stdin is not None
    process.stdin.write("x")
    process.stdin.flush()
    end = time.monotonic() + 60
    while not lines.exists() and time.monotonic() < end:
        time.sleep(0.01)
    process.kill()
    process.communicate()
    assert [path.name for path in folder.glob("build-*")], "killed while it compiled"
    assert library.__wrapped__(SOURCE).panel_width() > 1
    assert the_only_library(folder).suffix == ".so"


def test_a_library_in_use_is_never_changed(folder: Path) -> None:
    """One that is replaced stays whole for those that have loaded it: its file is another one."""
    path = the_only_library(folder)
    loaded = ctypes.CDLL(str(path))
    inode = path.stat().st_ino
    with path.open("rb") as file:
        content = file.read()
        path.chmod(0o722)  # no longer trusted
        library.__wrapped__(SOURCE)
        file.seek(0)
        assert file.read() == content
    assert the_only_library(folder).stat().st_ino != inode
    assert loaded.panel_width() > 1
