"""The durable queue: requests that are stored and run in their turn, and answers that are kept for a while."""
