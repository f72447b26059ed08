"""Laws whose draws and densities are single calls of compiled code."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from tppsd.models.law import MarkDecoder, NextEventLaw
from tppsd.models.mixture import LogNormalMixture
from tppsd.models.stand_ins.packing import PackedWeights
from tppsd.models.stand_ins.structures import Pointer, Views, Work


class LawArithmetic:
    """What compiled code knows of the laws of one model; they may outlive it.

    Attributes:
        example: a law of that model, of which all but the parameters is used.
    """

    def __init__(self, library: ctypes.CDLL, weights: PackedWeights, example: NextEventLaw) -> None:
        self._library, self._weights, self.example = library, weights, example

    def draw(self, laws: Tensor, uniforms: Tensor) -> tuple[Tensor, Tensor]:
        """NextEventLaw.sample of packed laws (*batch, width)."""
        shape = _broadcast(laws.shape[:-1], uniforms.shape[:-1])
        inter_times = torch.empty(shape, dtype=torch.float64)
        marks = torch.empty(shape, dtype=torch.int64)
        uniforms = uniforms if uniforms.stride(-1) == 1 else uniforms.contiguous()
        laws, uniforms = laws.expand(*shape, -1), uniforms.expand(*shape, -1)
        views, _strides = _views(shape, laws.stride()[:-1], uniforms.stride()[:-1])
        self._call(self._library.draw_events, views, laws, uniforms, inter_times, marks)
        return inter_times, marks

    def log_prob(self, laws: Tensor, inter_times: Tensor, marks: Tensor) -> Tensor:
        """NextEventLaw.log_prob of packed laws (*batch, width)."""
        shape = _broadcast(laws.shape[:-1], inter_times.shape)
        log_probs = torch.empty(shape, dtype=torch.float64)
        laws, inter_times, marks = laws.expand(*shape, -1), inter_times.expand(shape), marks.expand(shape)
        views, _strides = _views(shape, laws.stride()[:-1], inter_times.stride(), marks.stride())
        self._call(self._library.log_densities, views, laws, inter_times, marks, log_probs)
        return log_probs

    def work(self, num: int) -> Work:
        """Of that many draws or densities."""
        own = self._weights.decoder
        matrices = own.num_features * (own.num_features + own.num_marks) if own.mix_time else 0
        return Work(2 * num * matrices, 8 * num * (3 * own.num_components + own.num_features))

    def _call(self, function: Callable[..., None], views: Views, *tensors: Tensor) -> None:
        function(ctypes.byref(self._weights.decoder), ctypes.byref(views), *(Pointer(tensor.data_ptr()) for tensor in tensors))


def _broadcast(laws: torch.Size, operands: torch.Size) -> tuple[int, ...]:
    """torch.broadcast_shapes, which takes longer than all of a draw."""
    if laws == operands:
        return laws
    missing = len(operands) - len(laws)
    first, second = (1,) * missing + tuple(laws), (1,) * -missing + tuple(operands)
    return tuple(b if a == 1 else a for a, b in zip(first, second, strict=True))


def _views(shape: tuple[int, ...], *strides: tuple[int, ...]) -> tuple[Views, Any]:
    """And what it points to."""
    num = len(shape)
    numbers = (ctypes.c_int64 * (4 * num))(*shape, *(step for one in strides for step in one))
    first = ctypes.addressof(numbers)
    return Views(num, *(first + 8 * num * i for i in range(4))), numbers


class CompiledLaw(NextEventLaw):
    """Whole laws, packed, of a model with compiled passes; given a silence they are ordinary ones.

    Args:
        arithmetic: of the model.
        parameters: float64 (*batch, width), as NextEventLaw packs them.
    """

    _arithmetic: LawArithmetic

    def __init__(self, arithmetic: LawArithmetic, parameters: Tensor) -> None:
        self.__dict__.update(_arithmetic=arithmetic, _packed=parameters)

    @cached_property
    def _ordinary(self) -> NextEventLaw:
        """The same laws, field by field: most are never asked for."""
        return self._arithmetic.example.of(self.parameters)

    @property
    def inter_time(self) -> LogNormalMixture:
        return self._ordinary.inter_time

    @property
    def mark_features(self) -> Tensor | None:
        return self._ordinary.mark_features

    @property
    def mark_decoder(self) -> MarkDecoder | None:
        return self._arithmetic.example.mark_decoder

    @property
    def batch_shape(self) -> torch.Size:
        return self.parameters.shape[:-1]

    @property
    def elapsed(self) -> None:
        return None

    def _with(self, fields: list[Tensor], elapsed: Tensor | None) -> NextEventLaw:
        return CompiledLaw(self._arithmetic, fields[0]) if elapsed is None else self._ordinary._with(fields, elapsed)

    def with_parts(self, **parts: Any) -> NextEventLaw:
        return self._ordinary.with_parts(**parts)

    def double(self) -> NextEventLaw:
        return self

    def joins(self, other: object) -> bool:
        return False  # two calls cost less than joining

    def log_prob(self, inter_times: Tensor, marks: Tensor) -> Tensor:
        return self._arithmetic.log_prob(self.parameters, inter_times, marks)

    def noise_distance(self, inter_times: Tensor, uniforms: Tensor) -> Tensor:
        # that of the ordinary law is 0 for what it draws itself, which differs in last bits
        return torch.where(self.sample(uniforms)[0] == inter_times, 0.0, super().noise_distance(inter_times, uniforms))

    def sample(self, uniforms: Tensor) -> tuple[Tensor, Tensor]:
        return self._arithmetic.draw(self.parameters, uniforms)
