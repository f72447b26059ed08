"""Causal encoders of event histories, one per file."""
