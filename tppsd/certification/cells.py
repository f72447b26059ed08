"""What is certified: about forty combinations in which every pair of choices occurs."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, fields
from functools import cache
from typing import Any

import torch

FACTORS: dict[str, tuple[Any, ...]] = {
    "method": ("autoregressive", "joint", "factorised", "block", "fixed point"),
    "encoder": ("thp", "sahp", "attnhp", "closed form"),
    "num_marks": (1, 5, 50),
    "weights": ("untrained", "trained"),
    "draft": (
        "none", "identical", "another model", "shifted", "nearly disjoint", "missing modes", "light tails", "rare marks",
        "self", "jacobi", "poisson",
    ),
    "draft_length": (0, 1, 4, 10),
    "start": ("from scratch", "history", "silence"),
    "end": ("window", "number of events"),
}  # fmt: skip


@dataclass(frozen=True)
class Cell:
    """One combination.

    Attributes:
        method: "autoregressive", the acceptance rule of a speculative chain, or "fixed point" with the default tolerance.
        encoder: of the target; "closed form" has no weights to train and no cache to speak of.
        draft: how the draft relates to the target; "self", "jacobi" and "poisson" are drafters without a model.
        draft_length: events drafted per round, or iterated at once.
        start: "from scratch", after a "history", or after a history and a "silence" (a left-truncated first law).
        end: of every sequence, "window" or "number of events".
    """

    method: str
    encoder: str
    num_marks: int
    weights: str
    draft: str
    draft_length: int
    start: str
    end: str

    @property
    def name(self) -> str:
        """Readable and unique, fit for a file name."""
        return "-".join(str(getattr(self, field.name)).replace(" ", "_") for field in fields(self))

    @property
    def is_possible(self) -> bool:
        """Two methods have no draft, rare marks need several, a closed form has no training data."""
        drafts = self.method not in ("autoregressive", "fixed point")
        return (
            drafts == (self.draft != "none")
            and (self.method != "autoregressive") == (self.draft_length > 0)
            and not (self.draft == "rare marks" and self.num_marks == 1)
            and not (self.encoder == "closed form" and (self.weights == "trained" or self.draft == "poisson"))
        )


@cache
def all_cells() -> tuple[Cell, ...]:
    """Greedily chosen cells that hold every pair of choices that occurs in any possible cell. Deterministic.

    Source: pairwise covering arrays, Cohen et al., IEEE Trans. Softw. Eng. 23 (1997).
    """
    possible = [cell for values in itertools.product(*FACTORS.values()) if (cell := Cell(*values)).is_possible]
    pairs = _pairs(possible)
    is_open = torch.zeros(int(pairs.max()) + 1, dtype=torch.bool)
    is_open[pairs.flatten()] = True
    chosen = []
    while is_open.any():
        best = int(is_open[pairs].sum(1).argmax())
        is_open[pairs[best]] = False
        chosen.append(possible[best])
    return tuple(chosen)


def _pairs(cells: list[Cell]) -> torch.Tensor:
    """int64 (cells, pairs of factors): a number for the pair of choices that each cell makes."""
    levels = torch.tensor([[FACTORS[name].index(getattr(cell, name)) for name in FACTORS] for cell in cells])
    most = max(len(values) for values in FACTORS.values())
    columns = list(itertools.combinations(range(len(FACTORS)), 2))
    numbers = [(which * most + levels[:, a]) * most + levels[:, b] for which, (a, b) in enumerate(columns)]
    return torch.stack(numbers, 1)
