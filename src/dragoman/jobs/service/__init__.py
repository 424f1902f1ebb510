"""Accept jobs and report their state."""
