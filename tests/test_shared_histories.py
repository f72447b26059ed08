"""Many paths continue one history: its keys and values are stored once, and every path sees what it would see alone."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from native_builds import needs_a_compiler
from small_models import ENCODERS, TOLERANCE, random_batch, small_model, tokens_of
from torch import Tensor

import tppsd
from tppsd.data.batch import EventBatch
from tppsd.data.sequences import EventSequence
from tppsd.models import attention
from tppsd.models.attention import Attention, CausalPass
from tppsd.models.cache import KVCache
from tppsd.models.protocol import EventTokens
from tppsd.models.shared_histories import SharedAttention, SharedHistories
from tppsd.models.transformer_tpp import TransformerTPP
from tppsd.sampling.autoregressive import ADDRESSES
from tppsd.sampling.noise import row_keys, uniforms

LENGTHS = [14, 9, 11]  # events of three sequences, whose beginnings are the histories
HISTORY = torch.tensor([8, 5, 6])  # tokens of each history
WHICH = [1, 1, 0, 2, 1]  # the history that each of five rows continues
CASES = [(encoder, context) for encoder in ENCODERS for context in (None, 4, 7)]


@pytest.fixture(params=CASES, ids=lambda p: f"{p[0]}-{p[1]}")
def model(request: pytest.FixtureRequest) -> TransformerTPP:
    encoder, max_context = request.param
    return small_model(encoder, num_layers=3, max_context=max_context)


@torch.no_grad()
def contexts_of_paths(model: TransformerTPP, steps: tuple[int, ...] = (2, 1, 2)) -> tuple[Tensor, Tensor]:
    """Contexts of the tokens that five rows append in these steps to three shared histories: (found, expected)."""
    tokens = tokens_of(random_batch(LENGTHS))
    histories: KVCache = model.new_cache(3, 8)
    model.extend(tokens.map(lambda field: field[:, :8]), histories)
    histories.roll_back(8 - HISTORY)
    cache: KVCache = model.new_cache(len(WHICH), 1)
    cache.continue_rows(histories, torch.tensor(WHICH), torch.arange(len(WHICH)))
    own, found = EventTokens(*(field[WHICH] for field in tokens)), []
    for num in steps:
        positions = cache.num_tokens.unsqueeze(1) + torch.arange(num)
        found.append(model.extend(own.map(lambda field, at=positions: field.gather(1, at)), cache))
    whole = model.encode(own, CausalPass(model.max_context))
    positions = HISTORY[WHICH].unsqueeze(1) + torch.arange(sum(steps))
    return torch.cat(found, 1), whole.gather(1, positions.unsqueeze(2).expand(-1, -1, whole.shape[2]))


def test_paths_of_shared_histories_have_the_contexts_of_the_full_pass(model: TransformerTPP) -> None:
    """Below, at and above the number of tokens from which a bounded context no longer reaches the history."""
    found, expected = contexts_of_paths(model)
    torch.testing.assert_close(found, expected, rtol=0, atol=TOLERANCE[expected.dtype])


def the_one_enters_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    def softmax(scores: Tensor, kind: Attention) -> Tensor:
        pad = 2 if kind is Attention.ONE_PLUS_SUM else 0
        return torch.softmax(torch.nn.functional.pad(scores, (pad, 0)), -1)[..., pad:]

    monkeypatch.setattr(attention, "_softmax", softmax)


def own_tokens_do_not_push_out_the_history(monkeypatch: pytest.MonkeyPatch) -> None:
    right = SharedAttention.__init__

    def init(self: SharedAttention, shared: Any, order: Tensor, max_context: int | None, dtype: torch.dtype) -> None:
        right(self, shared, torch.zeros_like(order), max_context, dtype)

    monkeypatch.setattr(SharedAttention, "__init__", init)


def positions_begin_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(KVCache, "num_tokens", property(lambda self: self.lengths + self.dropped))


def rows_read_their_neighbours_history(monkeypatch: pytest.MonkeyPatch) -> None:
    right = SharedHistories.start

    def start(self: SharedHistories, source: KVCache, source_rows: Tensor, rows: Tensor) -> None:
        right(self, source, source_rows, rows)
        self.slots = self.slots.roll(1)

    monkeypatch.setattr(SharedHistories, "start", start)


@pytest.mark.parametrize(
    ("mutant", "encoder", "max_context"),
    [
        (the_one_enters_twice, "attnhp", None),
        (own_tokens_do_not_push_out_the_history, "thp", 7),
        (positions_begin_anew, "rotary", None),
        (rows_read_their_neighbours_history, "sahp", None),
    ],
)
def test_wrong_attention_over_shared_histories_is_seen(
    mutant: Any, encoder: str, max_context: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = small_model(encoder, num_layers=3, max_context=max_context)
    mutant(monkeypatch)
    try:
        found, expected = contexts_of_paths(model)
    except RuntimeError:  # an index that is out of range shows as well
        return
    assert (found - expected).abs().max() > 100 * TOLERANCE[expected.dtype]


def histories_of(num: int, seed: int = 0) -> list[EventSequence]:
    generator = torch.Generator().manual_seed(seed)
    found = []
    for i in range(num):
        length = 3 + 2 * i
        times = torch.rand(length, generator=generator, dtype=torch.float64).sort().values * length
        marks = torch.randint(3, (length,), generator=generator)
        found.append(EventSequence(times, marks, 0.0, length + 0.5 * (i % 2), i))
    return found


def big_model(encoder: str, max_context: int | None = None) -> TransformerTPP:
    torch.manual_seed(1)
    return TransformerTPP(3, encoder, 32, 2, 2, 4, max_context=max_context).eval()  # type: ignore[arg-type]


@needs_a_compiler
@pytest.mark.parametrize("max_context", [None, 6])
@pytest.mark.parametrize("encoder", ENCODERS)
@pytest.mark.parametrize("options", [{"method": "autoregressive"}, {"method": "speculative", "draft_length": 3}])
def test_compiled_paths_are_the_eager_ones(encoder: str, options: dict[str, Any], max_context: int | None) -> None:
    """Rows that enter at different times, with histories of different lengths: more of them than slots at first."""
    target, draft = big_model(encoder, max_context), big_model("thp")

    def paths(compile: bool, batch_size: int) -> tppsd.SampledSequences:
        return tppsd.sample(
            target,
            draft if options["method"] == "speculative" else None,
            history=histories_of(7),
            num_sequences=4,
            num_events=9,
            batch_size=batch_size,
            seed=3,
            compile=compile,
            **options,
        )

    eager = paths(False, 28)
    for compile, batch_size in ((False, 5), (True, 28), (True, 5), (True, 1)):
        found = paths(compile, batch_size)
        assert torch.equal(found.flat_marks, eager.flat_marks)
        torch.testing.assert_close(found.flat_inter_times, eager.flat_inter_times, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("compile", [False, pytest.param(True, marks=needs_a_compiler)])
def test_every_event_of_a_path_has_its_own_noise(compile: bool) -> None:
    """Event j of a path is what entry j of its stream makes of the distribution after all events before it."""
    target, history = big_model("thp"), histories_of(1)[0]
    options: dict[str, Any] = {"num_sequences": 2, "num_events": 4, "seed": 5, "compile": compile}
    samples = tppsd.sample(target, history=history, method="autoregressive", **options)
    for path, whole in enumerate(samples.with_history()):
        keys = row_keys(5, torch.tensor(0), torch.tensor(path))
        with torch.no_grad():
            distributions = target(EventBatch.from_sequences([whole]))[0, len(history) : -1].double()
        noise = uniforms(keys, torch.arange(4).unsqueeze(1), torch.tensor(ADDRESSES)).flatten(-2)
        first, *later = (distributions[j : j + 1] for j in range(4))
        elapsed = torch.tensor([history.window_end - float(history.event_times[-1])], dtype=torch.float64)
        for j, distribution in enumerate([first.truncated(elapsed), *later]):
            inter_time, mark = distribution.sample(noise[j : j + 1, :3])
            assert int(mark) == int(whole.marks[len(history) + j])
            torch.testing.assert_close(inter_time[0], whole.inter_times[len(history) + j], rtol=1e-4, atol=1e-7)


INTERLEAVED = [1, 0, 1, 2, 1, 1, 0, 1, 1, 3, 1, 1, 2, 0, 1]  # more rows of a history than are attended together


@needs_a_compiler
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("max_context", [None, 9])
@pytest.mark.parametrize("encoder", ENCODERS)
def test_rows_of_one_history_have_the_bits_of_each_alone(encoder: str, max_context: int | None, dtype: str) -> None:
    """Rows that are attended together, in whatever order they lie, each at a length of its own."""
    compiled = tppsd.compile(big_model(encoder, max_context), dtype)
    lengths = torch.tensor([7, 19, 12, 1])
    tokens = tokens_of(random_batch([19] * 4))
    histories: KVCache = compiled.new_cache(4, 19)
    compiled.extend(tokens.map(lambda field: field[:, :19]), histories)
    histories.roll_back(19 - lengths)
    own = tokens_of(random_batch([6] * len(INTERLEAVED)))
    num_own = torch.arange(len(INTERLEAVED)) % 4

    def after(rows: list[int]) -> Tensor:
        cache: KVCache = compiled.new_cache(len(rows), 8)
        cache.continue_rows(histories, torch.tensor(INTERLEAVED)[rows], torch.arange(len(rows)))
        compiled.extend(own.map(lambda field: field[rows, :3]), cache)
        cache.roll_back(3 - num_own[rows])
        at = num_own[rows].unsqueeze(1)
        return compiled.extend(own.map(lambda field: field[rows].gather(1, at)), cache)

    together = after(list(range(len(INTERLEAVED))))
    assert torch.equal(together, torch.cat([after([row]) for row in range(len(INTERLEAVED))]))


@pytest.mark.parametrize("compile", [False, pytest.param(True, marks=needs_a_compiler)])
def test_no_path_passes_the_tokens_of_its_history(compile: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first events of all paths come from one distribution, and the last ones are passed by nobody."""
    target = tppsd.compile(big_model("thp")) if compile else big_model("thp")
    right, num_tokens = type(target).extend, [0]

    def extend(self: Any, tokens: EventTokens, *arguments: Any) -> Tensor:
        num_tokens[0] += tokens.ids.numel()
        return right(self, tokens, *arguments)

    monkeypatch.setattr(type(target), "extend", extend)
    for num_paths, num_events in ((1, 1), (50, 1), (50, 3)):
        num_tokens[0] = 0
        options = {"num_sequences": num_paths, "num_events": num_events, "batch_size": 50, "compile": compile}
        tppsd.sample(target, history=histories_of(1), method="autoregressive", **options)
        by_decode = 50 if compile and num_events > 1 else 0  # it passes the second events itself
        assert num_tokens[0] == len(histories_of(1)[0]) + 1 + num_paths * (num_events - 1) - by_decode


@pytest.mark.parametrize("compile", [False, pytest.param(True, marks=needs_a_compiler)])
def test_a_path_owns_no_copy_of_its_history(compile: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Entries that are written when 40 paths of a history of 100 events begin: those of the history, once."""
    caches: list[KVCache] = []
    right = KVCache.__init__

    def init(self: KVCache, *arguments: Any, **more: Any) -> None:
        right(self, *arguments, **more)
        caches.append(self)

    monkeypatch.setattr(KVCache, "__init__", init)
    times = torch.arange(1, 101, dtype=torch.float64)
    history = EventSequence(times, torch.zeros(100, dtype=torch.int64), 0.0, 100.5, 0)
    tppsd.sample(big_model("thp"), history=history, num_sequences=40, num_events=2, compile=compile, batch_size=40)
    assert max(cache.capacity * len(cache.lengths) for cache in caches) <= 40 * 16
    assert sum(cache.tensors[0].numel() for cache in caches) < 2 * 2 * 32 * (100 + 16 + 40 * 16 + 64)


def test_slots_of_histories_that_nobody_continues_are_used_again() -> None:
    """Twenty histories one after the other, two rows: the store does not grow with them."""
    model = small_model("thp", num_layers=1)
    cache: KVCache = model.new_cache(2, 4)
    for i in range(20):
        source: KVCache = model.new_cache(1, 6)
        model.extend(tokens_of(random_batch([5])), source)
        cache.continue_rows(source, torch.tensor([0]), torch.tensor([i % 2]))
    assert cache.shared is not None
    assert cache.shared.keys_values.shape[2] <= 4
    assert len(cache.shared.slots.unique()) == 2
