"""Resolve a model name to a deployment and its engine."""
