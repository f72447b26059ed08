"""Distributions of the next event whose draws and densities are single calls of compiled code."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from tppsd.backends.cpp.prepack import PackedDecoder
from tppsd.backends.cpp.structures import Pointer, Views
from tppsd.models.distribution import MarkDecoder, NextEventDistribution
from tppsd.models.mixture import LogNormalMixture


class DistributionArithmetic:
    """Draws from the distributions of one model and computes their densities by compiled code.

    It may outlive the model.

    Attributes:
        example: a distribution of that model; all but its parameters is used.
    """

    def __init__(self, library: ctypes.CDLL, weights: PackedDecoder, example: NextEventDistribution) -> None:
        self._library, self._weights, self.example = library, weights, example

    def draw(self, distributions: Tensor, elapsed: Tensor | None, uniforms: Tensor) -> tuple[Tensor, Tensor]:
        """Return NextEventDistribution.sample of packed distributions (*batch, width).

        With `elapsed` (*batch,) they are given that nothing happened for that time.
        """
        shape = _broadcast(distributions.shape[:-1], uniforms.shape[:-1])
        inter_times = torch.empty(shape, dtype=torch.float64)
        marks = torch.empty(shape, dtype=torch.int64)
        uniforms = uniforms if uniforms.stride(-1) == 1 else uniforms.contiguous()
        uniforms = uniforms.expand(*shape, -1)
        self._call(
            self._library.draw_events,
            shape,
            distributions,
            elapsed,
            [(uniforms, uniforms.stride()[:-1])],
            inter_times,
            marks,
        )
        return inter_times, marks

    def log_prob(self, distributions: Tensor, elapsed: Tensor | None, inter_times: Tensor, marks: Tensor) -> Tensor:
        """Return NextEventDistribution.log_prob of packed distributions (*batch, width).

        With `elapsed` (*batch,) they are given that nothing happened for that time.
        """
        shape = _broadcast(distributions.shape[:-1], inter_times.shape)
        log_probs = torch.empty(shape, dtype=torch.float64)
        operands = [(operand, operand.stride()) for operand in (inter_times.expand(shape), marks.expand(shape))]
        self._call(self._library.log_densities, shape, distributions, elapsed, operands, log_probs)
        return log_probs

    def mark_integrals(
        self, distributions: Tensor, elapsed: Tensor | None, ends: Tensor, sets: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Integrate probabilities and intensities of sets of marks (tppsd.forecasting.integrals), float64.

        Args:
            distributions: packed, (n, width).
            elapsed: (n,), or None.
            ends: (n, num_ends).
            sets: bool (num_sets, num_marks).

        Returns:
            p and Lambda (n, num_sets, num_ends); NaN where less than 1e-30 is left beyond `elapsed`.
        """
        shape = len(ends), len(sets), ends.shape[1]
        p, hazard = (torch.empty(shape, dtype=torch.float64) for _ in range(2))
        read = [None if one is None else one.double().contiguous() for one in (distributions, elapsed, ends, sets)]
        packed, waits, until, members = (None if one is None else Pointer(one.data_ptr()) for one in read)
        self._library.mark_integrals(
            ctypes.byref(self._weights.decoder), packed, waits, shape[0], until, shape[2], members, shape[1],
            torch.get_num_threads(), Pointer(p.data_ptr()), Pointer(hazard.data_ptr()),
        )  # fmt: skip
        return p, hazard

    def _call(
        self, function: Callable[..., None], shape: tuple[int, ...], distributions: Tensor, elapsed: Tensor | None,
        operands: list[tuple[Tensor, tuple[int, ...]]], *written: Tensor,
    ) -> None:  # fmt: skip
        distributions = distributions.expand(*shape, -1)
        silences = None if elapsed is None else elapsed.expand(shape)
        strides = (distributions.stride()[:-1], (0,) * len(shape) if silences is None else silences.stride())
        views, _numbers = _views(shape, *strides, *(steps for _, steps in operands))
        tensors = (distributions, silences, *(operand for operand, _ in operands), *written)
        pointers = (None if tensor is None else Pointer(tensor.data_ptr()) for tensor in tensors)
        function(ctypes.byref(self._weights.decoder), ctypes.byref(views), *pointers)


def _broadcast(distributions: torch.Size, operands: torch.Size) -> tuple[int, ...]:
    """Return the shape of both together; torch.broadcast_shapes takes longer than all of a draw."""
    if distributions == operands:
        return distributions
    missing = len(operands) - len(distributions)
    first, second = (1,) * missing + tuple(distributions), (1,) * -missing + tuple(operands)
    return tuple(b if a == 1 else a for a, b in zip(first, second, strict=True))


def _views(shape: tuple[int, ...], *strides: tuple[int, ...]) -> tuple[Views, Any]:
    """Return the structure of these shapes and strides, and the numbers that it points to."""
    num = len(shape)
    numbers = (ctypes.c_int64 * (5 * num))(*shape, *(step for one in strides for step in one))
    first = ctypes.addressof(numbers)
    return Views(num, *(first + 8 * num * i for i in range(5))), numbers


class CompiledDistribution(NextEventDistribution):
    """Is a batch of packed distributions of a compiled model, truncated or not.

    Args:
        arithmetic: draws and densities of the model.
        parameters: float64 (*batch, width), as NextEventDistribution packs them.
        elapsed: float64 (*batch,), time since the last event that is known to be without an event; None = not
            truncated.
    """

    _arithmetic: DistributionArithmetic
    _elapsed: Tensor | None

    def __init__(self, arithmetic: DistributionArithmetic, parameters: Tensor, elapsed: Tensor | None = None) -> None:
        # the class is frozen; the fields of the one above stay unset: they are made when asked for
        object.__setattr__(self, "_arithmetic", arithmetic)
        object.__setattr__(self, "_packed", parameters)
        object.__setattr__(self, "_elapsed", elapsed)

    @cached_property
    def _ordinary(self) -> NextEventDistribution:
        """The same distributions, field by field; most are never asked for."""
        return self._arithmetic.example._with([self.parameters], self._elapsed)

    @property
    def inter_time(self) -> LogNormalMixture:
        """The distribution of the inter-time."""
        return self._ordinary.inter_time

    @property
    def mark_features(self) -> Tensor | None:
        """Features that the mark decoder has computed from the context alone, (*batch, width); None if unmarked."""
        return self._ordinary.mark_features

    @property
    def mark_decoder(self) -> MarkDecoder | None:
        """The mark decoder in float64 arithmetic; None if unmarked."""
        return self._arithmetic.example.mark_decoder

    @property
    def batch_shape(self) -> torch.Size:
        """Shape of the batch of distributions."""
        return self.parameters.shape[:-1]

    @property
    def elapsed(self) -> Tensor | None:
        """Time since the last event that is known to be without an event, float64 (*batch,); None = not truncated."""
        return self._elapsed

    def _with(self, fields: list[Tensor], elapsed: Tensor | None) -> NextEventDistribution:
        return CompiledDistribution(self._arithmetic, fields[0], elapsed)

    def with_parts(self, **parts: Any) -> NextEventDistribution:
        """Return an ordinary NextEventDistribution with some attributes replaced."""
        return self._ordinary.with_parts(**parts)

    def truncated(self, elapsed: Tensor) -> NextEventDistribution:
        """Return the distribution given that nothing happened for `elapsed` float64 (*batch,) since the last event."""
        return CompiledDistribution(self._arithmetic, self.parameters, elapsed.expand(self.batch_shape))

    def whole(self) -> NextEventDistribution:
        """Return the distribution without truncation."""
        return CompiledDistribution(self._arithmetic, self.parameters)

    def double(self) -> NextEventDistribution:
        """Return itself: compiled code computes in float64."""
        return self

    def mark_integrals(self, ends: Tensor, sets: Tensor) -> tuple[Tensor, Tensor]:
        """Integrate probabilities and intensities of sets of marks; see DistributionArithmetic.mark_integrals."""
        return self._arithmetic.mark_integrals(self.parameters, self._elapsed, ends, sets)

    def log_prob(self, inter_times: Tensor, marks: Tensor) -> Tensor:
        """Return log g(tau) + log f(k | tau), (*batch,)."""
        return self._arithmetic.log_prob(self.parameters, self._elapsed, inter_times, marks)

    def noise_distance(self, inter_times: Tensor, uniforms: Tensor) -> Tensor:
        """Return how far these inter-times are from those of `sample(uniforms)`: 0 exactly where they are the same."""
        # that of the ordinary distribution is 0 for what it draws itself, which differs in last bits
        return torch.where(self.sample(uniforms)[0] == inter_times, 0.0, super().noise_distance(inter_times, uniforms))

    def sample(self, uniforms: Tensor) -> tuple[Tensor, Tensor]:
        """Return (inter_times float64, marks int64) from float64 uniforms (..., *batch, 3)."""
        return self._arithmetic.draw(self.parameters, self._elapsed, uniforms)
