"""Damaged files, checkpoints, options and requests, from seeds: each must end in a result or in one sentence."""
