"""Pages made from the code: the file tree, the options of reading, the public names, the commands, the tutorials."""

from __future__ import annotations

import ast
import inspect
import json
import os
import re
from pathlib import Path

import tppsd
from tppsd.cli import GROUPS
from tppsd.data.options import ReadOptions

ROOT = Path(__file__).resolve().parent.parent
INDENT = 2
# a title of the API reference -> the packages whose public names it has
SECTIONS = {
    "Sampling": ("sampling", "backends"),
    "Forecasts": ("forecasting",),
    "Data": ("data",),
    "Models": ("models",),
    "Lightning": ("lightning",),
}
# pages that stand elsewhere in the repository, and what the documentation calls those that they link to
COPIES = {
    "start.md": "README.md",
    "contributing.md": "CONTRIBUTING.md",
    "recipes.md": "lightning_configs/recipes/README.md",
}
PAGES = {
    "README.md": "docs/start.md",
    "CONTRIBUTING.md": "docs/contributing.md",
    "CHANGELOG.md": "docs/changelog.md",
    "notebooks": "docs/tutorials",
}
LINK = re.compile(r"(\]\()([^)#\s]+)(?=[)#])")


def write(folder: Path) -> None:
    """Write all generated pages into `folder`; a file that would stay the same is left alone."""
    folder.mkdir(exist_ok=True)
    pages = {"tree.md": tree(), "reading.md": reading_options(), "commands.md": commands(), "api.md": api()}
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
    return linked(source.read_text().partition("\n")[2], source.parent, here)


def linked(text: str, before: Path, after: Path) -> str:
    """A text whose links are seen from the folder `before`, with its links as they are seen from `after`."""

    def seen(found: re.Match[str]) -> str:
        target = found[2]
        if "://" in target or target.startswith("mailto:"):
            return found[0]
        path = (before / target).resolve().relative_to(ROOT)
        for old, new in PAGES.items():
            if path == Path(old) or Path(old) in path.parents:
                path = Path(new) / path.relative_to(old)
        return found[1] + os.path.relpath(ROOT / path, after)

    return LINK.sub(seen, text)


# --- the tutorials ---------------------------------------------------------------------------------------------------


def write_tutorials(folder: Path) -> None:
    """Write the notebooks into `folder`, their links as they are seen from there."""
    folder.mkdir(exist_ok=True)
    for source in sorted((ROOT / "notebooks").glob("*.ipynb")):
        notebook = json.loads(source.read_text())
        for cell in notebook["cells"]:
            if cell["cell_type"] == "markdown":
                cell["source"] = linked("".join(cell["source"]), source.parent, folder)
        written = json.dumps(notebook, indent=1, ensure_ascii=False)
        path = folder / source.name
        if not path.exists() or path.read_text() != written:
            path.write_text(written)


def to_tutorials(app: object, name: str, source: list[str]) -> None:
    """Let a page of the documentation link to the tutorials where it links to the notebooks in the repository."""
    source[0] = source[0].replace("../notebooks/", "tutorials/")


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
        if path.is_dir() and (inner := folder_lines(path, depth + 1)):  # not where there is no code: configurations
            about = purpose(path / "__init__.py") if (path / "__init__.py").exists() else ""
            lines += [f"{space}{path.name}/  {about}".rstrip(), *inner]
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


# --- the public names ------------------------------------------------------------------------------------------------


def api() -> str:
    """The directives that document the public names, a section for each part of the package."""
    sections = []
    for title, parts in SECTIONS.items():
        names = [name for name, home in tppsd._MODULE_OF.items() if home.split(".")[1] in parts]
        directives = "\n".join(directive(name, has_members=title != "Lightning") for name in sorted(names))
        sections.append(f"## {title}\n\n```{{eval-rst}}\n{directives}\n```\n")
    return "\n".join(sections)


def directive(name: str, has_members: bool) -> str:
    """The directive of autodoc for a public name."""
    kind = "class" if isinstance(getattr(tppsd, name), type) else "function"
    return f".. auto{kind}:: tppsd.{name}" + ("\n   :members:" if kind == "class" and has_members else "")


# --- the commands ----------------------------------------------------------------------------------------------------


def commands() -> str:
    """A table of the commands."""
    rows = [
        f"| `tppsd {name}` | {command.help} | `{command.example}` |"
        for group in GROUPS.values()
        for name, command in group.items()
    ]
    return "\n".join(["| command | what it does | example |", "|---|---|---|", *rows]) + "\n"


if __name__ == "__main__":
    print(tree(), reading_options(), commands(), sep="\n")
