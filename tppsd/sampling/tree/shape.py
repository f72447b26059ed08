"""The shape of a candidate tree (Multi-Candidate Speculative Decoding, MCSD, Yang et al., arXiv 2401.06706)."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from tppsd.models.tree import NO_PARENT


@dataclass(frozen=True)
class Tree:
    """Describes a tree in which every node at depth d has `candidates[d]` children; a chain has one each.

    Nodes are numbered level by level, siblings next to each other: node n at depth d has the children `first_child(d +
    1, n), ...`. The root, a row's newest committed event, has no number. Siblings are i.i.d.; drawing without
    replacement would be the same, because continuous times never repeat.
    """

    candidates: tuple[int, ...]

    @classmethod
    def chain(cls, draft_length: int) -> Tree:
        """Return a tree of one candidate per step."""
        return cls((1,) * draft_length)

    @property
    def depth(self) -> int:
        """Number of levels below the root."""
        return len(self.candidates)

    @property
    def is_chain(self) -> bool:
        """Whether no node has siblings."""
        return max(self.candidates, default=1) == 1

    @cached_property
    def starts(self) -> tuple[int, ...]:
        """Number of the first node of each level, and last the number of all nodes."""
        starts, size = [0], 1
        for width in self.candidates:
            size *= width
            starts.append(starts[-1] + size)
        return tuple(starts)

    @property
    def num_nodes(self) -> int:
        """Number of nodes, without the root."""
        return self.starts[-1]

    @cached_property
    def parents(self) -> tuple[int, ...]:
        """The parent of every node, as in tppsd.models.tree."""
        parents: list[int] = []
        for depth, width in enumerate(self.candidates):
            level = [NO_PARENT] if depth == 0 else range(self.starts[depth - 1], self.starts[depth])
            parents += [parent for parent in level for _ in range(width)]
        return tuple(parents)

    @cached_property
    def pass_parents(self) -> tuple[int, ...]:
        """The parents of the last token and of every node, for the target's pass over them."""
        return (NO_PARENT, *(parent + 1 for parent in self.parents))

    def level(self, depth: int) -> slice:
        """Return the nodes at `depth`."""
        return slice(self.starts[depth], self.starts[depth + 1])

    def first_child(self, depth: int, nodes: Tensor) -> Tensor:
        """Return the first child, at `depth`, of `nodes` int64 (...) one level up; of the root (-1) at depth 0."""
        if depth == 0:
            return torch.zeros_like(nodes)
        return self.starts[depth] + (nodes - self.starts[depth - 1]) * self.candidates[depth]

    def repeated(self, depth: int, device: torch.device) -> Tensor:
        """Return the place of the parent within the level above, for every node at `depth`, int64 (nodes at depth,)."""
        width = self.candidates[depth]
        return torch.arange(self.starts[depth + 1] - self.starts[depth], device=device) // width

    def path_sums(self, values: Tensor) -> Tensor:
        """Return sums of `values` (rows, num_nodes) from the first level down to each node."""
        sums = [values[:, self.level(0)]]
        for depth in range(1, self.depth):
            sums.append(sums[-1][:, self.repeated(depth, values.device)] + values[:, self.level(depth)])
        return torch.cat(sums, 1)
