"""The durable queue: requests are stored and run in turn, and their answers are kept for a limited time."""
