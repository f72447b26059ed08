"""Models of known or of lively distributions, for tests of the samplers."""

from __future__ import annotations

import torch

from tppsd.certification.closed_form import ClosedFormMarks as StubMarks
from tppsd.certification.closed_form import ClosedFormTPP as StubTPP
from tppsd.certification.models import make_lively
from tppsd.models.transformer_tpp import TransformerTPP

__all__ = ["StubMarks", "StubTPP", "lively_transformer"]


def lively_transformer(
    num_marks: int,
    encoder: str,
    seed: int,
    num_layers: int = 2,
    num_components: int = 3,
    max_context: int | None = None,
) -> TransformerTPP:
    """A small untrained float64 TransformerTPP whose distributions differ much from history to history, and from seed
    to seed."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = TransformerTPP(num_marks, encoder, 16, 2, num_layers, num_components, max_context=max_context).double()
    return make_lively(model).eval()
