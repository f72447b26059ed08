"""Models of known or of lively distributions, for tests of the samplers."""

from __future__ import annotations

import torch

from tppsd.certification.closed_form import ClosedFormMarks as StubMarks
from tppsd.certification.closed_form import ClosedFormTPP
from tppsd.certification.models import make_lively
from tppsd.models.transformer_tpp import TransformerTPP

__all__ = ["StubMarks", "StubTPP", "lively_transformer"]


class StubTPP(ClosedFormTPP):
    """A closed form; also one that forgets everything."""

    @classmethod
    def constant(cls, mean: float, std: float, mark_probs: list[float], slopes: list[float] | None = None) -> StubTPP:
        """Return a model of one log-normal and one mark distribution, whatever the history."""
        num_marks = len(mark_probs)
        one = torch.zeros(1, dtype=torch.float64)
        return cls(
            one,
            one + mean,
            (one + std).log(),
            torch.tensor(mark_probs, dtype=torch.float64).log(),
            torch.tensor(slopes or [0.0] * num_marks, dtype=torch.float64),
            torch.zeros(1 + num_marks, num_marks + 2, dtype=torch.float64),
        )


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
