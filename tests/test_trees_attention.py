"""A tree pass equals one chain pass per path, and the cache of a kept path equals that of encoding the path anew."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from small_models import ENCODERS, small_model
from stubs import StubTPP

from tppsd.models.cache import RowCache
from tppsd.models.protocol import EventTokens
from tppsd.models.tree import depths, is_ancestor
from tppsd.processes.event_model import ProcessModel
from tppsd.processes.presets import PRESETS

PARENTS = (-1, -1, 0, 0, 1, 2, 2, 5, 4)
PATHS = ([0, 2, 5, 7], [0, 2, 6], [0, 3], [1, 4, 8])


def models() -> dict[str, Any]:
    process = ProcessModel(PRESETS["multivariate_hawkes"].process)
    return {encoder: small_model(encoder, num_marks=2) for encoder in ENCODERS} | {
        "thp of bounded context": small_model("thp", num_marks=2, max_context=2),
        "attnhp of bounded context": small_model("attnhp", num_marks=2, max_context=3),
        "stub": StubTPP.random(2, 0),
        "hawkes": process,
    }


def random_tokens(num_rows: int, length: int, seed: int) -> EventTokens:
    """(num_rows, length) events; a tree need not have times that increase with the number of a node."""
    generator = torch.Generator().manual_seed(seed)
    inter_times = torch.rand(num_rows, length, generator=generator, dtype=torch.float64) + 0.1
    times = 5 * torch.rand(num_rows, length, generator=generator, dtype=torch.float64)
    return EventTokens(torch.randint(1, 3, (num_rows, length), generator=generator), times, inter_times)


def cut(tokens: EventTokens, which: Any) -> EventTokens:
    return EventTokens(*(field[:, which] for field in tokens))


def committed(model: Any, lengths: list[int]) -> RowCache:
    """A cache with `lengths` live entries per row, and dead ones behind the shorter rows."""
    cache = model.new_cache(len(lengths), 4)
    model.extend(random_tokens(len(lengths), max(lengths), 0), cache)
    cache.lengths = torch.tensor(lengths)
    return cache


@pytest.mark.parametrize("lengths", [[3, 3, 3], [5, 1, 3]], ids=["equal", "ragged"])
@pytest.mark.parametrize("split", [9, 2, 5], ids=lambda split: f"split at {split}")
@pytest.mark.parametrize("name", models())
@torch.no_grad()
def test_a_node_sees_the_past_its_ancestors_and_itself(name: str, split: int, lengths: list[int]) -> None:
    """In one pass or in two, each node's context is that at the end of the chain of its ancestors."""
    model, tree = models()[name], random_tokens(3, len(PARENTS), 1)
    cache = committed(model, lengths)
    parts = [model.extend(cut(tree, slice(0, split)), cache, PARENTS[:split])]
    if split < len(PARENTS):
        parts.append(model.extend(cut(tree, slice(split, None)), cache, PARENTS[split:]))
    contexts = torch.cat(parts, 1)
    assert cache.lengths.tolist() == lengths
    for path in PATHS:
        expected = model.extend(cut(tree, path), committed(model, lengths))
        torch.testing.assert_close(contexts[:, path], expected, rtol=0, atol=1e-10)


@pytest.mark.parametrize("lengths", [[3, 3, 3], [5, 1, 3]], ids=["equal", "ragged"])
@pytest.mark.parametrize("name", models())
@torch.no_grad()
def test_a_kept_path_is_as_if_it_had_been_encoded(name: str, lengths: list[int]) -> None:
    """Rows keep different paths, of different lengths, down to none."""
    model, tree = models()[name], random_tokens(3, len(PARENTS), 1)
    cache = committed(model, lengths)
    model.extend(tree, cache, PARENTS)
    nodes, num_kept = torch.tensor([[1, 4, 8], [0, 2, 6], [0, 3, 3]]), torch.tensor([3, 2, 0])
    cache.keep_path(nodes, num_kept)
    assert (
        cache.lengths.tolist() == [n + k for n, k in zip(lengths, num_kept.tolist(), strict=True)]
        and cache.parents == ()
    )
    following = random_tokens(3, 2, 2)
    contexts = model.extend(following, cache)
    for row, kept in enumerate(num_kept.tolist()):
        anew = committed(model, lengths)
        if kept:
            model.extend(cut(tree, nodes[row, :kept]), anew)
        torch.testing.assert_close(contexts[row], model.extend(following, anew)[row], rtol=0, atol=1e-10)


@pytest.mark.parametrize("name", models())
@torch.no_grad()
def test_a_tree_that_does_not_branch_is_a_chain(name: str) -> None:
    model, chain = models()[name], random_tokens(3, 9, 1)
    contexts = model.extend(chain, committed(model, [5, 1, 3]), tuple(range(-1, 8)))
    torch.testing.assert_close(contexts, model.extend(chain, committed(model, [5, 1, 3])), rtol=0, atol=1e-10)


def test_depths_and_ancestors() -> None:
    assert depths(PARENTS) == (0, 0, 1, 1, 1, 2, 2, 3, 2)
    assert is_ancestor(PARENTS, torch.device("cpu"))[7].nonzero().flatten().tolist() == [0, 2, 5, 7]
    assert is_ancestor(PARENTS, torch.device("cpu"))[1].nonzero().flatten().tolist() == [1]
