"""The limit of every wait in a test."""

TEST_TIMEOUT_SECONDS = 120
"""Says nothing about speed: a wait fails only if its event never comes, however busy the machine is."""
