"""Training a draft to agree with its target, and the acceptance that this buys."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import torch

from tppsd.data.sequences import EventBatch
from tppsd.metrics.functional.overlap import Overlap, overlap
from tppsd.models.checkpoint import load
from tppsd.models.decoder import autocast_disabled
from tppsd.models.law import NextEventLaw
from tppsd.models.transformer_tpp import TransformerTPP
from tppsd.sampling.noise import row_keys, uniforms


@dataclass
class Distillation:
    """A frozen target for a draft in training, and the loss

        nll_weight NLL / num_events + kl_weight mean KL(target || draft) + tv_weight mean TV(target, draft)

    in nats. Its means are over contexts: every position that has a law, from the start token to the last event (the data end
    there, or say that nothing happened until the window's end, but a sampler goes on). The NLL alone has a survival term. Laws
    are compared at inter-times drawn from the target, in training afresh in every step, in validation always the same; they are
    a function of (seed, step, sequence), so that neither the global random state nor the number of processes matters.

    The defaults were accepted most often in our measurements (lightning_configs/benchmark/README.md). With nll_weight = 1 and
    kl_weight = tv_weight = 0 training is by likelihood alone and the target only measures acceptance; otherwise a training step
    costs one more pass, the target's, without gradients.

    The target is no part of the module: checkpoints hold nothing of it but its content hash.

    Args:
        target: checkpoint of the frozen target.
        nll_weight: of the negative log-likelihood per event of the data.
        kl_weight: of the Kullback-Leibler divergence per context.
        tv_weight: of the total variation per context: the probability that the `joint` rule rejects a drafted event.
        num_draws: inter-times per context, an even number.
        seed: of the draws.
    Source: distillation for speculative decoding: Zhou et al., ICLR 2024 (DistillSpec, arXiv 2310.08461).
    """

    target: str | Path
    nll_weight: float = 0.0
    kl_weight: float = 1.0
    tv_weight: float = 1.0
    num_draws: int = 4
    seed: int = 0
    model: TransformerTPP | None = field(default=None, init=False, repr=False)  # loaded when a run is set up

    def __post_init__(self) -> None:
        weights = (self.nll_weight, self.kl_weight, self.tv_weight)
        if min(weights) < 0 or max(weights) == 0:
            raise ValueError(
                f"nll_weight, kl_weight and tv_weight = {weights} must not be negative, and one of them must be positive"
            )
        if self.num_draws < 2 or self.num_draws % 2:
            raise ValueError(f"num_draws = {self.num_draws} must be an even number of at least 2: draws come in pairs")

    @property
    def is_trained_for(self) -> bool:
        """Whether the target takes part in the loss."""
        return self.kl_weight > 0 or self.tv_weight > 0

    def load(self, num_marks: int) -> TransformerTPP:
        """The frozen target of data with `num_marks` marks; the global random state is left as it was."""
        if self.model is None:
            with torch.random.fork_rng(devices=[]):  # building it draws its initial weights
                self.model = load(self.target).requires_grad_(False)
        if self.model.num_marks != num_marks:
            raise ValueError(
                f"{self.target}: this target has num_marks = {self.model.num_marks}, its draft {num_marks}; they must agree"
            )
        return self.model

    def overlap(self, draft: NextEventLaw, batch: EventBatch, step: int) -> Overlap:
        """KL and acceptance in every context of a batch, each (num_contexts,).

        Args:
            draft: laws of batch shape (batch, length + 1).
            step: of the optimiser, from 1; 0 in validation.
        """
        assert self.model is not None, "Distillation.load comes first"
        device = batch.mask.device
        with torch.no_grad(), autocast_disabled(device.type):  # the laws that will be sampled
            target = self.model.to(device)(batch)
        positions = torch.arange(batch.mask.shape[1] + 1, device=device)
        contexts = positions <= batch.lengths.unsqueeze(1)  # (batch, length + 1), without padding
        # path indices of samples are not negative: no draw is shared with a sampler of the same seed
        keys = row_keys(self.seed, batch.index, torch.full_like(batch.index, -1 - step))
        pairs = torch.arange(self.num_draws // 2, device=device)
        draws = uniforms(keys[:, None, None], positions.unsqueeze(1), pairs).flatten(2)  # (batch, length + 1, num_draws)
        return overlap(target[contexts], draft[contexts], draws[contexts])
