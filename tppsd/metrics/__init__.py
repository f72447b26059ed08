"""Metrics of fidelity, forecasts and likelihood: torchmetrics classes.

Their formulas are in `tppsd.metrics.functional`.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tppsd.metrics.calibration import (
        InterTimeCalibration,
        MarkCalibrationError,
        TimeRescalingKS,
    )
    from tppsd.metrics.forecast import InterTimeCRPS, InterTimeRMSE, MarkAccuracy, UnusableMeans
    from tppsd.metrics.likelihood import NegativeLogLikelihood

__all__ = [
    "InterTimeCRPS",
    "InterTimeCalibration",
    "InterTimeRMSE",
    "MarkAccuracy",
    "MarkCalibrationError",
    "NegativeLogLikelihood",
    "TimeRescalingKS",
    "UnusableMeans",
]

# torchmetrics takes seconds to import and brings matplotlib and scipy: only for those who ask for a class
_MODULES = {
    "InterTimeCRPS": "forecast",
    "InterTimeCalibration": "calibration",
    "InterTimeRMSE": "forecast",
    "MarkAccuracy": "forecast",
    "MarkCalibrationError": "calibration",
    "NegativeLogLikelihood": "likelihood",
    "TimeRescalingKS": "calibration",
    "UnusableMeans": "forecast",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
