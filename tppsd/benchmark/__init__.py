"""Samplers timed side by side, and their samples tested: `tppsd benchmark`."""
