"""Is the sampler exact? Cells that cover its methods, models, drafts and starts, and the tests that judge their
samples."""
