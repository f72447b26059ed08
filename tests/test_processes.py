"""Ground-truth processes on whole sequences: each is checked against a formula that its code does not share."""

from __future__ import annotations

import math
import random
from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from hawkes_truth import expected_counts
from scipy.integrate import quad
from scipy.stats import kstest

from tppsd.data.sequences import EventSequence
from tppsd.metrics.functional import horizon_counts
from tppsd.processes import PRESETS, Hawkes, InhomogeneousPoisson, LogNormalRenewal, SelfCorrecting, base, preset
from tppsd.sampling.sample import sample

FALSE_ALARM_RATE = 1e-3  # of one test of a correct simulator; its seed is fixed
ASYMMETRIC = Hawkes(mu=(0.3, 0.2, 0.4), alpha=((0.5, 0.9, 0.0), (0.1, 0.3, 0.2), (0.4, 0.0, 0.6)),
                    beta=((2.0, 3.0, 1.0), (1.5, 0.8, 2.5), (4.0, 1.0, 3.0)))  # fmt: skip
TWO_DECAYS = Hawkes(mu=(0.4, 0.2), alpha=(((0.5, 0.9), (0.1, 0.3)), ((0.2, 0.0), (0.1, 0.05))), beta=(3.0, 0.5))
PROCESSES = {name: preset.process for name, preset in PRESETS.items()} | {
    "asymmetric_hawkes": ASYMMETRIC,
    "two_decays": TWO_DECAYS,
}
every_process = pytest.mark.parametrize("process", PROCESSES.values(), ids=PROCESSES.keys())


def carry_over_p_value(process, sequences):
    """KS p-value of the residuals against Exp(1), the unused end of each window carried into the next one's first
    gap."""
    residuals, carried = [], 0.0
    for sequence in sequences:
        gaps, leftover = process.residuals(sequence)
        if len(gaps):
            gaps[0] += carried
            residuals.append(gaps)
        carried = leftover if len(gaps) else carried + leftover
    residuals = torch.cat(residuals)
    assert len(residuals) >= 1000
    return kstest(residuals.numpy(), "expon").pvalue


@every_process
@pytest.mark.parametrize(("num_sequences", "t_end"), [(120, 15.0), (500, 2.5)], ids=["long windows", "short windows"])
def test_simulation_passes_its_own_compensator(process, num_sequences, t_end):
    assert carry_over_p_value(process, process.simulate(num_sequences, t_end=t_end, seed=1)) > FALSE_ALARM_RATE


@pytest.mark.parametrize(
    ("truth", "mutant"),
    [
        (PROCESSES["poisson"], InhomogeneousPoisson(scale=5.0, base=1.0, frequency=0.04)),
        (PROCESSES["hawkes"], Hawkes(mu=2.5, alpha=1.2, beta=2.0)),
        (PROCESSES["hawkes"], Hawkes(mu=5.0, alpha=0.0, beta=2.0)),  # the same rate, no memory
        (PROCESSES["multivariate_hawkes"], Hawkes((0.5, 0.5), ((1.0, 0.5), (0.5, 1.0)), 2.0)),
        (PROCESSES["self_correcting"], SelfCorrecting(mu=4.0, alpha=0.9)),
        (PROCESSES["renewal"], LogNormalRenewal(log_mean=math.log(0.25) - 0.5, log_std=1.1)),
    ],
)
def test_a_wrong_simulator_is_rejected(truth, mutant):
    assert carry_over_p_value(truth, mutant.simulate(200, t_end=15.0, seed=1)) < 1e-6


def mark_martingale(process, sequences):
    """Standard score of sum over events that follow one of mark 0 of 1[k = 0] - lambda*_0 / lambda*."""
    total, variance = 0.0, 0.0
    for sequence in sequences:
        intensity = process.intensity(sequence, sequence.event_times)
        prob = (intensity[:, 0] / intensity.sum(-1))[1:][sequence.marks[:-1] == 0]
        is_zero = (sequence.marks[1:] == 0)[sequence.marks[:-1] == 0].double()
        total, variance = total + float((is_zero - prob).sum()), variance + float((prob * (1 - prob)).sum())
    return abs(total) / math.sqrt(variance)


def test_marks_follow_their_intensities_and_a_transposed_alpha_is_caught():
    truth = PROCESSES["multivariate_hawkes"]
    transposed = Hawkes(truth.mu.tolist(), truth.alpha.T.tolist(), 2.0)
    assert mark_martingale(truth, truth.simulate(200, t_end=12.0, seed=3)) < 4
    assert mark_martingale(truth, transposed.simulate(200, t_end=12.0, seed=3)) > 6


def test_poisson_counts_have_the_mean_and_variance_of_the_integrated_rate():
    counts = torch.tensor([len(s) for s in PROCESSES["poisson"].simulate(400, t_end=25.0, seed=5)], dtype=torch.float64)
    expected = 125.0 + 250.0 / math.pi  # integral of 5 (1 + sin(2 pi t / 100)) over a quarter period
    assert abs(counts.mean() - expected) < 4 * math.sqrt(expected / 400)
    assert abs(counts.var() / expected - 1) < 4 * math.sqrt(2 / 400)


def test_the_branching_ratio_is_the_largest_eigenvalue():
    """Marks that excite each other with 0.9 and 0.5 have sqrt(0.45) children each, not 0.9."""
    process = Hawkes([1.0, 1.0], [[0.0, 1.8], [0.5, 0.0]], [[1.0, 2.0], [1.0, 1.0]])
    assert process.branching_ratio == pytest.approx(math.sqrt(0.45), rel=1e-12)


@pytest.mark.parametrize("name", ["hawkes", "multivariate_hawkes", "asymmetric_hawkes"])
def test_hawkes_reaches_its_stationary_rate(name):
    process = PROCESSES[name]
    rates = torch.linalg.solve(torch.eye(process.num_marks) - process.alpha / process.beta, process.mu)
    counts = []
    for sequence in process.simulate(150, t_end=40.0, seed=7):
        late = sequence.marks[sequence.event_times > 20.0]  # the start without history is forgotten by then
        counts.append(torch.bincount(late, minlength=process.num_marks).double() / 20.0)
    counts = torch.stack(counts)
    assert ((counts.mean(0) - rates).abs() < 4 * counts.std(0) / math.sqrt(150)).all()


@pytest.mark.parametrize("process", [ASYMMETRIC, TWO_DECAYS, Hawkes(0.3, 1.2, 1.0, is_stable=False)])
def test_hawkes_expected_counts_are_the_means_of_simulations(process):
    """4 standard errors, at most 6 means: a false alarm in 2,500 runs. The mutant forgets that events excite."""
    history = EventSequence.of([0.2, 0.9, 1.4], [0, process.num_marks - 1, 0], 0.0, 2.0)
    num_paths, horizons = 3000, [0.5, 3.0]
    expected = expected_counts(process, history, horizons)
    paths = sample(process, history=history, num_sequences=num_paths, t_end=5.0, seed=1)
    counts = torch.stack([horizon_counts(path, 2.0, horizons, process.num_marks) for path in paths]).double()
    assert ((counts.mean(0) - expected).abs() < 4 * counts.std(0) / math.sqrt(num_paths)).all()
    no_offspring = process.compensator(replace(history, t_end=5.0))[-1] - process.compensator(history)[-1]
    assert float(expected[:, 1].sum()) > 1.1 * float(no_offspring)


def test_hawkes_expected_counts_of_nothing_and_of_a_poisson_process():
    empty = EventSequence.of([], [], 0.0, 1.0)
    torch.testing.assert_close(
        expected_counts(Hawkes((0.5, 0.2), 0.0, 1.0), empty, [0.0, 4.0]),
        torch.tensor([[0.0, 2.0], [0.0, 0.8]], dtype=torch.float64),
    )
    rates = torch.linalg.solve(torch.eye(3) - ASYMMETRIC.alpha / ASYMMETRIC.beta, ASYMMETRIC.mu)
    late = expected_counts(ASYMMETRIC, empty, [1000.0, 1001.0])
    torch.testing.assert_close(late[:, 1] - late[:, 0], rates, rtol=1e-6, atol=0)


def test_self_correcting_and_renewal_reach_their_rates():
    steady = [len(s) for s in PROCESSES["self_correcting"].simulate(50, t_end=50.0, seed=9)]
    assert all(abs(count - 200) < 8 for count in steady)  # N(t) follows mu t / alpha closely
    inter_times = torch.cat([s.inter_times for s in PROCESSES["renewal"].simulate(50, t_end=100.0, seed=9)])
    assert kstest(inter_times.log().numpy(), "norm", (math.log(0.25) - 0.5, 1.0)).pvalue > FALSE_ALARM_RATE


@every_process
@pytest.mark.parametrize("given", [False, True], ids=["t_start", "given first event"])
def test_compensator_is_the_integral_of_the_intensity(process, given):
    simulated = process.simulate(1, t_start=0.5, t_end=3.0, seed=11)[0]
    sequence = EventSequence.of(simulated.event_times, simulated.marks, None if given else 0.5, 3.0)
    knots = [sequence.window_start, *sequence.event_times[int(given) :].tolist(), 3.0]

    def total_intensity(t):
        return float(process.intensity(sequence, torch.tensor([t], dtype=torch.float64)).sum())

    pieces = [quad(total_intensity, a + 1e-13, b, epsabs=1e-11, epsrel=1e-10)[0] for a, b in pairwise(knots)]
    expected = torch.tensor(pieces, dtype=torch.float64).cumsum(0)
    torch.testing.assert_close(process.compensator(sequence), expected, rtol=1e-8, atol=1e-9)
    at_times = process.compensator(sequence, torch.tensor(knots[1:], dtype=torch.float64))
    torch.testing.assert_close(at_times, expected, rtol=1e-8, atol=1e-9)
    gaps, leftover = process.residuals(sequence)
    assert len(gaps) == sequence.num_scored
    assert float(gaps.sum()) + leftover == pytest.approx(float(expected[-1]), rel=1e-8)


def brute_force_hawkes(process, events, t_start, t_end, num_given):
    """Log-likelihood with a sum over all pairs of events."""
    mu, alpha, beta = process.mu.tolist(), process.alpha.tolist(), process.beta.tolist()
    total = -sum(mu) * (t_end - t_start)
    for i, (t, m) in enumerate(events):
        if i >= num_given:
            total += math.log(mu[m] + sum(alpha[m][n] * math.exp(-beta[m][n] * (t - s)) for s, n in events[:i]))
        total -= sum(alpha[r][m] / beta[r][m] * (1 - math.exp(-beta[r][m] * (t_end - t))) for r in range(len(mu)))
    return total


def test_two_decays_are_two_kernels_added_up():
    """The first is the kernel of another process: its intensity less the background."""
    sequence = TWO_DECAYS.simulate(1, t_end=10.0, seed=1)[0]
    kernels = [Hawkes(TWO_DECAYS.mu, TWO_DECAYS.alpha[d], TWO_DECAYS.beta[d]) for d in range(2)]
    times = torch.linspace(0, 10, 50, dtype=torch.float64)
    parts = [kernel.intensity(sequence, times) - TWO_DECAYS.mu for kernel in kernels]
    torch.testing.assert_close(TWO_DECAYS.intensity(sequence, times), TWO_DECAYS.mu + parts[0] + parts[1])
    spelt_out = Hawkes(TWO_DECAYS.mu, TWO_DECAYS.alpha, TWO_DECAYS.beta)
    assert TWO_DECAYS.beta.shape == (2, 2, 2) and spelt_out.log_likelihood(sequence) == TWO_DECAYS.log_likelihood(
        sequence
    )


@pytest.mark.parametrize("name", ["hawkes", "multivariate_hawkes", "asymmetric_hawkes"])
@pytest.mark.parametrize("given", [False, True], ids=["t_start", "given first event"])
def test_hawkes_log_likelihood_equals_the_sum_over_pairs(name, given):
    process = PROCESSES[name]
    simulated = process.simulate(1, t_start=2.0, t_end=20.0, seed=13)[0]
    sequence = EventSequence.of(simulated.event_times, simulated.marks, None if given else 2.0, 20.0)
    events = list(zip(sequence.event_times.tolist(), sequence.marks.tolist(), strict=True))
    expected = brute_force_hawkes(process, events, sequence.window_start, 20.0, int(given))
    assert process.log_likelihood(sequence) == pytest.approx(expected, rel=1e-11)


def test_log_likelihood_of_the_other_processes_by_hand():
    times, t_start, t_end = [1.25, 1.5, 3.0], 1.0, 4.0
    sequence = EventSequence.of(times, None, t_start, t_end)
    rate = 2 * math.pi / 100
    poisson = sum(math.log(5 * (1 + math.sin(rate * t))) for t in times)
    poisson -= 5 * (3.0 + (math.cos(rate * t_start) - math.cos(rate * t_end)) / rate)
    assert PROCESSES["poisson"].log_likelihood(sequence) == pytest.approx(poisson, rel=1e-12)

    knots = [0.0, 0.25, 0.5, 2.0, 3.0]  # since t_start
    correcting = sum(4.0 * t - i for i, t in enumerate(knots[1:-1]))
    correcting -= sum(math.exp(-i) * (math.exp(4 * knots[i + 1]) - math.exp(4 * knots[i])) / 4 for i in range(4))
    assert PROCESSES["self_correcting"].log_likelihood(sequence) == pytest.approx(correcting, rel=1e-12)

    distribution = torch.distributions.LogNormal(torch.tensor(math.log(0.25) - 0.5, dtype=torch.float64), 1.0)
    renewal = distribution.log_prob(sequence.inter_times).sum() + torch.log1p(
        -distribution.cdf(torch.tensor(1.0, dtype=torch.float64))
    )
    assert PROCESSES["renewal"].log_likelihood(sequence) == pytest.approx(float(renewal), rel=1e-10)


def test_intensity_is_left_continuous_and_jumps_by_alpha():
    sequence = EventSequence.of([1.0, 2.0], [1, 0], 0.0, 3.0)
    before, after = ASYMMETRIC.intensity(sequence, torch.tensor([1.0, 1.0 + 1e-12], dtype=torch.float64))
    torch.testing.assert_close(before, ASYMMETRIC.mu)
    torch.testing.assert_close(after - before, ASYMMETRIC.alpha[:, 1])


@every_process
def test_a_sequence_depends_on_seed_and_index_only(process, monkeypatch):
    together = process.simulate(40, t_end=6.0, seed=17)
    torch_state, python_state = torch.random.get_rng_state(), random.getstate()
    alone = process.simulate(1, t_end=6.0, seed=17, first_index=33)[0]
    monkeypatch.setattr(base, "_BLOCK", 5)  # how many uniforms are drawn at a time
    few = process.simulate(7, t_end=6.0, seed=17, first_index=30)
    assert torch.equal(torch_state, torch.random.get_rng_state()) and python_state == random.getstate()
    assert alone.index == few[3].index == 33
    for other in (alone, few[3]):
        assert torch.equal(other.event_times, together[33].event_times) and torch.equal(other.marks, together[33].marks)
    assert not torch.equal(process.simulate(1, t_end=6.0, seed=18)[0].event_times, together[0].event_times)
    assert len({len(s) for s in together} | {float(s.event_times[0]) for s in together}) > 40


def test_simulated_windows_are_complete():
    sequences = PROCESSES["hawkes"].simulate(3, t_start=1e6, t_end=1e6 + 5, seed=1, first_index=4)
    assert [s.index for s in sequences] == [4, 5, 6]
    for s in sequences:
        assert (s.t_start, s.t_end) == (1e6, 1e6 + 5) and s.event_times.dtype == torch.float64
        assert len(s) and s.event_times[-1] <= s.t_end
        torch.testing.assert_close(s.inter_times.cumsum(0) + 1e6, s.event_times, rtol=0, atol=1e-8)
    empty = Hawkes(mu=1e-9, alpha=0.0, beta=1.0).simulate(2, t_end=1.0)
    assert [len(s) for s in empty] == [0, 0] and PROCESSES["hawkes"].log_likelihood(empty[0]) == -2.5
    assert PROCESSES["hawkes"].simulate(0, t_end=1.0) == []


def test_simulation_costs_a_bounded_number_of_operations_per_event(monkeypatch):
    counted = {"advance": 0, "compensator_after": 0}

    def count(name, size):
        original = getattr(Hawkes, name)
        monkeypatch.setattr(Hawkes, name, lambda self, state, *rest: counted.update({name: counted[name] + size(state)})
                            or original(self, state, *rest))  # fmt: skip

    count("advance", lambda state: len(state))
    count("compensator_after", lambda state: len(state))
    per_event = []
    for t_end in (5.0, 40.0):
        counted.update(advance=0, compensator_after=0)
        num_events = sum(len(s) for s in PROCESSES["hawkes"].simulate(20, t_end=t_end, seed=19))
        assert counted["advance"] == num_events + 20  # one event past the end for each sequence
        per_event.append(counted["compensator_after"] / num_events)
    assert per_event[1] < 1.1 * per_event[0] and per_event[1] < 15


def test_presets_are_those_of_the_paper():
    for name in ("poisson", "hawkes", "multivariate_hawkes"):
        assert (PRESETS[name].num_sequences, PRESETS[name].t_start, PRESETS[name].t_end) == (1000, 0.0, 100.0)
        assert PRESETS[name].fractions == (0.8, 0.1, 0.1)
    empty = EventSequence.of([], None, 0.0, 100.0)
    times = torch.tensor([10.0, 60.0], dtype=torch.float64)
    rate = preset("poisson").process.intensity(empty, times)[:, 0]
    torch.testing.assert_close(rate, 5 * (1 + torch.sin(2 * torch.pi * times / 100)))
    hawkes, two = preset("hawkes").process, preset("multivariate_hawkes").process
    assert (hawkes.mu.tolist(), hawkes.alpha.tolist(), hawkes.beta.tolist()) == ([2.5], [[1.0]], [[2.0]])
    assert (two.mu.tolist(), two.alpha.tolist()) == ([0.5, 0.5], [[1.0, 0.5], [0.1, 1.0]])
    assert two.beta.tolist() == [[2.0, 2.0], [2.0, 2.0]] and two.num_marks == 2
    with pytest.raises(
        ValueError, match="no process preset 'hawks'; choose one of poisson, hawkes, multivariate_hawkes"
    ):
        preset("hawks")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Hawkes(mu=(0.5, 0.5), alpha=((1.0, 0.5),), beta=2.0), r"alpha has shape \(1, 2\).*\(2, 2\)"),
        (lambda: Hawkes(mu=1.0, alpha=2.5, beta=2.0), "is 1.25; it must be below 1"),
        (lambda: Hawkes(mu=(0.0, 0.0), alpha=0.1, beta=2.0), "mu = .* must have no negative entry and a positive one"),
        (lambda: Hawkes(mu=1.0, alpha=0.5, beta=0.0), "beta = .* > 0"),
        (lambda: InhomogeneousPoisson(1.0, 0.5, 1.0), "base = 0.5 must be at least 1"),
        (lambda: InhomogeneousPoisson(0.0, 1.0, 1.0), "scale = 0.0 must be positive"),
        (lambda: SelfCorrecting(1.0, 0.0), "alpha = 0.0 must be positive"),
        (lambda: LogNormalRenewal(0.0, -1.0), "log_std = -1.0 must be positive"),
        (
            lambda: ASYMMETRIC.simulate(1, t_start=3.0, t_end=3.0),
            "t_end = 3.0 must be finite and later than t_start = 3.0",
        ),
        (lambda: Hawkes(mu=math.inf, alpha=0.5, beta=1.0), r"mu = \[inf\] must .* all finite"),
        (lambda: Hawkes(mu=1.0, alpha=math.inf, beta=1.0), r"alpha = \[\[inf\]\] must be .* finite"),
        (lambda: Hawkes(mu=1.0, alpha=0.5, beta=math.inf), r"beta = \[\[inf\]\] > 0 .* finite"),
        (lambda: InhomogeneousPoisson(math.inf, 1.0, 1.0), "scale = inf must be positive and finite"),
        (lambda: InhomogeneousPoisson(1.0, math.inf, 1.0), "base = inf must be at least 1.* and finite"),
        (lambda: InhomogeneousPoisson(1.0, 1.0, math.nan), "frequency = nan must be finite"),
        (lambda: SelfCorrecting(math.inf, 1.0), "mu = inf and alpha = 1.0 must be positive and finite"),
        (lambda: LogNormalRenewal(math.nan, 1.0), "log_mean = nan must be finite"),
        (lambda: LogNormalRenewal(0.0, math.inf), "log_std = inf must be positive and finite"),
        (lambda: ASYMMETRIC.simulate(1, t_start=-math.inf, t_end=3.0), "t_start = -inf must be finite"),
        (lambda: ASYMMETRIC.simulate(-1, t_end=3.0), "num_sequences = -1 must not be negative"),
        (
            lambda: ASYMMETRIC.log_likelihood(EventSequence.of([1.0], [3], 0.0)),
            r"has mark 3; the process has marks 0\.\.2",
        ),
        (
            lambda: ASYMMETRIC.intensity(EventSequence.of([1.0], [0], 0.0), torch.tensor([-1.0])),
            "start at 0.0, got -1.0",
        ),
    ],
)
def test_errors_say_what_would_be_right(make, message):
    with pytest.raises(ValueError, match=message):
        make()
