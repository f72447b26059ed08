"""Samplers of event models: autoregressive, speculative, with candidate trees, and by fixed-point iteration."""
