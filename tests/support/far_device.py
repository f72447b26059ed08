"""A CUDA device without a card: its tensors lie in main memory, but say that they are on "cuda" and are as hard to get
at.

What runs there with the same numbers is the code for a device, branch by branch: operators that mix tensors of both
places are refused as on a device, and all that waits for one is counted.
"""

from __future__ import annotations

import os
import traceback
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

_Module = TypeVar("_Module", bound=nn.Module)
CUDA = torch.device("cuda", 0)
aten: Any = torch.ops.aten
_READS = {
    "aten::item",
    "aten::_local_scalar_dense",
    "aten::nonzero",
    "aten::equal",
    "aten::masked_select",
}  # by what they return
_SHAPED_BY = {"aten::index.Tensor", "aten::index_put_", "aten::index_put"}  # by their indices, if these are bool


class FarTensor(Tensor):
    """`near` lies in main memory; views of a far tensor are far views of it."""

    near: Tensor

    @staticmethod
    def __new__(cls, near: Tensor) -> FarTensor:
        how = {"strides": near.stride(), "storage_offset": near.storage_offset(), "dtype": near.dtype, "device": CUDA}
        made: FarTensor = Tensor._make_wrapper_subclass(cls, near.shape, **how)  # type: ignore[attr-defined]
        made.near = near
        return made

    def __repr__(self) -> str:  # type: ignore[override]
        return f"FarTensor({self.near})"

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        raise AssertionError(f"{func} of a far tensor, where no far device is")

    # methods that ask a CUDA library for the device before they call an operator
    def item(self) -> Any:
        return aten.item(self)

    def __int__(self) -> int:
        return int(self.item())

    def __bool__(self) -> bool:
        return bool(self.item())

    def __float__(self) -> float:
        return float(self.item())

    def __index__(self) -> int:
        return int(self.item())

    def tolist(self) -> Any:
        return self.cpu().tolist()

    def nonzero(self, as_tuple: bool = False) -> Any:
        found = aten.nonzero(self)
        return found.unbind(1) if as_tuple else found

    def copy_(self, source: Tensor, non_blocking: bool = False) -> Tensor:
        return aten.copy_(self, source, non_blocking)  # type: ignore[no-any-return]

    def contiguous(self, **_: Any) -> Tensor:
        return aten.clone(self, memory_format=torch.contiguous_format)  # type: ignore[no-any-return]

    def __invert__(self) -> Tensor:
        return aten.bitwise_not(self)  # type: ignore[no-any-return]

    def __getitem__(self, key: Any) -> Tensor:
        part, places = _places(self, key)
        return part if all(place is None for place in places) else aten.index(part, places)

    def __setitem__(self, key: Any, value: Any) -> None:
        part, places = _places(self, key)
        if not isinstance(value, Tensor):
            value = aten.full([], value, dtype=self.dtype, device=CUDA)
        if all(place is None for place in places):
            part.copy_(value.expand(part.shape))
        else:
            aten.index_put_(part, places, value)


def _places(x: Tensor, key: Any) -> tuple[Tensor, list[Tensor | None]]:
    """`x[key]` is the view that is returned, indexed by those tensors."""
    key, places = list(key) if isinstance(key, tuple) else [key], list[Tensor | None]()
    for i in [i for i, part in enumerate(key) if part is Ellipsis]:
        key[i : i + 1] = [slice(None)] * (x.dim() + 1 - sum(part is not None for part in key))
    for part in key:
        dim = len(places)
        if isinstance(part, int):
            x = x.select(dim, part)
            continue
        if part is None:
            x = x.unsqueeze(dim)
        elif isinstance(part, slice):
            x = aten.slice(x, dim, part.start, part.stop)
        elif isinstance(part, list):
            part = torch.tensor(part, device=x.device)
        places.append(part if isinstance(part, Tensor) else None)
    return x, places


class FarDevice(TorchDispatchMode):
    """Runs the operators of far tensors. Attributes: waits: how often something has waited for the device, by who
    asked."""

    def __init__(self) -> None:
        super().__init__()
        self.waits: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        named = dict(zip((argument.name for argument in func._schema.arguments), args, strict=False)) | (kwargs or {})
        tensors = [x for x in tree_leaves(named) if isinstance(x, Tensor)]
        is_far = any(isinstance(x, FarTensor) for x in tensors)
        goes_far = is_far if named.get("device") is None else torch.device(named["device"]).type == "cuda"
        self._account(func.name(), named, tensors, is_far, goes_far)
        if named.get("device") is not None:
            named["device"] = torch.device("cpu")
        result = func(**{name: tree_map(_near, x) for name, x in named.items()})
        known = {id(x.near): x for x in tensors if isinstance(x, FarTensor)}  # what was written in place

        def far(x: Any) -> Any:
            return x if not isinstance(x, Tensor) else known[id(x)] if id(x) in known else FarTensor(x)

        return tree_map(far, result) if goes_far else result

    def _account(self, name: str, named: dict[str, Any], tensors: list[Tensor], is_far: bool, goes_far: bool) -> None:
        if name == "aten::_has_compatible_shallow_copy_type":  # a question about two tensors
            return
        is_move = name.startswith(("aten::_to_copy", "aten::to.", "aten::copy_"))
        if is_far and not is_move:
            strangers = [x for x in tensors if not isinstance(x, FarTensor) and x.dim()]
            assert not strangers or name.startswith("aten::index"), f"{name} of tensors in two places"
        by_shape = name in _SHAPED_BY and any(
            x.dtype == torch.bool for x in tree_leaves(named["indices"]) if x is not None
        )
        moves = is_move and (is_far != goes_far or (is_far and not all(isinstance(x, FarTensor) for x in tensors)))
        if (is_far and (name in _READS or by_shape)) or moves:
            self.waits[_caller()] += 1


def _caller() -> str:
    """Where the project asks: file and function."""
    frames = (frame for frame in reversed(traceback.extract_stack()) if f"{os.sep}tppsd{os.sep}" in frame.filename)
    frame = next(frames, None)
    return "elsewhere" if frame is None else f"{Path(frame.filename).stem}.{frame.name}"


def _near(x: Any) -> Any:
    return x.near if isinstance(x, FarTensor) else x


def sent(module: _Module) -> _Module:
    """The module, whose parameters and buffers have gone to the far device."""
    for part in module.modules():
        for tensors in (part._parameters, part._buffers):
            for name, tensor in tensors.items():
                if tensor is not None:
                    far = FarTensor(tensor.detach())
                    tensors[name] = nn.Parameter(far, requires_grad=False) if isinstance(tensor, nn.Parameter) else far
    return module


@contextmanager
def far_device(monkeypatch: pytest.MonkeyPatch) -> Iterator[FarDevice]:
    """While it is there."""
    make, inference_mode = torch.tensor, torch.inference_mode

    def tensor(data: Any, *, dtype: Any = None, device: Any = None, **others: Any) -> Tensor:
        near = make(data, dtype=dtype, **others)
        return near if device is None else near.to(device)

    with monkeypatch.context() as patch, inference_mode(), FarDevice() as device:
        patch.setattr(torch.cuda, "_lazy_init", lambda: None)
        patch.setattr(
            torch.__future__, "get_overwrite_module_params_on_conversion", lambda: True
        )  # .data cannot be replaced
        patch.setattr(torch, "tensor", tensor)
        patch.setattr(torch, "as_tensor", lambda x, **how: x.to(**how) if isinstance(x, Tensor) else tensor(x, **how))
        patch.setattr(
            torch, "inference_mode", lambda mode=True: inference_mode()
        )  # views of far tensors stay in one mode
        yield device
