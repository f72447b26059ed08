"""Where the time of sampling goes, and how far that is from what the machine can do."""
