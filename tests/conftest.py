"""Settings that every test runs under: one thread, no network, no display, the global generator seeded."""

import os

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


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("gpu") and not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
