"""The plan of a benchmark: data sets, models, samplers, and how often to time them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from itertools import product
from pathlib import Path
from typing import Any, Literal, get_args

from tppsd.benchmark.columns import COLUMNS
from tppsd.benchmark.config import build, read_yaml
from tppsd.sampling.checks import whole_number
from tppsd.sampling.options import TREE_RULES, SamplingOptions


def short_names(paths: Iterable[str]) -> dict[str, str]:
    """Return the last part of each path, with so many parent folders before it that no two are the same."""
    parts = {path: Path(path).parts for path in paths}
    names = {}
    for path, own in parts.items():
        others = [other for name, other in parts.items() if name != path]
        depths = range(1, len(own))
        depth = next((d for d in depths if all(other[-d:] != own[-d:] for other in others)), len(own))
        names[path] = str(Path(*own[-depth:])) if own else path
    return names


def in_passes(passes: int | None) -> str:
    """Return what the name of a sampler says of `draft_passes`."""
    return "" if passes is None else f" in {passes} pass{'es' if passes > 1 else ''}"


Encoder = Literal["thp", "sahp", "attnhp", "rotary"]
Baseline = Literal["draft", "reencode", "eager"]
Method = Literal["auto", "fixed_point"]
DraftLength = int | Literal["auto"]
Figure = Literal["ks", "draft_length", "position", "accepted_counts", "marks"]
FIGURES: tuple[Figure, ...] = get_args(Figure)
# what an entry of a paper is found by
PAPER_KEYS = ("data", "encoder", "method", "draft", "draft_length", "rule", "batch_size")
MOST = 1_000_000  # events, draws, runs and histories, each
_DISTINCT = (
    "encoders", "methods", "baselines", "draft_lengths", "rules", "draft_passes", "candidates", "batch_sizes", "seeds",
    "columns", "figures",
)  # fmt: skip


@dataclass(frozen=True)
class ModelSize:
    """Holds arguments of a TransformerTPP; `name` is heads x layers, as in the TPP-SD paper."""

    num_layers: int = 1
    num_heads: int = 1
    embed_dim: int = 64
    num_components: int = 64
    mark_decoder: Literal["time_conditional", "independent"] = "independent"
    feedforward_dim: int | None = None
    dropout: float = 0.0

    @property
    def name(self) -> str:
        """Heads x layers."""
        return f"{self.num_heads}x{self.num_layers}"


@dataclass(frozen=True)
class Training:
    """Holds how models are trained where no checkpoint is given.

    Attributes:
        distilled: drafts are trained to agree with their target (tppsd.lightning.distillation) instead of with the
            data.
        target_seconds, draft_seconds: wall-clock budgets, for which the learning rate is planned; null: until
            `max_epochs`, or until val/nll has not fallen for `patience` epochs, at a constant learning rate.
        batch_size: sequences per step; null: so many that a step has about 1,100 events.
        learning_rate: the largest.
        draft_learning_rate: of drafts; null: the same.
        num_sequences: of a simulated process, in all splits together.
        max_scored_events: of the validation split; null: all. It bounds what validation takes of a short budget.
    """

    distilled: bool = False
    target_seconds: float | None = 120.0
    draft_seconds: float | None = 30.0
    max_epochs: int = 1000
    patience: int = 20
    batch_size: int | None = None
    learning_rate: float = 3e-3
    draft_learning_rate: float | None = None
    num_sequences: int | None = None
    max_scored_events: int | None = 8000


@dataclass(frozen=True)
class Plan:
    """Holds what one table is of: every combination of data, encoders, seeds and batch sizes is a cell.

    The samplers of a cell run in turn.

    Attributes:
        title: heading of the table and of the report.
        data: process presets (sequences are sampled from scratch, on the preset's window) or data sets (test sequences
            are continued), called by the last part of their path, with folders where that is the same; empty: from
            scratch, `num_events` events, for models of unknown data.
        data_root: folder where `easytpp/taxi` is looked for as `taxi` before the hub is asked.
        target: checkpoint, or size of the target.
        drafts: checkpoints, sizes, "self", "jacobi" or "poisson".
        methods: further ways to sample: "fixed_point", with every draft length as its window, and "auto", which is
            offered the first draft that is a model and whose trial is not counted.
        untrained: models of these sizes with random weights.
        rules: of chains, and of trees where one of those is named; else trees have the rule "linear".
        draft_passes: chains of draft models are also drafted in so many passes over all of their events.
        candidates: trees, each the candidates of every step; they are timed beside the chains of `draft_lengths`.
        baselines: "draft": each trained draft sampled on its own, autoregressively; "reencode": the target without a
            cache, the history encoded anew for each event, one sequence at a time; "eager": the target
            autoregressively, in eager float32, where the others are compiled.
        compile, dtype: as in SamplingOptions, of every sampler, the autoregressive one included.
        batch_sizes: running sequences.
        repeats: timed runs of each sampler; the run that warms up is not counted.
        sequences_per_run: sequences of one run, at least the batch size; null: 8 continuations of real data, else 1.
        num_events: new events per sequence; null: until the end of the window.
        given_events: events of a test sequence that are continued; half of the sequence, where it is not twice as long.
        next_event_draws, next_event_histories: draws of the next event after each of so many histories, for the
            distances of next-event distributions (N = 100 after M = 100 events in the paper).
        paper: what a paper reports. An entry belongs to the rows whose fields equal its own; its other keys are
            numbers.
    """

    title: str = "Samplers side by side"
    data: tuple[str, ...] = ()
    data_root: str | None = None
    encoders: tuple[Encoder, ...] = ("thp",)
    target: ModelSize | str = ModelSize(num_layers=4, num_heads=2, feedforward_dim=128)
    drafts: tuple[ModelSize | str, ...] = ("self",)
    methods: tuple[Method, ...] = ()
    untrained: bool = False
    baselines: tuple[Baseline, ...] = ()
    training: Training = field(default_factory=Training)
    draft_lengths: tuple[DraftLength, ...] = (4, 8)
    rules: tuple[str, ...] = ("joint",)
    draft_passes: tuple[int, ...] = ()
    candidates: tuple[tuple[int, ...], ...] = ()
    batch_sizes: tuple[int, ...] = (1,)
    seeds: tuple[int, ...] = (0,)
    repeats: int = 7
    sequences_per_run: int | None = None
    num_events: int | None = None
    given_events: int = 100
    next_event_draws: int = 100
    next_event_histories: int = 8
    device: Literal["cpu", "cuda"] = "cpu"
    compile: bool | Literal["auto"] = "auto"
    dtype: Literal["float32", "bfloat16"] = "float32"
    columns: tuple[str, ...] = tuple(COLUMNS)
    figures: tuple[Figure, ...] = FIGURES
    paper: tuple[dict[str, Any], ...] = ()

    def __post_init__(self) -> None:
        for name in ("encoders", "draft_lengths", "rules", "batch_sizes", "seeds"):
            if not getattr(self, name):
                raise ValueError(f"{name} is empty; it needs at least one value")
        for name in (
            "repeats",
            "sequences_per_run",
            "num_events",
            "next_event_draws",
            "next_event_histories",
            "given_events",
        ):
            if (value := getattr(self, name)) is not None and value < 1:
                raise ValueError(f"{name} = {value} must be at least 1")
            if value is not None and value > MOST:
                raise ValueError(f"{name} = {value} must be at most {MOST:,}; more would not end")
        for seed in self.seeds:
            whole_number("seed", seed, -(2**63), 2**63 - 1)
        distinct = {name: getattr(self, name) for name in _DISTINCT}
        for name, values in (
            distinct | {"data": map(Path, self.data), "drafts": map(Path, draft_names(self.drafts))}
        ).items():
            several = list(values)
            if twice := [value for i, value in enumerate(several) if value in several[:i]]:
                raise ValueError(f"{name}: {twice[0]} is there twice; name it once")
        if "eager" in self.baselines and self.compile is False:
            raise ValueError("the baseline 'eager' is for plans that compile; with compile = false all of it is eager")
        for entry in self.paper:
            _check_entry(entry)
        for size in self.batch_sizes:
            if size < 1:
                raise ValueError(f"batch size {size} must be at least 1")
        _ = self.speculative_options(of_model=True)  # checks draft lengths, passes and rules
        if unknown := [column for column in self.columns if column not in COLUMNS]:
            raise ValueError(f"there is no column {unknown[0]!r}; the columns are {', '.join(COLUMNS)}")
        if not self.data and isinstance(self.target, ModelSize) and not self.untrained:
            raise ValueError(
                "there is nothing to train a target on: name data (--data), a target (--target) or --untrained"
            )

    @property
    def passes(self) -> dict[str, Any]:
        """The options of passes, as in SamplingOptions."""
        return SamplingOptions(compile=self.compile, dtype=self.dtype).common

    def speculative_options(self, of_model: bool) -> list[SamplingOptions]:
        """Return the options of all chains and trees.

        These are every draft length with every rule of chains, for a draft model with every number of passes, and every
        tree with every rule of trees.
        """
        of_trees: list[Any] = [rule for rule in self.rules if rule in TREE_RULES]
        of_chains: list[Any] = [rule for rule in self.rules if rule not in TREE_RULES] or ["joint"]
        passes = (None, *self.draft_passes) if of_model else (None,)
        chains = [
            SamplingOptions("speculative", n, rule, draft_passes=num)
            for num, n, rule in product(passes, self.draft_lengths, of_chains)
        ]
        trees = product(self.candidates, of_trees or ["linear"])
        return chains + [SamplingOptions("speculative", rule=rule, candidates=widths) for widths, rule in trees]


def draft_names(drafts: tuple[ModelSize | str, ...]) -> list[str]:
    """Return checkpoints and drafters as given, and sizes as heads x layers.

    Sizes of the same name also have the settings that differ.
    """
    sizes = [draft for draft in drafts if isinstance(draft, ModelSize)]
    return [draft if isinstance(draft, str) else _name_among(draft, sizes) for draft in drafts]


def _name_among(size: ModelSize, sizes: list[ModelSize]) -> str:
    """Return the name of a size, with the settings that tell it from others of the same heads and layers."""
    alike = [asdict(other) for other in sizes if other.name == size.name]
    differing = [f"{key} {value}" for key, value in asdict(size).items() if len({other[key] for other in alike}) > 1]
    return " ".join([size.name, *differing])


def _check_entry(entry: dict[str, Any]) -> None:
    """Refuse an unknown key and a value that is no number in an entry of a paper.

    A key that is misspelt would match every row, and a word is no number to write beside ours.
    """
    for key, value in entry.items():
        if key not in (*PAPER_KEYS, *COLUMNS):
            raise ValueError(f"paper: there is no key {key!r}; the keys are {', '.join((*PAPER_KEYS, *COLUMNS))}")
        if key in COLUMNS and type(value) not in (int, float):
            raise ValueError(f"paper: {key} = {value!r} must be a number")


def read_plan(paths: list[str], overrides: dict[str, Any]) -> Plan:
    """Return the plan of YAML files; later ones and then `overrides` win key by key."""
    values: dict[str, Any] = {}
    for path in paths:
        values |= read_yaml(path)
    training = values.get("training", {})
    if isinstance(training, dict) and "training" in overrides:  # an option changes one key of it, a file all
        overrides = overrides | {"training": training | overrides["training"]}
    values |= overrides
    return build(Plan, values, paths[-1] if paths else "tppsd benchmark")
