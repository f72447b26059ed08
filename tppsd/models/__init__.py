"""Models of event sequences: encoders, decoders, caches, checkpoints, and the protocols that samplers rely on."""
