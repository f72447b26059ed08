"""Training a draft to agree with its target, or a target with earlier ones, and the acceptance that this buys."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import torch

from tppsd.data.batch import EventBatch
from tppsd.data.marks import check_mark_names
from tppsd.metrics.functional.transport import Overlap, overlap
from tppsd.models.checkpoint import load
from tppsd.models.decoder import autocast_disabled
from tppsd.models.distribution import NextEventDistribution
from tppsd.models.transformer_tpp import TransformerTPP
from tppsd.sampling.noise import row_keys, uniforms


@dataclass
class Distillation:
    """Holds a frozen target for a draft in training, and what of it enters the loss.

    The loss is, in nats,

        nll_weight NLL / num_events + kl_weight mean KL(target || draft) + tv_weight mean TV(target, draft)

    Its means are over contexts: every position that has a distribution of what is scored, from the last given event (or
    the start token) to the last event (the data end there, or say that nothing happened until the window's end, but a
    sampler goes on). The NLL alone has a survival term. Distributions are compared at inter-times drawn from the
    target, in training afresh in every step, in validation always the same; they are a function of (seed, step,
    sequence), so that neither the global random state nor the number of processes matters.

    The defaults were accepted most often in our measurements (docs/results/drafts.md). With nll_weight =
    1 and kl_weight = tv_weight = 0 training is by likelihood alone and the target only measures acceptance; otherwise a
    training step costs one more pass, the target's, without gradients.

    Several targets are an ensemble: training steps take them in turn, and since the cross-entropy is linear in the
    target, the KL of their mixture has the same minimum as the mean of theirs. What is logged in validation is the mean
    over them.

    The target is no part of the module: checkpoints hold nothing of it but its content hash.

    Sources: distillation for speculative decoding: Zhou et al., ICLR 2024 (DistillSpec, arXiv 2310.08461); of an
    ensemble: Hinton et al. 2015 (arXiv 1503.02531).

    Args:
        target: checkpoint of the frozen target, or of several.
        nll_weight: of the negative log-likelihood per event of the data.
        kl_weight: of the Kullback-Leibler divergence per context.
        tv_weight: of the total variation per context: the probability that the `joint` rule rejects a drafted event.
        num_draws: inter-times per context, an even number.
        seed: of the draws.
    """

    target: list[str] | str | Path
    nll_weight: float = 0.0
    kl_weight: float = 1.0
    tv_weight: float = 1.0
    num_draws: int = 4
    seed: int = 0
    models: list[TransformerTPP] = field(default_factory=list, init=False, repr=False)  # loaded when a run is set up

    def __post_init__(self) -> None:
        weights = (self.nll_weight, self.kl_weight, self.tv_weight)
        if min(weights) < 0 or max(weights) == 0:
            raise ValueError(
                f"nll_weight, kl_weight and tv_weight = {weights} must not be negative, "
                "and one of them must be positive"
            )
        if self.num_draws < 2 or self.num_draws % 2:
            raise ValueError(f"num_draws = {self.num_draws} must be an even number of at least 2: draws come in pairs")

    @property
    def is_trained_for(self) -> bool:
        """Whether the target takes part in the loss."""
        return self.kl_weight > 0 or self.tv_weight > 0

    def load(self, num_marks: int, mark_names: tuple[str, ...] | None = None) -> str:
        """Load the targets, for data with `num_marks` marks, and return their content hashes, with commas between them.

        The global random state is left as it was.

        Raises:
            ValueError: the marks of a target are not those of the data.
        """
        paths = self.target if isinstance(self.target, list) else [self.target]
        if not self.models:
            with torch.random.fork_rng(devices=[]):  # building it draws its initial weights
                self.models = [load(path).requires_grad_(False) for path in paths]
        for path, model in zip(paths, self.models, strict=True):
            if model.num_marks != num_marks:
                raise ValueError(
                    f"{path}: this target has num_marks = {model.num_marks}, its draft {num_marks}; they must agree"
                )
            check_mark_names(model.statistics.mark_names, mark_names, f"{path}: this target")
        return ",".join(model.content_hash() for model in self.models)

    def overlap(self, draft: NextEventDistribution, batch: EventBatch, step: int) -> Overlap:
        """Return KL and acceptance in every context of a batch, each (num_contexts,).

        Of several targets, they are those of the step's own in training and the means in validation.

        Args:
            draft: distributions of batch shape (batch, length + 1).
            batch: the sequences.
            step: of the optimiser, from 1; 0 in validation.
        """
        assert self.models, "Distillation.load comes first"
        models = [self.models[step % len(self.models)]] if step else self.models
        overlaps = [self._overlap(model, draft, batch, step) for model in models]
        return Overlap(*(torch.stack(values).mean(0) for values in zip(*overlaps, strict=True)))

    def _overlap(self, model: TransformerTPP, draft: NextEventDistribution, batch: EventBatch, step: int) -> Overlap:
        """Return KL and acceptance with one target."""
        device = batch.mask.device
        with torch.no_grad(), autocast_disabled(device.type):  # the distributions that will be sampled
            target = model.to(device)(batch)
        positions = torch.arange(batch.mask.shape[1] + 1, device=device)
        # (batch, length + 1), without padding and without distributions of given events
        contexts = (positions <= batch.lengths.unsqueeze(1)) & (positions >= batch.num_given.unsqueeze(1))
        # path indices of samples are not negative: no draw is shared with a sampler of the same seed
        keys = row_keys(self.seed, batch.index, torch.full_like(batch.index, -1 - step))
        pairs = torch.arange(self.num_draws // 2, device=device)
        draws = uniforms(keys[:, None, None], positions.unsqueeze(1), pairs).flatten(
            2
        )  # (batch, length + 1, num_draws)
        return overlap(target[contexts], draft[contexts], draws[contexts])
