"""Engines answer requests. They import core, output and prompt, and nothing else of the server."""
