"""The shortcuts of the hot loop change no result and leave the model as it was."""

from __future__ import annotations

import copy
import gc
import weakref
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from small_models import ENCODERS, random_batch, small_model
from torch import nn
from torch.utils._pytree import tree_map

from tppsd.models.decoder import TimeConditionalMarks
from tppsd.models.fast import Kept, by_columns, held, kept, layer_norm, linear, plain_attributes


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
    torch.testing.assert_close(inside, expected, rtol=0, atol=1e-6)  # products of the same numbers in another order
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


def test_a_matrix_by_columns_is_the_same_matrix() -> None:
    matrix = torch.randn(3, 5)
    assert torch.equal(by_columns(matrix), matrix) and by_columns(matrix).stride() == (1, 3)


@pytest.mark.parametrize("encoder", ENCODERS)
def test_weights_exchanged_behind_the_version_counter_are_seen(encoder: str) -> None:
    """Averages of weights are put into place by `parameter.data.copy_`, which no version counter notices."""
    model, other = (small_model(encoder, dtype=torch.float32) for _ in range(2))
    batch, ones = random_batch([4, 2]), torch.ones(2, 5, dtype=torch.float64)
    for _ in range(2):
        with torch.inference_mode(), plain_attributes(model):
            model(batch).double().mark_log_probs(ones)
        model(batch).double().mark_log_probs(ones)
        for mine, theirs in zip(model.parameters(), other.parameters(), strict=True):
            mine.data.copy_(theirs.data)
    expected = other(batch).double().mark_log_probs(ones)
    assert torch.equal(model(batch).double().mark_log_probs(ones), expected)
    with torch.inference_mode(), plain_attributes(model):
        torch.testing.assert_close(model(batch).double().mark_log_probs(ones), expected, rtol=0, atol=1e-6)


def change_weights(model: nn.Module) -> None:
    model.decoder.to_mixture.weight.data.copy_(torch.randn(model.decoder.to_mixture.weight.shape))


def exchange_a_part(model: nn.Module) -> None:
    model.decoder.to_mixture = copy.deepcopy(model.decoder.to_mixture)


def exchange_a_parameter(model: nn.Module) -> None:
    model.decoder.to_mixture.weight = nn.Parameter(model.decoder.to_mixture.weight.detach().clone())


@pytest.mark.parametrize("change", [change_weights, exchange_a_part, exchange_a_parameter, nn.Module.double])
def test_what_is_kept_of_a_model_is_of_its_present_parts_and_numbers(change: Callable[[nn.Module], Any]) -> None:
    model = small_model(dtype=torch.float32)
    first, same = kept(model), kept(model)
    assert same is first
    change(model)
    assert kept(model) is not first
    plain = dict(zip(model.modules(), kept(model).plain, strict=True))[model.decoder.to_mixture]
    assert (
        torch.equal(plain["weight"], model.decoder.to_mixture.weight) and plain["bias"] is model.decoder.to_mixture.bias
    )


class Nowhere(torch.Tensor):
    """Numbers that are not in memory as they are."""

    @staticmethod
    def __new__(cls, numbers: torch.Tensor) -> Nowhere:
        own: Any = torch.Tensor._make_wrapper_subclass(cls, numbers.shape, dtype=numbers.dtype)  # type: ignore[attr-defined]
        own.numbers = numbers
        return own

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = tree_map(lambda x: x.numbers if isinstance(x, Nowhere) else x, (args, kwargs or {}))
        result = func(*given[0], **given[1])
        return Nowhere(result) if isinstance(result, torch.Tensor) else result


def test_weights_of_other_kinds_of_tensors_are_compared_by_operators() -> None:
    layer = torch.nn.Linear(2, 2)
    layer.weight = torch.nn.Parameter(Nowhere(torch.ones(2, 2)), requires_grad=False)
    own: Any = layer.weight
    assert (before := kept(layer)).fits(layer)
    own.numbers[0] = 2.0
    assert not before.fits(layer)


def test_a_model_that_is_held_is_compared_once(monkeypatch: pytest.MonkeyPatch) -> None:
    model = small_model(dtype=torch.float32)
    with held(model), held(model):
        own = kept(model)
        monkeypatch.setattr(Kept, "fits", None)
        assert kept(model) is own
    monkeypatch.undo()
    change_weights(model)
    assert kept(model) is not own


def test_a_hash_is_of_the_present_weights_and_statistics() -> None:
    model = small_model(dtype=torch.float32)
    hashes = [model.content_hash(), model.content_hash()]
    change_weights(model)
    hashes.append(model.content_hash())
    model.set_statistics(replace(model.statistics, log_mean=model.statistics.log_mean + 1))
    hashes.append(model.content_hash())
    assert hashes[0] == hashes[1] and len(set(hashes)) == 3
    assert copy.deepcopy(model).content_hash() == hashes[-1]


def test_weights_that_are_not_finite_are_named_every_time() -> None:
    model = small_model(dtype=torch.float32)
    assert kept(model).not_finite is None
    model.decoder.to_mixture.bias.data[3] = torch.nan
    assert [kept(model).not_finite for _ in range(2)] == ["decoder.to_mixture.bias"] * 2


def test_what_is_kept_keeps_no_model_alive() -> None:
    model = small_model(dtype=torch.float32)
    with plain_attributes(model):
        model.content_hash()
    gone = weakref.ref(model)
    del model
    gc.collect()
    assert gone() is None


def test_a_float64_copy_of_a_model_that_is_being_read_is_one() -> None:
    """As another thread finds it, between the attributes that this one has put before the parameters."""
    marks = small_model("thp", dtype=torch.float32).decoder.marks
    assert isinstance(marks, TimeConditionalMarks)
    arguments = torch.ones(2, 16, dtype=torch.float64), torch.ones(2, 1, dtype=torch.float64)
    expected = marks._double_copy().log_probs(*arguments)
    with plain_attributes(marks):
        found = marks._double_copy()
    assert torch.equal(found.log_probs(*arguments), expected)
