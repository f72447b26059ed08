"""Exponentially decayed sums along a sequence of events, for all of its events at once."""

from __future__ import annotations

import torch
from torch import Tensor

_CHUNK = 64  # events that are summed up by doubling; longer sequences are cut into chunks of so many


def decayed_sums(counts: Tensor, spans: Tensor, decays: Tensor) -> Tensor:
    """Sum what has arrived so far, each arrival decayed since.

        s_i = exp(-beta tau_i) s_{i-1} + c_i,   s_0 = c_0

    Every s_i is reached by O(log length) products of decays, never by differences of times, so that no digits are lost
    to large times. The cost is linear in the length.

    Args:
        counts: c, float64 (*batch, length, num_terms).
        spans: tau, float64 (*batch, length) or (length,) for all of them, the time between i - 1 and i; the first one
            is not used, and infinity forgets all that was before.
        decays: beta > 0, (num_terms,).

    Returns:
        s, float64 (*batch, length, num_terms).
    """
    length = spans.shape[-1]
    if length <= _CHUNK:
        return _by_doubling(counts, spans, decays)
    num_chunks = -(-length // _CHUNK)
    padding = num_chunks * _CHUNK - length
    counts = torch.nn.functional.pad(counts, (0, 0, 0, padding)).unflatten(-2, (num_chunks, _CHUNK))
    spans = torch.nn.functional.pad(spans, (0, padding)).unflatten(-1, (num_chunks, _CHUNK))
    within = _by_doubling(counts, spans, decays)  # (*batch, num_chunks, _CHUNK, num_terms)
    since = spans.cumsum(-1)  # time since the end of the chunk before
    totals = decayed_sums(within[..., -1, :], since[..., -1], decays)  # at the end of every chunk
    before = torch.cat([torch.zeros_like(totals[..., :1, :]), totals[..., :-1, :]], -2).unsqueeze(-2)
    sums = within + torch.exp(-decays * since.unsqueeze(-1)) * before
    return sums.flatten(-3, -2)[..., :length, :]


def _by_doubling(counts: Tensor, spans: Tensor, decays: Tensor) -> Tensor:
    """Sum by doubling: after a pass, the sum at i holds the newest 2 * `width` terms.

    Its span is the time that they cover.
    """
    width = 1
    while width < spans.shape[-1]:
        newer = counts[..., width:, :] + torch.exp(-decays * spans[..., width:, None]) * counts[..., :-width, :]
        counts = torch.cat([counts[..., :width, :], newer], -2)
        spans = torch.cat([spans[..., :width], spans[..., width:] + spans[..., :-width]], -1)
        width *= 2
    return counts
