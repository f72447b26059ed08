"""Forecasts: from a history to numbers about the future, with their errors."""
