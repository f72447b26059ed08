"""Compiled passes are the cached passes: the same contexts, whatever was appended, and the same samplers on top of
them."""

from __future__ import annotations

import copy
import json
import os
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from faster_passes import SAMPLERS, assert_same_events, both_ways, name_of, target_and_draft
from lightning_helpers import SMALL, fitted, small_data, trainer
from native_builds import SOURCE, compiled_by, compiled_wrong, needs_a_compiler, optimize_less
from small_models import ENCODERS, assert_same_distribution, attentive_model, random_batch, small_model, tokens_of

import tppsd
from tppsd.backends.cpp import compiling
from tppsd.backends.cpp.compiling import library
from tppsd.backends.cpp.model import CompiledTPP
from tppsd.backends.cpp.structures import Pass
from tppsd.certification.cells import Cell, all_cells
from tppsd.certification.models import build
from tppsd.certification.run import combined, draw, judge, run_cell
from tppsd.commands import benchmark
from tppsd.lightning.requests import Requests
from tppsd.models.protocol import EventTokens
from tppsd.models.transformer_tpp import TransformerTPP
from tppsd.processes.event_model import ProcessModel
from tppsd.processes.presets import PRESETS
from tppsd.sampling import auto

TOLERANCE = 2e-5  # of contexts of size 3, in float32
pytestmark = needs_a_compiler

SIZES: list[dict[str, Any]] = [
    {"embed_dim": 16, "num_heads": 2},
    {"embed_dim": 48, "num_heads": 4, "feedforward_dim": 70},  # panels and paddings of every width
    {"embed_dim": 64, "num_heads": 1, "max_context": 5},
    {"embed_dim": 96, "num_heads": 8, "num_layers": 4},
]


def steps(model: Any) -> list[torch.Tensor]:
    """Contexts of all that a sampler does to a cache: chains, rollbacks by row, trees in two passes, growth, fewer
    rows."""
    tokens, where = tokens_of(random_batch([90, 90, 90, 90])), 0
    tokens.ids[1, 0] = 5  # a given start
    tokens.inter_times[1, 0] = 0.5  # which is none of an event
    cache = model.new_cache(4, 3)
    contexts = []

    def extend(num: int, parents: tuple[int, ...] | None = None) -> None:
        nonlocal where
        new = tokens.map(lambda field: field[: len(cache.lengths), where : where + num])
        where += num
        contexts.append(model.extend(new, cache, parents))

    with torch.inference_mode():
        for num in (1, 7, 2):
            extend(num)
        cache.roll_back(torch.tensor([0, 3, 1, 5]))
        extend(6)
        extend(1)
        extend(3, (-1, -1, 0))
        extend(4, (0, 1, 2, 2))
        cache.keep_path(torch.tensor([[0, 2, 5]] * 4), torch.tensor([3, 2, 0, 1]))
        extend(20)
        cache.keep_rows(torch.tensor([1, 3]))
        extend(33)
    return contexts


@pytest.fixture
def passes(monkeypatch: pytest.MonkeyPatch) -> set[int]:
    """Numbers of layers of the models that compiled passes have been run of."""
    layers: set[int] = set()
    right = CompiledTPP.pass_of

    def pass_of(model: CompiledTPP, *arguments: Any) -> Pass:
        layers.add(model.encoder.num_layers)
        return right(model, *arguments)

    monkeypatch.setattr(CompiledTPP, "pass_of", pass_of)
    return layers


def largest_difference(found: list[torch.Tensor], expected: list[torch.Tensor]) -> float:
    return max(float((got - wanted).abs().max()) for got, wanted in zip(found, expected, strict=True))


@pytest.mark.parametrize("encoder", ENCODERS)
@pytest.mark.parametrize("settings", SIZES, ids=lambda size: f"{size['embed_dim']}x{size['num_heads']}")
def test_compiled_passes_give_the_contexts_of_cached_ones(encoder: str, settings: dict[str, Any]) -> None:
    model = attentive_model(encoder, **settings)
    expected = steps(model)
    found = steps(tppsd.compile(model))
    assert largest_difference(found, expected) < TOLERANCE
    assert max(float(wanted.abs().max()) for wanted in expected) > 1


@pytest.mark.parametrize("encoder", ENCODERS)
def test_contexts_and_distributions_have_the_same_bits_in_any_company(encoder: str) -> None:
    """Whatever the number of rows, of new tokens and of threads."""
    model = tppsd.compile(attentive_model(encoder, embed_dim=32, num_heads=2, num_layers=8))
    tokens = tokens_of(random_batch([40] * 9))

    def run(rows: slice, sizes: list[int]) -> tuple[torch.Tensor, torch.Tensor]:
        cache, parts, where = model.new_cache(len(range(9)[rows]), 41), [], 0
        for size in sizes:
            new, where = slice(where, where + size), where + size
            parts.append(model.extend(tokens.map(lambda field, new=new: field[rows, new]), cache))
        distributions = [model.distribution(part) for part in parts]
        return torch.cat(parts, 1), torch.cat([distribution._fields()[0] for distribution in distributions], 1)

    threads = torch.get_num_threads()
    with torch.inference_mode():
        whole = run(slice(None), [41])
        try:
            torch.set_num_threads(3)
            side_by_side = run(slice(None), [41])
        finally:
            torch.set_num_threads(threads)
        alone = [
            torch.cat(parts) for parts in zip(*(run(slice(i, i + 1), [1, 3, 20, 17]) for i in range(9)), strict=True)
        ]
    for got, beside, by_itself in zip(whole, side_by_side, alone, strict=True):
        assert torch.equal(beside, got) and torch.equal(by_itself, got)


@pytest.mark.parametrize("decoder", ["time_conditional", "independent"])
@pytest.mark.parametrize("num_marks", [1, 3, 50])
def test_compiled_distributions_are_those_of_the_decoder(decoder: str, num_marks: int) -> None:
    model = attentive_model("thp", num_marks=num_marks, mark_decoder=decoder, num_components=7)
    model.decoder.to_mixture.weight.data[14:] *= 30  # to both ends of the range of standard deviations
    context = torch.randn(5, 4, 16)
    with torch.inference_mode():
        expected, compiled = model.distribution(context), tppsd.compile(model)
        found, one = compiled.distribution(context), compiled.distribution(context[:, :1])
    assert_same_distribution(found, expected, atol=1e-5)
    assert found.batch_shape == (5, 4) and one.batch_shape == (5, 1)
    assert set(expected.inter_time.log_stds.unique().tolist()) >= {-6.0, 2.0}


@pytest.mark.parametrize("encoder", ENCODERS)
def test_starts_floors_and_late_times_are_embedded_alike(encoder: str) -> None:
    """A plain and a given start, inter-times of zero and at the floor, and times whose phases float32 would lose."""
    model = attentive_model(encoder)
    model.set_statistics(replace(model.statistics, min_inter_time=1e-3))
    ids = torch.tensor([[0, 1, 2, 3], [5, 1, 2, 3]])
    tau = torch.tensor([[0.0, 1e-9, 0.0, 3.0]] * 2, dtype=torch.float64)
    tokens = EventTokens(ids, 3e7 + tau.cumsum(1), tau)
    with torch.inference_mode():
        expected, compiled = model.extend(tokens, model.new_cache(2, 4)), tppsd.compile(model)
        found = compiled.extend(tokens, compiled.new_cache(2, 4))
    assert largest_difference([found], [expected]) < TOLERANCE
    assert not torch.equal(found[0], found[1])


@pytest.mark.parametrize("encoder", ENCODERS)
def test_large_scores_and_gates_do_not_overflow(encoder: str) -> None:
    model = attentive_model(encoder)
    for parameter in model.encoder.parameters():
        parameter.data *= 30
    tokens = tokens_of(random_batch([30, 30]))
    with torch.inference_mode():
        expected, compiled = model.extend(tokens, model.new_cache(2, 31)), tppsd.compile(model)
        found = compiled.extend(tokens, compiled.new_cache(2, 31))
    assert torch.isfinite(found).all()
    assert (
        (found - expected).abs() < 1e-2 * expected.abs().max()
    ).float().mean() > 0.99  # softmax of such scores is a switch


@pytest.mark.parametrize("encoder", ENCODERS)
def test_autocast_does_not_reach_into_compiled_passes(encoder: str) -> None:
    model = tppsd.compile(attentive_model(encoder))
    tokens = tokens_of(random_batch([9, 9]))
    with torch.inference_mode():
        expected = model.extend(tokens, model.new_cache(2, 10))
        with torch.autocast("cpu", torch.bfloat16):
            found = model.extend(tokens, model.new_cache(2, 10))
    assert torch.equal(found, expected)


@pytest.mark.parametrize("options", SAMPLERS, ids=name_of)
def test_every_sampler_draws_the_same_events_with_compiled_passes(options: dict[str, Any], passes: set[int]) -> None:
    """The same noise and distributions that are equal up to rounding, which flips no decision with this seed (one model
    in twenty has one that it flips)."""
    plain, fast, drafts = both_ways(*target_and_draft(), options)
    assert (plain.options.compile, fast.options.compile) == (False, True)
    assert passes == ({2, 3} if drafts else {3})
    assert_same_events(fast, plain, compares_counters="tolerance" not in fast.options.to_dict())


def test_samples_have_the_targets_model_and_not_another() -> None:
    """By residuals of full passes without a cache or compiled code; a right sampler fails for one seed in 10^4."""
    target, draft = attentive_model("attnhp", embed_dim=32), attentive_model("sahp")
    samples = tppsd.sample(target, draft, num_sequences=300, num_events=20, draft_length=4, compile=True, batch_size=64)
    assert 0.05 < samples.stats.step_acceptance < 0.95
    assert combined(judge(target, samples)) > 1e-4
    assert combined(judge(draft, samples)) < 1e-6


@pytest.mark.parametrize(
    ("model", "said"),
    [
        (
            lambda: small_model("thp"),
            "target: compile = True is for float32 weights on a CPU; these are float64 on cpu",
        ),
        (lambda: small_model("thp", dtype=torch.float32, embed_dim=24), "multiple of 16; this is 24"),
        (lambda: ProcessModel(PRESETS["hawkes"].process), "for a TransformerTPP; this is a ProcessModel"),
    ],
    ids=["float64", "width", "process"],
)
def test_what_cannot_be_compiled_is_refused_in_one_sentence(model: Any, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        tppsd.sample(model(), method="autoregressive", num_events=3, compile=True)


@pytest.mark.parametrize(
    ("compiler", "said"),
    [
        ("no-such-compiler", "'no-such-compiler' cannot be run: No such file"),
        ("false", "false exited with 1 and said: nothing"),
        ("/tmp", "'/tmp' cannot be run: Permission denied"),
        ("g++ '", "is no command: No closing quotation"),
    ],
)
def test_a_compiler_that_fails_is_named(
    compiler: str, said: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("CXX", compiler)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with pytest.raises(ValueError, match=said):
        library.__wrapped__(SOURCE)
    assert not list(tmp_path.rglob("*.so"))


def test_without_a_compiler_the_sentence_says_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setenv("PATH", "")
    with pytest.raises(ValueError, match=r"needs a C\+\+ compiler .*none was found"):
        library.__wrapped__(Path("library.cpp"))


def test_processes_that_compile_at_once_leave_one_library(tmp_path: Path) -> None:
    code = (
        "from pathlib import Path; from tppsd.backends.cpp import compiling; compiling._FLAGS = ('-std=c++17',); "
        "print(compiling.library(Path(compiling.__file__).with_name('native') / 'library.cpp').panel_width())"
    )
    environment = os.environ | {"XDG_CACHE_HOME": str(tmp_path)}
    running = [
        subprocess.Popen([sys.executable, "-c", code], env=environment, stdout=subprocess.PIPE, text=True)
        for _ in range(3)
    ]
    widths = {process.communicate()[0] for process in running}
    assert [process.returncode for process in running] == [0, 0, 0] and len(widths) == 1
    assert len(list((tmp_path / "tppsd").iterdir())) == 1


def test_a_library_that_was_cut_short_is_compiled_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    optimize_less(monkeypatch)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    width = library.__wrapped__(SOURCE).panel_width()
    (path,) = (tmp_path / "tppsd").iterdir()
    whole = path.read_bytes()
    path.unlink()  # this process has loaded it: its own must stay whole
    path.write_bytes(whole[:5000])
    assert library.__wrapped__(SOURCE).panel_width() == width
    (anew,) = (tmp_path / "tppsd").iterdir()
    assert anew.stat().st_size == len(whole)


def test_without_a_folder_to_write_in_the_library_is_of_this_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    optimize_less(monkeypatch)
    temporary = tmp_path / "temporary"
    temporary.mkdir(mode=0o700)
    (temporary / f"tppsd-{os.geteuid()}").touch()  # nor in that of the user among the folders for temporary files
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert library.__wrapped__(SOURCE).panel_width() > 0
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr(Path, "home", raising_no_home)
    assert library.__wrapped__(SOURCE).panel_width() > 0
    assert {path.name for path in tmp_path.rglob("*")} == {"file", "temporary", f"tppsd-{os.geteuid()}"}


def raising_no_home() -> Path:
    raise RuntimeError("Could not determine home directory.")


def test_threads_that_sample_one_model_do_not_share_their_passes() -> None:
    """One compiled, one not, started in any order: each as if it were alone, and the model is left as it was."""
    model = attentive_model("thp")
    before = [set(vars(module)) for module in model.modules()]
    arguments: dict[str, Any] = {"num_sequences": 3, "num_events": 40, "method": "autoregressive"}
    alone = {how: tppsd.sample(model, compile=how, **arguments).flat_event_times for how in (True, False)}
    assert not torch.equal(alone[True], alone[False])
    with ThreadPoolExecutor(4) as pool:
        ways = [True, False, True, False] * 4
        found = list(pool.map(lambda how: tppsd.sample(model, compile=how, **arguments).flat_event_times, ways))
    for times, how in zip(found, ways, strict=True):
        torch.testing.assert_close(
            times, alone[how], rtol=0, atol=0 if how else 1e-4
        )  # that of plain ones may round otherwise
    assert [set(vars(module)) for module in model.modules()] == before
    copy.deepcopy(model)


class Doubled(TransformerTPP):
    def encode(self, *arguments: Any) -> torch.Tensor:
        return 2 * super().encode(*arguments)


def with_float64_encoder() -> TransformerTPP:
    model = attentive_model("thp")
    model.encoder.double()
    return model


@pytest.mark.parametrize(
    ("model", "said"),
    [
        (lambda: Doubled(3, "thp", 16, 2), "is for a TransformerTPP; this is a Doubled"),
        (with_float64_encoder, "is for float32 weights on a CPU; these are float64 on cpu"),
    ],
    ids=["subclass", "part of it float64"],
)
def test_what_computes_something_else_is_not_compiled(model: Any, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        tppsd.sample(model(), method="autoregressive", num_events=3, compile=True)


@pytest.mark.parametrize(("level", "needed"), [("x86-64", "DEFAULT"), ("x86-64-v3", "AVX2")])
def test_processors_with_narrower_vectors_get_the_same_contexts(
    level: str, needed: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = [*compiling._compiler(), f"-march={level}"]
    if needed == "AVX2" and not torch.backends.cpu.get_cpu_capability().startswith("AVX"):
        pytest.skip("this processor has no AVX2")
    if subprocess.run([*command, "-E", "-x", "c++", os.devnull], capture_output=True).returncode:
        pytest.skip(f"the compiler does not know {command[-1]}, which is for x86")
    model = attentive_model("rotary", embed_dim=48, num_heads=4)
    expected = steps(model)
    optimize_less(monkeypatch, "-O1")
    compiled_by(command, tmp_path, monkeypatch)
    found = steps(tppsd.compile(model))
    assert largest_difference(found, expected) < TOLERANCE


@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        ("place + t + 1", "place + t"),  # a token does not see itself
        ("num_before - pass.max_context + 1", "num_before - pass.max_context"),  # one token too many
        ("length = pass.lengths[row], place", "length = pass.lengths[0], place"),  # every row is as long as the first
        (
            "pass.contexts + (rows[j] * pass.num_new + part.from) * dim",
            "pass.contexts",
        ),  # a group of rows writes over the first one
        ("head.one_plus_sum ? std::exp2", "false ? std::exp2"),  # the 1 of AttNHP is missing
        (
            "capacity = pass.capacity, place = pass.lengths[row] + pass.num_nodes",
            "capacity = pass.capacity, place = pass.lengths[row]",
        ),  # a tree's second pass overwrites its first
        ("if (!nodes[t * num_nodes + j - length])", "if (false)"),  # branches see one another
        ("b * cos + a * sin", "b * cos - a * sin"),  # turned the other way
        (
            "pass.num_before[row] + pass.depth[t]",
            "pass.num_before[row] + t",
        ),  # a tree's nodes stand one after the other
        (
            "pass.num_before[row] + pass.depth[t]",
            "pass.lengths[row] + pass.depth[t]",
        ),  # dropped tokens were never there
        ("id <= encoder.num_marks", "true"),  # a given start has an inter-time
    ],
    ids=["self", "window", "lengths", "rows", "one", "nodes", "branches", "rotation", "positions", "dropped", "start"],
)
def test_wrong_passes_are_told_from_right_ones(
    right: str, wrong: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A difference of 100 tolerances somewhere in what contexts are compared in above."""
    compiled_wrong(right, wrong, tmp_path, monkeypatch)
    largest = 0.0
    for encoder in ("attnhp", "rotary"):
        model = attentive_model(encoder, **SIZES[2])
        largest = max(largest, largest_difference(steps(tppsd.compile(model)), steps(model)))
    assert largest > 100 * TOLERANCE


def test_tokens_of_unequal_rows_are_not_mixed_up() -> None:
    """A row's contexts do not change with what other rows hold."""
    model = tppsd.compile(attentive_model("thp"))
    tokens = tokens_of(random_batch([20, 20]))
    other = EventTokens(*(torch.stack([field[0], field[0]]) for field in tokens))
    with torch.inference_mode():
        both = model.extend(tokens, model.new_cache(2, 21))
        twice = model.extend(other, model.new_cache(2, 21))
    assert torch.equal(both[0], twice[0]) and torch.equal(twice[0], twice[1]) and not torch.equal(both[0], both[1])


COMPILABLE = [cell for cell in all_cells() if cell.is_compilable and cell.method != "rrs"]


@pytest.mark.parametrize("cell", COMPILABLE[::4], ids=lambda cell: cell.name)
def test_a_compiled_cell_passes_quickly(
    cell: Cell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, passes: set[int]
) -> None:
    """2,000 events; a right sampler fails a cell for one seed in 10^4."""
    monkeypatch.setattr("tppsd.certification.models.TRAINING_STEPS", 20)
    result = run_cell(cell, 2000, 0, tmp_path, compiled=True)
    assert result["num_events"] >= 1800 and result["p_value"] > 1e-4 and passes


def test_the_benchmark_compiles(tmp_path: Path, capsys: pytest.CaptureFixture[str], passes: set[int]) -> None:
    path = tmp_path / "target.ckpt"
    attentive_model("thp", num_layers=2, num_components=64).save(path)
    size = ["--num-events", "8", "--draft-length", "3"]
    benchmark.main(["--target", str(path), "--draft", "self", *size, "--baseline", "eager", "--repeats", "1", "--json"])
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines() if line.startswith("{")]
    assert [row["method"] for row in rows] == ["autoregressive", "eager", "speculative"] and passes


def test_the_eager_baseline_needs_something_to_compare_with() -> None:
    with pytest.raises(ValueError, match="the baseline 'eager' is for plans that compile; with compile = false all"):
        benchmark.main(["--untrained", "1,2", "--compile", "false", "--baseline", "eager"])


@pytest.mark.parametrize(("num_marks", "num_events", "num_sequences"), [(1, 300, 1), (3, 300, 1), (3, 9, 40)])
def test_auto_drafts_nothing_for_small_targets_without_a_trial(
    num_marks: int, num_events: int, num_sequences: int
) -> None:
    target = attentive_model("thp", num_marks=num_marks, num_layers=3)
    draft = attentive_model("thp", num_marks=num_marks, num_layers=1)
    for given in (None, draft):
        samples = tppsd.sample(target, given, method="auto", num_events=num_events, num_sequences=num_sequences)
        assert samples.stats.method == "autoregressive"
        assert (samples.stats.choice or "").startswith("autoregressive: too few events for a trial")


def test_auto_drafts_with_a_model_for_large_targets() -> None:
    """Only with a smaller one, and only by rounds that are native."""
    target = attentive_model("thp", num_layers=4, embed_dim=96)
    for draft, choice, rule in (
        (attentive_model("thp"), "model", None), (copy.deepcopy(target), "autoregressive", None),
        (None, "autoregressive", None), (attentive_model("thp"), "autoregressive", "block"),
    ):  # fmt: skip
        stats = tppsd.sample(target, draft, method="auto", rule=rule, num_events=20, compile=True).stats
        assert (stats.choice or "").startswith(f"{choice}: too few events for a trial")
        assert stats.draft_length == (4 if choice == "model" else None)
    chosen = tppsd.sample(target, attentive_model("thp"), num_events=20)
    assert chosen.options.method == "speculative" and chosen.stats.choice == "the draft proposes 4 events per round"


def test_a_trial_of_compiled_samplers_takes_a_small_part_of_the_job(monkeypatch: pytest.MonkeyPatch) -> None:
    """Their calls draw many events each."""
    target = attentive_model("thp", num_layers=3)
    monkeypatch.setattr(auto, "_EVENTS_PER_ROUND", (3, 30))
    for compile, has_trial in ((False, True), (True, False)):
        stats = tppsd.sample(target, method="auto", num_events=60, compile=compile).stats
        assert (stats.choice is not None and "events/s in a trial" in stats.choice) == has_trial


TRAINED = SMALL | {"embed_dim": 16}


def test_the_callback_compiles_both_samplers_and_training_does_not_notice(monkeypatch: pytest.MonkeyPatch) -> None:
    ways: list[tuple[str, bool | str]] = []

    def watched(*args: Any, options: tppsd.SamplingOptions, **kwargs: Any) -> tppsd.SampledSequences:
        ways.append((str(options.method), options.compile))
        return tppsd.sample(*args, options=options, **kwargs)

    monkeypatch.setattr("tppsd.lightning.callbacks.sample", watched)
    hashes = []
    for options in (None, tppsd.SamplingOptions(draft_length=3, compile=True)):
        torch.manual_seed(0)
        module = tppsd.TargetTPP(2, **TRAINED)
        callbacks = (
            [] if options is None else [tppsd.SpeculativeSampling(num_sequences=2, every_n_epochs=1, options=options)]
        )
        trainer(max_epochs=2, callbacks=callbacks).fit(module, datamodule=small_data())
        hashes.append(module.model.content_hash())
    assert hashes[0] == hashes[1]
    assert set(ways) == {("autoregressive", True), ("speculative", True)}


def test_predict_compiles_or_is_refused_before_it_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = fitted(tppsd.TargetTPP(2, **TRAINED), tmp_path / "target.ckpt")
    options = tppsd.SamplingOptions("autoregressive", compile=True)

    def predict(checkpoint: Path, **arguments: Any) -> Any:
        writer = tppsd.SampleWriter(tmp_path / "samples")
        sampler = tppsd.Sampler(checkpoint, options=options, seed=5)
        return trainer(callbacks=[writer], **arguments).predict(sampler, Requests(5, t_end=6.0, chunk_size=3).loader())

    narrow = fitted(tppsd.TargetTPP(2, **SMALL), tmp_path / "narrow.ckpt")
    with pytest.raises(
        ValueError, match="target: compile = True needs an embed_dim that is a multiple of 16; this is 8"
    ):
        predict(narrow)
    with pytest.raises(
        ValueError, match="precision = 64-true makes float64 weights; compile = True is for float32 ones"
    ):
        predict(target, precision="64-true")
    assert not (tmp_path / "samples").exists()
    chunks = predict(target)
    expected = tppsd.sample(target, num_sequences=5, t_end=6.0, seed=5, options=options)
    torch.testing.assert_close(
        torch.cat([c.flat_event_times for c in chunks]), expected.flat_event_times, rtol=0, atol=1e-4
    )
    assert chunks[0].options.compile


def test_compiled_samples_are_drawn_again_to_the_last_bit(tmp_path: Path) -> None:
    """Other bits than those of eager passes."""
    cell = next(cell for cell in COMPILABLE if cell.method == "autoregressive" and cell.weights == "untrained")
    ways: list[dict[str, Any]] = [{"compiled": True}, {"compiled": True}, {}]
    first, again, plain = (draw(cell, *build(cell, tmp_path), 1000, 0, **how).flat_event_times for how in ways)
    assert torch.equal(first, again) and not torch.equal(first, plain)
