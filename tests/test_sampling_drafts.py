"""What a draft leaves in the caches of target and draft model: a prefix of a chain, or of one path through a tree."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from small_models import ENCODERS, small_model
from stubs import StubTPP
from torch import Tensor

from tppsd.models.protocol import EventTokens
from tppsd.sampling.drafters.base import Draft
from tppsd.sampling.tree.rule import PathDraft
from tppsd.sampling.tree.shape import Tree

NUM_BEFORE = 3
TREE = Tree((2, 2))  # nodes 0 and 1, then 2 and 3 below 0, 4 and 5 below 1
PATHS = torch.tensor([[1, 4], [0, 3], [1, 5]])


def model_of(name: str) -> Any:
    return StubTPP.swinging(3, seed=0) if name == "stub" else small_model(name)


def random_tokens(num: int, seed: int) -> EventTokens:
    """(3, num) events, after those before them."""
    generator = torch.Generator().manual_seed(seed)
    inter_times = 0.1 + torch.rand(3, num, generator=generator, dtype=torch.float64)
    marks = torch.randint(1, 4, (3, num), generator=generator)
    return EventTokens(marks, 10.0 * seed + inter_times.cumsum(1), inter_times)


def drafted(num: int) -> Draft:
    tokens = random_tokens(num, 3)
    return Draft(tokens.inter_times, tokens.times, tokens.ids - 1, torch.zeros(3, num))


def contexts_after(model: Any, cache: Any) -> Tensor:
    """(3, dim) after one more token of each row."""
    context: Tensor = model.extend(random_tokens(1, 5), cache)[:, 0]
    return context


def expected(model: Any, before: EventTokens, kept: list[EventTokens]) -> Tensor:
    """Likewise, where each row has seen what it keeps (1, n), in a cache of its own."""
    rows = []
    for i, own in enumerate(kept):
        cache = model.new_cache(1, 16)
        model.extend(before.map(lambda field, i=i: field[i : i + 1]).cat(own), cache)
        rows.append(model.extend(random_tokens(1, 5).map(lambda field, i=i: field[i : i + 1]), cache)[0, 0])
    return torch.stack(rows)


@pytest.mark.parametrize("is_target", [True, False], ids=["target", "draft"])
@pytest.mark.parametrize("name", ["stub", *ENCODERS])
@torch.inference_mode()
def test_a_chain_leaves_its_accepted_prefix(name: str, is_target: bool) -> None:
    """The target has seen the last token and all events; a draft model all events but the last."""
    model, draft, num_kept = model_of(name), drafted(4), torch.tensor([1, 3, 0])
    before, last = random_tokens(NUM_BEFORE, 1), random_tokens(1, 2)
    shown = last.cat(draft.tokens) if is_target else draft.tokens.map(lambda field: field[:, :-1])
    cache = model.new_cache(3, 16)
    model.extend(before, cache)
    model.extend(shown, cache)
    draft.keep_in(cache, num_kept, 4 if is_target else 3, int(is_target))
    assert cache.lengths.tolist() == [NUM_BEFORE + is_target + num for num in num_kept.tolist()]
    kept = [
        shown.map(lambda field, i=i, n=n: field[i : i + 1, : n + is_target]) for i, n in enumerate(num_kept.tolist())
    ]
    torch.testing.assert_close(contexts_after(model, cache), expected(model, before, kept), rtol=0, atol=1e-10)


@pytest.mark.parametrize("is_target", [True, False], ids=["target", "draft"])
@pytest.mark.parametrize("name", ["stub", *ENCODERS])
@torch.inference_mode()
def test_a_path_is_gathered_into_place(name: str, is_target: bool) -> None:
    """The target has seen all levels; a draft model all but the last. Rolled back by length, as the cache of a chain,
    it would hold nodes of other branches."""
    model, tree = model_of(name), drafted(TREE.num_nodes)
    path = PathDraft.of(tree, PATHS)
    for field, whole in ((path.marks, tree.marks), (path.times, tree.times), (path.inter_times, tree.inter_times)):
        assert torch.equal(field, whole.gather(1, PATHS))
    num_kept = torch.tensor([2, 1, 0]) if is_target else torch.tensor([1, 1, 0])
    before, last = random_tokens(NUM_BEFORE, 1), random_tokens(1, 2)
    found = []
    for kind in (path, tree):
        cache = model.new_cache(3, 16)
        model.extend(before, cache)
        if is_target:
            model.extend(last.cat(tree.tokens), cache, TREE.pass_parents)
        else:
            model.extend(tree.tokens.map(lambda field: field[:, :2]), cache, TREE.parents[:2])
        if kind is tree:  # mutant: a chain's way
            cache.lengths = cache.lengths + num_kept + is_target
        else:
            path.keep_in(cache, num_kept, TREE.depth - 1 + is_target, int(is_target))
            assert cache.lengths.tolist() == [NUM_BEFORE + is_target + num for num in num_kept.tolist()]
        found.append(contexts_after(model, cache))
    kept = []
    for i, n in enumerate(num_kept.tolist()):
        own = path.tokens.map(lambda field, i=i, n=n: field[i : i + 1, :n])
        kept.append(last.map(lambda field, i=i: field[i : i + 1]).cat(own) if is_target else own)
    right = expected(model, before, kept)
    torch.testing.assert_close(found[0], right, rtol=0, atol=1e-10)
    assert (found[1] - right).abs().max() > 1e-3, "another branch must be seen"
