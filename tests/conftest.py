"""Settings that every test runs under: one thread, no network, no display, the global generator seeded.

Marks as slow what `make check` leaves out, and as nightly what `make test` leaves out: tiers.toml says how many cases
of a test stay in each.
"""

from __future__ import annotations

import os
import tomllib
from collections import defaultdict
from pathlib import Path

# Before torch, huggingface_hub and matplotlib are imported; the processes that tests start inherit them.
os.environ.setdefault("OMP_NUM_THREADS", "1")  # small tensors, and two-process tests share the cores
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("WANDB_MODE", "offline")
os.environ.setdefault("MPLBACKEND", "Agg")

import pytest
import torch


@pytest.fixture(autouse=True)
def _seed() -> None:
    """Weights and anything else drawn from the global generator do not depend on the order of the tests."""
    torch.manual_seed(0)


def pytest_collectstart(collector: pytest.Collector) -> None:
    """Nor do the weights of models that a module of tests makes while it is imported: torch's own seed is another in
    every process."""
    if isinstance(collector, pytest.Module):
        torch.manual_seed(0)


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("gpu") and not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")


TIERS = tomllib.loads(Path(__file__).with_name("tiers.toml").read_text())


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the cases that a tier leaves out; what the whole suite leaves out is out of the quick tier as well."""
    cases: dict[tuple[str, str], list[pytest.Item]] = defaultdict(list)
    for item in items:
        cases[item.path.name, getattr(item, "originalname", None) or item.name].append(item)
    for tier, mark in (("whole", "nightly"), ("quick", "slow")):
        for (file, name), own in cases.items():
            for item in left_out(own, TIERS[tier].get(file, {}).get(name, len(own))):
                item.add_marker(mark)
                item.add_marker("slow")


def left_out(cases: list[pytest.Item], num_kept: int) -> list[pytest.Item]:
    """Return the cases of a test but so many, which are spread evenly."""
    kept = {number * len(cases) // num_kept for number in range(num_kept)} if num_kept < len(cases) else None
    return [] if kept is None else [case for number, case in enumerate(cases) if number not in kept]
