"""`Sampler`: `tppsd.sample` as a LightningModule, for `Trainer.predict` on any number of devices."""

from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from tppsd.data.batch import EventBatch
from tppsd.data.lookback import Windows
from tppsd.data.marks import check_mark_names
from tppsd.data.sequences import EventSequence
from tppsd.lightning.chunks import ChunkDataset
from tppsd.lightning.job_module import JobModule, hashes, resolve_draft
from tppsd.lightning.modules import check_sampling
from tppsd.lightning.requests import RequestChunk, RequestDataset
from tppsd.models.checkpoint import load
from tppsd.sampling.job import SamplingJob
from tppsd.sampling.options import SamplingOptions
from tppsd.sampling.requests import Wanted
from tppsd.sampling.results import SampledSequences


class PredictedSequences(SampledSequences):
    """Holds samples that Lightning can collect: it moves predictions to the CPU, where these are already."""

    def to(self, *_: Any, **__: Any) -> PredictedSequences:
        """Return itself."""
        return self


class Sampler(JobModule):
    """Samples chunks of requests from a target, with a draft for speed.

    Use: `trainer.predict(sampler, Requests(...).loader(data))`. A sequence depends on its index and the seed, not on
    the number of processes or the chunk it is in; with options that leave a choice to the clock ("auto") also on what
    each process chose, which is recorded with every chunk.

    Args:
        target: checkpoint of the model to sample from.
        draft: checkpoint of the model that proposes events, or the name of a drafter that needs none ("self",
            "poisson"); None = autoregressive sampling, unless the options say otherwise.
        options: method, draft length, rule.
        seed: of the counter-based noise.
        batch_size: running sequences; changes speed and memory, and no sequence of fixed draft lengths; with "auto"
            others come of it, of the same distribution, and each chunk records its own.
        max_events: safety bound per sequence; reaching it sets `truncated` and warns.
    """

    def __init__(
        self,
        target: str | Path,
        draft: str | Path | None = None,
        options: SamplingOptions | None = None,
        seed: int = 0,
        batch_size: int | None = None,
        max_events: int = 1_000_000,
    ) -> None:
        super().__init__()
        self.target = load(target)
        self.draft = resolve_draft(draft)
        self.options, self.seed, self.rows_in_flight, self.max_events = options, seed, batch_size, max_events
        self._chosen = options  # by "auto", once it has chosen,
        self._choice: str | None = None  # and why

    def job(self) -> dict[str, Any]:
        """Return what its samples depend on, as plain values."""
        options = None if self.options is None else self.options.to_dict()
        return {**hashes(self.target, self.draft), "options": options, "seed": self.seed, "max_events": self.max_events}

    def job_on(self, chunks: ChunkDataset[Any]) -> dict[str, Any]:
        """Return what the samples of these chunks depend on: also the model's windows where they cut a history.

        Where they cut none, the record is that of before they did, and such a job is resumed.
        """
        windows, record = Windows.of(self.target.statistics), super().job_on(chunks)
        if windows is not None and isinstance(chunks, RequestDataset) and chunks.outgrow(windows):
            record["windows"] = list(windows)
        return record

    def setup(self, stage: str) -> None:
        """Check precision and options before the writer begins."""
        super().setup(stage)
        if self.options is not None:  # before the writer begins
            check_sampling(self.trainer, self.target, self.options)

    def on_predict_start(self) -> None:
        """Compare the marks of the histories with the target's."""
        requests = getattr(self.trainer.predict_dataloaders, "dataset", None)
        check_mark_names(self.target.statistics.mark_names, getattr(requests, "mark_names", None), "the target")

    def predict_step(self, batch: RequestChunk, batch_idx: int) -> PredictedSequences | None:
        """Return the samples of a chunk; None: they are in the writer's folder."""
        if batch.chunk in self.finished_chunks:
            return None
        is_to_choose = self._chosen is not None and self._chosen.method == "auto"
        to_come = set(batch.to_come(self.trainer.world_size)) - self.finished_chunks if is_to_choose else {batch.chunk}
        given: Any = (self._chosen, {}, self.rows_in_flight, self.seed, self.max_events, None, len(to_come))
        job = SamplingJob(self.target, self.draft, *given)
        history = _named(batch.history, batch.ids)
        wanted = Wanted(history, batch.num_sequences, first_index=batch.first_index, **batch.arguments)
        samples = job.sampled(job.plan(wanted))
        if is_to_choose:  # once for all chunks; a length that is left to the clock goes on being so
            self._chosen = samples.options.with_overrides(draft_length=samples.stats.draft_length)
            self._choice = samples.stats.choice
        samples.stats.choice = self._choice or samples.stats.choice
        return PredictedSequences(**{one.name: getattr(samples, one.name) for one in fields(samples)})


def _named(history: EventBatch | None, ids: tuple[Any, ...] | None) -> EventBatch | list[EventSequence] | None:
    """Return the histories of a chunk with their ids, which a batch does not hold."""
    if history is None or ids is None:
        return history
    return [replace(history.sequence(i), id=own) for i, own in enumerate(ids)]
