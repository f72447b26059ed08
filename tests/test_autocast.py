"""Under bf16 autocast the heads and all density arithmetic stay in float32."""

from __future__ import annotations

import pytest
import torch
from small_models import ENCODERS, assert_same_distribution, cut, random_batch, small_model, tokens_of

from tppsd.models.attention import CausalPass
from tppsd.models.distribution import NextEventDistribution
from tppsd.models.transformer_tpp import TransformerTPP

LENGTHS = [6, 3]
INTER_TIMES = torch.logspace(-2, 2, 14, dtype=torch.float64).view(2, 7)
MARKS = torch.arange(14).remainder(3).view(2, 7)


def evaluate(distribution: NextEventDistribution) -> list[torch.Tensor]:
    """Everything that scoring and sampling ask of a distribution."""
    inter_times, marks = distribution.sample(torch.linspace(0.01, 0.99, 42, dtype=torch.float64).view(2, 7, 3))
    mixture = distribution.inter_time
    return [
        distribution.log_prob(INTER_TIMES, MARKS),
        distribution.log_survival(INTER_TIMES),
        distribution.mark_log_probs(INTER_TIMES),
        distribution.double().log_prob(INTER_TIMES, MARKS),
        mixture.cdf(INTER_TIMES),
        mixture.mean,
        mixture.median,
        inter_times,
        marks,
    ]


def scoring_distribution(model: TransformerTPP, context: torch.Tensor) -> NextEventDistribution:
    """The distribution of `forward`, in float32 arithmetic; `model.distribution` is the samplers', in float64."""
    return model.decoder(context, model.statistics.log_mean, model.statistics.log_std)


def autocast() -> torch.autocast:
    return torch.autocast("cpu", dtype=torch.bfloat16)


@pytest.mark.parametrize("mark_decoder", ["time_conditional", "independent"])
@pytest.mark.parametrize("encoder", ENCODERS)
def test_densities_are_those_of_float32_heads_on_the_same_context(encoder: str, mark_decoder: str) -> None:
    model = small_model(encoder, dtype=torch.float32, mark_decoder=mark_decoder)
    tokens = tokens_of(random_batch(LENGTHS))
    with torch.no_grad(), autocast():
        context = model.encode(tokens, CausalPass())
        under_autocast = evaluate(scoring_distribution(model, context)) + evaluate(model.distribution(context))
    assert (context - model.encode(tokens, CausalPass())).abs().max() > 1e-4, "the encoder did not run in bf16"
    with torch.no_grad():
        plain = evaluate(scoring_distribution(model, context.float())) + evaluate(model.distribution(context.float()))
    for ours, expected in zip(under_autocast, plain, strict=True):
        assert ours.dtype == expected.dtype != torch.bfloat16
        assert torch.equal(ours, expected)


def test_a_distribution_made_outside_is_the_same_inside() -> None:
    with torch.no_grad():
        distribution = small_model(dtype=torch.float32)(random_batch(LENGTHS))
        outside = evaluate(distribution)
        with autocast():
            inside = evaluate(distribution)
    assert all(torch.equal(a, b) for a, b in zip(inside, outside, strict=True))


@pytest.mark.parametrize("encoder", ENCODERS)
def test_training_under_autocast_scores_in_float32_and_gives_every_weight_a_gradient(encoder: str) -> None:
    model = small_model(encoder, dtype=torch.float32).train()
    with autocast():
        log_likelihood = model.log_likelihood(random_batch(LENGTHS))
    assert log_likelihood.dtype == torch.float32
    (-log_likelihood.sum()).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and torch.isfinite(parameter.grad).all(), name


@pytest.mark.parametrize("encoder", ENCODERS)
def test_the_cached_pass_runs_under_autocast_with_ragged_rows(encoder: str) -> None:
    """Equal to the full pass up to bf16, whose rounding depends on the shape of the pass."""
    model, tokens = small_model(encoder, dtype=torch.float32), tokens_of(random_batch([6, 6]))
    with torch.no_grad(), autocast():
        full = model.encode(tokens, CausalPass())
        cache = model.new_cache(2, 7)
        model.extend(cut(tokens, 0, 4), cache)
        cache.lengths = torch.tensor([4, 3])
        ragged = type(tokens)(*(torch.stack([f[0, 4:6], f[1, 3:5]]) for f in tokens))
        contexts = model.extend(ragged, cache)
    torch.testing.assert_close(contexts, torch.stack([full[0, 4:6], full[1, 3:5]]), rtol=0, atol=0.1)


def test_float64_models_ignore_autocast() -> None:
    model, batch = small_model(), random_batch(LENGTHS)
    with torch.no_grad():
        expected = model(batch)
        with autocast():
            assert_same_distribution(model.distribution(model.encode(tokens_of(batch), CausalPass())), expected, 1e-12)
