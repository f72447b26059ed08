"""Compiled tiers: models whose passes, draws and densities are native code."""
