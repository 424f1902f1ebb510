"""Continuous batching: which sequences compute which tokens in each step."""
