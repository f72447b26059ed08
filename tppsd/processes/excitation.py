"""The excitation of a Hawkes process at each event of many sequences, and its integral, in linear time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from tppsd.data.batch import NO_MARK
from tppsd.data.sequences import EventSequence

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


_BLOCK = 2**14  # tokens whose states are in memory at a time


class EventStream(NamedTuple):
    """Holds sequences one after another as tokens: the start of each window, its events, and its end.

    With given events there is also a token at the start of what is scored.

    Attributes:
        inter_times: float64 (num_tokens,), since the token before; infinite at a start, which forgets the past.
        marks: int64 (num_tokens,), NO_MARK where there is no event.
        is_scored: bool (num_tokens,): the interval that ends here belongs to the likelihood, and so does its event.
        num_marks: number of marks.
    """

    inter_times: Tensor
    marks: Tensor
    is_scored: Tensor
    num_marks: int

    @property
    def is_event(self) -> Tensor:
        """A mask of the tokens that are events with a likelihood term, bool (num_tokens,)."""
        return self.is_scored & (self.marks != NO_MARK)

    @property
    def event_marks(self) -> Tensor:
        """Marks of the events with a likelihood term, int64 (num_events,)."""
        return self.marks[self.is_event]

    @property
    def num_events(self) -> int:
        """Number of events with a likelihood term."""
        return int(self.is_event.sum())

    @property
    def duration(self) -> float:
        """Total length of what is scored."""
        return float(self.inter_times[self.is_scored].sum())

    @classmethod
    def of(cls, sequences: Sequence[EventSequence], num_marks: int | None = None) -> EventStream:
        """Return the tokens of `sequences`; `num_marks` = None takes 1 + the largest mark.

        Raises:
            ValueError: no sequences, no event or no time is scored, or a mark is num_marks or more.
        """
        parts = [_tokens(sequence) for sequence in sequences]
        if not parts:
            raise ValueError("a fit needs at least one sequence; got none")
        inter_times, marks, is_scored = (torch.cat(columns) for columns in zip(*parts, strict=True))
        largest = int(marks.max())
        if num_marks is not None and largest >= num_marks:
            row = next(s for s in sequences if len(s) and int(s.marks.max()) == largest)
            raise ValueError(
                f"sequence {row.index}: has mark {largest}; with num_marks = {num_marks} they are 0..{num_marks - 1}"
            )
        stream = cls(inter_times, marks, is_scored, 1 + largest if num_marks is None else num_marks)
        if not stream.num_events or not stream.duration:
            raise ValueError(
                f"the sequences have {stream.num_events} events with a likelihood term in a total time of "
                f"{stream.duration:g}; a fit needs both"
            )
        return stream


def _tokens(sequence: EventSequence) -> tuple[Tensor, Tensor, Tensor]:
    """Return inter_times, marks and is_scored of a sequence's tokens.

    Where the scored part begins after the last given event, a token without an event parts the interval.
    """
    given, num_given = int(sequence.first_is_given), sequence.num_given
    last_time = float(sequence.event_times[-1]) if len(sequence) else sequence.window_start
    start, end = sequence.inter_times.new_tensor([[torch.inf], [sequence.window_end - last_time]])
    no_mark = sequence.marks.new_tensor([NO_MARK])
    before = [start, sequence.inter_times[given:num_given]]
    marks = [sequence.marks[:1] if given else no_mark, sequence.marks[given:num_given]]
    scored = torch.cat([sequence.inter_times[num_given:], end])
    if (elapsed := sequence.scored_from - sequence.last_given_time) > 0:
        before.append(scored.new_tensor([elapsed]))
        marks.append(no_mark)
        scored[0] = (scored[0] - elapsed).clamp_min(0.0)
    inter_times = torch.cat([*before, scored])
    is_scored = torch.arange(len(inter_times)) >= len(inter_times) - len(scored)
    return inter_times, torch.cat([*marks, sequence.marks[num_given:], no_mark]), is_scored


def excitation(stream: EventStream, decays: Tensor) -> tuple[Tensor, Tensor]:
    """Return A_nd just before each scored event, and its integral over all that is scored.

        A_nd(t) = sum_{t_j < t, k_j = n} exp(-beta_d (t - t_j))

    Args:
        stream: the sequences.
        decays: beta_d, float64 (num_decays,).

    Returns:
        float64 (num_events, num_marks, num_decays) and (num_marks, num_decays).
    """
    at_events = torch.empty(stream.num_events, stream.num_marks, len(decays), dtype=torch.float64)
    integral, filled = at_events.new_zeros(at_events.shape[1:]), 0
    for block, before, _ in _blocks(stream, decays):
        is_event, is_scored, spans = stream.is_event[block], stream.is_scored[block], stream.inter_times[block, None]
        own = before[:, is_event] * torch.exp(-decays * spans[is_event])
        at_events[filled : filled + own.shape[1]] = own.transpose(0, 1)
        filled += own.shape[1]
        integral += (before[:, is_scored] * (-torch.expm1(-decays * spans[is_scored]) / decays)).sum(1)
    return at_events, integral


def decay_gradient(stream: EventStream, decays: Tensor, alpha: Tensor, intensities: Tensor) -> Tensor:
    """Return the derivative of the log-likelihood by every decay rate, other parameters fixed, float64 (num_decays,).

        d log L / d beta_d = sum_i sum_n alpha_knd A'_nd(t_i) / lambda*_k(t_i) - sum_mn alpha_mnd C'_nd,   k = k_i
        A'_i = exp(-beta tau_i) (A'_{i-1} - tau_i A_{i-1})      (A_{i-1} right after event i - 1)

    Args:
        stream: the sequences.
        decays: beta_d, (num_decays,).
        alpha: (target mark, source mark, num_decays).
        intensities: lambda*_{k_i}(t_i) at every scored event, (num_events,).
    """
    gradient, state, filled = torch.zeros_like(decays), alpha.new_zeros(stream.num_marks, 1, len(decays)), 0
    for block, before, spans in _blocks(stream, decays):
        is_event, is_scored, tau = stream.is_event[block], stream.is_scored[block], stream.inter_times[block, None]
        decay = torch.exp(-decays * tau)
        lost = torch.where(decay > 0, tau, 0.0) * decay
        slopes = decayed_sums(torch.cat([state, -lost * before], 1), spans, decays)
        weights = 1 / intensities[filled : filled + int(is_event.sum())]
        own = (alpha[stream.marks[block][is_event]] * slopes[:, 1:][:, is_event].transpose(0, 1)).sum(1)
        gradient += weights @ own
        spent = -torch.expm1(-decays * tau) / decays
        change = slopes[:, :-1] * spent + before * (lost - spent) / decays
        gradient -= (alpha.sum(0).unsqueeze(1) * change[:, is_scored]).sum((0, 1))
        state, filled = slopes[:, -1:], filled + len(weights)
    return gradient


def _blocks(stream: EventStream, decays: Tensor) -> Iterator[tuple[slice, Tensor, Tensor]]:
    """Yield, for a block of tokens at a time, A right after the token before each, (num_marks, tokens, num_decays).

    With it come the block and the spans of `decayed_sums`, (1 + tokens,).
    """
    marks = torch.arange(stream.num_marks).view(-1, 1)
    state = torch.zeros(stream.num_marks, 1, len(decays), dtype=torch.float64)
    for start in range(0, len(stream.marks), _BLOCK):
        block = slice(start, start + _BLOCK)
        arrivals = (stream.marks[block] == marks).double().unsqueeze(-1).expand(-1, -1, len(decays))
        spans = torch.cat([decays.new_zeros(1), stream.inter_times[block]])
        states = decayed_sums(torch.cat([state, arrivals], 1), spans, decays)
        yield block, states[:, :-1], spans
        state = states[:, -1:]
