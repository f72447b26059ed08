"""The shortcuts of the hot loop change no result and leave the model as it was."""

from __future__ import annotations

import pytest
import torch
from small_models import ENCODERS, random_batch, small_model
from torch import nn

from tppsd.models.fast import layer_norm, linear, plain_attributes


def test_layers_called_directly_compute_what_their_modules_compute() -> None:
    x = torch.randn(3, 8)
    for bias in (True, False):
        layer = nn.Linear(8, 5, bias=bias)
        assert torch.equal(linear(layer, x), layer(x))
    norm = nn.LayerNorm(8)
    nn.init.normal_(norm.weight)
    assert torch.equal(layer_norm(norm, x), norm(x))


@pytest.mark.parametrize("encoder", ENCODERS)
def test_plain_attributes_leave_laws_and_model_alone(encoder: str) -> None:
    model, batch = small_model(encoder, dtype=torch.float32), random_batch([4, 2])
    ones, attributes = torch.ones(2, 5, dtype=torch.float64), [set(vars(module)) for module in model.modules()]
    with torch.inference_mode():
        expected = model(batch).mark_log_probs(ones)
        with plain_attributes(model):
            inside, in_double = model(batch).mark_log_probs(ones), model(batch).double().mark_log_probs(ones)
    assert torch.equal(inside, expected)
    assert in_double.dtype == torch.float64
    torch.testing.assert_close(in_double.float(), expected, rtol=0, atol=1e-5)
    assert [set(vars(module)) for module in model.modules()] == attributes
    model.float().double()  # parameters are replaced again, not hidden
    assert model(batch).inter_time.means.dtype == torch.float64


def test_attributes_are_restored_after_an_error() -> None:
    model = small_model()
    with pytest.raises(KeyError), plain_attributes(model):
        raise KeyError
    assert "weight" not in vars(model.decoder.to_mixture)
