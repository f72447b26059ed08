"""Metrics of fidelity, forecasts, likelihood and acceptance: torchmetrics classes.

Their formulas are in `tppsd.metrics.functional`.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tppsd.metrics.calibration import (
        GapIndependence,
        InterTimeCalibration,
        MarkCalibrationError,
        MarkIndependence,
        MarkPIT,
        TimeRescalingKS,
    )
    from tppsd.metrics.forecast import InterTimeCRPS, InterTimeRMSE, MarkAccuracy, UnusableMeans
    from tppsd.metrics.likelihood import NegativeLogLikelihood
    from tppsd.metrics.two_samples import (
        AcceptanceStatistics,
        LikelihoodDiscrepancy,
        NextEventDistance,
        OptimalTransportDistance,
        SequencePermutationTest,
    )

__all__ = [
    "AcceptanceStatistics",
    "GapIndependence",
    "InterTimeCRPS",
    "InterTimeCalibration",
    "InterTimeRMSE",
    "LikelihoodDiscrepancy",
    "MarkAccuracy",
    "MarkCalibrationError",
    "MarkIndependence",
    "MarkPIT",
    "NegativeLogLikelihood",
    "NextEventDistance",
    "OptimalTransportDistance",
    "SequencePermutationTest",
    "TimeRescalingKS",
    "UnusableMeans",
]

# torchmetrics takes seconds to import and brings matplotlib and scipy: only for those who ask for a class
_MODULES = {
    "AcceptanceStatistics": "two_samples",
    "GapIndependence": "calibration",
    "InterTimeCRPS": "forecast",
    "InterTimeCalibration": "calibration",
    "InterTimeRMSE": "forecast",
    "LikelihoodDiscrepancy": "two_samples",
    "MarkAccuracy": "forecast",
    "MarkCalibrationError": "calibration",
    "MarkIndependence": "calibration",
    "MarkPIT": "calibration",
    "NegativeLogLikelihood": "likelihood",
    "NextEventDistance": "two_samples",
    "OptimalTransportDistance": "two_samples",
    "SequencePermutationTest": "two_samples",
    "TimeRescalingKS": "calibration",
    "UnusableMeans": "forecast",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
