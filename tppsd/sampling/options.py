"""How to sample: the one object that Python, YAML, callback, predict, benchmark and file provenance share."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from tppsd.sampling.tree import Tree

METHODS = ("autoregressive", "speculative")
RULES = ("joint", "factorised", "block")
TREE_RULES = ("linear", "mean", "rrs")
DEFAULT_DRAFT_LENGTH = 8
MAX_DRAFT_LENGTH = 1024  # a position must fit its field of the noise counter
MAX_CANDIDATES = 64  # of a node: its fresh draws must fit their field of the noise counter
MAX_NODES = 1024  # of a tree: one target pass verifies them all


@dataclass(frozen=True)
class SamplingOptions:
    """Sampling method and its parameters; combinations are checked here and nowhere else.

    Attributes:
        method: "autoregressive" (one target pass per event), "speculative" (a draft proposes, the target verifies), or None:
            speculative if there is a draft, a draft_length, a rule or candidates, else autoregressive.
        draft_length: events drafted per round (gamma in the papers); None = 8.
        rule: acceptance rule of a chain, "joint", "factorised" or "block", None = "joint"; or of a tree, "linear", "mean" or
            "rrs", None = "linear".
        candidates: several candidates per step: children of every node, depth by depth, of the tree that is drafted in a round
            instead of a chain; None = a chain.
    """

    method: Literal["autoregressive", "speculative"] | None = None
    draft_length: int | None = None
    rule: Literal["joint", "factorised", "block", "linear", "mean", "rrs"] | None = None
    candidates: int | tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        if self.method is not None and self.method not in METHODS:
            raise ValueError(f"method = {self.method!r} is unknown; choose one of {METHODS}")
        if self.candidates is not None:
            self._check_candidates()
        elif self.rule in TREE_RULES:
            raise ValueError(f"rule = {self.rule!r} is one for several candidates per step: give candidates, such as (4, 2, 1)")
        elif self.rule is not None and self.rule not in RULES:
            raise ValueError(f"rule = {self.rule!r} is unknown; choose one of {RULES + TREE_RULES}")
        if self.draft_length is not None and self.draft_length not in range(1, MAX_DRAFT_LENGTH + 1):
            raise ValueError(f"draft_length = {self.draft_length} must be a whole number between 1 and {MAX_DRAFT_LENGTH}")
        if self.method == "autoregressive":
            for name in ("draft_length", "rule", "candidates"):
                if getattr(self, name) is not None:
                    raise ValueError(
                        f"{name} = {getattr(self, name)!r} has no meaning for method = 'autoregressive'; leave it out"
                    )

    @property
    def tree(self) -> Tree | None:
        """What is drafted in a round instead of a chain of `draft_length` events."""
        from tppsd.sampling.tree import Tree  # imports torch, which a command line without a tree can do without

        return Tree(self.candidates) if isinstance(self.candidates, tuple) else None

    @property
    def depth(self) -> int:
        """Steps drafted per round; 0 where that is not said."""
        return self.draft_length or 0 if self.tree is None else self.tree.depth

    def _check_candidates(self) -> None:
        """Store the tree's widths as a tuple, and refuse what does not go with them."""
        given = self.candidates
        widths = (given,) if isinstance(given, int) else tuple(given or ())
        if not widths or any(width not in range(1, MAX_CANDIDATES + 1) for width in widths):
            raise ValueError(f"candidates = {given!r} must be whole numbers between 1 and {MAX_CANDIDATES}, one per depth")
        object.__setattr__(self, "candidates", widths)
        num_nodes = sum(math.prod(widths[: depth + 1]) for depth in range(len(widths)))
        if num_nodes > MAX_NODES:
            raise ValueError(f"candidates = {widths} make {num_nodes} nodes; a tree has at most {MAX_NODES}")
        if self.draft_length is not None:
            raise ValueError(
                f"draft_length = {self.draft_length} was given together with candidates = {widths}, whose number is the draft's; "
                "leave it out"
            )
        if self.rule is not None and self.rule not in TREE_RULES:
            raise ValueError(f"rule = {self.rule!r} is not one for candidates = {widths}; choose one of {TREE_RULES}")

    def with_overrides(self, **overrides: Any) -> SamplingOptions:
        """A copy with some fields replaced; unknown names raise."""
        known = {f.name for f in fields(self)}
        for name in overrides:
            if name not in known:
                raise TypeError(f"{name!r} is not an option of sample(); its options are {sorted(known)}")
        return SamplingOptions(**{**asdict(self), **overrides})

    def resolved(self, has_draft: bool) -> SamplingOptions:
        """Every None replaced by what will be done."""
        wants_draft = has_draft or self.draft_length or self.rule or self.candidates
        method = self.method or ("speculative" if wants_draft else "autoregressive")
        if method == "autoregressive":
            return SamplingOptions("autoregressive")
        if self.candidates is not None:
            return SamplingOptions("speculative", rule=self.rule or "linear", candidates=self.candidates)
        return SamplingOptions("speculative", self.draft_length or DEFAULT_DRAFT_LENGTH, self.rule or "joint")

    def to_dict(self) -> dict[str, Any]:
        """The fields that are set."""
        return {name: value for name, value in asdict(self).items() if value is not None}
