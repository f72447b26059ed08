"""Closed forms of Hawkes processes, which forecasts and simulations are held against."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from tppsd.data.sequences import EventSequence
from tppsd.processes import Hawkes


def expected_counts(process: Hawkes, history: EventSequence, horizons: Sequence[float]) -> Tensor:
    """Return the expected number of events of each mark within each horizon after the end of the history's window.

        d/dt E s_r = -beta_r E s_r + E lambda*_n,   d/dt E N_m = E lambda*_m,   lambda*_m = mu_m + sum_r jump_mr s_r

    The intensity is linear in the state, so that the expectations solve a linear differential equation: in closed
    form, by a matrix exponential (Oakes, J. Appl. Probab. 12 (1975)).

    Args:
        process: of which they are expected.
        history: the events so far, observed until its window's end.
        horizons: >= 0, in the unit of the times.

    Returns:
        float64 (num_marks, num_horizons).
    """
    size, last = process.state_size, process.state_size + process.num_marks
    motion = process.mu.new_zeros(last + 1, last + 1)  # of (E s, E N, 1)
    motion[:size, :size] = process._jumps[process._sources] - torch.diag(process._decays)
    motion[size:last, :size] = process._jumps
    motion[:size, last], motion[size:last, last] = process.mu[process._sources], process.mu
    since = history.window_end - (float(history.event_times[-1]) if len(history) else history.window_start)
    start = motion.new_zeros(last + 1)
    start[:size], start[last] = process._states(history)[-1] * torch.exp(-process._decays * since), 1.0
    return torch.stack([(torch.linalg.matrix_exp(motion * h) @ start)[size:last] for h in horizons], 1)
