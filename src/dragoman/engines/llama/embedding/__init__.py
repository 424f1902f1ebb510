"""Embeddings and scores: many inputs in one batch, and no generation."""
