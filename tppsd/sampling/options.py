"""How to sample: the one object that Python, YAML, callback, predict, benchmark and file provenance share."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from typing import Any, Literal

METHODS = ("autoregressive", "speculative", "fixed_point", "auto")
DRAFTERS = ("model", "self", "jacobi", "poisson")
RULES = ("joint", "factorised", "block")
DEFAULT_DRAFT_LENGTH = 8
MAX_DRAFT_LENGTH = 1024  # a position must fit its field of the noise counter
MAX_AUTO_LENGTH = 64
DEFAULT_TOLERANCE = 1e-6  # what float32 contexts leave of a normal score

DrafterName = Literal["model", "self", "jacobi", "poisson"]
DraftLengths = tuple[tuple[int, int], ...]  # (draft length, number of rounds of the whole batch), in order


@dataclass(frozen=True)
class SamplingOptions:
    """Sampling method and its parameters; combinations are checked here and nowhere else.

    Attributes:
        method: "autoregressive" (one target pass per event); "speculative" (a draft proposes, the target verifies); "fixed_point"
            (a window of events iterated with fixed noise; exact up to `tolerance`); "auto" (a short trial decides); None:
            speculative if there is a draft or an option that only it has, else autoregressive.
        draft_length: events drafted per round (gamma in the papers), or iterated at once by "fixed_point"; "auto": chosen by
            measured costs and acceptance; pairs (length, rounds): as recorded by a run with "auto"; None = 8 ("auto" for
            method = "auto").
        rule: acceptance rule of a chain, "joint", "factorised" or "block"; None = "joint".
        drafter: who drafts: "model" (the given draft), "self" (the target's recent laws), "jacobi" (its laws of the round before)
            or "poisson" (rate and mark frequencies of the training split); None: the `draft` argument decides, for
            method = "auto" the trial.
        tolerance: of "fixed_point", in standard deviations of a log-normal component: smaller changes count as none; 0 = exact;
            None = 1e-6. With method = "auto" it permits "fixed_point".
    """

    method: Literal["autoregressive", "speculative", "fixed_point", "auto"] | None = None
    draft_length: int | Literal["auto"] | DraftLengths | None = None
    rule: Literal["joint", "factorised", "block"] | None = None
    drafter: DrafterName | None = None
    tolerance: float | None = None

    def __post_init__(self) -> None:
        for name, known in (("method", METHODS), ("drafter", DRAFTERS), ("rule", RULES)):
            if (value := getattr(self, name)) is not None and value not in known:
                raise ValueError(f"{name} = {value!r} is unknown; choose one of {known}")
        self._check_draft_length()
        if self.tolerance is not None and not 0 <= self.tolerance < 1:
            raise ValueError(f"tolerance = {self.tolerance} must lie in [0, 1): it is a share of a standard deviation")
        unused = {
            "autoregressive": ("drafter", "draft_length", "rule", "tolerance"),
            "speculative": ("tolerance",),
            "fixed_point": ("drafter", "rule"),
        }
        for name in unused.get(self.method or "", ()):
            if getattr(self, name) is not None:
                raise ValueError(f"{name} = {getattr(self, name)!r} has no meaning for method = {self.method!r}; leave it out")
        if self.method is None and self.tolerance is not None:
            raise ValueError(f"tolerance = {self.tolerance} needs method = 'fixed_point' or 'auto'")

    def _check_draft_length(self) -> None:
        length = self.draft_length
        if isinstance(length, list | tuple):  # from YAML, JSON or a recorded run
            pairs = tuple((int(gamma), int(rounds)) for gamma, rounds in length)
            object.__setattr__(self, "draft_length", pairs)
            if not pairs or any(g not in range(MAX_DRAFT_LENGTH + 1) or n < 1 for g, n in pairs):
                raise ValueError(f"draft_length = {pairs} must hold pairs (length of 0 to {MAX_DRAFT_LENGTH}, rounds >= 1)")
        elif isinstance(length, str):
            if length != "auto":
                raise ValueError(f"draft_length = {length!r} must be a whole number or 'auto'")
        elif length is not None and length not in range(1, MAX_DRAFT_LENGTH + 1):
            raise ValueError(f"draft_length = {length} must be a whole number between 1 and {MAX_DRAFT_LENGTH}, or 'auto'")

    def with_overrides(self, **overrides: Any) -> SamplingOptions:
        """A copy with some fields replaced; unknown names raise."""
        known = {f.name for f in fields(self)}
        for name in overrides:
            if name not in known:
                raise TypeError(f"{name!r} is not an option of sample(); its options are {sorted(known)}")
        return SamplingOptions(**{**asdict(self), **overrides})

    def resolved(self, draft: DrafterName | None) -> SamplingOptions:
        """Every None replaced by what will be done.

        Args:
            draft: the drafter that the caller's `draft` stands for; None where there is none.
        """
        is_speculative = draft or self.drafter or self.draft_length or self.rule
        method = self.method or ("speculative" if is_speculative else "autoregressive")
        if method == "autoregressive":
            return SamplingOptions("autoregressive")
        length = self.draft_length or DEFAULT_DRAFT_LENGTH
        if method == "fixed_point":
            return SamplingOptions("fixed_point", length, tolerance=self._tolerance)
        if method == "auto":
            named = self.drafter or (None if draft == "model" else draft)
            return SamplingOptions("auto", self.draft_length or "auto", self.rule, named, self.tolerance)
        drafter = self.drafter or draft or "self"
        if drafter == "model" and draft != "model":
            raise ValueError("drafter = 'model' needs a draft: an EventModel, a LightningModule or a checkpoint path")
        return SamplingOptions("speculative", length, self.rule or "joint", drafter)

    @property
    def _tolerance(self) -> float:
        return DEFAULT_TOLERANCE if self.tolerance is None else self.tolerance

    @property
    def longest_draft(self) -> int:
        """Of any round, for resolved options."""
        if self.draft_length is None:
            return 0
        if self.draft_length == "auto":
            return MAX_AUTO_LENGTH
        return self.draft_length if isinstance(self.draft_length, int) else max(length for length, _ in self.draft_length)

    def to_dict(self) -> dict[str, Any]:
        """The fields that are set."""
        return {name: value for name, value in asdict(self).items() if value is not None}
