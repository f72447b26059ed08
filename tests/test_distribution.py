"""The next-event distribution: densities, selection and broadcasting."""

from __future__ import annotations

import pytest
import torch
from small_models import assert_same_distribution, random_batch, small_model

from tppsd.models.distribution import NextEventDistribution, log_density_ratio

MARK_DECODERS = ("time_conditional", "independent")
LENGTHS = [4, 0, 2]


@pytest.fixture(params=MARK_DECODERS)
def distribution(request: pytest.FixtureRequest) -> NextEventDistribution:
    """Batch shape (3, 5), three marks."""
    return small_model(mark_decoder=request.param)(random_batch(LENGTHS))


def test_the_density_is_that_of_the_inter_time_times_that_of_the_mark(distribution: NextEventDistribution) -> None:
    inter_times, marks = torch.rand(3, 5, dtype=torch.float64), torch.randint(3, (3, 5))
    mark_log_probs = distribution.mark_log_probs(inter_times)
    assert mark_log_probs.shape == (3, 5, 3)
    expected = distribution.inter_time.log_prob(inter_times) + mark_log_probs.gather(-1, marks.unsqueeze(-1)).squeeze(
        -1
    )
    torch.testing.assert_close(distribution.log_prob(inter_times, marks), expected, rtol=0, atol=0)


def test_mark_probabilities_sum_to_one_at_any_inter_time(distribution: NextEventDistribution) -> None:
    for tau in (0.0, 1e-9, 1.0, 1e9):
        total = distribution.mark_log_probs(torch.full((3, 5), tau, dtype=torch.float64)).exp().sum(-1)
        torch.testing.assert_close(total, torch.ones_like(total))


def test_density_summed_over_marks_and_integrated_until_t_completes_the_survival_of_t(
    distribution: NextEventDistribution,
) -> None:
    """sum_k int_0^t g(tau) f(k | tau) dtau + S(t) = 1, after every context; quadrature over x = log tau."""
    x = torch.linspace(-25, 1.5, 20_001, dtype=torch.float64)
    tau = x.exp().view(-1, 1, 1)
    density = torch.stack([distribution.log_prob(tau, torch.full((1, 1), k)).exp() for k in range(3)]).sum(0) * tau
    mass = torch.trapezoid(density, x, dim=0)
    torch.testing.assert_close(
        mass + distribution.log_survival(tau[-1]).exp(), torch.ones(3, 5, dtype=torch.float64), rtol=0, atol=1e-7
    )
    assert (mass < 0.999).all(), "both terms must count"


def test_independent_marks_do_not_see_the_inter_time_and_time_conditional_marks_do() -> None:
    early, late = torch.full((3, 5), 0.1, dtype=torch.float64), torch.full((3, 5), 10.0, dtype=torch.float64)
    for name in MARK_DECODERS:
        distribution = small_model(mark_decoder=name)(random_batch(LENGTHS))
        assert torch.equal(distribution.mark_log_probs(early), distribution.mark_log_probs(late)) == (
            name == "independent"
        )


def test_indexing_selects_along_the_batch_dimensions(distribution: NextEventDistribution) -> None:
    inter_times, marks = torch.rand(3, 5, dtype=torch.float64), torch.randint(3, (3, 5))
    whole = distribution.log_prob(inter_times, marks)
    mask = torch.tensor([[True, False, True, False, True]] * 3)
    pairs = torch.tensor([2, 0, 1]), torch.tensor([[4], [1]])
    slices = [(..., slice(None, -1)), (slice(None), 2), (slice(1, None), slice(2, 4))]
    for index in [0, (1, 2), (..., 0), *slices, mask, pairs]:
        part = distribution[index]
        assert part.batch_shape == whole[index].shape
        torch.testing.assert_close(part.log_prob(inter_times[index], marks[index]), whole[index], rtol=0, atol=1e-12)


def test_at_gives_each_row_the_distribution_of_its_own_position(distribution: NextEventDistribution) -> None:
    one = torch.tensor([4, 0, 2])
    for row, position in enumerate(one.tolist()):
        assert_same_distribution(distribution.at(one)[row], distribution[row, position])
    several = torch.tensor([[0, 4], [1, 1], [3, 2]])
    for row in range(3):
        for column in range(2):
            assert_same_distribution(
                distribution.at(several)[row, column], distribution[row, int(several[row, column])]
            )


def test_leading_sample_dimensions_broadcast(distribution: NextEventDistribution) -> None:
    inter_times, marks = torch.rand(7, 3, 5, dtype=torch.float64), torch.randint(3, (7, 3, 5))
    together = distribution.log_prob(inter_times, marks)
    assert distribution.mark_log_probs(inter_times).shape == (7, 3, 5, 3)
    assert distribution.log_survival(inter_times).shape == (7, 3, 5)
    for i in range(7):
        torch.testing.assert_close(together[i], distribution.log_prob(inter_times[i], marks[i]), rtol=0, atol=1e-12)


def test_unsqueeze_and_expand_repeat_distributions_for_several_draws(distribution: NextEventDistribution) -> None:
    repeated = distribution.unsqueeze(1).expand((3, 4, 5))
    for i in range(4):
        assert_same_distribution(repeated[:, i], distribution)


@pytest.mark.parametrize("dim", [0, 1])
def test_cat_joins_whole_and_truncated_distributions(distribution: NextEventDistribution, dim: int) -> None:
    elapsed = torch.full((3, 5), 0.7, dtype=torch.float64)
    joined = NextEventDistribution.cat([distribution, distribution.truncated(elapsed)], dim)
    inter_times, marks = 0.7 + torch.rand(3, 5, dtype=torch.float64), torch.randint(3, (3, 5))
    expected = torch.cat(
        [distribution.log_prob(inter_times, marks), distribution.truncated(elapsed).log_prob(inter_times, marks)], dim
    )
    got = joined.log_prob(torch.cat(2 * [inter_times], dim), torch.cat(2 * [marks], dim))
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-12)


def test_distributions_of_one_model_are_compared_as_one_by_one(distribution: NextEventDistribution) -> None:
    """Also where one of them is truncated, and for many draws from each; distributions of two models are not mixed
    up."""
    truncated = distribution[:, :1].truncated(torch.full((3, 1), 0.7, dtype=torch.float64))
    inter_times, marks = 0.5 + torch.rand(3, 20, dtype=torch.float64), torch.randint(3, (3, 20))
    for other in (distribution[:, 1:2], truncated, small_model("attnhp")(random_batch(LENGTHS))[:, :1]):
        expected = distribution[:, :1].log_prob(inter_times, marks) - other.log_prob(inter_times, marks)
        ratio = log_density_ratio(distribution[:, :1], other, inter_times, marks)
        torch.testing.assert_close(ratio, expected, rtol=0, atol=1e-12)


def test_truncation_leaves_the_marks_alone(distribution: NextEventDistribution) -> None:
    """Silence tells about the inter-time; given the inter-time it tells nothing about the mark."""
    truncated = distribution.truncated(torch.ones(3, 5, dtype=torch.float64))
    tau = torch.full((3, 5), 2.0, dtype=torch.float64)
    assert torch.equal(truncated.mark_log_probs(tau), distribution.mark_log_probs(tau))


@pytest.mark.parametrize("encoder", ["thp", "attnhp"])
def test_an_unmarked_model_has_no_mark_head_and_no_mark_term(encoder: str) -> None:
    model = small_model(encoder, num_marks=1)
    distribution = model(random_batch(LENGTHS, num_marks=1))
    assert model.decoder.marks is None and distribution.mark_features is None
    assert not any("marks" in name for name, _ in model.decoder.named_parameters())
    inter_times = torch.rand(2, 3, 5, dtype=torch.float64)
    assert torch.equal(distribution.mark_log_probs(inter_times), torch.zeros(2, 3, 5, 1, dtype=torch.float64))
    assert torch.equal(
        distribution.log_prob(inter_times, torch.zeros(2, 3, 5, dtype=torch.int64)),
        distribution.inter_time.log_prob(inter_times),
    )
    _, marks = distribution.sample(torch.rand(2, 3, 5, 3, dtype=torch.float64))
    assert (marks == 0).all()


def test_an_unknown_mark_decoder_is_named() -> None:
    with pytest.raises(
        ValueError, match=r"mark_decoder = 'joint' is unknown; choose one of \['independent', 'time_conditional'\]"
    ):
        small_model(mark_decoder="joint")
