"""Drafters, one per file: each proposes events that the target verifies."""
