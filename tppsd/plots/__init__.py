"""Figures of samples and their tests. Each function returns a matplotlib Figure; `save` writes it.

Figures are made without pyplot: no global state, no display, nothing to close. A name keeps its colour in every figure
(real dark grey, autoregressive blue, speculative vermilion), and marks have a palette of their own. Both are
colour-blind safe (Okabe and Ito 2008; Tol 2021).
"""

from tppsd.plots.data import data_plot
from tppsd.plots.rounds import accepted_counts_plot
from tppsd.plots.sequences import intensity_plot, raster
from tppsd.plots.style import AUTOREGRESSIVE, REAL, SPECULATIVE, save
from tppsd.plots.time_rescaling import ks_plot, nll_by_time_plot

__all__ = [
    "AUTOREGRESSIVE",
    "REAL",
    "SPECULATIVE",
    "accepted_counts_plot",
    "data_plot",
    "intensity_plot",
    "ks_plot",
    "nll_by_time_plot",
    "raster",
    "save",
]
