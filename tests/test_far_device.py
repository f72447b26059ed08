"""The code for a GPU, run without one: it draws what a CPU draws, mixes no tensors of two places, and waits once in a
round."""

from __future__ import annotations

import copy
import gc
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest
import torch
from far_device import CUDA, FarDevice, FarTensor, far_device, sent
from faster_passes import SAMPLERS, name_of, target_and_draft
from small_models import ENCODERS, attentive_model, random_sequence

import tppsd
from tppsd.backends.cpp import active, compilable
from tppsd.backends.cpp.captured import CapturedModel, Graph
from tppsd.models.attention import StaticPass
from tppsd.models.cache import RowCache
from tppsd.models.transformer_tpp import TransformerTPP
from tppsd.sampling import block, judgement, linear
from tppsd.sampling.device_speculative import DeviceRounds
from tppsd.sampling.judgement import Given
from tppsd.sampling.noise import RowNoise
from tppsd.sampling.rows import Rows

Models = tuple[TransformerTPP, TransformerTPP]
OPTIONS: list[dict[str, Any]] = [
    *SAMPLERS, {"drafter": "self"}, {"drafter": "poisson"}, {"rule": "factorised"}, {"draft_length": [[3, 2], [0, 4], [5, 1]]},
    {"return_laws": True},
    {"return_log_probs": True}, {"candidates": 3, "drafter": "self"}, {"candidates": (2, 1, 3), "rule": "mean"},
    {"candidates": (2, 2), "rule": "rrs"}, {"candidates": (1, 3), "return_laws": True},
]  # fmt: skip
ENDS: list[dict[str, Any]] = [{"num_events": 12}, {"horizon": 9.0}]


@pytest.fixture(autouse=True)
def _in_double(monkeypatch: pytest.MonkeyPatch) -> None:
    """Graphs too, so that rounding decides nothing; a replay calls what would be recorded, and does not keep it
    alive."""

    def recorded(self: Any, *_: Any) -> Callable[[], torch.Tensor]:
        work, inputs = weakref.ref(self._replay.func), self._replay.args
        return lambda: work()(*inputs)  # type: ignore[misc]

    monkeypatch.setattr(Graph, "_recorded", recorded)
    monkeypatch.setattr(active, "_made", lambda model, *_: CapturedModel(weakref.proxy(model), torch.float64))
    monkeypatch.setattr(compilable, "why_not_compilable", lambda model, *_: None if model else "no model")


@pytest.fixture(scope="module")
def models() -> Models:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        target, draft = target_and_draft()
    target.set_statistics(
        replace(target.statistics, num_events=200, duration=250.0, mark_counts=(1, 2, 3))
    )  # for `poisson`
    return target.double(), draft.double()


def near_samples(models: Models, **options: Any) -> tppsd.SampledSequences:
    draft = None if options.get("method") or options.get("drafter") else models[1]
    arguments = {"history": [random_sequence(n, seed=n) for n in (0, 3, 12)], "num_sequences": 2, **options}
    return tppsd.sample(models[0], draft, **arguments)


def far_samples(models: Models, monkeypatch: pytest.MonkeyPatch, **options: Any) -> tppsd.SampledSequences:
    """What `near_samples` gives, by copies of the models that are far."""
    with far_device(monkeypatch):
        return near_samples(far_copies(models), **options)


def far_copies(models: Models) -> Models:
    target, draft = copy.deepcopy(models)
    return sent(target), sent(draft)


def are_the_same(near: tppsd.SampledSequences, far: tppsd.SampledSequences) -> bool:
    """Up to rounding."""
    return torch.equal(near.flat_marks, far.flat_marks) and torch.allclose(
        near.flat_inter_times, far.flat_inter_times, rtol=1e-6
    )


@pytest.mark.parametrize("compiled", [False, True], ids=["operators", "graphs"])
@pytest.mark.parametrize("end", ENDS, ids=str)
@pytest.mark.parametrize("options", OPTIONS, ids=name_of)
def test_every_sampler_draws_there_what_it_draws_here(
    options: dict[str, Any], end: dict[str, Any], compiled: bool, models: Models, monkeypatch: pytest.MonkeyPatch
) -> None:
    far = far_samples(models, monkeypatch, compile=compiled, **options, **end)
    assert are_the_same(near_samples(models, **options, **end), far)


@contextmanager
def watched(device: FarDevice, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """How often the work of each graph, or what is to become one, waited."""
    waits, run = [], CapturedModel._run

    def watching(
        self: CapturedModel, name: Any, work: Callable[..., torch.Tensor], *inputs: torch.Tensor
    ) -> torch.Tensor:
        def counted(*given: torch.Tensor) -> torch.Tensor:
            before = device.waits.total()
            result = work(*given)
            waits.append(device.waits.total() - before)
            return result

        return run(self, name, counted, *inputs)

    with monkeypatch.context() as patch:
        patch.setattr(CapturedModel, "_run", watching)
        yield waits


def deep_models(encoder: str, settings: dict[str, Any]) -> Models:
    return attentive_model(encoder, **settings).double(), attentive_model("thp", **settings).double()


@pytest.mark.parametrize(
    ("encoder", "settings"),
    [(encoder, {}) for encoder in ENCODERS]
    + [("thp", settings) for settings in ({"max_context": 5}, {"num_marks": 1}, {"mark_decoder": "independent"})],
    ids=str,
)
def test_the_work_of_graphs_waits_for_nothing(
    encoder: str, settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of all encoders, windows and decoders; but what is sent once, before anything is recorded."""
    models, job = deep_models(encoder, settings), {"history": None, "num_sequences": 2, "num_events": 12}
    with far_device(monkeypatch) as device:
        far = far_copies(models)
        near_samples(far, compile=True, **job)
        with watched(device, monkeypatch) as waits:
            samples = [
                near_samples(far, compile=True, **job, **options) for options in ({}, {"method": "autoregressive"})
            ]
    assert are_the_same(near_samples(models, **job), samples[0]) and len(waits) > 10 and not any(waits)


@pytest.mark.parametrize(
    ("wrong", "error"),
    [
        (lambda before: before + before.max().item(), None),
        (lambda before: before + before.nonzero().sum(), None),
        (lambda before: before + torch.tensor([0], device="cuda"), None),
        (lambda before: before + torch.arange(1), "of tensors in two places"),
    ],
    ids=["read", "shape", "sent", "elsewhere"],
)
def test_work_that_cannot_be_recorded_is_found_out(
    wrong: Any, error: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(StaticPass, "positions", lambda self, num, _: wrong(self._num_before))
    models = deep_models("rotary", {})
    with far_device(monkeypatch) as device, watched(device, monkeypatch) as waits:
        try:
            near_samples(far_copies(models), history=None, num_sequences=1, num_events=20, compile=True)
        except AssertionError as said:
            assert error is not None and error in str(said)
        else:
            assert error is None and sum(map(bool, waits)) > 5


LENGTHS = {"draft_length": [[3, 2], [0, 2], [5, 90]]}
WAIT_ONCE: list[dict[str, Any]] = [
    LENGTHS, {**LENGTHS, "rule": "factorised"}, {**LENGTHS, "rule": "block"}, {**LENGTHS, "drafter": "self"},
    {**LENGTHS, "drafter": "jacobi"}, {**LENGTHS, "drafter": "poisson"}, {**LENGTHS, "draft_passes": 2},
    {**LENGTHS, "method": "fixed_point"},
    {"candidates": (3, 2)}, {"candidates": (2, 1, 3), "rule": "mean"}, {"candidates": (1, 2, 2), "drafter": "self"},
]  # fmt: skip


@pytest.mark.parametrize("options", WAIT_ONCE, ids=name_of)
@pytest.mark.parametrize("compiled", [False, True], ids=["operators", "graphs"])
def test_a_round_waits_once(
    options: dict[str, Any], compiled: bool, models: Models, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of two calls, the longer one has some rounds more in which no row ends, of lengths 0 to 5."""
    with far_device(monkeypatch) as device:
        far, waits, rounds = far_copies(models), [], []
        draft = far[1] if options.keys().isdisjoint({"method", "drafter"}) else None
        for num_events in (26, 3, 26):
            device.waits.clear()
            job = {"history": None, "num_sequences": 5, "num_events": num_events}
            stats = tppsd.sample(far[0], draft, compile=compiled, **job, **options).stats
            waits.append(device.waits.copy())
            rounds.append(stats.num_target_passes)
    more = waits[2] - waits[1]
    assert more.pop("device_speculative.tell") == rounds[2] - rounds[1] > 5
    assert more.total() <= 5 * 10, more  # of rows that end, at times of their own


def test_graphs_of_the_draft_alone(models: Models, monkeypatch: pytest.MonkeyPatch) -> None:
    """Under a target by operators."""
    assert are_the_same(
        near_samples(models, num_events=12), far_samples(models, monkeypatch, num_events=12, compile="draft")
    )


def test_graphs_of_a_draft_that_is_gone_are_forgotten(models: Models, monkeypatch: pytest.MonkeyPatch) -> None:
    with far_device(monkeypatch):
        target, decoders = sent(copy.deepcopy(models[0])), []
        for _ in range(3):
            draft = sent(copy.deepcopy(models[1]))
            tppsd.sample(target, draft, num_events=30, draft_length=[[3, 2], [0, 2], [3, 1]], compile=True)
            decoders.append(weakref.ref(draft.decoder.marks))
            del draft
            gc.collect()
        assert [decoder() is None for decoder in decoders] == [True, True, False]


def test_autoregressive_sampling_waits_once_per_event_and_less_often_with_graphs(
    models: Models, monkeypatch: pytest.MonkeyPatch
) -> None:
    with far_device(monkeypatch) as device:
        far, waits = far_copies(models)[0], []
        for compiled, num_events in ((True, 3), (False, 3), (False, 43), (True, 3), (True, 43)):
            device.waits.clear()
            tppsd.sample(far, method="autoregressive", num_sequences=2, num_events=num_events, compile=compiled)
            waits.append(device.waits.total())
    assert waits[2] - waits[1] == 40 and waits[4] - waits[3] < 10


METHODS: dict[str, dict[str, Any]] = {
    "joint": {"draft_length": 2}, "factorised": {"draft_length": 2, "rule": "factorised"},
    "block": {"draft_length": 2, "rule": "block"}, "linear": {"candidates": (3, 1, 2)},
    "mean": {"candidates": (3, 1, 2), "rule": "mean"}, "fixed_point": {"draft_length": 2, "method": "fixed_point"},
}  # fmt: skip


def with_few_proposals(monkeypatch: pytest.MonkeyPatch, num: int) -> None:
    for owner, names in ((judgement, ("_MOST", "_FEWEST")), (block, ("_FEWEST",)), (linear, ("_FEWEST", "_INNER"))):
        for name in names:
            monkeypatch.setattr(owner, name, num)


@pytest.mark.parametrize("method", METHODS)
def test_proposals_that_are_not_enough_are_followed_by_others(
    method: str, models: Models, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As many as are made at first decide nothing: with one of them, most rounds wait again."""
    wanted, shorts, read = near_samples(models, num_events=12, **METHODS[method]), [], judgement.read

    def reading(outcome: torch.Tensor) -> Any:
        shorts.append(bool(read(outcome).is_short.any()))
        return read(outcome)

    monkeypatch.setattr(judgement, "read", reading)
    with_few_proposals(monkeypatch, 1)
    for compiled in (False, True):
        assert are_the_same(
            wanted, far_samples(models, monkeypatch, num_events=12, compile=compiled, **METHODS[method])
        )
    assert not any(shorts) if method == "fixed_point" else sum(shorts) > 10


def judging(**wrong: Any) -> Any:
    """Something else than was given."""
    right = DeviceRounds.judged

    def judged(self: DeviceRounds, laws: Any, draft_laws: Any, given: Given) -> Any:
        return right(self, laws, draft_laws, given._replace(**{name: change(given) for name, change in wrong.items()}))

    return DeviceRounds, "judged", judged


def too_few_are_enough() -> Any:
    right = judgement.read
    return judgement, "read", lambda outcome: right(outcome)._replace(is_short=torch.zeros(1, dtype=torch.bool))


def bound(owner: Any, name: str, value: int) -> Any:
    return owner, "tell", lambda self, _: setattr(self, name, value)


# what is made wrong, and in which methods
ALL, TREES = set(METHODS), {"linear", "mean"}
MUTANTS: dict[str, tuple[Any, set[str]]] = {
    "none": (judging(), ALL),
    "coins of other events": (judging(coins=lambda given: given.coins.flip(1)), ALL - {"fixed_point"}),
    "uniforms of other events": (judging(uniforms=lambda given: given.uniforms.flip(1)), ALL - TREES),
    "times of the next row": (judging(last_times=lambda given: given.last_times.roll(1)), ALL),
    "noise of the next row": (judging(keys=lambda given: given.keys.roll(1, 0)), ALL - {"fixed_point"}),
    "noise of earlier events": (judging(cursors=lambda given: given.cursors * 0), ALL - {"fixed_point"}),
    "an end too early": (judging(limit=lambda given: given.limit - 9), {"joint", "linear"}),
    "too few proposals are enough": (too_few_are_enough(), ALL - {"fixed_point"}),
    "a bound of the noise that is too small": (bound(RowNoise, "_bound", 0), {"joint", "linear"}),
    "a bound of the counts that is too small": (bound(Rows, "_most", -1000), {"joint"}),
    "a bound of the caches that is too small": (bound(RowCache, "max_length", 1), {"joint", "linear"}),
}


@pytest.mark.parametrize(
    ("mutant", "method"), [(mutant, method) for mutant in MUTANTS for method in sorted(MUTANTS[mutant][1])]
)
def test_wrong_rounds_are_found_out(mutant: str, method: str, models: Models, monkeypatch: pytest.MonkeyPatch) -> None:
    job = {"history": None, "num_sequences": 2, "num_events": 70 if "bound" in mutant else 25, **METHODS[method]}
    wanted = near_samples(models, **job)
    if mutant in ("none", "too few proposals are enough"):
        with_few_proposals(monkeypatch, 2)
    monkeypatch.setattr(*MUTANTS[mutant][0])
    try:
        is_right = are_the_same(wanted, far_samples(models, monkeypatch, **job))
    except (IndexError, RuntimeError):
        is_right = False
    assert is_right == (mutant == "none")


# --- the device itself
# ---------------------------------------------------------------------------------------------------


def test_the_device_counts_what_waits_for_it_and_refuses_tensors_of_two_places(monkeypatch: pytest.MonkeyPatch) -> None:
    with far_device(monkeypatch) as device:
        far, near = torch.arange(6, device="cuda").view(2, 3), torch.arange(6).view(2, 3)
        assert isinstance(far, FarTensor) and far.is_cuda and far.device == CUDA
        far[0, 1:] += 10
        view = far[:, 1]
        view += 1
        far[torch.tensor([1], device="cuda"), 2] = 7
        assert (far + far.new_ones(2, 3)).shape == (2, 3)
        assert device.waits.total() == 1, "numbers were sent there"
        waits = [
            lambda: int(far.sum()), lambda: bool((far > 1).any()), lambda: far.cpu(), lambda: far.tolist(), lambda: far.nonzero(),
            lambda: far[far > 1], lambda: near.to("cuda"), lambda: torch.tensor([1.0], device="cuda"), lambda: far.copy_(near),
            lambda: near.copy_(far), lambda: far.masked_select(far > 1), lambda: torch.equal(far, far),
        ]  # fmt: skip
        for number, wait in enumerate(waits[:6], 2):
            wait()
            assert device.waits.total() == number
        assert far.cpu().tolist() == [[0, 12, 12], [3, 5, 7]]
        for number, wait in enumerate(waits[6:], device.waits.total() + 1):
            wait()
            assert device.waits.total() == number
        with pytest.raises(AssertionError, match="of tensors in two places"):
            far + near
    with pytest.raises(AssertionError, match="where no far device is"):
        far + 1
