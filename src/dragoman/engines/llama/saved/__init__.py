"""Prefixes on disk: the KV cells of finished sequences, found again after a restart."""
