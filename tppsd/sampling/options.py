"""Options of sampling: the one object that Python, YAML, callback, predict, benchmark and file provenance share."""

from __future__ import annotations

import math
import warnings
from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING, Any, Literal

from tppsd.sampling.checks import mark_set, several, whole_number

if TYPE_CHECKING:
    from tppsd.sampling.tree.shape import Tree

RENAMED = {"return_laws": "return_distributions"}  # arguments of `sample`
METHODS = ("autoregressive", "speculative", "fixed_point", "auto")
DRAFTER_NAMES = ("self", "jacobi", "poisson")  # drafters that need no model of their own
DRAFTERS = ("model", *DRAFTER_NAMES)
RULES = ("joint", "factorised", "block")
TREE_RULES = ("linear", "mean", "rrs")
DTYPES = ("float32", "bfloat16")
DEFAULT_DRAFT_LENGTH = 8
MAX_DRAFT_LENGTH = 1024  # a position must fit its field of the noise counter
MAX_AUTO_LENGTH = 64
MAX_CANDIDATES = 64  # of a node: its fresh draws must fit their field of the noise counter
MAX_NODES = 1024  # of a tree: one target pass verifies them all
DEFAULT_TOLERANCE = 1e-6  # what float32 contexts leave of a normal score

DrafterName = Literal["model", "self", "jacobi", "poisson"]
DraftLengths = tuple[tuple[int, int], ...]  # (draft length, number of rounds of the whole batch), in order


@dataclass(frozen=True, repr=False)
class SamplingOptions:
    """Holds the sampling method and its parameters; combinations are checked here and nowhere else.

    Attributes:
        method: "autoregressive" (one target pass per event); "speculative" (a draft proposes, the target verifies);
            "fixed_point" (a window of events iterated with fixed noise; exact up to `tolerance`); "auto" (a short trial
            decides); None: speculative if there is a draft or an option that only it has, else autoregressive.
        draft_length: events drafted per round (gamma in the papers), fewer at the end of a sequence, or iterated at
            once by "fixed_point"; "auto": chosen by measured costs and acceptance, those of earlier calls with the same
            models included; pairs (length, rounds): as recorded by a run with "auto"; None = 8 ("auto" for method =
            "auto").
        rule: acceptance rule of a chain, "joint", "factorised" or "block", None = "joint"; or of a tree, "linear",
            "mean" or "rrs", None = "linear".
        drafter: who drafts: "model" (the given draft), "self" (the target's recent distributions), "jacobi" (its
            distributions of the round before) or "poisson" (rate and mark frequencies of the training split); None: the
            `draft` argument decides, for method = "auto" the trial.
        draft_passes: how many passes of the draft model, each over all events of a chain, make a draft; None = a pass
            per event.
        candidates: several candidates per step: children of every node, depth by depth, of the tree that is drafted in
            a round instead of a chain; None = a chain.
        tolerance: of "fixed_point", in standard deviations of a log-normal component: smaller changes count as none; 0
            = exact; None = 1e-6. With method = "auto" it permits "fixed_point".
        compile: "auto" (None): compile everything that can be, the target's passes, drafts, draws and densities, and
            say once at INFO what cannot and why; True: refuse a target that cannot be compiled; False: eager PyTorch.
            It is for CPUs, and takes a C++ compiler.
        dtype: "bfloat16": matrices, keys and values of target and draft model have 8 significant bits, contexts about 3
            digits; times, and all that follows the contexts, keep their precision. Samples have exactly the
            distribution that the target has in this dtype, not the one that it was scored by. A cache takes half the
            memory. It needs compiled passes. None = "float32".
        stop_marks: marks, by index or name, of which the first sampled event ends its sequence and is its last event;
            as a set, list or tuple. None = only a time or a number of events ends a sequence.
        forbid_marks: marks, by index or name, that do not happen: the sequences are of another process, that of the
            target with the intensity of these marks set to zero. Only with method = "autoregressive".
    """

    method: Literal["autoregressive", "speculative", "fixed_point", "auto"] | None = None
    draft_length: int | Literal["auto"] | DraftLengths | None = None
    rule: Literal["joint", "factorised", "block", "linear", "mean", "rrs"] | None = None
    drafter: DrafterName | None = None
    draft_passes: int | None = None
    candidates: int | tuple[int, ...] | None = None
    tolerance: float | None = None
    compile: bool | Literal["auto", "draft"] = "auto"  # "draft": in files of runs of earlier versions, read as "auto"
    dtype: Literal["float32", "bfloat16"] | None = None
    stop_marks: tuple[int | str, ...] | None = None
    forbid_marks: tuple[int | str, ...] | None = None

    def __post_init__(self) -> None:
        self._check_compile()
        names = (("method", METHODS), ("drafter", DRAFTERS), ("rule", RULES + TREE_RULES), ("dtype", DTYPES))
        for name, known in names:
            if (value := getattr(self, name)) is not None and value not in known:
                raise ValueError(f"{name} = {value!r} is unknown; choose one of {known}")
        if self.dtype == "float32":
            object.__setattr__(self, "dtype", None)
        if self.dtype is not None and self.compile is False:
            raise ValueError(f"dtype = {self.dtype!r} needs compiled passes; give compile = True or 'auto'")
        self._check_draft_length()
        for name in ("stop_marks", "forbid_marks"):
            object.__setattr__(self, name, mark_set(name, getattr(self, name)))
        if self.forbid_marks is not None and (self.method not in (None, "autoregressive") or self._asks_for_drafts):
            raise ValueError(
                f"forbid_marks = {list(self.forbid_marks)} is for method = 'autoregressive' alone; "
                "leave out what drafts"
            )
        if self.draft_passes is not None:
            object.__setattr__(
                self, "draft_passes", whole_number("draft_passes", self.draft_passes, 1, MAX_DRAFT_LENGTH)
            )
        if self.tolerance is not None and not 0 <= self.tolerance < 1:
            raise ValueError(f"tolerance = {self.tolerance} must lie in [0, 1): it is a share of a standard deviation")
        unused = {
            "autoregressive": ("drafter", "draft_length", "draft_passes", "rule", "candidates", "tolerance"),
            "speculative": ("tolerance",),
            "fixed_point": ("drafter", "draft_passes", "rule", "candidates"),
            "auto": ("draft_passes", "candidates"),
        }
        for name in unused.get(self.method or "", ()):
            if getattr(self, name) is not None:
                raise ValueError(
                    f"{name} = {getattr(self, name)!r} has no meaning for method = {self.method!r}; leave it out"
                )
        if self.method is None and self.tolerance is not None:
            raise ValueError(f"tolerance = {self.tolerance} needs method = 'fixed_point' or 'auto'")
        if self.candidates is not None:
            self._check_candidates()
        elif self.rule in TREE_RULES:
            raise ValueError(
                f"rule = {self.rule!r} is one for several candidates per step: give candidates, such as (4, 2, 1)"
            )

    def _check_compile(self) -> None:
        given: Any = self.compile
        if given == "draft":  # recorded by an earlier version, of targets with passes of their own
            warnings.warn("compile = 'draft' is now part of compile = 'auto', which is used", stacklevel=4)
        if given in (None, "draft"):
            object.__setattr__(self, "compile", "auto")
        elif given not in (True, False, "auto"):
            raise ValueError(f"compile = {given!r} must be true, false or 'auto'")
        elif given != "auto":
            object.__setattr__(self, "compile", bool(given))

    def _check_draft_length(self) -> None:
        length = self.draft_length
        if isinstance(length, list | tuple):  # from YAML, JSON or a recorded run
            try:
                pairs = tuple(
                    (whole_number("length", g, 0, MAX_DRAFT_LENGTH), whole_number("rounds", n, 1)) for g, n in length
                )
            except (TypeError, ValueError):
                pairs = ()
            if not pairs:
                raise ValueError(
                    f"draft_length = {length} must hold pairs (length of 0 to {MAX_DRAFT_LENGTH}, rounds >= 1)"
                )
            object.__setattr__(self, "draft_length", pairs)
        elif isinstance(length, str):
            if length != "auto":
                raise ValueError(f"draft_length = {length!r} must be a whole number or 'auto'")
        elif length is not None:
            fixed = whole_number("draft_length", length, 1, MAX_DRAFT_LENGTH, ", or 'auto'")
            object.__setattr__(self, "draft_length", fixed)

    @property
    def common(self) -> dict[str, Any]:
        """The options that every method has, as arguments of this class: those that are not as by default."""
        default = {"compile": "auto", "dtype": None, "stop_marks": None, "forbid_marks": None}
        return {name: value for name in default if (value := getattr(self, name)) != default[name]}

    @property
    def leaves_method(self) -> bool:
        """Whether the options leave open whether events are drafted."""
        return self.method is None and not self._asks_for_drafts

    @property
    def _asks_for_drafts(self) -> bool:
        return bool(self.drafter or self.draft_length or self.draft_passes or self.rule or self.candidates)

    @property
    def tree(self) -> Tree | None:
        """The tree that is drafted in a round instead of a chain of `draft_length` events; None = a chain."""
        from tppsd.sampling.tree.shape import Tree  # imports torch, which a command line without a tree can do without

        return Tree(self.candidates) if isinstance(self.candidates, tuple) else None

    def _check_candidates(self) -> None:
        """Store the tree's widths as a tuple, and refuse what does not go with them."""
        given = self.candidates
        try:
            widths = tuple(whole_number("candidates", width, 1, MAX_CANDIDATES) for width in several(given))
        except (TypeError, ValueError):
            widths = ()
        if not widths:
            raise ValueError(
                f"candidates = {given!r} must be whole numbers between 1 and {MAX_CANDIDATES}, one per depth"
            )
        object.__setattr__(self, "candidates", widths)
        if self.draft_passes is not None:
            raise ValueError(
                f"draft_passes = {self.draft_passes} is for chains; candidates = {widths} are drafted with "
                "a pass per depth"
            )
        num_nodes = sum(math.prod(widths[: depth + 1]) for depth in range(len(widths)))
        if num_nodes > MAX_NODES:
            raise ValueError(f"candidates = {widths} make {num_nodes} nodes; a tree has at most {MAX_NODES}")
        if self.draft_length is not None:
            raise ValueError(
                f"draft_length = {self.draft_length} was given together with candidates = {widths}, whose number "
                "is the draft's; leave it out"
            )
        if self.rule is not None and self.rule not in TREE_RULES:
            raise ValueError(f"rule = {self.rule!r} is not one for candidates = {widths}; choose one of {TREE_RULES}")

    def with_overrides(self, **overrides: Any) -> SamplingOptions:
        """Return a copy with some fields replaced; unknown names raise."""
        known = {f.name for f in fields(self)}
        for name in overrides:
            if name in RENAMED:
                raise TypeError(f"{name} is called {RENAMED[name]} since version 0.2")
            if name not in known:
                raise TypeError(f"{name!r} is not an option of sample(); its options are {sorted(known)}")
        return SamplingOptions(**{**asdict(self), **overrides})

    def resolved(self, draft: DrafterName | None) -> SamplingOptions:
        """Return options with every None replaced by what will be done.

        Args:
            draft: the drafter that the caller's `draft` stands for; None where there is none.
        """
        method = self.method or ("speculative" if draft or self._asks_for_drafts else "autoregressive")
        if method == "speculative" and self.forbid_marks is not None:
            raise ValueError(
                f"forbid_marks = {list(self.forbid_marks)} is for method = 'autoregressive' alone; leave out the draft"
            )
        if method == "autoregressive":
            return SamplingOptions("autoregressive", **self.common)
        length = self.draft_length or DEFAULT_DRAFT_LENGTH
        if method == "fixed_point":
            tolerance = DEFAULT_TOLERANCE if self.tolerance is None else self.tolerance
            return SamplingOptions("fixed_point", length, tolerance=tolerance, **self.common)
        if self.drafter == "model" and draft != "model":
            raise ValueError("drafter = 'model' needs a draft: an EventModel, a LightningModule or a checkpoint path")
        if draft not in (None, "model", self.drafter or draft):
            raise ValueError(f"draft = {draft!r} and drafter = {self.drafter!r} name two drafters; give one")
        if method == "auto":
            named = self.drafter or (None if draft == "model" else draft)
            length = self.draft_length or "auto"
            return SamplingOptions("auto", length, self.rule, named, tolerance=self.tolerance, **self.common)
        drafter = self.drafter or draft or "self"
        if drafter != "model" and self.draft_passes is not None:
            raise ValueError(f"draft_passes = {self.draft_passes} is for a draft model; drafter = {drafter!r} has none")
        if self.candidates is None:
            return SamplingOptions(
                "speculative", length, self.rule or "joint", drafter, self.draft_passes, **self.common
            )
        if drafter == "jacobi":
            raise ValueError(
                f"draft = 'jacobi' drafts chains only; candidates = {self.candidates} need another drafter"
            )
        rule = self.rule or "linear"
        return SamplingOptions("speculative", rule=rule, drafter=drafter, candidates=self.candidates, **self.common)

    @property
    def longest_draft(self) -> int:
        """Steps of the longest round, for resolved options."""
        if self.tree is not None:
            return self.tree.depth
        if self.draft_length is None:
            return 0
        if self.draft_length == "auto":
            return MAX_AUTO_LENGTH
        return (
            self.draft_length if isinstance(self.draft_length, int) else max(length for length, _ in self.draft_length)
        )

    def __repr__(self) -> str:
        return f"SamplingOptions({', '.join(f'{name}={value!r}' for name, value in self.to_dict().items())})"

    def to_dict(self) -> dict[str, Any]:
        """Return the fields that are set."""
        values = {name: value for name, value in asdict(self).items() if value is not None}
        return {name: value for name, value in values.items() if (name, value) != ("compile", "auto")}
