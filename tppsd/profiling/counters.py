"""Operators, bytes and floating-point operations of sampling, counted as they are dispatched; compiled passes count as one
operator."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from tppsd.models.compiled import CompiledModel


@dataclass
class Counts:
    """Attributes: operators that are not mere views; bytes that they read and write, as if nothing stayed in a cache; flops of
    matrix products."""

    operators: int = 0
    bytes: int = 0
    flops: int = 0


class _Counter(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.counts = Counts()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if not func.is_view:
            self.counts.operators += 1
            self.counts.bytes += sum(_num_bytes(x) for x in tree_leaves((args, kwargs, result)) if isinstance(x, torch.Tensor))
        return result


def counted(work: Callable[[], object]) -> Counts:
    """Run `work` and count."""
    flops = FlopCounterMode(display=False)
    with flops, _Counter() as counter, _compiled(counter.counts):
        work()
    counter.counts.flops += flops.get_total_flops()
    return counter.counts


@contextlib.contextmanager
def _compiled(counts: Counts) -> Iterator[None]:
    """Compiled passes, which are not dispatched, say what they do."""
    right = CompiledModel.extend, CompiledModel.law

    def count(flops: int, num_bytes: int) -> None:
        counts.operators, counts.flops, counts.bytes = counts.operators + 1, counts.flops + flops, counts.bytes + num_bytes

    def extend(model: CompiledModel, tokens: Any, cache: Any, parents: Any) -> Any:
        count(*model.work(cache, tokens.ids.shape[1]))
        return right[0](model, tokens, cache, parents)

    def law(model: CompiledModel, contexts: Any) -> Any:
        count(*model.work_of_laws(contexts.shape[:-1].numel()))
        return right[1](model, contexts)

    CompiledModel.extend, CompiledModel.law = extend, law  # type: ignore[method-assign, assignment]
    try:
        yield
    finally:
        CompiledModel.extend, CompiledModel.law = right  # type: ignore[method-assign]


def _num_bytes(tensor: torch.Tensor) -> int:
    """Of its distinct elements: an expanded tensor has fewer than it seems."""
    distinct = 1
    for size, stride in zip(tensor.shape, tensor.stride(), strict=True):
        distinct *= size if stride else 1
    return distinct * tensor.element_size()
