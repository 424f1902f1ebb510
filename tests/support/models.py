"""How models in the tests' own process are computed."""

THREADS = 1
"""Several wait for each other in every step, which takes very long while other tests hold the cores."""
