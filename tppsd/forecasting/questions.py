"""What a forecast is asked about: sets of marks, and bins of its horizon."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from tppsd.sampling.checks import is_single, mark_indices, mark_set, several, whole_number

MIN_PATHS = 10  # of a history: fewer have no standard error worth the name
MOST_BINS = 100_000
ANY = "any"  # label of the set of all marks
PATHS_PER_CHUNK = 20_000  # which bounds the memory, and what an interruption loses

Mark = int | str
Marks = Mark | Collection[Mark]


class MarkSet(NamedTuple):
    """Is a set of marks that a forecast is about. Fields: label; marks: their indices."""

    label: str
    marks: tuple[int, ...]


class Vocabulary(NamedTuple):
    """Knows the marks of a target by index and by name. Fields: num_marks; mark_names: of its data, or None."""

    num_marks: int
    mark_names: tuple[str, ...] | None

    def label(self, mark: int) -> str:
        """Return the name of a mark in the target's data, or its number."""
        return str(mark) if self.mark_names is None else self.mark_names[mark]

    def indices(self, marks: Marks) -> tuple[int, ...]:
        """Return the indices of a mark or of several, in increasing order."""
        wanted = mark_set("marks", marks) or ()
        return tuple(sorted(mark_indices("marks", wanted, self.num_marks, self.mark_names)))

    def sets(self, marks: Iterable[Marks] | Mapping[str, Marks] | None) -> tuple[MarkSet, ...]:
        """Return the sets that a forecast declares, see `forecast`; the last is of any mark."""
        if isinstance(marks, Mapping):
            declared = [MarkSet(label, self.indices(own)) for label, own in marks.items()]
        else:
            if marks is None:
                marks = range(self.num_marks) if self.num_marks > 1 else ()
            one_by_one = map(self.indices, several(marks))
            declared = [MarkSet(" or ".join(map(self.label, own)), own) for own in one_by_one]
        if any(one.label == ANY for one in declared):
            raise ValueError(
                f"marks: {ANY!r} is the name of the set of all marks; give sets by names of their own, such as "
                f"marks={{'only': [{ANY!r}]}}"
            )
        return (*declared, MarkSet(ANY, tuple(range(self.num_marks))))


def bin_edges(bins: int | Sequence[float] | Tensor | None, horizon: float) -> Tensor:
    """Return the ends of bins, from 0 on; the last is the horizon where a number is given."""
    if bins is None or is_single(bins):
        num = 1 if bins is None else whole_number("bins", bins, 1, MOST_BINS, or_else=", or a list of times")
        return torch.linspace(0.0, horizon, num + 1, dtype=torch.float64)
    try:
        edges = torch.as_tensor(bins, dtype=torch.float64).flatten()
    except (TypeError, ValueError, RuntimeError):
        edges = torch.zeros(0)
    is_increasing = len(edges) > 0 and bool((edges.diff() > 0).all())
    if not (is_increasing and float(edges[0]) >= 0 and 0 < float(edges[-1]) <= horizon):
        raise ValueError(f"bins = {bins} must be increasing times between 0 and the horizon, {horizon:g}")
    if float(edges[0]) > 0:
        edges = torch.cat([edges.new_zeros(1), edges])
    return edges


def items_per_chunk(chunk_size: int | None, num_paths: int) -> int:
    """Return how many histories with so many paths each are done together.

    Args:
        chunk_size: what a user has said; None = so many that they have about 20,000 paths.
        num_paths: of each.
    """
    if chunk_size is not None:
        return whole_number("chunk_size", chunk_size, 1)
    return max(1, PATHS_PER_CHUNK // max(1, num_paths))
