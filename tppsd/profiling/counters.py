"""Operators, bytes and floating-point operations of sampling, counted as they are dispatched; calls of compiled code
count as one operator."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from tppsd.backends.cpp import rounds
from tppsd.backends.cpp.compiled import CompiledDecoder, CompiledModel
from tppsd.backends.cpp.compiled_law import LawArithmetic
from tppsd.backends.cpp.operated import OperatedModel
from tppsd.backends.cpp.structures import Work
from tppsd.sampling import compiled_speculative


@dataclass
class Counts:
    """Attributes: operators that are not mere views; bytes that they read and write, as if nothing stayed in a cache;
    flops of matrix products."""

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
            self.counts.bytes += sum(
                _num_bytes(x) for x in tree_leaves((args, kwargs, result)) if isinstance(x, torch.Tensor)
            )
        return result


def counted(work: Callable[[], object]) -> Counts:
    """Run `work` and count."""
    flops = FlopCounterMode(display=False)
    with flops, _Counter() as counter, _compiled(counter.counts):
        work()
    counter.counts.flops += flops.get_total_flops()
    return counter.counts


_FOLLOWING, _ROUNDS = (CompiledModel, OperatedModel), ("speculate", "speculate_by_operators")
# of compiled code, what each call does: (its first argument, the others, result) -> Work
_WORK: list[tuple[Any, str, Callable[..., Work]]] = [
    (CompiledModel, "extend", lambda model, arguments, contexts: model.work(arguments[1], contexts.shape[1])),
    (CompiledDecoder, "law", lambda model, arguments, law: model.work_of_laws(law.batch_shape.numel())),
    *(
        (kind, "follow", lambda model, arguments, drawn: model.work_of_chain(arguments[1], drawn))
        for kind in _FOLLOWING
    ),
    *(
        (compiled_speculative, name, lambda models, arguments, made: rounds.work(models, arguments[0], made))
        for name in _ROUNDS
    ),
    (LawArithmetic, "draw", lambda laws, arguments, drawn: laws.work(drawn[0].numel())),
    (LawArithmetic, "log_prob", lambda laws, arguments, log_probs: laws.work(log_probs.numel())),
]


@contextlib.contextmanager
def _compiled(counts: Counts) -> Iterator[None]:
    """Calls of compiled code, which are not dispatched, say what they do."""

    def counting(right: Callable[..., Any], work: Callable[..., Work]) -> Callable[..., Any]:
        def call(owner: Any, *arguments: Any) -> Any:
            result = right(owner, *arguments)
            done = work(owner, arguments, result)
            counts.operators, counts.flops, counts.bytes = (
                counts.operators + 1, counts.flops + done.flops, counts.bytes + done.bytes,
            )  # fmt: skip
            return result

        return call

    with contextlib.ExitStack() as stack:
        for owner, name, work in _WORK:
            right = getattr(owner, name)
            stack.callback(setattr, owner, name, right)
            setattr(owner, name, counting(right, work))
        yield


def _num_bytes(tensor: torch.Tensor) -> int:
    """Of its distinct elements: an expanded tensor has fewer than it seems."""
    distinct = 1
    for size, stride in zip(tensor.shape, tensor.stride(), strict=True):
        distinct *= size if stride else 1
    return distinct * tensor.element_size()
