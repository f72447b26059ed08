"""The examples of the docstrings give what they say, and what the reference promises has one."""

from __future__ import annotations

import doctest
import inspect
from importlib import import_module
from pkgutil import iter_modules

import pytest

import tppsd
from tppsd.metrics import functional

MODULES = [
    *("tppsd.data.sequences", "tppsd.forecasting.forecast", "tppsd.sampling.sample"),
    *(f"tppsd.metrics.functional.{module.name}" for module in iter_modules(functional.__path__)),
]


@pytest.mark.parametrize("name", MODULES)
def test_examples_give_what_they_say(name: str) -> None:
    found = doctest.testmod(import_module(name))
    assert not found.failed


def test_metrics_sequences_samples_and_forecasts_have_examples() -> None:
    objects = {name: getattr(functional, name) for name in functional.__all__}
    objects = {name: value for name, value in objects.items() if inspect.isfunction(value)}
    objects |= {name: getattr(tppsd, name) for name in ("EventBatch", "EventSequence", "forecast", "sample")}
    assert not [name for name, value in objects.items() if ">>>" not in (value.__doc__ or "")]
