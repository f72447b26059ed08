"""Configuration files in YAML, of which everything that is wrong is said in one sentence."""

from __future__ import annotations

from pathlib import Path
from typing import Any


def read_mapping(path: str | Path, option: str = "") -> dict[str, Any]:
    """Return the keys and values of a YAML file.

    Args:
        path: of the file.
        option: by which it was given, for messages.

    Raises:
        FileNotFoundError: no such file.
        ValueError: not text in UTF-8, not YAML, or not a mapping.
    """
    import yaml

    place = f"{option} {path}".lstrip()
    if not Path(path).is_file():
        raise FileNotFoundError(f"{place}: there is no such configuration file")
    try:
        content = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except UnicodeDecodeError as error:
        raise ValueError(f"{place}: not a text file in UTF-8 ({error.reason} at byte {error.start})") from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # ValueError: such as of a 30th of February
        raise ValueError(f"{place}: not a YAML file ({str(error).splitlines()[0]})") from error
    if not isinstance(content, dict):
        raise ValueError(f"{place}: must hold keys and values, it holds a {type(content).__name__}")
    return content
