"""Transformer temporal point processes: training, exact and fast sampling, and forecasts.

Everything below is imported on first use, so that `import tppsd` (and `tppsd --help`) cost nothing.
"""

from importlib import import_module
from typing import TYPE_CHECKING

__version__ = "0.2.0"

if TYPE_CHECKING:  # what type checkers and editors see; __getattr__ below does the same at run time
    from tppsd import metrics, plots, processes
    from tppsd.backends.compile import compile
    from tppsd.data.batch import EventBatch
    from tppsd.data.named import named_history, read_histories
    from tppsd.data.sequences import EventSequence
    from tppsd.data.statistics import DataStatistics
    from tppsd.forecasting.backtest import backtest
    from tppsd.forecasting.backtest_result import Backtest
    from tppsd.forecasting.forecast import Forecast, forecast
    from tppsd.forecasting.session import Session
    from tppsd.lightning.backtesting import BacktestAfterFit
    from tppsd.lightning.callbacks import SpeculativeSampling
    from tppsd.lightning.datamodule import EventDataModule
    from tppsd.lightning.distillation import Distillation
    from tppsd.lightning.modules import DraftTPP, TargetTPP
    from tppsd.lightning.sampler import Sampler
    from tppsd.lightning.writer import SampleWriter
    from tppsd.models.checkpoint import load
    from tppsd.models.distribution import NextEventDistribution
    from tppsd.models.mixture import LogNormalMixture
    from tppsd.models.protocol import EventModel
    from tppsd.models.renewal import RenewalTPP
    from tppsd.models.transformer_tpp import TransformerTPP
    from tppsd.sampling.options import SamplingOptions
    from tppsd.sampling.results import SampledSequences
    from tppsd.sampling.sample import sample, sample_stream

__all__ = [
    "Backtest",
    "BacktestAfterFit",
    "DataStatistics",
    "Distillation",
    "DraftTPP",
    "EventBatch",
    "EventDataModule",
    "EventModel",
    "EventSequence",
    "Forecast",
    "LogNormalMixture",
    "NextEventDistribution",
    "RenewalTPP",
    "SampleWriter",
    "SampledSequences",
    "Sampler",
    "SamplingOptions",
    "Session",
    "SpeculativeSampling",
    "TargetTPP",
    "TransformerTPP",
    "__version__",
    "backtest",
    "compile",
    "forecast",
    "load",
    "metrics",
    "named_history",
    "plots",
    "processes",
    "read_histories",
    "sample",
    "sample_stream",
]

_RENAMED = {"NextEventLaw": "NextEventDistribution"}
_SUBMODULES = ("metrics", "plots", "processes")
_MODULE_OF = {
    "Backtest": "tppsd.forecasting.backtest_result",
    "BacktestAfterFit": "tppsd.lightning.backtesting",
    "DataStatistics": "tppsd.data.statistics",
    "Distillation": "tppsd.lightning.distillation",
    "DraftTPP": "tppsd.lightning.modules",
    "EventBatch": "tppsd.data.batch",
    "EventDataModule": "tppsd.lightning.datamodule",
    "EventModel": "tppsd.models.protocol",
    "EventSequence": "tppsd.data.sequences",
    "Forecast": "tppsd.forecasting.forecast",
    "LogNormalMixture": "tppsd.models.mixture",
    "NextEventDistribution": "tppsd.models.distribution",
    "backtest": "tppsd.forecasting.backtest",
    "compile": "tppsd.backends.compile",
    "RenewalTPP": "tppsd.models.renewal",
    "SampleWriter": "tppsd.lightning.writer",
    "SampledSequences": "tppsd.sampling.results",
    "Sampler": "tppsd.lightning.sampler",
    "SamplingOptions": "tppsd.sampling.options",
    "Session": "tppsd.forecasting.session",
    "SpeculativeSampling": "tppsd.lightning.callbacks",
    "TargetTPP": "tppsd.lightning.modules",
    "TransformerTPP": "tppsd.models.transformer_tpp",
    "forecast": "tppsd.forecasting.forecast",
    "load": "tppsd.models.checkpoint",
    "named_history": "tppsd.data.named",
    "read_histories": "tppsd.data.named",
    "sample": "tppsd.sampling.sample",
    "sample_stream": "tppsd.sampling.sample",
}

if not TYPE_CHECKING:  # hidden from type checkers, which would otherwise take any name for an attribute

    def __getattr__(name: str) -> object:
        if name in _SUBMODULES:
            return import_module(f"tppsd.{name}")  # the import itself sets the attribute
        if name in _RENAMED:
            raise AttributeError(f"tppsd.{name} is called tppsd.{_RENAMED[name]} since version 0.2")
        if name not in _MODULE_OF:
            raise AttributeError(f"module 'tppsd' has no attribute {name!r}")
        value = getattr(import_module(_MODULE_OF[name]), name)
        globals()[name] = value  # found directly from now on
        return value

    def __dir__() -> list[str]:
        return sorted(__all__)
