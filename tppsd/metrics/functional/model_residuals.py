"""Residuals of sampled sequences under the very model they were sampled from: exact sampling makes them i.i.d."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from tppsd.data.batch import EventBatch
from tppsd.data.sequences import EventSequence
from tppsd.metrics.functional.time_rescaling import SequenceResiduals
from tppsd.models.distribution import NextEventDistribution
from tppsd.models.mixture import LogNormalMixture

DistributionModel = Callable[[EventBatch], NextEventDistribution]

_MAX_POSITIONS = 4096  # of one padded batch; bounds the memory of the pass


class _Row(NamedTuple):
    """Is a sequence to score.

    Its first `num_history` events (a given first one not counted) and `elapsed` time after them are taken as known.
    """

    sequence: EventSequence
    num_history: int
    elapsed: float


def model_residuals(
    model: DistributionModel,
    sequences: Sequence[EventSequence],
    num_given: Sequence[int] | None = None,
    observed_until: Sequence[float | None] | None = None,
    seed: int = 0,
) -> list[SequenceResiduals]:
    """Return time-rescaling residuals and randomised mark PITs of `sequences` under `model`.

    They come from full float64 passes without a cache.

        z_i = -log S(tau_i | h_{i-1}),  leftover = -log S(t_end - t_N | h_N)
        u_i = F(k_i - 1 | h_{i-1}, tau_i) + v_i f(k_i | h_{i-1}, tau_i),  v_i ~ U(0, 1)

    With `observed_until` = w > t_n of the last given event n, the next interval is known to exceed w - t_n: its
    residual (or the leftover, if no event follows) gains log S(w - t_n | h_n). Everything is read off the sequences
    themselves, so a sampler with a wrong cache cannot certify itself. A sequence without `t_end` ended by its number of
    events and has no leftover.

    Args:
        model: a module (copied to float64) or a callable; EventBatch -> distribution of batch shape (batch, length +
            1).
        sequences: whole sequences, history first, with distinct `index`.
        num_given: per sequence, number of leading events that are not scored, the given first event included;
            default: what the sequence says (`EventSequence.num_given`), together with the time it is scored from.
        observed_until: per sequence, the time up to which the given part was observed; None or a None entry: its last
            event (the window's start where nothing is given), where `num_given` is said.
        seed: of the v_i, which depend on (seed, index) only.

    Returns:
        One SequenceResiduals per sequence, in the given order, on the CPU; no mark_uniforms for an unmarked model.
    Source: Brown et al. (2002); randomised PIT of discrete distributions: Brockwell, Stat. Probab. Lett. 77 (2007).

    Example:
        >>> from tppsd.models.renewal import RenewalTPP
        >>> sequences = [EventSequence.of([1.0, 2.0], t_start=0.0, t_end=3.0)]
        >>> (own,) = model_residuals(RenewalTPP(num_marks=1), sequences)
        >>> len(own.gaps), own.leftover > 0
        (2, True)
    """
    rows = _rows(sequences, num_given, observed_until)
    model, device = _in_float64(model)
    residuals: dict[int, SequenceResiduals] = {}
    with torch.inference_mode():
        for chunk in _by_length([len(row.sequence) for row in rows]):
            scored = _score(model, [rows[i] for i in chunk], device, seed)
            residuals.update(zip(chunk, scored, strict=True))
    return [residuals[i] for i in range(len(rows))]


def distribution_residuals(distribution: NextEventDistribution, batch: EventBatch) -> list[SequenceResiduals]:
    """Return time-rescaling residuals of the scored parts of a batch, without marks, under distributions at hand.

    They are z_i and leftover of `model_residuals`, computed in float64 from the parameters of `distribution`, of batch
    shape (batch, length + 1). The first z_i begins at `score_start`.

    Example:
        >>> from tppsd.models.renewal import RenewalTPP
        >>> batch = EventBatch.from_sequences([EventSequence.of([1.0, 2.0], t_start=0.0, t_end=3.0)])
        >>> (own,) = distribution_residuals(RenewalTPP(num_marks=1).requires_grad_(False)(batch), batch)
        >>> len(own.gaps), own.leftover > 0
        (2, True)
    """
    _, compensators = _compensators(distribution.inter_time.double(), batch)
    compensators = _after_known(compensators, distribution, batch.num_given, batch.scored_from - batch.last_given_times)
    rows = zip(batch.index.tolist(), compensators.cpu(), batch.num_given.tolist(), batch.lengths.tolist(), strict=True)
    return [SequenceResiduals(index, row[given:length], float(row[length])) for index, row, given, length in rows]


def _after_known(
    compensators: Tensor, distribution: NextEventDistribution, num_known: Tensor, elapsed: Tensor
) -> Tensor:
    """Shorten the interval after the known events in compensators (batch, length + 1).

    The interval after `num_known` (batch,) events begins `elapsed` (batch,) after the last of them.
    """
    known = distribution.at(num_known).inter_time.double().log_survival(elapsed)
    return compensators.scatter_add(1, num_known.unsqueeze(1), known.unsqueeze(1))


def _compensators(distribution: LogNormalMixture, batch: EventBatch) -> tuple[Tensor, Tensor]:
    """Return tau_i and -log S(tau_i | h_{i-1}), both (batch, length + 1).

    Entry N of a row is for its interval from t_N to t_end.
    """
    silence = (batch.t_end - batch.last_times).unsqueeze(1)
    intervals = torch.cat([batch.inter_times, torch.ones_like(silence)], 1)
    intervals = intervals.scatter(1, batch.lengths.unsqueeze(1), silence)
    return intervals, -distribution.log_survival(intervals)


def _rows(
    sequences: Sequence[EventSequence], num_given: Sequence[int] | None, observed_until: Sequence[float | None] | None
) -> list[_Row]:
    """Check the arguments and turn absolute times into elapsed ones."""
    for name, values in (("num_given", num_given), ("observed_until", observed_until)):
        if values is not None and len(values) != len(sequences):
            raise ValueError(f"{name} has {len(values)} entries for {len(sequences)} sequences; it needs one for each")
    if len({sequence.index for sequence in sequences}) != len(sequences):
        raise ValueError(
            "two sequences have the same index; model residuals need distinct ones to order and randomise by"
        )
    rows = []
    for i, sequence in enumerate(sequences):
        fewest = int(sequence.first_is_given)
        given = int(num_given[i]) if num_given is not None else sequence.num_given
        if not fewest <= given <= len(sequence):
            raise ValueError(
                f"sequence {sequence.index}: num_given = {given} must lie between {fewest} and {len(sequence)}"
            )
        last_given = float(sequence.event_times[given - 1]) if given else sequence.window_start
        until = observed_until[i] if observed_until is not None else None
        if num_given is None and until is None:
            until = sequence.scored_from
        elapsed = 0.0 if until is None else float(until) - last_given
        if not elapsed >= 0:
            raise ValueError(
                f"sequence {sequence.index}: observed_until = {until} is before its last given event at {last_given}"
            )
        rows.append(_Row(sequence, given - fewest, elapsed))
    return rows


def _in_float64(model: DistributionModel) -> tuple[DistributionModel, torch.device]:
    """Return a float64 copy in evaluation mode, and its device; a plain callable is used as it is."""
    if not isinstance(model, nn.Module):
        return model, torch.device("cpu")
    double = copy.deepcopy(model).double().eval()
    return double, next((p.device for p in double.parameters()), torch.device("cpu"))


def _by_length(lengths: list[int]) -> Iterator[list[int]]:
    """Yield positions of sequences of similar length, at most _MAX_POSITIONS padded positions together."""
    chunk: list[int] = []
    for i in sorted(range(len(lengths)), key=lengths.__getitem__):
        if chunk and (lengths[i] + 1) * (len(chunk) + 1) > _MAX_POSITIONS:
            yield chunk
            chunk = []
        chunk.append(i)
    if chunk:
        yield chunk


def _score(model: DistributionModel, rows: list[_Row], device: torch.device, seed: int) -> list[SequenceResiduals]:
    """Return the residuals of a few sequences in one pass."""
    batch = EventBatch.from_sequences(row.sequence for row in rows).to(device)
    num_history = torch.tensor([row.num_history for row in rows], device=device)
    elapsed = torch.tensor([row.elapsed for row in rows], dtype=torch.float64, device=device)
    distribution = model(batch)
    intervals, compensators = _compensators(distribution.inter_time, batch)
    compensators = _after_known(compensators, distribution, num_history, elapsed).cpu()
    mark_log_probs = distribution.mark_log_probs(intervals)[:, :-1].cpu()  # (batch, length, num_marks)
    expected_times = distribution.inter_time.mean_log.cpu()
    expected_marks = mark_log_probs.double().exp() @ torch.arange(mark_log_probs.shape[-1], dtype=torch.float64)

    residuals = []
    for i, row in enumerate(rows):
        length = len(row.sequence) - row.sequence.first_is_given
        events = slice(row.num_history, length)
        leftover = 0.0 if row.sequence.t_end is None else float(compensators[i, length])
        uniforms = _mark_uniforms(mark_log_probs[i, events], batch.marks[i, events].cpu(), seed, row.sequence.index)
        intervals_of_row = slice(row.num_history, length + 1)
        forecasts = expected_times[i, intervals_of_row], expected_marks[i, events]
        residuals.append(SequenceResiduals(row.sequence.index, compensators[i, events], leftover, uniforms, *forecasts))
    return residuals


def _mark_uniforms(mark_log_probs: Tensor, marks: Tensor, seed: int, index: int) -> Tensor:
    """Return randomised PITs, (num_events,), of `marks` (num_events,); empty when unmarked."""
    if mark_log_probs.shape[-1] == 1:
        return torch.empty(0, dtype=torch.float64)
    # an odd multiplier keeps (seed, index) and (seed + 1, index - 1) apart
    generator = torch.Generator().manual_seed((seed * 0x9E3779B1 + index) % 2**32)
    v = torch.rand(len(marks), dtype=torch.float64, generator=generator)
    probs = mark_log_probs.double().exp()
    chosen = marks.unsqueeze(-1)
    upper, width = probs.cumsum(-1).gather(-1, chosen).squeeze(-1), probs.gather(-1, chosen).squeeze(-1)
    return (upper - (1 - v) * width).clamp(0, 1)
