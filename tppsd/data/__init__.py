"""Event sequences and batches of them; reading and checking data; the DataModule."""
