"""Named processes: the three parameter sets of the TPP-SD paper's released code, and two more."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from tppsd.processes.base import Process
from tppsd.processes.hawkes import Hawkes
from tppsd.processes.poisson import InhomogeneousPoisson
from tppsd.processes.renewal import LogNormalRenewal
from tppsd.processes.self_correcting import SelfCorrecting


@dataclass(frozen=True)
class Preset:
    """Holds a process, and how much of it makes a data set.

    Attributes:
        process: the ground truth.
        num_sequences: sequences in all splits together.
        t_start, t_end: window of every sequence.
        fractions: shares of train, validation and test.
    """

    process: Process
    num_sequences: int = 1000
    t_start: float = 0.0
    t_end: float = 100.0
    fractions: tuple[float, float, float] = (0.8, 0.1, 0.1)


PRESETS: Mapping[str, Preset] = {
    # 5 (1 + sin(2 pi t / 100)): about 500 events
    "poisson": Preset(InhomogeneousPoisson(scale=5.0, base=1.0, frequency=0.02)),
    # about 500 events
    "hawkes": Preset(Hawkes(mu=2.5, alpha=1.0, beta=2.0)),
    # about 270 events
    "multivariate_hawkes": Preset(Hawkes(mu=(0.5, 0.5), alpha=((1.0, 0.5), (0.1, 1.0)), beta=2.0)),
    # about 400 events, more regular than Poisson
    "self_correcting": Preset(SelfCorrecting(mu=4.0, alpha=1.0)),
    # about 400 events of mean inter-time 1/4, burstier than Poisson
    "renewal": Preset(LogNormalRenewal(log_mean=math.log(0.25) - 0.5, log_std=1.0)),
}


def preset(name: str) -> Preset:
    """Return the preset called `name`.

    Raises:
        ValueError: there is none; the sentence has all names.
    """
    if name not in PRESETS:
        raise ValueError(f"there is no process preset {name!r}; choose one of {', '.join(PRESETS)}")
    return PRESETS[name]
