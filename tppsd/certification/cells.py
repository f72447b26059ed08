"""The cells that are certified: combinations in which every pair of choices occurs, of chains and of trees."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, fields
from functools import cache
from typing import Any

import torch

FACTORS: dict[str, tuple[Any, ...]] = {
    "method": ("autoregressive", "without marks", "joint", "factorised", "block", "fixed point"),
    "encoder": ("thp", "sahp", "attnhp", "rotary", "closed form"),
    "num_marks": (1, 5, 50),
    "weights": ("untrained", "trained"),
    "draft": (
        "none", "identical", "another model", "shifted", "nearly disjoint", "missing modes", "light tails",
        "rare marks", "in two passes", "self", "jacobi", "poisson",
    ),
    "draft_length": (0, 1, 4, 10),
    "start": ("from scratch", "history", "silence"),
    "end": ("window", "number of events", "stop mark"),
}  # fmt: skip
TREE_FACTORS: dict[str, tuple[Any, ...]] = FACTORS | {
    "method": ("linear", "mean", "rrs"),
    "num_marks": (1, 5),
    "draft": ("identical", "another model", "missing modes", "nearly disjoint", "self"),
    "draft_length": (1, 2, 4),
    "candidates": (1, 2, 4, 8),
}
# what rounds by compiled drafts are certified for under a target with an encoder that native code does not know
DRAFT_FACTORS: dict[str, tuple[Any, ...]] = FACTORS | {
    "method": ("joint",), "encoder": ("thp", "sahp", "attnhp", "rotary"), "draft": ("another model",),
    "draft_length": (1, 4, 10),
}  # fmt: skip
# what compiled heads of such a target are certified for, beside those rounds
DISTRIBUTION_FACTORS: dict[str, tuple[Any, ...]] = DRAFT_FACTORS | {
    "method": ("autoregressive", "without marks", "joint"), "num_marks": (1, 5), "draft": ("none", "self"),
    "draft_length": (0, 4),
}  # fmt: skip
_NARROW = (2, 1, 1)  # candidates after the first step of a tree
_ONE_IN = 5  # marks, of which one may be a stop mark and another one forbidden


@dataclass(frozen=True)
class Cell:
    """Holds one combination of choices.

    Attributes:
        method: "autoregressive", "without marks" (the same, of the process without one mark in five), the acceptance
            rule of a speculative chain or tree, or "fixed point" with the default tolerance.
        encoder: of the target; "closed form" has no weights to train and no cache to speak of.
        draft: how the draft relates to the target; "in two passes": another model that drafts so; "self", "jacobi",
            "poisson": drafters without a model.
        draft_length: events drafted per round, or iterated at once.
        start: "from scratch", after a "history", or after a history and a "silence" (a left-truncated first
            distribution).
        end: of every sequence, "window", "number of events", or "stop mark": its first event of one mark in five, where
            that comes before the end of a shorter window.
        candidates: at the first step of a tree `draft_length` deep; 0 for a chain.
    """

    method: str
    encoder: str
    num_marks: int
    weights: str
    draft: str
    draft_length: int
    start: str
    end: str
    candidates: int = 0

    @property
    def name(self) -> str:
        """A name that is readable, unique, and fit for a file."""
        chosen = [getattr(self, field.name) for field in fields(self)]
        return "-".join(str(choice).replace(" ", "_") for choice in (chosen if self.candidates else chosen[:-1]))

    @property
    def tree(self) -> tuple[int, ...]:
        """The candidates of every step."""
        return (self.candidates, *_NARROW)[: self.draft_length]

    @property
    def drafts(self) -> bool:
        """Whether events are drafted and tested."""
        return self.method not in ("autoregressive", "without marks", "fixed point")

    @property
    def stop_marks(self) -> tuple[int, ...] | None:
        """Marks that end a sequence: the last of every five."""
        return tuple(range(_ONE_IN - 1, self.num_marks, _ONE_IN)) if self.end == "stop mark" else None

    @property
    def forbidden(self) -> tuple[int, ...] | None:
        """Marks that do not happen: the second of every five."""
        return tuple(range(1, self.num_marks, _ONE_IN)) if self.method == "without marks" else None

    @property
    def is_compilable(self) -> bool:
        """Whether the target is a network, as it is."""
        return self.encoder != "closed form" and self.draft != "rare marks"

    @property
    def is_possible(self) -> bool:
        """Whether the combination makes sense, and can be certified in the time.

        Three methods have no draft, some choices need several marks, a closed form has no training data; the integrals
        of `rrs` over the marks of a network, or for drafts that are always rejected, would take hours.
        """
        needs_marks = self.draft == "rare marks" or self.end == "stop mark" or self.method == "without marks"
        return (
            self.drafts == (self.draft != "none")
            and (self.drafts or self.method == "fixed point") == (self.draft_length > 0)
            and not (needs_marks and self.num_marks == 1)
            and not (self.encoder == "closed form" and (self.weights == "trained" or self.draft == "poisson"))
            and not (
                (self.method == "rrs" and self.candidates > 1)
                and ((self.num_marks > 1 and self.encoder != "closed form") or self.draft == "nearly disjoint")
            )
        )


def possible_cells(factors: dict[str, tuple[Any, ...]]) -> list[Cell]:
    """Return every combination that makes sense."""
    return [cell for values in itertools.product(*factors.values()) if (cell := Cell(*values)).is_possible]


KINDS = {
    "chains": FACTORS,
    "trees": TREE_FACTORS,
    "drafts of an own encoder": DRAFT_FACTORS,
    "heads of an own encoder": DISTRIBUTION_FACTORS,
}


def all_cells() -> tuple[Cell, ...]:
    """Return the cells of chains, then those of trees."""
    return covering_cells("chains") + covering_cells("trees")


@cache
def covering_cells(kind: str) -> tuple[Cell, ...]:
    """Choose cells greedily until they hold every pair of choices that occurs in any possible cell.

    The choice is deterministic. `kind` is a key of KINDS.

    Source: pairwise covering arrays, Cohen et al., IEEE Trans. Softw. Eng. 23 (1997).
    """
    factors = KINDS[kind]
    possible = possible_cells(factors)
    pairs = _pairs(possible, factors)
    is_open = torch.zeros(int(pairs.max()) + 1, dtype=torch.bool)
    is_open[pairs.flatten()] = True
    chosen = []
    while is_open.any():
        best = int(is_open[pairs].sum(1).argmax())
        is_open[pairs[best]] = False
        chosen.append(possible[best])
    return tuple(chosen)


def _pairs(cells: list[Cell], factors: dict[str, tuple[Any, ...]]) -> torch.Tensor:
    """Return a number for each pair of choices that a cell makes, int64 (cells, pairs of factors)."""
    levels = torch.tensor([[factors[name].index(getattr(cell, name)) for name in factors] for cell in cells])
    most = max(len(values) for values in factors.values())
    columns = list(itertools.combinations(range(len(factors)), 2))
    numbers = [(which * most + levels[:, a]) * most + levels[:, b] for which, (a, b) in enumerate(columns)]
    return torch.stack(numbers, 1)
