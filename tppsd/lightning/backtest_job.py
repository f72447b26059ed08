"""Backtests of many origins, for `Trainer.predict`: shared out in chunks, each a file with the scores of its cases."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tppsd.data.paths import for_arrow
from tppsd.data.sequences import EventSequence, sequences_hash
from tppsd.forecasting.backtest_plan import BacktestPlan, Scores
from tppsd.forecasting.backtest_result import Backtest
from tppsd.forecasting.baselines import baseline_models, check_baselines
from tppsd.forecasting.case_table import case_table, read_cases
from tppsd.forecasting.questions import Marks, items_per_chunk
from tppsd.lightning.chunks import Chunk, ChunkDataset, ItemChunks
from tppsd.lightning.job_kinds import BACKTEST
from tppsd.lightning.job_module import JobModule, hashes, resolve_draft
from tppsd.lightning.shard_writer import ShardWriter
from tppsd.lightning.shards import whole_file
from tppsd.models.protocol import EventModel

if TYPE_CHECKING:
    import pyarrow

_SCORES = 2  # which scores a shard holds; 1, or nothing: none of the times of first events
_NOTES = b"tppsd.notes"  # of the metadata of a shard: what a reader should know of the baselines


class Backtester(JobModule):
    """Scores chunks of cases; a prediction is the table of one (tppsd.forecasting.case_table).

    A score depends on its case and the seed, not on the number of processes. The chunk it is in changes no more than
    the order of floating-point sums. Baselines are fitted by every process for itself, to the same numbers, once there
    is something to do.

    Args:
        target: the model.
        sequences, horizon, origins, num_paths, within, baselines, draft, seed, batch_size: as of `tppsd.backtest`.
        training_sequences: what baselines are fitted to.
        marks, max_events, history_lookback: as of `tppsd.backtest`.
    """

    needs_cpu = True

    def __init__(
        self,
        target: Any,
        sequences: Sequence[EventSequence],
        horizon: float | str,
        origins: float | str | Sequence[float] = 0.5,
        num_paths: int = 200,
        within: Sequence[float | str] = (),
        baselines: Sequence[str] | None = None,
        training_sequences: Sequence[EventSequence] = (),
        draft: Any = None,
        seed: int = 0,
        batch_size: int | None = None,
        marks: Sequence[Marks] | Mapping[str, Marks] | None = None,
        max_events: int = 100_000,
        history_lookback: float | str | None = None,
    ) -> None:
        super().__init__()
        self.target, self.draft = target, resolve_draft(draft)
        self.plan = BacktestPlan(
            target, sequences, horizon, origins, num_paths, marks, within, self.draft, seed, batch_size=batch_size,
            max_events=max_events, history_lookback=history_lookback,
        )  # fmt: skip
        self._lookback = history_lookback
        self.baselines = None if baselines is None else check_baselines(baselines)
        self.training_sequences = training_sequences
        self._models: dict[str, EventModel] = {}
        self._notes: list[str] = []
        self._failed: Scores = {}

    def chunks(self, chunk_size: int | None = None) -> ItemChunks:
        """Return the chunks of the cases; None: with about 20,000 paths each."""
        return ItemChunks(len(self.plan), items_per_chunk(chunk_size, self.plan.num_paths), {})

    def job(self) -> dict[str, Any]:
        """Return what the scores depend on, as plain values."""
        plan = self.plan
        return {
            "command": BACKTEST.command,
            "scores": _SCORES,
            **hashes(self.target, self.draft),
            "horizons": plan.horizons,
            "num_paths": plan.num_paths,
            "marks": [[one.label, list(one.marks)] for one in plan.sets],
            "baselines": None if self.baselines is None else list(self.baselines),
            "seed": plan.seed,
            "max_events": plan.max_events,
            "origins": _origins_hash(plan),
            "sequences": sequences_hash(plan.rows),
            "training": sequences_hash(self.training_sequences),
            **({} if self._lookback is None else {"history_lookback": str(self._lookback)}),
        }

    def on_predict_start(self) -> None:
        """Fit the baselines, unless all chunks of this process are done."""
        dataset: Any = getattr(self.trainer.predict_dataloaders, "dataset", ())
        if set(range(self.global_rank, len(dataset), self.trainer.world_size)) <= self.finished_chunks:
            return
        self._models, self._notes = baseline_models(
            self.baselines, self.training_sequences, self.plan.model, self.plan.seed
        )

    def predict_step(self, batch: Chunk, batch_idx: int) -> pyarrow.Table | None:
        """Return the scores of a chunk; None: they are in the writer's folder."""
        if batch.chunk in self.finished_chunks:
            return None
        models = {name: model for name, model in self._models.items() if name not in self._failed}
        scores = self.plan.scores(batch.items, models) | self._failed
        self._failed = {name: found for name, found in scores.items() if isinstance(found, str)}
        table = case_table(scores, batch.first_index, batch.num_items)
        return table.replace_schema_metadata({_NOTES: json.dumps(self._notes).encode()})


def _origins_hash(plan: BacktestPlan) -> str:
    """Return the SHA-256 (hex) of places and times of the origins."""
    sequence, times, *_ = plan.origins
    return hashlib.sha256(sequence.numpy().tobytes() + times.numpy().tobytes()).hexdigest()


class BacktestWriter(ShardWriter):
    """Writes each chunk of a Backtester to `output_dir`/.shards, and at the end tables, JSON file and page.

    Args:
        output_dir: a new folder, or that of the same job, interrupted.

    Attributes:
        found: what all cases say together, and
        paths: of the results, once all is done.
    """

    kind = BACKTEST

    def __init__(self, output_dir: str | Path) -> None:
        super().__init__(output_dir)
        self.found: Backtest | None = None
        self.paths: list[Path] = []

    def make_results(self, module: JobModule, chunks: ChunkDataset[Any]) -> None:
        """Put the scores of all cases together; each file is there as a whole or not at all."""
        import pyarrow.parquet as pq

        assert isinstance(module, Backtester)
        tables = [pq.ParquetFile(for_arrow(self.output_dir / shard.name)).read() for shard in self._shards]
        notes = json.loads(tables[0].schema.metadata[_NOTES])
        plan = module.plan
        cases = read_cases(tables, plan.sets, plan.horizons, plan.num_marks)
        del tables
        self.found = plan.result([cases], notes)
        scores = self.found.to_pandas()
        self.paths = [self.output_dir / name for name in self.kind.results]
        parquet, csv, record, origins, page = self.paths
        with whole_file(parquet) as file:
            scores.to_parquet(file, index=False)
        with whole_file(csv) as file:
            scores.to_csv(file, index=False)
        with whole_file(record) as file:
            self.found.to_json(file)
        with whole_file(origins) as file:
            self.found.by_origin().to_csv(file, index=False)
        with whole_file(page) as file:
            self.found.to_html(file)
