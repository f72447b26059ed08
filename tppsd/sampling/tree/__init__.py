"""Candidate trees: several candidates per step, verified in one target pass."""
