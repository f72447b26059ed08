"""The tuner: expected speeds are those of the formula, and the command ends with what to pass to `sample`."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from small_models import small_model
from stubs import StubTPP

from tppsd.commands import tune
from tppsd.models.protocol import EventTokens
from tppsd.models.transformer_tpp import TransformerTPP
from tppsd.sampling.sample import sample
from tppsd.sampling.tree import Tree
from tppsd.tuning.measure import PILOTS, acceptance, pass_seconds
from tppsd.tuning.shapes import MOST_NODES, Acceptance, Costs, best, shapes

TARGET = StubTPP.random(4, seed=0)
DRAFT = TARGET.moved(3, times=0.5, marks=1.0)


def test_shapes_are_chains_and_trees_that_do_not_widen() -> None:
    every = list(shapes())
    assert len(every) == len({tree.candidates for tree in every}) > 100
    assert all(tree.num_nodes <= MOST_NODES for tree in every)
    assert {(4, 2, 1), (8,), (2, 2, 2)} <= {tree.candidates for tree in every}
    assert not any(a < b for tree in every for a, b in zip(tree.candidates, tree.candidates[1:], strict=False))


def test_expected_events_are_those_of_independent_steps() -> None:
    accepted = Acceptance((0.5, 0.8), {1: 1.0, 4: 0.25})
    assert accepted.at(0, 1) == 0.5 and accepted.at(7, 1) == pytest.approx(0.8)
    assert accepted.at(0, 4) == pytest.approx(0.875) and accepted.at(0, 2) == pytest.approx(0.75)
    assert accepted.at(0, 16) == pytest.approx(0.875)
    assert accepted.events_per_round(Tree((4, 1))) == pytest.approx(1 + 0.875 + 0.875 * 0.8)


def test_dear_passes_ask_for_trees_and_dear_tokens_for_chains() -> None:
    accepted = Acceptance((0.4,), {1: 1.0, 2: 0.4, 8: 0.05})
    free_tokens = Costs(lambda num_tokens: 1.0, lambda num_tokens: 0.0, 0.0, 0.0, 0.0)
    dear_tokens = Costs(lambda num_tokens: float(num_tokens), lambda num_tokens: 0.0, 0.0, 0.0, 0.0)
    assert not best(accepted, free_tokens, 1, 1)[0][0].is_chain
    assert best(accepted, dear_tokens, 1, 1)[0][0].is_chain


def test_acceptance_of_a_tree_is_foretold_by_other_shapes() -> None:
    def stats(tree: Tree, num_sequences: int = 300):
        size = {"num_sequences": num_sequences, "num_events": 10, "batch_size": num_sequences}
        return sample(TARGET, DRAFT, candidates=tree.candidates, **size).stats

    foretold = acceptance([stats(tree) for tree in PILOTS])
    measured = stats(Tree((4, 2, 1)), 1000)
    assert foretold.events_per_round(Tree((4, 2, 1))) == pytest.approx(
        1 + measured.num_accepted / measured.num_rounds, rel=0.06
    )


def test_passes_of_any_length_are_on_lines_between_those_that_were_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A clock that a pass over n tokens advances by n^2, and by more the first time: the median, and no warm-up,
    counts."""
    clock, model, right, seen = [0.0], small_model("thp"), TransformerTPP.extend, set()

    def extend(self: TransformerTPP, tokens: EventTokens, *rest: Any) -> Any:
        n = tokens.ids.shape[1]
        clock[0] += n**2 + 1000 * (n not in seen)
        seen.add(n)
        return right(self, tokens, *rest)

    monkeypatch.setattr(TransformerTPP, "extend", extend)
    monkeypatch.setattr("tppsd.tuning.measure.time.perf_counter", lambda: clock[0])
    seconds = pass_seconds(model, 2, 10)
    assert [seconds(n) for n in (1, 8, 12, 32)] == [1, 64, (64 + 256) / 2, 1024]


def test_jacobi_has_nothing_to_tune() -> None:
    with pytest.raises(ValueError, match="--draft jacobi drafts chains only"):
        tune.main(["--target", "anything.ckpt", "--draft", "jacobi"])


def test_the_command_says_what_to_pass(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    small_model("thp").save(tmp_path / "target.ckpt")
    size = ["--num-events", "8", "--repeats", "1", "--num-best", "1", "--batch-size", "2"]
    tune.main(["--target", str(tmp_path / "target.ckpt"), *size])
    printed = capsys.readouterr().out
    assert re.search(
        r"Fastest: tppsd\.sample\(target, (method='autoregressive'|'self', (draft_length|candidates)=.+)\), ", printed
    )
    assert "candidates=(" in printed and "draft_length=" in printed
