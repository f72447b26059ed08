"""Counters of a sampling call, and the rates that follow from them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from tppsd.sampling.engine import Counters
from tppsd.sampling.options import DraftLengths, SamplingOptions
from tppsd.sampling.tree.shape import Tree


@dataclass
class SamplingStats:
    """Counts what a sampling call does; every rate is derived from `accepted_counts`.

    Attributes:
        method, rule, draft_length, drafter, tree: what was done (None where it does not apply); where the draft length
            was chosen by the clock, the recorded lengths are in the samples' options.
        choice: what method = "auto" chose and why; trial_seconds: what its trial took, beside `seconds`.
        exact: the samples have exactly the target's distribution, up to floating point.
        num_rounds: target passes summed over sequences; num_target_passes: passes over the whole batch. (Where a call
            of compiled code draws several rounds of each row, as many as of the row with the most.)
        num_drafted, num_accepted: drafted events and those accepted; events drafted after the first rejection count as
            drafted, those after a sequence's end do not (but those of "jacobi", "poisson", a draft in a few passes, a
            tree, for "block").
        num_tested: drafted events up to and including the first rejection.
        accepted_counts: int64 (draft_length + 1, draft_length + 1), rounds by (drafted, accepted); of a tree, by its
            depth.
        node_counts: int64 (num_nodes,), of a tree that branches: rounds in which each node was accepted.
        num_events: events returned (sampled ones only).
        seconds: wall-clock time of sampling, without loading models and preparing requests.
    """

    method: str
    rule: str | None = None
    draft_length: int | str | DraftLengths | None = None
    drafter: str | None = None
    exact: bool = True
    choice: str | None = None
    trial_seconds: float = 0.0
    num_rounds: int = 0
    num_target_passes: int = 0
    accepted_counts: Tensor = field(default_factory=lambda: torch.zeros(1, 1, dtype=torch.int64))
    num_events: int = 0
    seconds: float = 0.0
    tree: Tree | None = None
    node_counts: Tensor = field(default_factory=lambda: torch.zeros(0, dtype=torch.int64))

    @classmethod
    def of(cls, options: SamplingOptions) -> SamplingStats:
        """Return empty counters of what resolved options will do."""
        exact = options.method != "fixed_point" or options.tolerance == 0
        return cls(options.method or "", options.rule, options.draft_length, options.drafter, exact, tree=options.tree)

    def take(self, counters: Counters) -> None:
        """Take over what an engine has counted by now."""
        self.num_rounds, self.num_target_passes = counters.num_rounds, counters.num_passes
        self.accepted_counts, self.node_counts = counters.accepted_counts.cpu(), counters.node_counts.cpu()

    def copy(self) -> SamplingStats:
        """Return them as they are now; a sampler goes on counting in the same tensors."""
        return replace(self, accepted_counts=self.accepted_counts.clone(), node_counts=self.node_counts.clone())

    @property
    def num_drafted(self) -> int:
        """Drafted events."""
        drafted = torch.arange(len(self.accepted_counts)) if self.tree is None else torch.tensor(self.tree.starts)
        return int((self.accepted_counts.sum(1) * drafted).sum())

    @property
    def num_accepted(self) -> int:
        """Accepted events."""
        return int((self.accepted_counts.sum(0) * torch.arange(len(self.accepted_counts))).sum())

    @property
    def num_tested(self) -> int:
        """Tested events: the accepted ones and the first rejected one of each round."""
        size = torch.arange(len(self.accepted_counts))
        tested = torch.minimum(size.unsqueeze(1), size.unsqueeze(0) + 1)
        return int((self.accepted_counts * tested).sum())

    @property
    def acceptance_rate(self) -> float:
        """The paper's alpha, num_accepted / num_drafted; nan if nothing was drafted."""
        return self.num_accepted / self.num_drafted if self.num_drafted else float("nan")

    @property
    def step_acceptance(self) -> float:
        """The share num_accepted / num_tested, comparable with 1 - TV; nan if nothing was drafted."""
        return self.num_accepted / self.num_tested if self.num_tested else float("nan")

    @property
    def mean_draft_length(self) -> float:
        """Drafted events per round; nan without rounds."""
        return self.num_drafted / self.num_rounds if self.num_rounds else float("nan")

    @property
    def rank_counts(self) -> Tensor:
        """Steps by depth and by the accepted candidate's number among its siblings, int64 (depth, 1 + candidates).

        Number 0 stands for steps in which none was accepted.
        """
        tree = self.tree or Tree.chain(len(self.accepted_counts) - 1)
        counts = torch.zeros(tree.depth, 1 + max(tree.candidates, default=0), dtype=torch.int64)
        for depth, width in enumerate(tree.candidates):
            tested, accepted = (self.accepted_counts[depth + 1 :, depth + i :].sum() for i in range(2))
            counts[depth, 0] = tested - accepted
            level = self.node_counts[tree.level(depth)] if len(self.node_counts) else accepted.view(1)
            counts[depth, 1 : width + 1] = level.view(-1, width).sum(0)
        return counts

    @property
    def acceptance_by_depth(self) -> Tensor:
        """The share of steps at each depth of a tree in which a candidate is accepted, float64 (depth,)."""
        return 1 - self.rank_counts[:, 0] / self.rank_counts.sum(1).double()

    @property
    def acceptance_by_rank(self) -> Tensor:
        """The share of steps by depth in which the 1st, 2nd, ... candidate is accepted, float64 (depth, candidates)."""
        return self.rank_counts[:, 1:] / self.rank_counts.sum(1, keepdim=True).double()

    @property
    def events_per_second(self) -> float:
        """Events per second of wall-clock time; nan where no time was measured."""
        return self.num_events / self.seconds if self.seconds > 0 else float("nan")

    @property
    def events_per_round(self) -> float:
        """Events per round and row; nan without rounds."""
        return self.num_events / self.num_rounds if self.num_rounds else float("nan")

    @classmethod
    def total(cls, parts: Sequence[SamplingStats]) -> SamplingStats:
        """Add up the counters of several calls with the same options."""
        first = parts[0]
        return cls(
            first.method, first.rule, first.draft_length, first.drafter, all(p.exact for p in parts), first.choice,
            sum(p.trial_seconds for p in parts), sum(p.num_rounds for p in parts),
            sum(p.num_target_passes for p in parts),
            torch.stack([p.accepted_counts for p in parts]).sum(0),
            sum(p.num_events for p in parts), sum(p.seconds for p in parts),
            first.tree, torch.stack([p.node_counts for p in parts]).sum(0),
        )  # fmt: skip

    def __getitem__(self, name: str) -> Any:
        if name.startswith("_") or not hasattr(self, name):
            raise KeyError(name)
        return getattr(self, name)

    def to_dict(self) -> dict[str, Any]:
        """Return plain values of all counters and rates."""
        names = (
            "method", "rule", "draft_length", "drafter", "exact", "choice", "trial_seconds", "num_rounds",
            "num_target_passes", "num_drafted", "num_tested", "num_accepted", "num_events", "seconds",
            "events_per_second", "events_per_round", "acceptance_rate", "step_acceptance",
        )  # fmt: skip
        values = {**{name: getattr(self, name) for name in names}, "accepted_counts": self.accepted_counts.tolist()}
        if self.tree is not None:
            values |= {"candidates": list(self.tree.candidates), "rank_counts": self.rank_counts.tolist(),
                       "node_counts": self.node_counts.tolist()}  # fmt: skip
        return values
