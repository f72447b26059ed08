"""Ground-truth processes behind the samplers' protocol: distributions, caches, rollback."""

from __future__ import annotations

import pytest
import torch
from scipy.integrate import quad

from tppsd.data.batch import EventBatch
from tppsd.data.sequences import EventSequence
from tppsd.models.protocol import EventModel, EventTokens
from tppsd.processes import PRESETS, Hawkes, InhomogeneousPoisson, ProcessModel
from tppsd.processes.base import invert_increasing
from tppsd.sampling.sample import sample

ASYMMETRIC = Hawkes(mu=(0.3, 0.2), alpha=((0.5, 0.9), (0.1, 0.3)), beta=((2.0, 3.0), (1.5, 0.8)))
TWO_DECAYS = Hawkes(mu=(0.4, 0.2), alpha=(((0.5, 0.9), (0.1, 0.3)), ((0.2, 0.0), (0.1, 0.05))), beta=(3.0, 0.5))
PROCESSES = {name: preset.process for name, preset in PRESETS.items()} | {
    "asymmetric_hawkes": ASYMMETRIC,
    "two_decays": TWO_DECAYS,
}
every_process = pytest.mark.parametrize("process", PROCESSES.values(), ids=PROCESSES.keys())


def exact(actual, expected, **tolerance):
    torch.testing.assert_close(actual, expected, **({"rtol": 1e-11, "atol": 1e-11} | tolerance))


def encode(process, sequences, t_start=0.0):
    """Contexts (batch, length + 1, state_size), the model and its cache."""
    model = ProcessModel(process, t_start)
    batch = EventBatch.from_sequences(sequences)
    cache = model.new_cache(len(sequences), 4)
    return model.extend(EventTokens.from_batch(batch, process.num_marks), cache), model, cache, batch


def uniforms(*shape, seed=0):
    return torch.rand(*shape, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


@every_process
@pytest.mark.parametrize("given", [False, True], ids=["t_start", "given first event"])
def test_distributions_add_up_to_the_log_likelihood(process, given):
    t_start = 3.0
    simulated = process.simulate(4, t_start=t_start, t_end=12.0, seed=1)
    sequences = [EventSequence.of(s.event_times, s.marks, None if given else t_start, 12.0) for s in simulated]
    for sequence in sequences:
        context, model, _, batch = encode(process, [sequence], sequence.window_start)
        distribution = model.distribution(context)[0]
        total = distribution[:-1].log_prob(batch.inter_times[0], batch.marks[0]).sum()
        total = total + distribution[-1].log_survival(batch.t_end[0] - batch.last_times[0])
        assert float(total) == pytest.approx(process.log_likelihood(sequence), rel=1e-11)
        exact(-distribution[:-1].log_survival(batch.inter_times[0]), process.residuals(sequence)[0])


@every_process
@pytest.mark.parametrize("elapsed", [0.0, 0.37])
def test_density_integrates_to_one_with_survival(process, elapsed):
    context, model, _, _ = encode(process, process.simulate(1, t_end=3.0, seed=2))
    distribution = model.distribution(context)[0, -1].truncated(torch.tensor(elapsed, dtype=torch.float64))

    def density(tau):
        tau = torch.tensor(tau, dtype=torch.float64)
        return float(sum(distribution.log_prob(tau, torch.tensor(k)).exp() for k in range(process.num_marks)))

    for end in (0.4, 0.8, 2.0):
        mass = quad(density, elapsed, end, epsabs=1e-11, limit=200)[0]
        assert mass + float(distribution.log_survival(torch.tensor(end, dtype=torch.float64)).exp()) == pytest.approx(
            1.0, abs=1e-9
        )


@every_process
def test_mark_probabilities_are_shares_of_the_intensity(process):
    sequence = process.simulate(1, t_end=6.0, seed=3)[0]
    context, model, _, batch = encode(process, [sequence])
    distribution, inter_times = model.distribution(context)[:, :-1], batch.inter_times
    intensity = process.intensity(sequence, sequence.event_times)
    exact(distribution.mark_log_probs(inter_times)[0].exp(), intensity / intensity.sum(-1, keepdim=True))
    joint = distribution.inter_time.log_prob(inter_times).unsqueeze(-1) + distribution.mark_log_probs(inter_times)
    exact(distribution.log_prob(inter_times, batch.marks), joint.gather(-1, batch.marks.unsqueeze(-1)).squeeze(-1))


@every_process
def test_tokens_one_by_one_in_chunks_or_all_at_once_give_the_same_contexts(process):
    context, model, _, batch = encode(process, process.simulate(3, t_end=5.0, seed=4))
    tokens = EventTokens.from_batch(batch, process.num_marks)
    for chunk in (1, 3):
        cache = model.new_cache(3, 1)
        pieces = [
            EventTokens(*(field[:, i : i + chunk] for field in tokens)) for i in range(0, tokens.ids.shape[1], chunk)
        ]
        exact(torch.cat([model.extend(piece, cache) for piece in pieces], 1), context)
        assert cache.lengths.tolist() == [tokens.ids.shape[1]] * 3


@every_process
def test_rollback_forgets_rejected_events_row_by_row(process):
    context, model, cache, batch = encode(process, process.simulate(3, t_end=5.0, seed=5))
    tokens = EventTokens.from_batch(batch, process.num_marks)
    keep = torch.tensor([1, 4, 0])  # of each row's tokens
    cache.lengths = keep
    columns = keep.unsqueeze(1) + torch.arange(3)
    again = model.extend(EventTokens(*(field.gather(1, columns) for field in tokens)), cache)
    exact(again, context[torch.arange(3).unsqueeze(1), columns])
    assert cache.lengths.tolist() == [4, 7, 3]


@every_process
def test_sample_inverts_the_survival_function(process):
    context, model, _, _ = encode(process, process.simulate(4, t_end=6.0, seed=6))
    distribution = model.distribution(context)
    extreme = torch.tensor([2.0**-53, 1e-9, 0.5, 1 - 1e-9, 1 - 2.0**-53], dtype=torch.float64)
    noise = torch.cat(
        [uniforms(20, *distribution.batch_shape), extreme.view(-1, 1, 1, 1).expand(-1, *distribution.batch_shape, 3)]
    )
    inter_times, marks = distribution.sample(noise)
    assert inter_times.shape == marks.shape == (25, *distribution.batch_shape)  # leading sample dimensions
    assert inter_times.dtype == torch.float64 and marks.dtype == torch.int64 and (inter_times > 0).all()
    # a step of one float64 in tau moves the compensator by (its rate) x tau x eps
    slack = (distribution.log_intensity(inter_times).logsumexp(-1).exp() * inter_times).clamp_min(1.0) * 1e-13
    assert (
        (-distribution.log_survival(inter_times) + noise[..., 0].log()).abs() <= slack * (1 - noise[..., 0].log())
    ).all()
    exact(distribution.inter_time.sample(noise[..., :2]), inter_times, rtol=0, atol=0)
    cumulated = distribution.mark_log_probs(inter_times).exp().cumsum(-1)
    picked = cumulated.gather(-1, marks.unsqueeze(-1)).squeeze(-1)
    assert (picked >= noise[..., 2] * cumulated[..., -1]).all()
    one_row = model.distribution(context[2:3, 5:6]).sample(noise[:, 2:3, 5:6])
    assert torch.equal(one_row[0][:, 0, 0], inter_times[:, 2, 5]) and torch.equal(one_row[1][:, 0, 0], marks[:, 2, 5])


@every_process
def test_sampling_with_a_cache_reproduces_the_noise_as_residuals(process):
    model, num_events = ProcessModel(process, t_start=0.0), 60
    cache, noise, start = model.new_cache(2, 8), uniforms(num_events, 2, seed=7), torch.zeros(2, 1, dtype=torch.float64)
    context = model.extend(EventTokens(torch.zeros(2, 1, dtype=torch.int64), start, start), cache)
    events = []
    for draws in noise:
        inter_times, marks = (x.unsqueeze(1) for x in model.distribution(context[:, -1]).sample(draws))
        start = start + inter_times
        events.append((start, marks))
        context = model.extend(EventTokens(marks + 1, start, inter_times), cache)
    times, marks = (torch.cat(x, 1) for x in zip(*events, strict=True))
    for row in range(2):
        gaps, _ = process.residuals(EventSequence.of(times[row], marks[row], 0.0))
        exact(gaps, -noise[:, row, 0].log(), rtol=1e-8, atol=1e-9)


@every_process
def test_truncation_conditions_on_no_event_so_far(process):
    context, model, _, _ = encode(process, process.simulate(2, t_end=4.0, seed=8))
    distribution = model.distribution(context[:, -1])
    elapsed = torch.tensor([0.0, 0.6], dtype=torch.float64)
    truncated = distribution.truncated(elapsed)
    inter_times, marks = truncated.sample(uniforms(50, 2, seed=9))
    assert (inter_times > elapsed).all()
    exact(
        truncated.log_prob(inter_times, marks),
        distribution.log_prob(inter_times, marks) - distribution.log_survival(elapsed),
        atol=1e-10,
    )
    exact(
        truncated.log_survival(inter_times),
        distribution.log_survival(inter_times) - distribution.log_survival(elapsed),
        atol=1e-10,
    )
    exact(truncated.mark_log_probs(inter_times), distribution.mark_log_probs(inter_times))
    first = inter_times[:, :1], marks[:, :1]
    assert torch.equal(
        truncated[:1].log_prob(*first), distribution[:1].log_prob(*first)
    )  # `elapsed` = 0 truncates nothing
    too_early = truncated.log_prob(elapsed - 0.1, marks[0])
    assert too_early[1] == -torch.inf and truncated.log_survival(elapsed - 0.1)[1] == 0.0
    later = truncated.truncated(torch.tensor([0.3, 0.2], dtype=torch.float64))  # what is known already stays known
    exact(later.inter_time.elapsed, torch.tensor([0.3, 0.6], dtype=torch.float64))


def test_distributions_are_selected_along_batch_dimensions():
    context, model, _, batch = encode(ASYMMETRIC, ASYMMETRIC.simulate(3, t_end=8.0, seed=10))
    distribution, tau = model.distribution(context), torch.tensor(0.4, dtype=torch.float64)
    full = distribution.log_survival(tau)
    assert distribution.batch_shape == full.shape == (3, batch.marks.shape[1] + 1)
    assert torch.equal(distribution[..., :-1].log_survival(tau), full[..., :-1])
    assert torch.equal(distribution[1].log_survival(tau), full[1])
    assert torch.equal(distribution[full < full.mean()].log_survival(tau), full[full < full.mean()])
    positions = torch.tensor([2, 0, 1])
    assert torch.equal(distribution.at(positions).log_survival(tau), full[torch.arange(3), positions])
    assert torch.equal(
        distribution.at(positions.unsqueeze(1).expand(3, 2)).log_survival(tau)[:, 1], full[torch.arange(3), positions]
    )
    assert distribution.unsqueeze(1).batch_shape == (3, 1, full.shape[1])
    silent = distribution[:, :1].truncated(torch.full((3, 1), 0.1, dtype=torch.float64))
    joined = type(distribution).cat([silent, distribution[:, 1:]], 1)
    assert torch.equal(joined.log_survival(tau), torch.cat([silent.log_survival(tau), full[:, 1:]], 1))
    assert distribution.double() is distribution and distribution.mark_log_probs(tau).shape == (*full.shape, 2)


def test_a_mark_of_zero_intensity_has_log_probability_minus_infinity():
    process = Hawkes(mu=(0.0, 1.0, 0.0), alpha=0.2, beta=2.0)
    context, model, _, _ = encode(process, [EventSequence.of([], None, 0.0, 1.0)])
    distribution, tau = model.distribution(context[:, 0]), torch.tensor([0.5], dtype=torch.float64)
    assert distribution.mark_log_probs(tau).tolist() == [[-torch.inf, 0.0, -torch.inf]]
    assert distribution.log_prob(tau, torch.tensor([0])).item() == -torch.inf
    assert distribution.log_prob(tau, torch.tensor([1])).item() == pytest.approx(-0.5)
    assert (distribution.sample(uniforms(500, 1))[1] == 1).all()
    zero_rate = InhomogeneousPoisson(5.0, 1.0, 2.0)  # 1 + sin(2 pi t) is 0 at t = 3 / 4
    at_zero = ProcessModel(zero_rate).distribution(torch.tensor([[0.5]], dtype=torch.float64))
    assert not at_zero.log_prob(torch.tensor([0.25], dtype=torch.float64), torch.tensor([0])).isnan().any()


def test_windows_of_another_start_are_refused_where_the_process_depends_on_it():
    process = InhomogeneousPoisson(5.0, 1.0, 0.1)
    for arguments in ({"t_start": 10.0}, {"history": EventSequence.of([10.5], t_start=10.0, t_end=13.0)}):
        for target, draft in ((ProcessModel(process), None), (ProcessModel(process, 10.0), ProcessModel(process))):
            with pytest.raises(
                ValueError, match=r"a window starts at 10\.0, .* give ProcessModel\(process, t_start=10\.0\)"
            ):
                sample(target, draft, horizon=1.0, **arguments)
    model, horizon = ProcessModel(process, 10.0), 10.0
    samples = sample(model, t_start=10.0, horizon=horizon, num_sequences=400)
    expected = float(process.compensator(EventSequence.of([], t_start=10.0, t_end=20.0))[-1])
    assert abs(samples.stats.num_events / 400 - expected) < 4 * (expected / 400) ** 0.5
    assert sample(ProcessModel(ASYMMETRIC), t_start=10.0, horizon=1.0).stats.num_rounds  # depends on its events alone


def test_process_model_is_an_event_model():
    assert isinstance(ProcessModel(ASYMMETRIC), EventModel) and ProcessModel(ASYMMETRIC).num_marks == 2


@pytest.mark.parametrize("unit", [1e-9, 1.0, 1e9])
def test_inversion_does_not_depend_on_the_unit_of_time(unit):
    process = Hawkes(mu=0.01 / unit, alpha=9.0 / unit, beta=10.0 / unit)
    state = torch.tensor([[0.0], [1.0], [30.0]], dtype=torch.float64)
    target = torch.tensor([1e-12, 1e-3, 0.9, 5.0, 40.0], dtype=torch.float64).unsqueeze(1)
    exact(process.compensator_after(state, process.elapsed_at(state, target)), target.expand(5, 3), rtol=1e-14, atol=0)


def test_inversion_of_an_unreachable_target_raises():
    with pytest.raises(RuntimeError, match="does not reach its target"):
        invert_increasing(
            lambda x: 1 - torch.exp(-x), lambda x: torch.exp(-x), torch.tensor([2.0], dtype=torch.float64)
        )
