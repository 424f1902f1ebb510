"""Rendering of conversations as the text that a model continues."""
