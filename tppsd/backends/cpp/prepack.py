"""Weights packed for compiled code: where each lies, in the structures of native/*.h."""

from __future__ import annotations

import ctypes
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from tppsd.backends.cpp.structures import Decoder, Encoder, Layer, Linear, Norm
from tppsd.models.blocks import TransformerBlock
from tppsd.models.cache import multiple
from tppsd.models.decoder import IndependentMarks, TimeConditionalMarks
from tppsd.models.encoders.attnhp import AttNHPEncoder, AttNHPLayer
from tppsd.models.encoders.rotary import RotaryBlock, RotaryEncoder
from tppsd.models.encoders.sahp import SAHPEncoder
from tppsd.models.encoders.thp import THPEncoder
from tppsd.models.mixture import LOG_STD_RANGE

if TYPE_CHECKING:
    from tppsd.models.transformer_tpp import TransformerTPP

_CACHE_LINE = 64  # bytes
_BLOCK = 1 << 24  # bytes of memory that weights are packed into at once; what is not used is never touched
LANES = 16  # widths and the capacities of caches are multiples of it
BLOCKS = {
    THPEncoder: TransformerBlock,
    SAHPEncoder: TransformerBlock,
    RotaryEncoder: RotaryBlock,
    AttNHPEncoder: AttNHPLayer,
}
MARKS: dict[type, int] = {type(None): 0, IndependentMarks: 1, TimeConditionalMarks: 2}
_KINDS: dict[type, int] = {THPEncoder: 0, SAHPEncoder: 0, RotaryEncoder: 1, AttNHPEncoder: 2}


def blocks_of(encoder: Any) -> nn.ModuleList:
    """Return the blocks, or layers, of an encoder of this package."""
    return encoder.layers if isinstance(encoder, AttNHPEncoder) else encoder.blocks


class Packed:
    """Keeps the tensors that structures point to.

    Args:
        panel_width: columns of a matrix that lie together.
    """

    def __init__(self, panel_width: int) -> None:
        self._panel, self._kept, self._room = panel_width, list[Tensor](), torch.empty(0, dtype=torch.uint8)

    def _pointer(self, values: Tensor | None) -> int | None:
        """Copy values, and return where the copy is: behind the one before as far as possible.

        A pass reads them in this order, and fetches what comes next while it computes.
        """
        if values is None:
            return None
        num_bytes = multiple(values.numel() * values.element_size(), _CACHE_LINE)
        if num_bytes > len(self._room):
            self._room = torch.empty(max(num_bytes, _BLOCK) + _CACHE_LINE, dtype=torch.uint8)
            self._room = self._room[-self._room.data_ptr() % _CACHE_LINE :]
            self._kept.append(self._room)
        # a copy: weights that are changed later must not change a part of what has been packed
        copied = self._room[: values.numel() * values.element_size()].view(values.dtype)
        copied.copy_(values.detach().flatten())
        self._room = self._room[num_bytes:]
        return copied.data_ptr()

    def _in_double(self, values: Tensor) -> int | None:
        return self._pointer(values.double())

    def _norm(self, norm: nn.LayerNorm | nn.RMSNorm) -> Norm:
        return Norm(self._pointer(norm.weight), self._pointer(getattr(norm, "bias", None)), norm.eps)

    def _linear(self, layer: nn.Linear, dtype: torch.dtype = torch.float32, num_parts: int = 1) -> Linear:
        """Pack a linear layer: its matrix panel by panel in `dtype`, padded with zeros to multiples of 16.

        Padded are the inputs and each of `num_parts` equal parts of the outputs.
        """
        weight = torch.cat([_padded(part) for part in layer.weight.detach().chunk(num_parts)])  # (out, in)
        bias = (
            None
            if layer.bias is None
            else torch.cat([_padded(part, 1) for part in layer.bias.detach().chunk(num_parts)])
        )
        panels = torch.cat([panel.t().flatten() for panel in weight.split(self._panel)])
        is_bf16 = dtype == torch.bfloat16
        return Linear(self._pointer(panels.to(dtype)), self._pointer(bias), weight.shape[1], weight.shape[0], is_bf16)


class PackedDecoder(Packed):
    """Packs the decoder of a model whose mark decoder is one of MARKS."""

    def __init__(self, model: TransformerTPP, panel_width: int) -> None:
        super().__init__(panel_width)
        self.decoder = self._decoder(model)

    def _decoder(self, model: TransformerTPP) -> Decoder:
        heads, marks = model.decoder, model.decoder.marks
        decoder = Decoder(MARKS[type(marks)], heads.num_components, 0, model.num_marks, self._linear(heads.to_mixture))
        decoder.least_log_std, decoder.largest_log_std = LOG_STD_RANGE
        if marks is not None:
            decoder.from_context = self._linear(marks.from_context)
            decoder.num_features = marks.from_context.out_features
        if isinstance(marks, IndependentMarks):
            decoder.to_logits, decoder.num_features = self._linear(marks.to_logits), model.num_marks
        if isinstance(marks, TimeConditionalMarks):
            decoder.from_time, decoder.from_time_bias = map(
                self._in_double, (marks.from_time.weight, marks.from_time.bias)
            )
            decoder.mix_time, decoder.logits = (
                self._in_double(layer.weight.t()) for layer in (marks.mix_time, marks.to_logits)
            )
            decoder.logits_bias = self._in_double(marks.to_logits.bias)
        return decoder


class PackedWeights(PackedDecoder):
    """Packs encoder and decoder of a compilable model.

    Args:
        model: the model.
        panel_width: columns of a matrix that lie together.
        dtype: float32 or bfloat16, of the matrices in the encoder's layers.
    """

    def __init__(self, model: TransformerTPP, panel_width: int, dtype: torch.dtype) -> None:
        super().__init__(model, panel_width)
        self._dtype = dtype
        encoder: Any = model.encoder
        blocks = blocks_of(encoder)
        self.layers = (Layer * len(blocks))(*map(self._layer, blocks))
        of_time, of_order = _phases(encoder)
        self.encoder = Encoder(
            _KINDS[type(encoder)], len(blocks), model.config["embed_dim"], model.config["num_heads"], model.num_marks,
            len(of_time), ctypes.addressof(self.layers), self._norm(encoder.norm),
            self._pointer(encoder.embedding.marks.weight), self._pointer(encoder.embedding.inter_time.weight.t()),
            self._pointer(of_time), self._pointer(of_order),
        )  # fmt: skip

    def _layer(self, block: Any) -> Layer:
        to_qkv, from_heads = (self._linear(linear, self._dtype) for linear in (block.to_qkv, block.from_heads))
        if isinstance(block, AttNHPLayer):
            return Layer(self._norm(block.norm), to_qkv, from_heads)
        layer = Layer(self._norm(block.attention_norm), to_qkv, from_heads, self._norm(block.feedforward_norm))
        expand, num_parts = (block.to_gate_and_value, 2) if isinstance(block, RotaryBlock) else (block.expand, 1)
        layer.expand = self._linear(expand, self._dtype, num_parts)
        layer.contract = self._linear(block.contract, self._dtype)
        return layer


def _phases(encoder: Any) -> tuple[Tensor, Tensor]:
    """Return angular frequencies of time and of the number of events, float64 (num_phases,) each.

    The phases of both are added.
    """
    if isinstance(encoder, RotaryEncoder):
        of_time, of_order = encoder.log_frequencies.detach().double().exp()
        nothing = torch.zeros_like(of_time)
        return torch.cat([of_time, nothing]), torch.cat([nothing, of_order])
    frequencies = encoder.phases.frequencies
    if isinstance(encoder, SAHPEncoder):
        return encoder.time_weights.detach().double(), frequencies
    return frequencies, torch.zeros_like(frequencies)


def _padded(values: Tensor, num_dims: int = 2) -> Tensor:
    """Return values with zeros behind, to multiples of 16 along the last or the last two dimensions."""
    missing = [(-size) % LANES for size in reversed(values.shape[-num_dims:])]
    return nn.functional.pad(values, [pad for size in missing for pad in (0, size)])
