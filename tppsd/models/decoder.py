"""Decoders from a context to the distribution of the next event.

All of it runs in float32 (or float64), never under autocast.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tppsd.models.blocks import linear
from tppsd.models.distribution import MarkDecoder, NextEventDistribution
from tppsd.models.mixture import LOG_STD_RANGE, LogNormalMixture


class IndependentMarks(nn.Module):
    """Draws k ~ Categorical(softmax(V2 ReLU(V1 h))), independent of tau given h: the TPP-SD paper's decoder."""

    def __init__(self, embed_dim: int, num_marks: int) -> None:
        super().__init__()
        self.from_context = nn.Linear(embed_dim, embed_dim)
        self.to_logits = nn.Linear(embed_dim, num_marks)

    def features(self, context: Tensor) -> Tensor:
        """Compute what depends on the context alone: (..., embed_dim) -> (..., num_marks)."""
        return linear(self.to_logits, torch.relu(linear(self.from_context, context)))

    def log_probs(self, features: Tensor, log_inter_times: Tensor) -> Tensor:
        """Return log f(k | h): features (..., num_marks), standardised log tau (..., 1) (for its shape only)."""
        whole, _ = torch.broadcast_tensors(features, log_inter_times)
        return torch.log_softmax(whole, -1)

    def in_double(self) -> IndependentMarks:
        """Return itself: log_probs has no parameters of its own, so that the features' dtype decides."""
        return self


class TimeConditionalMarks(nn.Module):
    """Draws k ~ Categorical(softmax(V2 ReLU(V1 h + W2 ReLU(W1 log tau)))): the logits also see the inter-time."""

    def __init__(self, embed_dim: int, num_marks: int) -> None:
        super().__init__()
        self.from_context = nn.Linear(embed_dim, embed_dim)
        self.from_time = nn.Linear(1, embed_dim)
        self.mix_time = nn.Linear(embed_dim, embed_dim, bias=False)
        self.to_logits = nn.Linear(embed_dim, num_marks)
        nn.init.uniform_(self.from_time.weight, -2.0, 2.0)  # kinks spread over a few standard deviations of log tau
        nn.init.uniform_(self.from_time.bias, -3.0, 3.0)

    def features(self, context: Tensor) -> Tensor:
        """Compute what depends on the context alone: (..., embed_dim) -> (..., embed_dim)."""
        return linear(self.from_context, context)

    def log_probs(self, features: Tensor, log_inter_times: Tensor) -> Tensor:
        """Return log f(k | h, tau), (..., num_marks): features (..., embed_dim), standardised log tau (..., 1)."""
        with autocast_disabled(
            features.device.type
        ):  # a distribution is evaluated wherever its user is, under autocast too
            hidden = torch.relu(features + self.mix_time(torch.relu(self.from_time(log_inter_times))))
            return torch.log_softmax(self.to_logits(hidden), -1)

    def in_double(self) -> MarkDecoder:
        """Return the same map in float64 arithmetic on the weights as they are now."""
        if self.to_logits.weight.dtype == torch.float64:
            return self
        matrices = (layer.weight for layer in (self.from_time, self.mix_time, self.to_logits))
        biases = (self.from_time.bias, self.to_logits.bias)
        return DoubleMarks._make(values.detach().double() for values in (*matrices, *biases))


class DoubleMarks(NamedTuple):
    """Holds a TimeConditionalMarks in float64 arithmetic: matrices (out, in), then biases."""

    from_time: Tensor
    mix_time: Tensor
    to_logits: Tensor
    from_time_bias: Tensor
    to_logits_bias: Tensor

    def log_probs(self, features: Tensor, log_inter_times: Tensor) -> Tensor:
        """Return log f(k | h, tau), (..., num_marks): features (..., embed_dim), standardised log tau (..., 1)."""
        with autocast_disabled(features.device.type):
            of_time = torch.relu(F.linear(log_inter_times, self.from_time, self.from_time_bias))
            hidden = torch.relu(features + F.linear(of_time, self.mix_time))
            return torch.log_softmax(F.linear(hidden, self.to_logits, self.to_logits_bias), -1)

    def in_double(self) -> MarkDecoder:
        """Return itself."""
        return self


MARK_DECODERS: dict[str, type[IndependentMarks] | type[TimeConditionalMarks]] = {
    "time_conditional": TimeConditionalMarks,
    "independent": IndependentMarks,
}


class NextEventDecoder(nn.Module):
    """Maps h to (w, mu, sigma) of a LogNormalMixture and the mark decoder's features (TPP-SD, eq. 4.2).

    The paper's e = E h followed by a linear map for each of w, mu and log sigma is one linear map from h, kept as one
    matrix.
    """

    def __init__(self, embed_dim: int, num_components: int, num_marks: int, mark_decoder: str) -> None:
        super().__init__()
        if mark_decoder not in MARK_DECODERS:
            raise ValueError(f"mark_decoder = {mark_decoder!r} is unknown; choose one of {sorted(MARK_DECODERS)}")
        self.num_components = num_components
        self.to_mixture = nn.Linear(embed_dim, 3 * num_components)
        self.marks = MARK_DECODERS[mark_decoder](embed_dim, num_marks) if num_marks > 1 else None
        quantiles = (torch.arange(num_components) + 0.5) / num_components
        with torch.no_grad():  # start as a broad mixture that covers the standardised log inter-times
            self.to_mixture.weight.mul_(0.5)
            self.to_mixture.bias.zero_()
            self.to_mixture.bias[num_components : 2 * num_components] = torch.special.ndtri(quantiles)
            self.to_mixture.bias[2 * num_components :] = -0.7

    def forward(self, context: Tensor, shift: float, scale: float, double: bool = False) -> NextEventDistribution:
        """Return distributions of batch shape (*batch,) from contexts (*batch, embed_dim).

        With `double`, densities use float64 arithmetic on the float32 parameters of the distribution, so that they do
        not depend on the shape they are computed in.
        """
        with autocast_disabled(context.device.type):
            context = context.to(self.to_mixture.weight.dtype)
            parameters = linear(self.to_mixture, context)
            features = None if self.marks is None else self.marks.features(context)
            marks: MarkDecoder | None = self.marks
            if double:
                parameters, features = parameters.double(), None if features is None else features.double()
                marks = None if self.marks is None else self.marks.in_double()
            logits, means, log_stds = parameters.chunk(3, -1)
            mixture = LogNormalMixture(
                torch.log_softmax(logits, -1), means, log_stds.clamp(*LOG_STD_RANGE), shift, scale
            )
            return NextEventDistribution(mixture, features, marks)


def autocast_disabled(device_type: str) -> AbstractContextManager[Any]:
    """Return a context manager under which autocast is off.

    Entering `torch.autocast` costs as much as a small layer, so that is done only where autocast is on.
    """
    return torch.autocast(device_type, enabled=False) if torch.is_autocast_enabled(device_type) else nullcontext()
