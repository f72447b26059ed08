"""The structures of native/*.h, by the same names and field by field."""

from __future__ import annotations

import ctypes
from typing import Any

Pointer, Int, Double = ctypes.c_void_p, ctypes.c_int64, ctypes.c_double


def _fields(kind: Any, names: str) -> list[tuple[str, Any]]:
    return [(name, kind) for name in names.split()]


class Linear(ctypes.Structure):
    """Describes a linear layer: its packed matrix and bias."""

    _fields_ = [*_fields(Pointer, "weight bias"), *_fields(Int, "in_ out is_bf16")]


class Norm(ctypes.Structure):
    """Describes a layer norm or an RMS norm, whose bias is null."""

    _fields_ = [*_fields(Pointer, "weight bias"), ("eps", Double)]


class Layer(ctypes.Structure):
    """Describes a layer of an encoder."""

    _fields_ = [
        ("attention_norm", Norm), *_fields(Linear, "to_qkv from_heads"),
        ("feedforward_norm", Norm), *_fields(Linear, "expand contract"),
    ]  # fmt: skip


class Encoder(ctypes.Structure):
    """Describes an encoder and the units of its inputs."""

    _fields_ = [
        *_fields(Int, "kind num_layers dim num_heads num_marks num_phases"), ("layers", Pointer), ("norm", Norm),
        *_fields(Pointer, "marks inter_time of_time of_order"),
        *_fields(Double, "time_scale log_mean log_std min_inter_time"),
    ]  # fmt: skip


class Pass(ctypes.Structure):
    """Describes a pass over new tokens of every row and the cache that they join."""

    _fields_ = [
        *_fields(Pointer, "contexts ids times inter_times lengths num_before depth seen"),
        *_fields(Int, "rows num_new num_nodes max_context"), ("cache", Pointer),
        *_fields(Int, "capacity cache_rows is_bf16 num_threads"),
        *_fields(Pointer, "shared shared_slots shared_lengths"),
        *_fields(Int, "shared_capacity shared_rows"),
    ]  # fmt: skip


class Decoder(ctypes.Structure):
    """Describes a decoder and the units of its inter-times."""

    _fields_ = [
        *_fields(Int, "marks num_components num_features num_marks"),
        *_fields(Linear, "to_mixture from_context to_logits"),
        *_fields(Double, "least_log_std largest_log_std log_mean log_std"),
        *_fields(Pointer, "from_time from_time_bias mix_time logits logits_bias"),
    ]  # fmt: skip


class Chain(ctypes.Structure):
    """Describes events that are drawn one after another, and what they are written to."""

    _fields_ = [
        *_fields(Pointer, "inter_times times distributions marks num_drawn uniforms keys cursors"),
        *_fields(Pointer, "last_times elapsed ends limits stops"),
        *_fields(Int, "num num_uniforms keeps_distributions"),
    ]


class Newest(ctypes.Structure):
    """Describes the newest tokens of the rows, which a model's own pass reads."""

    _fields_ = _fields(Pointer, "ids times inter_times")


class Model(ctypes.Structure):
    """Describes a model of rounds by its encoder, its decoder and a pass."""

    _fields_ = _fields(Pointer, "encoder decoder pass_")


class Rounds(ctypes.Structure):
    """Describes speculative rounds: what they begin with, and what they are written to."""

    _fields_ = [
        *_fields(Pointer, "inter_times times marks num_drafted num_accepted num_events num_rounds num_backlog"),
        *_fields(Pointer, "ids token_times token_inter_times keys cursors elapsed ends limits stops"),
        *_fields(Int, "room width draft_length most_rounds in_step"),
    ]


class HeadPasses(ctypes.Structure):
    """Describes the passes of a target with an encoder that native code does not know."""

    _fields_ = [*_fields(Pointer, "decoder ids times inter_times num_new num_kept"), ("most", Int)]


class Views(ctypes.Structure):
    """Describes tensors of one shape by their strides."""

    _fields_ = [("num_dims", Int), *_fields(Pointer, "sizes of_distributions of_first of_second of_third")]
