"""`distribution.double()`: float64 arithmetic on float32 parameters, so that a density does not depend on the shape of
its batch."""

from __future__ import annotations

import copy
import pickle

import torch
from small_models import random_batch, small_model, tokens_of

from tppsd.models.attention import CausalPass

ONES = torch.ones(2, 5, dtype=torch.float64)


def test_densities_do_not_depend_on_the_shape_they_are_computed_in() -> None:
    """The same contexts, one by one and all at once: equal to float64 rounding, a thousand times finer than in
    float32."""
    distribution = small_model(num_marks=50, dtype=torch.float32, embed_dim=64)(
        random_batch([40, 17, 29], num_marks=50)
    ).double()
    inter_times, marks = torch.rand(3, 41, dtype=torch.float64), torch.randint(50, (3, 41))
    together = distribution.log_prob(inter_times, marks)
    assert together.dtype == torch.float64
    for row, position in [(0, 0), (0, 40), (1, 16), (2, 5)]:
        alone = distribution[row, position]
        torch.testing.assert_close(
            alone.log_prob(inter_times[row, position], marks[row, position]),
            together[row, position],
            rtol=0,
            atol=1e-12,
        )
        log_survival = alone.log_survival(inter_times[row, position])
        torch.testing.assert_close(
            log_survival, distribution.log_survival(inter_times)[row, position], rtol=0, atol=1e-13
        )


def test_it_is_the_same_distribution() -> None:
    distribution = small_model(dtype=torch.float32)(random_batch([4, 2]))
    torch.testing.assert_close(
        distribution.double().mark_log_probs(ONES).float(), distribution.mark_log_probs(ONES), rtol=0, atol=1e-5
    )
    torch.testing.assert_close(
        distribution.double().log_survival(ONES).float(), distribution.log_survival(ONES), rtol=0, atol=1e-5
    )
    already = small_model()(random_batch([4, 2]))
    assert torch.equal(already.double().mark_log_probs(ONES), already.mark_log_probs(ONES))


def test_the_samplers_distribution_is_the_scored_distribution_in_float64() -> None:
    """`model.distribution` takes the heads' float32 outputs and does the arithmetic in float64 from there."""
    model, batch = small_model(dtype=torch.float32), random_batch([4, 2])
    distribution, scored = model.distribution(model.encode(tokens_of(batch), CausalPass())), model(batch)
    for ours, theirs in [
        (distribution.log_survival(ONES), scored.log_survival(ONES)),
        (distribution.inter_time.log_prob(ONES), scored.inter_time.log_prob(ONES)),
        (distribution.mark_log_probs(ONES), scored.mark_log_probs(ONES)),
    ]:
        assert ours.dtype == torch.float64 and theirs.dtype == torch.float32
        torch.testing.assert_close(ours.float(), theirs, rtol=0, atol=1e-5)
    total = distribution.inter_time.log_weights.exp().sum(-1)
    torch.testing.assert_close(total, torch.ones_like(total), rtol=0, atol=1e-14)


def test_it_follows_the_weights_through_training_and_loading() -> None:
    model, batch = small_model(dtype=torch.float32), random_batch([4, 2])
    before = model(batch).double().mark_log_probs(ONES).detach()
    loss = model.log_likelihood(batch).sum()
    loss.backward()
    torch.optim.Adam(model.parameters(), lr=0.1).step()
    stepped = model(batch)
    assert (stepped.double().mark_log_probs(ONES) - before).abs().max() > 1e-2
    torch.testing.assert_close(
        stepped.double().mark_log_probs(ONES).float(), stepped.mark_log_probs(ONES), rtol=0, atol=1e-5
    )
    model.load_state_dict(small_model(dtype=torch.float32).state_dict())
    loaded = model(batch)
    torch.testing.assert_close(
        loaded.double().mark_log_probs(ONES).float(), loaded.mark_log_probs(ONES), rtol=0, atol=1e-5
    )


def test_sampling_in_inference_mode_does_not_spoil_a_later_backward() -> None:
    model, batch = small_model(dtype=torch.float32), random_batch([4, 2])
    with torch.inference_mode():
        model(batch).double().mark_log_probs(ONES)
    model(batch).double().mark_log_probs(ONES).sum().backward()
    assert model.encoder.embedding.marks.weight.grad is not None


def test_a_model_made_in_inference_mode_can_be_sampled() -> None:
    with torch.inference_mode():
        distribution = small_model(dtype=torch.float32)(random_batch([4, 2])).double()
        _, marks = distribution.sample(torch.rand(2, 5, 3, dtype=torch.float64))
    assert marks.shape == (2, 5)


def test_the_float64_copy_is_no_part_of_the_model() -> None:
    model, batch = small_model(dtype=torch.float32), random_batch([4, 2])
    names = set(model.state_dict())
    expected = model(batch).double().mark_log_probs(ONES)
    assert set(model.state_dict()) == names
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert torch.equal(twin(batch).double().mark_log_probs(ONES), expected)
