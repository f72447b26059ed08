"""What a shape's speed depends on: seconds of passes, and acceptance by depth and number of candidates."""

from __future__ import annotations

import statistics
import time
from bisect import bisect_left
from collections.abc import Callable
from typing import Any

import torch

from tppsd.models.protocol import EventModel, EventTokens
from tppsd.sampling.resolve import model_device, reading
from tppsd.sampling.stats import SamplingStats
from tppsd.sampling.tree import Tree
from tppsd.tuning.shapes import Acceptance, Costs

PILOTS = (Tree.chain(12), Tree((2, 2, 2)), Tree((4, 4)), Tree((8,)))
_NUM_TOKENS = (1, 2, 4, 8, 16, 32, 65)
_REPEATS = 7
_FEWEST_TESTS = 30  # of a depth, to be believed


def pass_seconds(model: EventModel, batch_size: int, length: int, **passes: Any) -> Callable[[int], float]:
    """Tokens per row -> median seconds of one pass (SamplingOptions.passes) and its laws, after `length` cached events;
    straight lines in between."""
    seconds = []
    with reading(model, **passes), torch.inference_mode():
        cache = model.new_cache(batch_size, length + max(_NUM_TOKENS))
        if length:
            model.extend(_tokens(model, batch_size, length), cache)
        for num_tokens in _NUM_TOKENS:
            tokens, runs = _tokens(model, batch_size, num_tokens), []
            for _ in range(1 + _REPEATS):
                started = time.perf_counter()
                model.law(model.extend(tokens, cache))
                if cache.lengths.is_cuda:
                    torch.cuda.synchronize()
                runs.append(time.perf_counter() - started)
                cache.roll_back(num_tokens)
            seconds.append(statistics.median(runs[1:]))
    return lambda num_tokens: _between(num_tokens, seconds)


def _between(num_tokens: int, seconds: list[float]) -> float:
    i = min(max(1, bisect_left(_NUM_TOKENS, num_tokens)), len(_NUM_TOKENS) - 1)
    (x0, x1), (y0, y1) = _NUM_TOKENS[i - 1 : i + 1], seconds[i - 1 : i + 1]
    return y0 + (y1 - y0) * (num_tokens - x0) / (x1 - x0)


def _tokens(model: EventModel, batch_size: int, num_tokens: int) -> EventTokens:
    """Events one unit of time apart."""
    device = model_device(model)
    steps = torch.arange(num_tokens, device=device).expand(batch_size, -1)
    return EventTokens(1 + steps % model.num_marks, 1.0 + steps, torch.ones_like(steps, dtype=torch.float64))


def acceptance(pilots: list[SamplingStats]) -> Acceptance:
    """From samples of PILOTS, in their order."""
    chain, *trees = pilots
    tested = chain.rank_counts.sum(1)
    by_depth = [
        p for p, n in zip(chain.acceptance_by_depth.tolist(), tested.tolist(), strict=True) if n >= _FEWEST_TESTS
    ]
    by_depth = by_depth or [chain.step_acceptance]
    rejection = {1: 1.0}
    for stats in trees:
        assert stats.tree is not None
        of_one = [1 - by_depth[min(depth, len(by_depth) - 1)] for depth in range(stats.tree.depth)]
        expected = float((stats.rank_counts.sum(1) * torch.tensor(of_one)).sum())
        rejected = int(stats.rank_counts[:, 0].sum())
        rejection[stats.tree.candidates[0]] = min(1.0, (rejected + 0.5) / (expected + 0.5))
    return Acceptance(tuple(by_depth), rejection)


def costs(
    target: EventModel, draft: Any, batch_size: int, length: int, pilots: list[SamplingStats], **passes: Any
) -> Costs:
    """Passes are timed alone; what else a round costs is what is left of the pilots' rounds, with a line through the
    trees'."""
    of_draft = (
        pass_seconds(draft, batch_size, length, **passes) if isinstance(draft, EventModel) else lambda num_tokens: 0.0
    )
    found = Costs(pass_seconds(target, batch_size, length, **passes), of_draft, 0.0, 0.0, 0.0)
    rounds = [stats.seconds / stats.num_target_passes for stats in pilots]
    rest = [seconds - found.passes(tree) for seconds, tree in zip(rounds, PILOTS, strict=True)]
    depths = [tree.depth for tree in PILOTS[1:]]
    centre, level = statistics.fmean(depths), statistics.fmean(rest[1:])
    slope = sum((d - centre) * (r - level) for d, r in zip(depths, rest[1:], strict=True)) / sum(
        (d - centre) ** 2 for d in depths
    )
    share = min(1.0, rounds[0] / found.passes(PILOTS[0]))
    return Costs(found.target, found.draft, rest[0], level - slope * centre, slope, share)
