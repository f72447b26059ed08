"""Compiled code that computes cached passes and distributions in place of a model's own operators."""
