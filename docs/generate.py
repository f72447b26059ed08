"""Pages made from the code: the file tree from module docstrings, the options of reading, and the commands."""

from __future__ import annotations

import ast
import inspect
import os
import re
from pathlib import Path

from tppsd.cli import GROUPS
from tppsd.data.options import ReadOptions

ROOT = Path(__file__).resolve().parent.parent
INDENT = 2
# pages that stand elsewhere in the repository, and what the documentation calls those that they link to
COPIES = {
    "start.md": "README.md",
    "contributing.md": "CONTRIBUTING.md",
    "recipes.md": "lightning_configs/recipes/README.md",
}
PAGES = {"CONTRIBUTING.md": "docs/contributing.md", "CHANGELOG.md": "docs/changelog.md"}
LINK = re.compile(r"(\]\()([^)#\s]+)(?=[)#])")


def write(folder: Path) -> None:
    """Write all generated pages into `folder`; a file that would stay the same is left alone."""
    folder.mkdir(exist_ok=True)
    pages = {"tree.md": tree(), "reading.md": reading_options(), "commands.md": commands()}
    for name, source in COPIES.items():
        pages[name] = moved(ROOT / source)
    for name, text in pages.items():
        path = folder / name
        if not path.exists() or path.read_text() != text:
            path.write_text(text)


# --- copies of pages -------------------------------------------------------------------------------------------------


def moved(source: Path) -> str:
    """A page without its title, its links as they are seen from a page in `docs/`, or in `docs/results/`."""
    here = ROOT / "docs" / ("results" if source.parent != ROOT else "")

    def linked(found: re.Match[str]) -> str:
        target = found[2]
        if "://" in target:
            return found[0]
        path = (source.parent / PAGES.get(target, target)).resolve()
        return found[1] + os.path.relpath(path, here)

    return LINK.sub(linked, source.read_text().partition("\n")[2])


# --- the file tree ---------------------------------------------------------------------------------------------------


def tree() -> str:
    """The files of the package, each with the first sentence of its docstring, or of its leading comment in C++."""
    lines = ["```text", "tppsd/", *folder_lines(ROOT / "tppsd", 1), "```"]
    return "\n".join(lines) + "\n"


def folder_lines(folder: Path, depth: int) -> list[str]:
    """The lines of a folder: its files, then its folders."""
    space = " " * INDENT * depth
    lines = []
    paths = [path for path in sorted(folder.iterdir()) if not path.name.startswith(("_", "."))]
    files = [path for path in paths if path.suffix in (".py", ".h", ".cpp")]
    width = max((len(path.name) for path in files), default=0)
    lines += [f"{space}{path.name:<{width}}  {purpose(path)}" for path in files]
    for path in paths:
        if path.is_dir():
            about = purpose(path / "__init__.py") if (path / "__init__.py").exists() else ""
            lines += [f"{space}{path.name}/  {about}".rstrip(), *folder_lines(path, depth + 1)]
    return lines


def purpose(path: Path) -> str:
    """What a file says that it is for: its first sentence."""
    text = path.read_text()
    if path.suffix == ".py":
        about = ast.get_docstring(ast.parse(text)) or ""
    else:
        about = " ".join(
            line.lstrip("/ ") for line in re.findall(r"\A(?:\s*//[^\n]*\n)+", text)[:1] for line in line.splitlines()
        )
    first = " ".join(about.split("\n\n")[0].split())
    return re.split(r"(?<=[.!?])\s", first)[0]


# --- the options of reading ------------------------------------------------------------------------------------------


def reading_options() -> str:
    """A table of the options of `EventDataModule` that say how a source is read."""
    text = inspect.getdoc(ReadOptions) or ""
    entries = re.findall(r"^ {4}(\w+): (.*?)(?=^ {4}\w|\Z)", text, flags=re.M | re.S)
    rows = [f"| `{name}` | {' '.join(about.split()).rstrip('.')} |" for name, about in entries]
    return "\n".join(["| option | meaning |", "|---|---|", *rows]) + "\n"


# --- the commands ----------------------------------------------------------------------------------------------------


def commands() -> str:
    """A table of the commands."""
    rows = [f"| `tppsd {name}` | {command.help} |" for group in GROUPS.values() for name, command in group.items()]
    return "\n".join(["| command | what it does |", "|---|---|", *rows]) + "\n"


if __name__ == "__main__":
    print(tree(), reading_options(), commands(), sep="\n")
