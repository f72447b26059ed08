"""Event sequences and batches of them; reading and checking event logs."""
