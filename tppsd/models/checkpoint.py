"""Self-contained checkpoints, readable without Lightning.

A checkpoint holds weights, configuration and statistics of the training split.
"""

from __future__ import annotations

import hashlib
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import torch
from torch import Tensor

from tppsd.data.whole_files import whole_or_absent

if TYPE_CHECKING:
    from tppsd.models.transformer_tpp import TransformerTPP

CHECKPOINT_KEY = "tppsd"
DIGEST_KEY = "content_sha256"  # of everything else in the file
FORMAT_VERSION = 1
_OF_RUN = ("best.ckpt", "last.ckpt")  # in the folder of a run, the first that is there


def describe(model: TransformerTPP) -> dict[str, Any]:
    """Return what a checkpoint says of its model: plain values, so that it loads with `weights_only=True`."""
    return {"format_version": FORMAT_VERSION, "config": model.config, "statistics": model.statistics.to_dict()}


def save(model: TransformerTPP, path: str | Path) -> None:
    """Write a core checkpoint; an interrupted write leaves no half-written file behind."""
    write_checkpoint({CHECKPOINT_KEY: describe(model), "state_dict": model.state_dict()}, path)


def write_checkpoint(content: dict[str, Any], path: str | Path) -> None:
    """Write `content` and its digest to a local file, which is replaced only when the new one is safely on the disk."""
    with whole_or_absent(path, is_synced=True) as temporary, temporary.open("wb") as file:
        target: Any = _Target(file)  # torch asks for no more of a file than this
        try:
            torch.save(content | {DIGEST_KEY: digest(content)}, target)
        except RuntimeError:
            if target.error is None:
                raise
            raise target.error from None


class _Target:
    """Is the file that torch writes to, and keeps the error of a write: torch raises one of its own instead."""

    def __init__(self, file: BinaryIO) -> None:
        self.file = file
        self.error: OSError | None = None

    def write(self, data: Any) -> int:
        try:
            return self.file.write(data)
        except OSError as error:
            self.error = self.error or error
            raise

    def flush(self) -> None:
        self.file.flush()


def load(path: str | Path, device: torch.device | str = "cpu") -> TransformerTPP:
    """Read a model from a file written by `TransformerTPP.save` or by the Trainer, in evaluation mode.

    Args:
        path: the file, or the folder of a run of `tppsd fit`, which stands for its best checkpoint.
        device: where the model is to be.

    Raises:
        FileNotFoundError: no such file.
        ValueError: not a tppsd checkpoint, or one of a newer format.
    """
    from tppsd.models.transformer_tpp import TransformerTPP

    if Path(path).is_dir():
        path = best_of_run(Path(path))
    content = read_checkpoint(path)
    try:
        config = content[CHECKPOINT_KEY]["config"]
        prefix = "model." if any(key.startswith("model.") for key in content["state_dict"]) else ""
        weights = {k[len(prefix) :]: v for k, v in content["state_dict"].items() if k.startswith(prefix)}
        _check_sizes(config, weights)
        model = TransformerTPP(**config)
        model.to(weights["decoder.to_mixture.weight"].dtype).load_state_dict(weights)
    except (AttributeError, KeyError, TypeError, ValueError, RuntimeError) as error:
        raise ValueError(f"{path}: its weights do not fit its configuration ({_summary(error)})") from error
    return model.eval().to(device)


def best_of_run(run: Path) -> Path:
    """Return the best checkpoint in the folder of a run of `tppsd fit`; the last, where none is the best.

    Raises:
        FileNotFoundError: there is none.
    """
    for name in _OF_RUN:
        if (path := run / "checkpoints" / name).is_file():
            return path
    if run.is_dir():
        raise FileNotFoundError(f"{run}: has no checkpoints/{_OF_RUN[0]}; it must be a folder of `tppsd fit`")
    runs = sorted(path.parent.parent.name for path in run.parent.glob(f"*/checkpoints/{_OF_RUN[0]}"))
    there = f"{run.parent} has {', '.join(runs[:8])}" if runs else f"{run.parent} has none"
    raise FileNotFoundError(f"{run}: there is no such folder of `tppsd fit`; {there}")


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """Return the content of a checkpoint file.

    It has `state_dict`, what `describe` said under CHECKPOINT_KEY, and what the Trainer added.

    Raises:
        FileNotFoundError, ValueError: as `load`.
    """
    content = read_plain(path)
    try:
        format_version = int(content[CHECKPOINT_KEY]["format_version"])
    except (KeyError, OverflowError, TypeError, ValueError) as error:
        raise ValueError(f"{path}: not a tppsd checkpoint ({_summary(error)})") from error
    if format_version > FORMAT_VERSION:
        raise ValueError(
            f"{path}: has checkpoint format {format_version}, this version reads up to {FORMAT_VERSION}; upgrade tppsd"
        )
    return content


def read_plain(path: str | Path) -> dict[str, Any]:
    """Return the tensors and plain values of a local file of torch.save.

    None of the file's code is run; a digest that is stored in it must be that of its content.

    Raises:
        FileNotFoundError: no such file.
        ValueError: not a local file, not of that kind, or damaged.
    """
    file = local_file(path)
    try:
        _check_stored(file)
        content: dict[str, Any] = torch.load(file, map_location="cpu", weights_only=True)
        stored = content.pop(DIGEST_KEY, None)
    except Exception as error:  # whatever the unpickler met: the user needs one sentence
        raise ValueError(f"{path}: not a tppsd checkpoint ({_summary(error)})") from error
    if stored is not None and stored != digest(content):
        raise ValueError(
            f"{path}: is damaged: its content does not have the SHA-256 that was stored with it; use another copy"
        )
    return content


def _check_stored(file: Path) -> None:
    """Refuse an archive whose entries are larger than the file: torch.save compresses nothing.

    Raises:
        ValueError: reading it would take more memory than the file has bytes.
    """
    if not zipfile.is_zipfile(file):  # of a format of before, which is not compressed either
        return
    with zipfile.ZipFile(file) as archive:
        inside = sum(entry.file_size for entry in archive.infolist())
    if inside > file.stat().st_size:
        raise ValueError(f"its entries claim {inside:,} bytes, the file has {file.stat().st_size:,}")


def _check_sizes(config: Mapping[str, Any], weights: Mapping[str, Any]) -> None:
    """Refuse a configuration of other sizes than the weights, before memory is taken for it.

    Raises:
        ValueError: the first weight that is not as the configuration says.
    """
    from tppsd.models.transformer_tpp import TransformerTPP

    if config["num_layers"] > len(weights):  # shapes of so many layers would take long
        raise ValueError(f"num_layers = {config['num_layers']}, but there are {len(weights)} weights")
    with torch.device("meta"):  # shapes without memory
        expected = TransformerTPP(**config).state_dict()
    for name, value in expected.items():
        if isinstance(value, Tensor) and value.shape != getattr(weights.get(name), "shape", None):
            found_shape = getattr(weights.get(name), "shape", ())
            raise ValueError(f"{name} has shape {tuple(found_shape)}, not {tuple(value.shape)}")


def local_file(path: str | Path) -> Path:
    """Return the path of a file on this machine.

    What looks like a URL is refused even where a file has such a name, since others who are given the name would fetch
    it.

    Raises:
        FileNotFoundError: no such file.
        ValueError: a URL.
    """
    if re.match(r"[A-Za-z][A-Za-z0-9+.-]*:[/:]", str(path)) and not Path(path).drive:
        raise ValueError(
            f"{path}: a checkpoint must be a file on this machine; fetch it first, from a source that you trust"
        )
    if not Path(path).is_file():
        raise FileNotFoundError(f"{path}: there is no such checkpoint file")
    return Path(path)


def digest(content: Any) -> str:
    """Return the SHA-256 (hex) of nested mappings and sequences of tensors and plain values.

    It is the same before and after a checkpoint's way through a file.
    """
    own = hashlib.sha256()
    _add(own, content)
    return own.hexdigest()


def _add(own: Any, value: Any) -> None:
    if isinstance(value, Tensor):
        own.update(f"tensor {value.dtype} {tuple(value.shape)} ".encode())
        own.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    elif isinstance(value, Mapping):
        own.update(f"mapping {len(value)} ".encode())
        for key, item in value.items():
            own.update(f"{key!r} ".encode())
            _add(own, item)
    elif isinstance(value, list | tuple):
        own.update(f"sequence {len(value)} ".encode())
        for item in value:
            _add(own, item)
    elif isinstance(value, set | frozenset):  # their order differs from process to process
        _add(own, sorted(map(repr, value)))
    else:
        own.update(f"{value!r} ".encode())


def _summary(error: Exception) -> str:
    """Return type and text of an error in one short line."""
    return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
