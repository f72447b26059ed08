"""Compiled passes, distributions, draws and speculative rounds on a CPU, in float32 or bfloat16."""
