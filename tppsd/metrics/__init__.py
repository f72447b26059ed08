"""Fidelity, likelihood and acceptance: torchmetrics classes here, their formulas in `tppsd.metrics.functional`."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tppsd.metrics.acceptance import AcceptanceStatistics
    from tppsd.metrics.likelihood import NegativeLogLikelihood
    from tppsd.metrics.residuals import MarkPIT, TimeRescalingKS

__all__ = ["AcceptanceStatistics", "MarkPIT", "NegativeLogLikelihood", "TimeRescalingKS"]

# torchmetrics takes seconds to import and brings matplotlib and scipy: only for those who ask for a class
_MODULES = {
    "AcceptanceStatistics": "acceptance",
    "MarkPIT": "residuals",
    "NegativeLogLikelihood": "likelihood",
    "TimeRescalingKS": "residuals",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
