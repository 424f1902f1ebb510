"""Authenticate API keys and throttle wrong ones."""
