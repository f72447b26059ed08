"""The model: a causal encoder of the events so far and a decoder of the next one."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from tppsd.data.batch import EventBatch
from tppsd.data.sequences import EventSequence
from tppsd.data.statistics import MOST_MARKS, DataStatistics
from tppsd.models.attention import AttentionPass, CachedPass, CausalPass
from tppsd.models.blocks import EncoderInput
from tppsd.models.cache import KVCache, bounded_capacity
from tppsd.models.checkpoint import save
from tppsd.models.decoder import NextEventDecoder
from tppsd.models.distribution import NextEventDistribution
from tppsd.models.encoders.attnhp import AttNHPEncoder
from tppsd.models.encoders.rotary import RotaryEncoder
from tppsd.models.encoders.sahp import SAHPEncoder
from tppsd.models.encoders.thp import THPEncoder
from tppsd.models.likelihood import LikelihoodModel
from tppsd.models.protocol import EventTokens

ENCODERS: dict[str, Any] = {"thp": THPEncoder, "sahp": SAHPEncoder, "attnhp": AttNHPEncoder, "rotary": RotaryEncoder}
# Above these a configuration is a mistake: it is refused before memory is taken for it.
LARGEST = {
    "num_marks": MOST_MARKS,
    "embed_dim": 2**16,
    "num_layers": 1_000,
    "num_components": 2**16,
    "feedforward_dim": 2**20,
}

_TINY = torch.finfo(torch.float64).tiny


class TransformerTPP(LikelihoodModel):
    """Is a Transformer temporal point process with a log-normal mixture decoder (TPP-SD, arXiv 2507.09252, section 4).

    Args:
        num_marks: number of marks; 1 = unmarked.
        encoder: "thp", "sahp", "attnhp" or "rotary", which stands longer windows than it was trained on.
        embed_dim: width D of the token stream.
        num_heads: attention heads per layer; divides embed_dim.
        num_layers: number of layers.
        num_components: log-normal components M of the mixture.
        mark_decoder: "time_conditional" (k given the history and tau) or "independent" (k given the history, as in the
            paper).
        dropout: dropout rate in the encoder while training.
        feedforward_dim: width of the feed-forward layers (AttNHP has none); None = 4 * embed_dim.
        max_context: how many tokens each token attends to in every layer, itself included; None = all. It bounds the
            memory of sampling and the cost of an event, however long a sequence becomes.
    """

    is_event: Tensor

    def __init__(
        self,
        num_marks: int,
        encoder: Literal["thp", "sahp", "attnhp", "rotary"] = "rotary",
        embed_dim: int = 64,
        num_heads: int = 4,
        num_layers: int = 2,
        num_components: int = 64,
        mark_decoder: Literal["time_conditional", "independent"] = "time_conditional",
        dropout: float = 0.0,
        feedforward_dim: int | None = None,
        max_context: int | None = None,
    ) -> None:
        super().__init__()
        if encoder not in ENCODERS:
            raise ValueError(f"encoder = {encoder!r} is unknown; choose one of {sorted(ENCODERS)}")
        if num_marks < 1:
            raise ValueError(f"num_marks = {num_marks} must be at least 1 (1 = unmarked)")
        if min(num_heads, num_layers, num_components) < 1:
            raise ValueError(
                f"num_heads = {num_heads}, num_layers = {num_layers} and num_components = {num_components} must be "
                "at least 1"
            )
        if embed_dim < 1 or embed_dim % num_heads or embed_dim % 2:
            raise ValueError(
                f"embed_dim = {embed_dim} must be positive, even and a multiple of num_heads = {num_heads}"
            )
        self.config: dict[str, Any] = {
            "num_marks": num_marks, "encoder": encoder, "embed_dim": embed_dim, "num_heads": num_heads,
            "num_layers": num_layers, "num_components": num_components, "mark_decoder": mark_decoder,
            "dropout": dropout, "feedforward_dim": feedforward_dim, "max_context": max_context,
        }  # fmt: skip
        for name, most in LARGEST.items():
            if (self.config[name] or 0) > most:
                raise ValueError(f"{name} = {self.config[name]} must be at most {most:,}")
        if not 0 <= dropout < 1:
            raise ValueError(f"dropout = {dropout} must be at least 0 and less than 1")
        if max_context is not None and max_context < 1:
            raise ValueError(f"max_context = {max_context} must be at least 1 (a token attends to itself), or None")
        if feedforward_dim is not None and feedforward_dim < 2:  # rotary blocks take two thirds of it
            raise ValueError(f"feedforward_dim = {feedforward_dim} must be at least 2, or None for 4 * embed_dim")
        self.num_marks = num_marks
        self.num_layers = num_layers
        self.max_context = max_context
        self.encoder = ENCODERS[encoder](
            2 * num_marks + 1, embed_dim, num_heads, num_layers, feedforward_dim or 4 * embed_dim, dropout
        )
        self.decoder = NextEventDecoder(embed_dim, num_components, num_marks, mark_decoder)
        is_event = torch.zeros(2 * num_marks + 1, dtype=torch.float64)
        is_event[1 : num_marks + 1] = 1.0
        self.register_buffer("is_event", is_event, persistent=False)  # by token id: a start token has no inter-time
        self.statistics = DataStatistics(num_marks)

    # --- statistics of the training split travel with the weights ------------------------------------------------

    def set_statistics(self, statistics: DataStatistics) -> None:
        """Take over moments, scales and frequencies of a training split."""
        if statistics.num_marks != self.num_marks:
            raise ValueError(
                f"the data have num_marks = {statistics.num_marks} but the model was built for {self.num_marks}"
            )
        self.statistics = statistics

    def get_extra_state(self) -> dict[str, Any]:
        """Return the statistics as plain values, which `state_dict` stores beside the weights."""
        return self.statistics.to_dict()

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Take over statistics that `get_extra_state` has given."""
        self.set_statistics(DataStatistics.from_dict(state))

    # --- distributions ------------------------------------------------------------------------------------------------

    def encoder_input(self, tokens: EventTokens) -> EncoderInput:
        """Return tokens in the model's own units."""
        s = self.statistics
        log_tau = tokens.inter_times.clamp_min(max(s.min_inter_time, _TINY)).log().sub_(s.log_mean).mul_(1 / s.log_std)
        return EncoderInput(tokens.ids, tokens.times / s.time_scale, log_tau * self.is_event[tokens.ids])

    def encode(self, tokens: EventTokens, attention: AttentionPass) -> Tensor:
        """Return the contexts of tokens, (batch, length, embed_dim)."""
        context: Tensor = self.encoder(self.encoder_input(tokens), attention)
        return context

    def distribution(self, context: Tensor) -> NextEventDistribution:
        """Return the distribution of the next event after each context (*batch, embed_dim), in float64 arithmetic."""
        distribution: NextEventDistribution = self.decoder(
            context, self.statistics.log_mean, self.statistics.log_std, double=True
        )
        return (
            distribution if context.shape[-2] == 1 else distribution.packed()
        )  # of many distributions some will be selected

    def forward(self, batch: EventBatch) -> NextEventDistribution:
        """Return distributions of batch shape (batch, length + 1): after the start token and after each event."""
        context = self.encode(EventTokens.from_batch(batch, self.num_marks), CausalPass(self.max_context))
        distribution: NextEventDistribution = self.decoder(context, self.statistics.log_mean, self.statistics.log_std)
        return distribution

    # --- cached mode (tppsd.models.protocol.EventModel) -----------------------------------------------------------

    def new_cache(self, batch_size: int, capacity: int) -> KVCache:
        """Return an empty cache of keys and values of every layer, in the weights' dtype and on their device."""
        num_heads = self.config["num_heads"]
        head_dim = self.config["embed_dim"] // num_heads
        like, capacity = self.decoder.to_mixture.weight, bounded_capacity(capacity, self.max_context)
        return KVCache(self.num_layers, batch_size, capacity, num_heads, head_dim, like, self.max_context)

    @torch.no_grad()
    def extend(self, tokens: EventTokens, cache: KVCache, parents: tuple[int, ...] | None = None) -> Tensor:
        """Append q tokens per row, a chain or nodes of a tree, at each row's own length.

        Returns:
            Contexts (batch, q, embed_dim), without gradients.
        """
        attention = CachedPass(cache, tokens.ids.shape[1], self.decoder.to_mixture.weight.dtype, parents)
        context = self.encode(tokens, attention)
        cache.end(parents)
        return context

    # --- intensity, identity -------------------------------------------------------------------------------------

    @torch.inference_mode()
    def intensity(self, sequence: EventSequence, times: Tensor) -> Tensor:
        """Return the intensity of every mark at some times, (len(times), num_marks), in events per unit of time.

        It is lambda*_k(t) = g(tau) f(k | tau) / S(tau), with tau the time since the last event before t.

        Args:
            sequence: events on their window.
            times: (n,) within the window.

        Raises:
            ValueError: a time is not finite or before the window's start.
        """
        device = self.decoder.to_mixture.weight.device
        times = torch.as_tensor(times, dtype=torch.float64, device=device)
        batch = EventBatch.from_sequences([sequence]).to(device)
        if len(times) and (times.min() < batch.t_start[0] or not torch.isfinite(times).all()):
            raise ValueError(f"times must be finite and not before the window's start {batch.t_start[0].item()}")
        distribution: NextEventDistribution = self(batch).double()
        knots = torch.cat([batch.t_start, batch.event_times[0]])
        last = torch.searchsorted(knots[1:].contiguous(), times)  # number of scored events strictly before t
        at_times = distribution[0][last]
        tau = (times - knots[last]).clamp_min(_TINY)
        log_hazard = at_times.inter_time.log_prob(tau) - at_times.log_survival(tau)
        return (log_hazard.unsqueeze(-1) + at_times.mark_log_probs(tau)).exp()

    def content_hash(self) -> str:
        """Return the SHA-256 (hex) of configuration, statistics and weights.

        Two models with equal hashes have equal distributions.
        """
        # an unbounded context goes without saying: models from before `max_context` keep their hash
        config = {name: value for name, value in self.config.items() if (name, value) != ("max_context", None)}
        digest = hashlib.sha256(json.dumps([config, self.statistics.to_dict()], sort_keys=True).encode())
        for name, tensor in sorted(self.state_dict().items()):
            if isinstance(tensor, Tensor):
                digest.update(name.encode() + tensor.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
        return digest.hexdigest()

    def save(self, path: str | Path) -> None:
        """Write a self-contained checkpoint; read it with `tppsd.load(path)`."""
        save(self, path)
