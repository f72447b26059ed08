"""Event sequences, batches of them, and reading and checking data; no Lightning."""
