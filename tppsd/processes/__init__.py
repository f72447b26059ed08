"""Ground-truth processes: intensity, compensator, log-likelihood, exact simulation, and use as event models."""

from tppsd.processes.base import Process
from tppsd.processes.event_model import ProcessModel
from tppsd.processes.hawkes import Hawkes
from tppsd.processes.hawkes_fit import HawkesFit, default_decays, fit_hawkes
from tppsd.processes.presets import PRESETS, InhomogeneousPoisson, LogNormalRenewal, Preset, SelfCorrecting, preset

__all__ = [
    "PRESETS",
    "Hawkes",
    "HawkesFit",
    "InhomogeneousPoisson",
    "LogNormalRenewal",
    "Preset",
    "Process",
    "ProcessModel",
    "SelfCorrecting",
    "default_decays",
    "fit_hawkes",
    "preset",
]
