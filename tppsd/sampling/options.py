"""How to sample: the one object that Python, YAML, callback, predict, benchmark and file provenance share."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from typing import Any, Literal

METHODS = ("autoregressive", "speculative")
RULES = ("joint", "factorised", "block")
DEFAULT_DRAFT_LENGTH = 8
MAX_DRAFT_LENGTH = 1024  # a position must fit its field of the noise counter


@dataclass(frozen=True)
class SamplingOptions:
    """Sampling method and its parameters; combinations are checked here and nowhere else.

    Attributes:
        method: "autoregressive" (one target pass per event), "speculative" (a draft proposes, the target verifies), or None:
            speculative if there is a draft, a draft_length or a rule, else autoregressive.
        draft_length: events drafted per round (gamma in the papers); None = 8.
        rule: acceptance rule of a chain, "joint", "factorised" or "block"; None = "joint".
    """

    method: Literal["autoregressive", "speculative"] | None = None
    draft_length: int | None = None
    rule: Literal["joint", "factorised", "block"] | None = None

    def __post_init__(self) -> None:
        if self.method is not None and self.method not in METHODS:
            raise ValueError(f"method = {self.method!r} is unknown; choose one of {METHODS}")
        if self.rule is not None and self.rule not in RULES:
            raise ValueError(f"rule = {self.rule!r} is unknown; choose one of {RULES}")
        if self.draft_length is not None and self.draft_length not in range(1, MAX_DRAFT_LENGTH + 1):
            raise ValueError(f"draft_length = {self.draft_length} must be a whole number between 1 and {MAX_DRAFT_LENGTH}")
        if self.method == "autoregressive":
            for name in ("draft_length", "rule"):
                if getattr(self, name) is not None:
                    raise ValueError(
                        f"{name} = {getattr(self, name)!r} has no meaning for method = 'autoregressive'; leave it out"
                    )

    def with_overrides(self, **overrides: Any) -> SamplingOptions:
        """A copy with some fields replaced; unknown names raise."""
        known = {f.name for f in fields(self)}
        for name in overrides:
            if name not in known:
                raise TypeError(f"{name!r} is not an option of sample(); its options are {sorted(known)}")
        return SamplingOptions(**{**asdict(self), **overrides})

    def resolved(self, has_draft: bool) -> SamplingOptions:
        """Every None replaced by what will be done."""
        method = self.method or ("speculative" if has_draft or self.draft_length or self.rule else "autoregressive")
        if method == "autoregressive":
            return SamplingOptions("autoregressive")
        return SamplingOptions("speculative", self.draft_length or DEFAULT_DRAFT_LENGTH, self.rule or "joint")

    def to_dict(self) -> dict[str, Any]:
        """The fields that are set."""
        return {name: value for name, value in asdict(self).items() if value is not None}
